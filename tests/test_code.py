"""The code of an adapter as part of identity: whatever it reads and however it names that."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from vsrbench.api.running import _of_arrays
from vsrbench.cards import specs
from vsrbench.cards.code import digest_code, list_files
from vsrbench.cards.weights import identify, locate
from vsrbench.core.errors import DataError
from vsrbench.core.types import MethodCard
from vsrbench.metrics import depends_on, identity
from vsrbench.metrics.functions import frames_of

CARD = (
    'version = 1\ntitle = "Mine"\nentry = "methods.mine.adapter:load"\n[weights]\norigin = "none"\n'
)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """The folder of a method without code."""
    folder = tmp_path / "root" / "methods" / "mine"
    folder.mkdir(parents=True)
    (folder / "mine.toml").write_text(CARD)
    return folder


def card(folder: Path) -> MethodCard:
    return specs.method_card(folder.parents[1], "mine")


@pytest.mark.parametrize(
    ("line", "file"),
    [
        ("from .helper import x", "helper.py"),
        ("from .sub import helper", "sub/helper.py"),
        ("from methods.mine.sub.helper import x", "sub/helper.py"),
        ("from vsrbench.methods.mine import helper", "helper.py"),
        ("import methods.mine.helper as h", "helper.py"),
        ("from methods.other.helper import x", "../other/helper.py"),
        ("from ..other import helper", "../other/helper.py"),
        ("def load(*_):\n    from . import helper", "helper.py"),
        ("sys.path.insert(0, str(Path(__file__).parent))\nimport helper", "helper.py"),
        ("sys.path.append('lib')\nimport helper", "lib/helper.py"),
        ("importlib.import_module('.helper', __package__)", "helper.py"),
        ("importlib.import_module(f'{__package__}.helper')", "helper.py"),
        ("importlib.import_module('methods.mine.helper')", "helper.py"),
        ("importlib.import_module(f'methods.mine.{name}')", "helper.py"),
        ("importlib.import_module('methods.mine.' + name)", "helper.py"),
        ("__import__('helper')", "helper.py"),
        ("spec_from_file_location('x', Path(__file__).with_name('helper.py'))", "helper.py"),
        ("exec((Path(__file__).parent / 'kernels' / 'k.cu').read_text())", "kernels/k.cu"),
        ("from . import fast", "fast.abi3.so"),
        ("np.load(Path(__file__).parent / 'data' / 'table.npy')", "data/table.npy"),
        ("np.load(os.path.join(HERE, 'data', f'{n}.npy'))", "data/3.npy"),
        ("np.load(Path(__file__).parent / f'table_{n}.npy')", "table_3.npy"),
        ("sorted(Path(__file__).parent.glob('lut/*.bin'))", "lut/a.bin"),
        ("open(Path(__file__).with_name('LUT'))", "LUT"),
        ("open('../shared/table.json')", "../shared/table.json"),
    ],
)
def test_what_the_code_names_counts(mine: Path, line: str, file: str) -> None:
    (mine / "adapter.py").write_text(line + "\n")
    path = mine / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x = 1\n")
    before = digest_code(card(mine))
    path.write_text("x = 2\n")
    assert digest_code(card(mine)) != before
    other = mine / "nobody-names-this.py"
    before = digest_code(card(mine))
    other.write_text("x = 1\n")
    assert digest_code(card(mine)) == before or "{name}" in line or "+ name" in line


@pytest.mark.parametrize(
    "read", ['os.environ["SHARPEN"]', "os.environ.get('SHARPEN', '1')", 'getenv( "SHARPEN" )']
)
def test_environment_variables_that_the_code_reads_count(
    mine: Path, read: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (mine / "adapter.py").write_text("from .helper import x\n")
    (mine / "helper.py").write_text(
        f"x = {read}\nos.environ['LOCAL_RANK'], os.environ['NET_DIR']\nos.environ['SET'] = '1'\n"
    )

    def now() -> str:
        return digest_code(card(mine))

    found = [now()]
    for value in ("1", "2"):
        monkeypatch.setenv("SHARPEN", value)
        found.append(now())
    for name in ("a", "b"):  # a file counts by its content, wherever it lies
        (mine / name).write_text("kernel")
        monkeypatch.setenv("SHARPEN", str(mine / name))
        found.append(now())
    assert found.pop() == found[-1]
    (mine / "b").write_text("another kernel")
    found.append(now())
    assert len(set(found)) == 5
    others = {"OTHER": "1", "LOCAL_RANK": "3", "NET_DIR": str(mine / "later"), "SET": "2"}
    for name, value in others.items():
        monkeypatch.setenv(name, value)
    assert now() == found[-1]
    monkeypatch.setenv("SHARPEN", "x" * 500)
    assert now() not in found


def test_a_helper_behind_a_link_counts(mine: Path, tmp_path: Path) -> None:
    real = tmp_path / "elsewhere.py"
    real.write_text("x = 1\n")
    (mine / "helper.py").symlink_to(real)
    (mine / "adapter.py").write_text("from .helper import x\n")
    before = digest_code(card(mine))
    real.write_text("x = 2\n")
    assert digest_code(card(mine)) != before


def test_a_linked_folder_of_a_method_is_that_method(mine: Path, tmp_path: Path) -> None:
    """Also where one of that name ships."""
    (mine / "adapter.py").write_text("x = 1\n")
    root = tmp_path / "other"
    (root / "methods").mkdir(parents=True)
    (root / "methods" / "interpolation").symlink_to(mine)
    text = CARD.replace("methods.mine", "methods.interpolation")
    (mine / "bicubic.toml").write_text(text)
    found = specs.method_card(root, "bicubic")
    assert {p.read_text() for p in list_files(found)} == {"x = 1\n"}


@pytest.mark.parametrize("init", ["", "x = 1\n", None])
def test_packages_of_others_with_and_without_init(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, init: str | None
) -> None:
    """A package without __init__.py is one, too."""
    name = f"pack_{abs(hash(str(tmp_path)))}"
    deep = tmp_path / name / "deep"
    deep.mkdir(parents=True)
    (deep / "adapter.py").write_text(f"from {name} import helper\n")
    (tmp_path / name / "helper.py").write_text("x = 1\n")
    if init is not None:
        (tmp_path / name / "__init__.py").write_text(init)
    monkeypatch.syspath_prepend(str(tmp_path))
    made = MethodCard("m", 1, "M", specs.GT_CARD.weights, entry=f"{name}.deep.adapter:load")
    seen = [digest_code(made)]
    for file in (deep / "adapter.py", tmp_path / name / "helper.py"):
        file.write_text(file.read_text() + "# edited\n")
        seen.append(digest_code(made))
    assert len(set(seen)) == 3
    sys.path_importer_cache.clear()


def _settings(folder: Path, text: str, weights: str = 'origin = "none"') -> None:
    (folder / "adapter.py").write_text("x = 1\n")
    head = CARD.partition("[weights]")[0]
    (folder / "mine.toml").write_text(f"{head}settings = {text}\n[weights]\n{weights}\n")


@pytest.mark.parametrize(
    "text",
    [
        '{ lora = "lora.safetensors" }',
        '{ lora = "nested/lora.bin" }',
        '{ loras = ["nested"] }',
        '{ lora = "ABSOLUTE" }',
    ],
)
def test_files_that_settings_name_count(mine: Path, tmp_path: Path, text: str) -> None:
    (mine / "nested").mkdir()
    places = mine / "lora.safetensors", mine / "nested/lora.bin", tmp_path / "lora.bin"
    _settings(mine, text.replace("ABSOLUTE", str(tmp_path / "lora.bin")))
    for path in places:
        path.write_bytes(b"one")
    before = digest_code(card(mine))
    for path in places:
        path.write_bytes(b"two")
    assert digest_code(card(mine)) != before


def test_all_files_of_the_weights_count(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that the card lists among its sources, wherever they lie."""
    shelf = mine.parents[2] / "shelf"
    shelf.mkdir()
    monkeypatch.setenv("VSRBENCH_WEIGHTS", str(shelf))
    sources = "".join(
        f'[[weights.sources]]\nurl = "https://example.org/{name}"\n'
        for name in ("net.pth", "flow.pth")
    )
    _settings(mine, "{}", f'origin = "official"\nfile = "net.pth"\n{sources}')
    for name in ("net.pth", "flow.pth"):
        (shelf / name).write_bytes(b"one")
    before = identify(card(mine)), digest_code(card(mine))
    (shelf / "flow.pth").write_bytes(b"two")
    after = identify(card(mine)), digest_code(card(mine))
    assert after[0] == before[0]
    assert after[1] != before[1]
    (shelf / "net.pth").write_bytes(b"two")
    assert identify(card(mine)) != after[0]
    assert digest_code(card(mine)) == after[1]


