"""`methods new`, `check --run`, and docs/adding-a-method.md as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from vsrbench.cards import specs
from vsrbench.cli import main
from vsrbench.core import variables
from vsrbench.programs import scaffold
from vsrbench.run import trial


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """An own clip of three small frames."""
    (tmp_path / "lq").mkdir()
    for i in range(3):
        frame = np.random.default_rng(i).integers(0, 256, (24, 33, 3)).astype(np.uint8)
        cv2.imwrite(str(tmp_path / f"lq/{i}.png"), cv2.GaussianBlur(frame, (0, 0), 2))
    return tmp_path / "lq"


def test_the_page_on_adding_a_method_works_as_it_stands(
    clip: Path, root: Path, tmp_path: Path
) -> None:
    page = (root / "docs/adding-a-method.md").read_text()
    blocks = re.findall(r"^```bash\n(.*?)^```", page, flags=re.S | re.M)
    assert len(blocks) == 5
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("vsrbench", "pytest"):
        (commands / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {name} "$@"\n')
        (commands / name).chmod(0o755)
    environment = os.environ | {
        "PATH": f"{commands}:{os.environ['PATH']}",
        "PYTHONPATH": str(root),
        "PYTEST_ADDOPTS": "-p no:cacheprovider",
    }
    environment.pop(variables.COMMANDS, None)
    done = subprocess.run(
        ["bash", "-ec", "\n".join(blocks)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    out = done.stdout
    assert out.count("number, type, size and range of frames: ok") == 2
    assert out.count("the picture that went in, larger: ok") == 2
    assert "1 passed" in out
    assert re.search(r"cd .*/study/methods/their_net && .* upscale.py --input INPUT/clip", out)
    assert "--output OUTPUT --scale 4" in out
    assert "inference_cli.py" not in out
    assert "git clone" in out
    assert not (tmp_path / "environments").exists()


def test_names_and_files_that_are_there_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("../x", "a b", "9", ""):
        assert main(["methods", "new", name]) == 2
        assert "cannot be the name of a method" in capsys.readouterr().err
    assert main(["methods", "new", "a-b.c"]) == 0
    assert sorted(p.name for p in (tmp_path / "methods/a_b_c").iterdir()) == [
        *("__init__.py", "a-b.c.toml", "adapter.py"),
    ]
    assert main(["methods", "new", "a_b_c", "--kind", "command"]) == 2
    assert "a_b_c already exists" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main(["methods", "new", "x", "--to", "file"]) == 2
    assert "x.toml cannot be written: Not a directory" in capsys.readouterr().err
    assert main(["methods", "new", "x", "--to", "a b"]) == 0
    assert "--root 'a b' --run x" in capsys.readouterr().err


FAULTS = {
    "yield y.flip(0)": "output is the frame with red and blue exchanged",
    "yield y.flip(1)": "output is the frame upside down",
    "yield y.roll((4, 8), (1, 2))": "+4 px lower and +8 px further right",
    "yield y / 2": "levels of 255 off on average",
    "held.append(y)": "depends on frame 4 (write lookahead = 4 into its card",
    "raise ValueError('no\\nsuch layer')": "failed at frame 0 of clip 'trial-0': ValueError: no",
    "import os; os._exit(3)": "crashed its process while it was tried",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_said_in_a_line(fault: str, tmp_path: Path) -> None:
    scaffold.new("mine", "python", tmp_path)
    adapter = tmp_path / "methods/mine/adapter.py"
    body = textwrap.indent(
        "held = []\nfor frame in frames:\n"
        "    y = F.interpolate(frame[None], scale_factor=self.scale, mode='bicubic')[0]\n"
        f"    {fault}\n"
        "for y in held:\n"
        "    yield 0.9 * y + 0.1 * torch.stack(held).mean(0)\n"
        "if False: yield\n",
        " " * 8,
    )
    text = adapter.read_text()
    start, end = text.index("        for frame in frames:"), text.index("def load(")
    adapter.write_text(f"{text[:start]}{body}\n{text[end:]}")
    card = specs.method_card(tmp_path, "mine")
    # In this process where it can be, since a fresh one takes its time.
    tried = trial.trial_apart if "_exit" in fault else trial.trial
    wrong = [str(why) for _, why in tried(card, "cpu") if why]
    assert len(wrong) == 1
    assert FAULTS[fault] in wrong[0]
    assert "\n" not in wrong[0]


ORDERS = {
    "yield from map(larger, list(frames))": "gives frame 0 only when it has read frame 4",
    "last = next(frames)\nfor x in frames:\n    yield larger(last)\n    last = x\n"
    "yield larger(last)": "gives frame 0 only when it has read frame 1 (give it earlier, or write "
    "lookahead = 1",
    "last = next(frames)\nyield larger(last)\nfor x in frames:\n    yield larger(last)\n"
    "    last = x": "come 1 frame too late",
    "return": "upscale of 'mine' returned None, not frames (yield each output",
}


@pytest.mark.parametrize("order", ORDERS)
def test_when_frames_come(order: str, tmp_path: Path) -> None:
    scaffold.new("mine", "python", tmp_path)
    body = textwrap.indent(order, " " * 8)
    (tmp_path / "methods/mine/adapter.py").write_text(
        "import torch.nn.functional as F\n\n"
        "def larger(x):\n"
        "    return F.interpolate(x[None], scale_factor=4, mode='bicubic')[0]\n\n"
        f"class Mine:\n    def upscale(self, frames):\n{body}\n\n"
        "def load(card, device, dtype):\n    return Mine()\n"
    )
    card = specs.method_card(tmp_path, "mine")
    wrong = [str(why) for _, why in trial.trial(card, "cpu") if why]
    assert len(wrong) == 1
    assert ORDERS[order] in wrong[0]
    ahead = replace(card, lookahead=1)
    if "lookahead = 1" in ORDERS[order]:
        assert [why for _, why in trial.trial(ahead, "cpu") if why] == []


def test_networks_that_flatten_texture_give_the_picture_that_went_in(tmp_path: Path) -> None:
    scaffold.new("mine", "python", tmp_path)
    (tmp_path / "methods/mine/adapter.py").write_text(
        "import torch.nn.functional as F\n\n"
        "class Mine:\n    def upscale(self, frames):\n        for x in frames:\n"
        "            yield 0.7 * F.interpolate(x[None], scale_factor=4)[0] + 0.15\n\n"
        "def load(card, device, dtype):\n    return Mine()\n"
    )
    card = specs.method_card(tmp_path, "mine")
    assert [why for _, why in trial.trial(card, "cpu") if why] == []


def test_networks_that_alter_their_input_leave_frames_as_they_are() -> None:
    pytest.importorskip("spandrel")
    from spandrel.architectures.RCAN import RCAN, RCANArch
    from vsrbench.methods.spandrel.adapter import ImageModel

    descriptor = RCANArch().load(RCAN(n_resgroups=1, n_resblocks=1).state_dict())
    frame = torch.rand(3, 16, 16)
    given = frame.clone()
    list(ImageModel(descriptor.eval()).upscale(iter([frame])))
    assert torch.equal(frame, given)
