"""What methods return is judged before it is clamped; `check --run` tries a method."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vsrbench.cards.specs import ROOT, method_card
from vsrbench.cli import main
from vsrbench.core.errors import ContractError
from vsrbench.core.types import Clip, MethodCard, Weights
from vsrbench.run import contract, trial
from vsrbench.run.method import load_method, upscale

CARD = MethodCard("toy", 1, "Toy", Weights("none"))
KINDS = {
    "uint8": (lambda y: (y * 255).round().to(torch.uint8), "is of torch.uint8"),
    "int": (lambda y: (y * 255).long(), "is of torch.int64"),
    "bool": (lambda y: y > 0.5, "is of torch.bool"),
    "complex": (lambda y: y.to(torch.complex64), "is of torch.complex64"),
    "float8": (lambda y: y.to(torch.float8_e4m3fn), "is of torch.float8_e4m3fn"),
    "numpy": (lambda y: y.numpy(), "is of type numpy.ndarray, not a torch tensor"),
    "list": (lambda y: y.tolist(), "is of type list"),
    "255": (lambda y: y * 255, "not of range 0..1"),
    "signed": (lambda y: y * 2 - 1, "of range -1..1"),
    "65535": (lambda y: y * 65535, "not of range 0..1"),
    "normalised": (lambda y: (y - 0.45) / 0.225, "times the frame"),
    "twice": (lambda y: y / 255, "too dark to be one"),
    "negative": (lambda y: -y, "times the frame"),
    "bgr": (lambda y: y.flip(0), "with red and blue exchanged"),
    "mirrored": (lambda y: y.flip(2), "mirrored"),
    "turned": (lambda y: y.flip(1, 2), "turned by 180 degrees"),
    "nan": (lambda y: y / 0 * 0, "holds NaN or infinity"),
    "batch": (lambda y: y[None], r"output is \(1, 3, 144, 176\), expected \(3, 144, 176\)"),
    "last": (lambda y: y.permute(1, 2, 0), "expected"),
}


class Toy:
    """Bicubic, changed in the end."""

    def __init__(self, change: object = None) -> None:
        self.change = change

    def upscale(self, frames: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
        for x in frames:
            y = F.interpolate(x[None], scale_factor=4, mode="bicubic")[0]
            yield self.change(y) if self.change else y  # type: ignore[operator]


def scene(low: float, high: float, count: int = 2) -> Clip:
    """Waves between two values in 0..1."""
    y, x = np.mgrid[:36, :44]
    waves = np.stack([np.sin(x * 0.4 + c) * np.cos(y * 0.3) for c in range(3)], -1) / 2 + 0.5
    frames = [np.uint8(255 * (low + (high - low) * waves))] * count
    return Clip("set", f"clip-{low}", count, (36, 44), 4, 24.0, "d", frames)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_picture_in_0_to_1_is_refused_in_one_line(kind: str) -> None:
    change, text = KINDS[kind]
    with pytest.raises(ContractError, match=text) as caught:
        list(upscale(Toy(change), CARD, scene(0, 1), "cpu"))
    assert "'toy' at frame 0 of clip" in caught.value.message
    assert "\n" not in str(caught.value)
    assert "3 x sH x sW" in caught.value.hint or kind == "nan"


@pytest.mark.parametrize("span", [(0, 0.2), (0.1, 0.6), (0.6, 1), (0.85, 0.99), (0, 0.03)])
@pytest.mark.parametrize("kind", ["signed", "255"])
def test_ranges_are_told_in_dark_and_bright_scenes(kind: str, span: tuple[float, float]) -> None:
    with pytest.raises(ContractError, match="range"):
        list(upscale(Toy(KINDS[kind][0]), CARD, scene(*span), "cpu"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("span", [(0, 1), (0, 0.05), (0.95, 1), (0.5, 0.5), (0, 0), (1, 1)])
def test_pictures_in_0_to_1_pass(span: tuple[float, float], dtype: torch.dtype) -> None:
    frames = list(upscale(Toy(lambda y: y.to(dtype)), CARD, scene(*span), "cpu"))
    assert len(frames) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda y: y + 0.3 * torch.randn(y.shape),  # noise and overshoot
        lambda y: (y - 0.5) * 1.6 + 0.5,  # too much contrast
        lambda y: y * 0,
        lambda y: y * 0 + 1,
        lambda y: 1 - y,
        lambda y: y * 0.5,
        lambda y: y * 0.05,
        lambda y: (y - 0.5) * 2.5 + 0.5,
        lambda y: y * 0 + torch.rand(y.shape) * 0.01,
        lambda y: y - 0.1,
        lambda y: y.roll((40, 30), (1, 2)),
        lambda y: y.requires_grad_(),
    ],
)
def test_bad_pictures_in_0_to_1_are_scored_not_refused(change: object) -> None:
    for span in ((0, 1), (0.2, 0.5), (0.5, 0.9)):
        assert len(list(upscale(Toy(change), CARD, scene(*span), "cpu"))) == 2


def test_the_first_frames_may_tell_nothing() -> None:
    clip = scene(0.4, 0.9)
    white = np.full_like(clip.lq[0], 255)
    found = upscale(Toy(KINDS["signed"][0]), CARD, Clip(
        "set", "fade", 2, (36, 44), 4, 24.0, "d", [white, clip.lq[0]]), "cpu")  # fmt: skip
    assert next(found).min() == 255
    with pytest.raises(ContractError, match="at frame 1 of clip 'fade'"):
        next(found)


def test_a_list_of_frames_is_as_good_as_an_iterator() -> None:
    class Offline(Toy):
        def upscale(self, frames: Iterator[torch.Tensor]) -> list[torch.Tensor]:  # type: ignore[override]
            return list(super().upscale(frames))

    assert len(list(upscale(Offline(), CARD, scene(0, 1), "cpu"))) == 2


def test_thumbnails_of_a_frame_and_of_its_enlargement_agree() -> None:
    x = torch.rand(3, 32, 48)
    big = x.repeat_interleave(4, 1).repeat_interleave(4, 2)
    assert torch.allclose(contract.thumbnail(x), contract.thumbnail(big), atol=1e-6)


# ---------------------------------------------------------------- check --run

TRIED = """
import random
import torch
import torch.nn.functional as F