def test_weights_in_a_folder_of_their_own(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not those of the same name that lie elsewhere; links are followed."""
    shelf = mine.parents[2] / "shelf"
    shelf.mkdir()
    monkeypatch.setenv("VSRBENCH_WEIGHTS", str(shelf))
    (shelf / "net.pth").write_bytes(b"another")
    (mine / "nested").mkdir()
    (mine / "nested" / "net.pth").symlink_to(shelf / "real.pth")
    (shelf / "real.pth").write_bytes(b"one")
    _settings(mine, "{}", 'origin = "user"\nfile = "nested/net.pth"')
    assert locate(card(mine)) == mine / "nested" / "net.pth"
    before = identify(card(mine))
    (shelf / "real.pth").write_bytes(b"two")
    assert identify(card(mine)) != before


def test_weights_of_a_metric_that_are_not_the_published_ones_count(
    mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = mine.parents[2] / "shelf"
    shelf.mkdir()
    monkeypatch.setenv("VSRBENCH_WEIGHTS", str(shelf))
    assert depends_on("niqe") == ""
    seen = {""}
    for content in (b"one", b"two"):
        (shelf / "niqe_pris_params.npz").write_bytes(content)
        seen.add(depends_on("niqe"))
    assert len(seen) == 3
    monkeypatch.setattr(identity, "find_problem", lambda need, path: "")  # as if it were that file
    assert depends_on("niqe") == ""


def test_arrays_are_known_by_their_shape_too() -> None:
    found = {
        _of_arrays({"c": [np.zeros((*size, 3), np.uint8)] * 2}, 4).clips[0].digest
        for size in ((16, 32), (32, 16), (8, 64))
    }
    assert len(found) == 3


def test_every_frame_of_a_list_is_looked_at() -> None:
    whole = np.zeros((8, 8, 3), np.uint8)
    for bad in (whole / 255, whole[..., 0], whole.transpose(2, 0, 1)):
        with pytest.raises(DataError, match="not uint8 H x W x 3"):
            frames_of([whole, bad])
