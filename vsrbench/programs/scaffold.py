"""`methods new`: a card, what it runs, and a test, which pass as they are written."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Literal

from vsrbench.core.errors import UserError
from vsrbench.core.files import replace_atomically
from vsrbench.programs.setup import table_file, write_table

Kind = Literal["python", "command"]

CARD = """\
version = 1 # raise it when outputs change
title = "{name}"
licence = "" # of the code
entry = "methods.{folder}.adapter:load"
scale = 4 # 0: whatever the clip needs
lookahead = 0 # future frames that an answer waits for; -1: reads everything first
multiple_of = 1 # LQ sides are padded to this by the harness, and cut back
min_size = 1

[settings] # reach the adapter; part of a result's identity
kernel = "bicubic"

[weights]
origin = "none" # official, trained_here, user, random, none
"""

ADAPTER = '''\
"""{name}: yields one frame for each that comes. Put your network here."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from vsrbench.core.types import Method, MethodCard


class Enlarge:
    """Frame by frame. A call is a clip, and begins with fresh state."""

    def __init__(self, scale: int, kernel: str) -> None:
        self.scale, self.kernel = scale, kernel

    @torch.inference_mode()
    def upscale(self, frames: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
        """3 x H x W in 0..1, on the device -> 3 x sH x sW in 0..1."""
        for frame in frames:
            yield F.interpolate(frame[None], scale_factor=self.scale, mode=self.kernel)[0]


def load(card: MethodCard, device: str, dtype: torch.dtype) -> Method:
    """The method of a card; with weights, see vsrbench.cards.weights.build."""
    return Enlarge(card.scale, card.settings["kernel"])
'''

COMMAND_CARD = """\
version = 1 # raise it when outputs change
title = "{name}"
kind = "command"
licence = "" # of the code
entry = "vsrbench.programs.command:load"
scale = 4 # 0: whatever the clip needs
lookahead = -1
multiple_of = 1 # LQ sides are padded to this by the harness, and cut back
min_size = 1

[settings]
input = "frames" # a folder of PNG, or video
# A script that writes a video belongs behind "{{lossless}}", which makes it write PNG files.
argv = [
  "{{python}}",
  "upscale.py",
  "--input",
  "{{input}}",
  "--output",
  "{{output_dir}}",
  "--scale",
  "{{scale}}",
]

[weights]
origin = "none" # official, trained_here, user, random, none
"""

SCRIPT = '''\
"""{name}: pictures in, larger pictures out. It stands for a program of others."""

import argparse
from pathlib import Path

from PIL import Image

parser = argparse.ArgumentParser()
parser.add_argument("--input", type=Path, required=True)
parser.add_argument("--output", type=Path, required=True)
parser.add_argument("--scale", type=int, default=4)
options = parser.parse_args()
for path in sorted(options.input.iterdir()):
    with Image.open(path) as picture:
        size = [side * options.scale for side in picture.size]
        picture.resize(size, Image.Resampling.BICUBIC).save(options.output / path.name)
'''

TEST = '''\
"""{name} keeps the contract of a method."""

from pathlib import Path

import pytest

from vsrbench.cards.specs import method_card
from vsrbench.run.trial import trial

ROOT = Path(__file__).resolve().parents[1]


def test_keeps_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VSRBENCH_COMMANDS", str(ROOT / "commands.toml"))
    wrong = {{what: str(why) for what, why in trial(method_card(ROOT, "{name}"), "cpu") if why}}
    assert not wrong
'''


def new(name: str, kind: Kind, to: Path) -> list[Path]:
    """Write a method and its test below a folder, which is a root for --root; gives the files.

    Nothing that is there is touched. Raises UserError for a name that cannot be one and for a
    method that already exists.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9._-]*", name):
        raise UserError(
            f"'{name}' cannot be the name of a method",
            "letters, digits, '.', '_' and '-', a letter first",
        )
    folder = re.sub(r"\W", "_", name.lower())
    place = to / "methods" / folder
    test = to / "tests" / f"test_{folder}.py"
    for path in (place, test):
        if path.exists():
            raise UserError(f"{path} already exists", "choose another name or folder")
    runs = {"python": ("adapter.py", ADAPTER), "command": ("upscale.py", SCRIPT)}
    file, text = runs[kind]
    texts = {
        place / f"{name}.toml": CARD if kind == "python" else COMMAND_CARD,
        place / file: text,
        test: TEST,
    }
    if kind == "python":
        texts[place / "__init__.py"] = ""
    try:
        for path, content in texts.items():
            with replace_atomically(path) as partial:
                partial.write_text(content.format(name=name, folder=folder), encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{path} cannot be written: {error.strerror}", "choose another --to"
        ) from error
    if kind == "command":
        write_table(table_file(to), name, Path(sys.executable), place.resolve())
        return [*texts, table_file(to)]
    return list(texts)
