"""`methods setup`: recipes of all cards, and one carried out on a repository made here."""

from __future__ import annotations

import contextlib
import http.server
import os
import shlex
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.conftest import package_folders
from tests.test_lossless import HELPERS, SCRIPT, STUBS, clip, expect_doubled
from vsrbench.cards import specs
from vsrbench.cli import main
from vsrbench.core import variables
from vsrbench.core.errors import DataError, MissingError, UserError
from vsrbench.core.types import Edit
from vsrbench.programs import command, setup

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
CARDS = [
    name
    for name, path in specs.method_files(specs.ROOT).items()
    if 'kind = "command"' in path.read_text()
]


@pytest.mark.parametrize("name", CARDS)
def test_every_recipe_can_be_printed(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["methods", "setup", name, "--to", str(tmp_path), "--dry-run"]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    card = specs.method_card(specs.ROOT, name)
    assert card.environment is not None
    assert first.startswith(f"# {card.title}, licence: ")
    assert card.environment.repo in lines[0]
    assert not list(tmp_path.iterdir())
    for line in lines:
        if not line.startswith("#"):
            assert shlex.split(line)
    assert sum("pip install" in line for line in lines) == len(card.environment.install)
    assert sum("becomes" in line for line in lines) == len(card.environment.edits)
    assert f'["{name}"]' in lines[-1]


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The files of a folder over HTTP, as anything that is published is."""
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_recipe_makes_an_environment_that_works(
    git: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From a repository whose script has to be edited, to frames that come back bit-exact."""
    published = tmp_path / "published"
    for name, text in {
        "scripts/run.py": SCRIPT.replace("import helpers", "import helper_s")
        + "assert open('ckpts/net.pth').read() == 'weights'\nimport toypackage\n",
        "scripts/helpers.py": HELPERS,
        "package/toypackage.py": "",
        "package/pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\n'
        'backend-path = ["."]\n[project]\nname = "toypackage"\nversion = "1"\n',
        "package/backend.py": "import zipfile\n"
        "def build_wheel(folder, *_):\n"
        "    with zipfile.ZipFile(folder + '/toypackage-1-py3-none-any.whl', 'w') as z:\n"
        "        z.writestr('toypackage.py', '')\n"
        "        about = 'toypackage-1.dist-info/'\n"
        "        z.writestr(about + 'METADATA', 'Metadata-Version: 2.1\\nName: toypackage\\n"
        "Version: 1\\n')\n"
        "        z.writestr(about + 'WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\n"
        "Tag: py3-none-any\\n')\n"
        "        z.writestr(about + 'RECORD', '')\n"
        "    return 'toypackage-1-py3-none-any.whl'\n",
        **STUBS,
    }.items():
        (published / name).parent.mkdir(parents=True, exist_ok=True)
        (published / name).write_text(text)
    git(published, "init", "-q", ".")
    git(published, "add", ".")
    git(published, "commit", "-qm", "as published")
    commit = git(published, "rev-parse", "HEAD")
    (published / "later").write_text("")
    git(published, "add", ".")
    git(published, "commit", "-qm", "later")
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub/net.pth").write_text("weights")
    folder = tmp_path / "tree/methods/toy"
    folder.mkdir(parents=True)
    # Where uv is, it is used by users; here pip is the one that is certain to be there.
    monkeypatch.setattr(
        setup.shutil, "which", lambda name: None if name == "uv" else sys.executable
    )
    shims = tmp_path / "bin"
    shims.mkdir()
    # Not a link: a Python that may be moved would look for its library beside that.
    shim = shims / f"python{VERSION}"
    shim.write_text(f'#!/bin/sh\nexec "{sys.base_prefix}/bin/python{VERSION}" "$@"\n')
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{shims}:{os.environ['PATH']}")
    monkeypatch.delenv(variables.OFFLINE)
    monkeypatch.delenv(variables.COMMANDS, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    to, root = tmp_path / "environments", ["--root", str(tmp_path / "tree")]
    with serving(tmp_path / "hub") as address:
        (folder / "toy.toml").write_text(f'''
version = 1
title = "Toy"
kind = "command"
entry = "vsrbench.programs.command:load"
scale = 2
multiple_of = 8
[settings]
input = "video"
frames_multiple = 8
frames_offset = -3
argv = ["{{python}}", "{{lossless}}", "scripts/run.py", "--input", "{{input}}", "--out",
  "{{output_dir}}", "--by", "mediapy"]
[environment]
repo = "{published}"
commit = "{commit}"
python = "{VERSION}"
install = ["--no-build-isolation --no-deps ./package"]
weights_to = "ckpts"
[[environment.edits]]
file = "scripts/run.py"
old = "import helper_s"
new = "import helpers"
[weights]
origin = "official"
[[weights.sources]]
url = "{address}/net.pth"
''')
        capsys.readouterr()
        assert main(["check", "--methods", "toy", *root]) == 3
        assert "vsrbench methods setup toy --to DIR" in capsys.readouterr().out
        assert main(["methods", "setup", "toy", "--to", str(to), *root]) == 0
    said = capsys.readouterr()
    assert said.out.strip() == str(to / "commands.toml")
    assert "export VSRBENCH_COMMANDS" in said.err
    assert not (to / "toy/repo/later").exists()
    monkeypatch.setenv(variables.COMMANDS, str(to / "commands.toml"))
    (packages,) = (to / "toy/env/lib").glob("python*/site-packages")
    (packages / "shared.pth").write_text("\n".join(package_folders()))
    assert main(["check", "--methods", "toy", *root]) == 0
    card = specs.method_card(tmp_path / "tree", "toy")
    frames = clip(6)
    method = command.load(card, "cpu", torch.float32)
    expect_doubled(list(method.upscale(iter(frames))), frames)

    capsys.readouterr()  # once more: nothing is done twice, and what the user wrote stays
    table = to / "commands.toml"
    table.write_text(table.read_text() + 'timeout_s = 5\n\n["other"]\npython = "x"\n')
    assert main(["methods", "setup", "toy", "--to", str(to), *root]) == 0
    assert capsys.readouterr().err.count("done before: ") == 4
    assert tomllib.loads(table.read_text()) == {
        "other": {"python": "x"},
        "toy": {
            "python": str(to / "toy/env/bin/python"),
            "repo": str(to / "toy/repo"),
            "timeout_s": 5,
        },
    }
    (to / "toy/repo/ckpts/net.pth").unlink()
    assert main(["check", "--methods", "toy", *root]) == 3
    said = capsys.readouterr().out
    assert "ckpts/net.pth, which does not exist (vsrbench methods setup toy --to DIR, or" in said
    (to / "toy/repo/scripts/run.py").write_text("import helper_s")
    assert main(["check", "--methods", "toy", *root]) == 1
    assert "has 'import helper_s' (its script needs 'import helpers'" in capsys.readouterr().out


def test_what_cannot_be_set_up_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["methods", "setup", "bicubic", "--to", str(tmp_path)]) == 2
    assert "'bicubic' runs in this environment" in capsys.readouterr().err
    assert main(["methods", "make"]) == 2
    assert "no command named 'methods make'" in capsys.readouterr().err
    monkeypatch.setattr(setup.shutil, "which", lambda name: None)
    card = specs.method_card(specs.ROOT, "stablevsr")
    plan = setup.steps(card, tmp_path, print)
    with pytest.raises(MissingError, match=r"Python 3.8 is needed, and neither uv nor python3\.8"):
        plan[2].work()
    (tmp_path / "file").write_text("neither")
    with pytest.raises(DataError, match="has neither 'a b' nor 'c'"):
        setup.apply(Edit("file", "a b", "c"), tmp_path)
    (tmp_path / "c.toml").write_text("[broken")
    with pytest.raises(UserError, match="not valid TOML"):
        setup.write_table(tmp_path / "c.toml", "x", Path("p"), Path("r"))
    (tmp_path / "d.toml").write_text("stablevsr = 3")
    for table, why in ("c.toml", "not valid TOML"), ("d.toml", "is not a table"), ("", "a folder"):
        monkeypatch.setenv(variables.COMMANDS, str(tmp_path / table))
        with pytest.raises(UserError, match=why):
            setup.steps(card, tmp_path, print)


def test_an_archive_unpacked_by_hand_is_there(tmp_path: Path) -> None:
    card = specs.method_card(specs.ROOT, "dove")
    why = setup.environment_problem(card, tmp_path)
    assert why is not None
    assert "DOVE.zip, which does not exist" in str(why)
    (tmp_path / "pretrained_models/DOVE").mkdir(parents=True)
    assert setup.environment_problem(card, tmp_path) is None


@pytest.mark.parametrize("limit", ["'x'", "0", "-5", "nan"])
def test_a_limit_that_is_none_is_said_before_it_runs(
    limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "c.toml"
    table.write_text(f"[a]\npython='{sys.executable}'\nrepo='{tmp_path}'\ntimeout_s={limit}\n")
    monkeypatch.setenv(variables.COMMANDS, str(table))
    with pytest.raises(UserError, match="timeout_s of"):
        command.read_places("a")