class Method:
    def __init__(self, mode):
        self.mode, self.kept = mode, 0
        self.random = random.random()

    def upscale(self, frames):
        last = 0 if self.mode != "leaks" else self.kept
        for x in frames:
            if self.mode == "raises":
                raise ValueError("no such layer")
            y = F.interpolate(x[None], scale_factor=4, mode="nearest")[0]
            if self.mode == "signed":
                y = 2 * y - 1
            if self.mode == "random":
                y = y + 0.1 * random.SystemRandom().random()
            if self.mode == "initial":
                y = y + 0.1 * self.random
            if self.mode == "noise":
                y = y + 0.1 * torch.randn(y.shape)
            y = 0.8 * y + 0.2 * last
            last = y
            self.kept = y
            yield y

def load(card, device, dtype):
    return Method(card.settings["mode"])
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "root" / "methods" / "tried"
    folder.mkdir(parents=True)
    (folder / "adapter.py").write_text(TRIED)
    for mode in ("good", "noise", "signed", "random", "initial", "leaks", "raises"):
        (folder / f"{mode}.toml").write_text(
            f'version = 1\ntitle = "T"\nentry = "methods.tried.adapter:load"\n'
            f'settings = {{ mode = "{mode}" }}\n[weights]\norigin = "none"\n'
        )
    return tmp_path / "root"


@pytest.mark.parametrize(
    ("mode", "code", "text"),
    [
        ("good", 0, "the same frames of the same clip after another clip: ok"),
        ("noise", 0, "the same frames when it is loaded afresh: ok"),
        ("signed", 1, "at frame 0 of clip 'trial-0': output has values from -"),
        ("random", 1, "'random' gives other frames of the same clip when it is loaded afresh"),
        ("initial", 1, "'initial' gives other frames of the same clip when it is loaded afresh"),
        ("leaks", 1, "'leaks' gives other frames of a clip after another clip"),
    ],
)
def test_check_run_tries_a_method(
    base: Path,
    capsys: pytest.CaptureFixture[str],
    mode: str,
    code: int,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # In this process, since a fresh one takes its time.
    monkeypatch.setattr(trial.cost, "run_apart", lambda card, where, work, *rest: work(*rest))
    assert main(["check", "--run", mode, "--device", "cpu", "--root", str(base)]) == code
    out = capsys.readouterr().out
    assert text in out
    assert len(out.splitlines()) == (2 if mode == "signed" else 5 if code else 6)
    assert all(line.startswith(f"method {mode}: ") for line in out.splitlines())


def test_libraries_do_not_warn_of_what_nobody_asked_for(
    base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load_method(method_card(base, "good"), "cpu")
    logging.getLogger("bitsandbytes.backends.cpu.ops").warning("Failed to load gemm_4bit_forward")
    assert not caplog.records


def test_check_run_shows_a_traceback(
    base: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial.cost, "run_apart", lambda card, where, work, *rest: work(*rest))
    check = ["check", "--run", "raises", "--device", "cpu", "--root", str(base)]
    assert main(check) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert main([*check, "-v"]) == 1
    assert "ValueError: no such layer" in capsys.readouterr().err


def test_check_run_of_what_is_not_there(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--run", "godo", "--device", "cpu", "--root", str(base)]) == 2
    assert "Did you mean 'good'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["bicubic", "lanczos", "nearest", "realviformer"])
def test_methods_that_ship_pass_their_trial(name: str) -> None:
    assert [why for _, why in trial.trial(method_card(ROOT, name), "cpu")] == [None] * 6
