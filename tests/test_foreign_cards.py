"""Cards of programs of others, against stand-ins: their options and rules, their classes."""

from __future__ import annotations

import argparse
import sys
import tomllib
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vsrbench.cards import specs
from vsrbench.core import variables
from vsrbench.core.types import Clip, MethodCard, Size
from vsrbench.data import frames
from vsrbench.programs import command, lossless, worker
from vsrbench.programs.process import Usage
from vsrbench.run.method import check_size, set_scale, upscale

SCRIPTS: dict[str, dict[str, Any]] = tomllib.loads(
    (Path(__file__).parent / "data/scripts.toml").read_text()
)
SCRIPTS["seedvr2-7b"] = SCRIPTS["seedvr2-3b"]
COUNTS = (1, 5, 21, 22, 100)


def commands() -> list[MethodCard]:
    """All cards of programs."""
    cards = map(specs.read_card, specs.method_files(specs.ROOT).values())
    return [card for card in cards if card.kind == "command"]


def parser_of(facts: dict[str, Any]) -> argparse.ArgumentParser:
    """The parser of a script, by its facts."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in facts.get("positional", ()):
        parser.add_argument(name)
    kinds = {"str": str, "int": int, "float": float}
    for flags, about in facts["options"].items():
        kind, _, number = about.rstrip("*").partition(" ")
        if kind == "flag":
            parser.add_argument(*flags.split(), action="store_true")
        elif "|" in kind:
            parser.add_argument(*flags.split(), choices=kind.split("|"))
        else:
            how = {"nargs": int(number)} if number else {}
            required = about.endswith("*")
            parser.add_argument(*flags.split(), type=kinds[kind], required=required, **how)
    return parser


def read(path: str) -> tuple[list[np.ndarray], list[str]]:
    """The frames of a clip given by itself or by the folder that it alone lies in; their names."""
    given = Path(path)
    if given.is_dir() and not any(p.suffix == ".png" for p in given.iterdir()):
        (given,) = given.iterdir()
    source = frames.open_frames(given)
    names = sorted(p.stem for p in given.iterdir()) if given.is_dir() else [""] * len(source)
    return list(source), names


def enlarge(frame: np.ndarray, scale: int) -> np.ndarray:
    return frame.repeat(scale, 0).repeat(scale, 1)


def run_script(facts: dict[str, Any], argv: list[str]) -> None:
    """What a script does with its arguments, but for the network."""
    assert argv[0] == sys.executable
    rest = [part for part in argv[1:] if part != str(command.LOSSLESS)]
    assert rest[0] == facts["script"]
    options = vars(parser_of(facts).parse_args(rest[1:]))
    clip, names = read(options[facts["reads"]])
    h, w = clip[0].shape[:2]
    assert min(h, w) >= facts.get("least", 1)
    assert len(clip) >= facts.get("least_frames", 1)
    assert not any(side % facts.get("multiple", 1) for side in (h, w))
    scale = int(options.get("upscale") or 4)
    if options.get("resolution"):
        scale = options["resolution"] // min(h, w)
    pad_h, pad_w = (-side % facts.get("pad", 1) for side in (h, w))
    out = [enlarge(np.pad(f, ((0, pad_h), (0, pad_w), (0, 0))), scale) for f in clip]
    out = [f[: len(f) - 4 * pad_h, : f.shape[1] - 4 * pad_w] for f in out]
    if facts.get("even"):
        out = [f[: len(f) // 2 * 2, : f.shape[1] // 2 * 2] for f in out]
    where = facts["writes"]
    if "also" in facts:
        other = Path(facts["also"].format(**options))
        other.parent.mkdir(parents=True)
        other.write_text("a clip")
    if where.endswith(".mp4"):
        assert str(command.LOSSLESS) in argv, "a video that is not written without loss"
        lossless.Writer(where.format(**options)).append_many(out)
        return
    for i in range(facts.get("drop_first", 0), len(out)):
        path = Path(where.format(**options, i=i, name=names[i]))
        path.parent.mkdir(parents=True, exist_ok=True)
        lossless.write_png(path, out[i])


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's table with all programs; their one checkout is empty."""
    text = [
        f'["{card.name}"]\npython = "{sys.executable}"\nrepo = "{tmp_path}"\n'
        for card in commands()
    ]
    (tmp_path / "commands.toml").write_text("\n".join(text))
    monkeypatch.setenv(variables.COMMANDS, str(tmp_path / "commands.toml"))
    return tmp_path


def pattern(count: int, size: Size) -> Clip:
    """Frames that all differ, of blocks, so that they are soon written."""
    y, x = np.mgrid[: size[0], : size[1]]
    lq = [
        np.uint8(np.stack([(y // 9) * 20 + t, (x // 9) * 20, (x + y) // 16 * 30 + t], -1) % 256)
        for t in range(count)
    ]
    return Clip("test", "blocks", count, size, 4, 24.0, f"blocks-{count}", lq)


def expect_enlarged(card: MethodCard, size: Size, counts: tuple[int, ...] = COUNTS) -> None:
    """The harness reads back the right frames, whatever the count."""
    method = command.load(card, "cpu", torch.float32)
    check_size(card, size)
    for count in counts:
        clip = pattern(count, size)
        seen = 0
        for out, lq in zip(upscale(method, card, clip, "cpu"), clip.lq, strict=True):
            np.testing.assert_array_equal(out, enlarge(lq, card.scale))
            seen += 1
        assert seen == count


def sizes(card: MethodCard) -> list[Size]:
    least = max(card.min_size, card.multiple_of // 2 + 1)
    return [(least + 1 - least % 2, least + 6 + least % 2), (least + 4, least + 3)]


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_script(name: str, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(self: command.CommandMethod, clip: dict[str, Any], place: Path) -> Usage:
        run_script(SCRIPTS[name], command.command_line(self.card, self.values | clip))
        return Usage(1.0, None, None)

    monkeypatch.setattr(command.CommandMethod, "_run", run)
    card = specs.method_card(specs.ROOT, name)
    odd, other = sizes(card)
    expect_enlarged(set_scale(card, 4), odd)
    expect_enlarged(set_scale(card, 4), other, (5,))
    if not card.scale:
        expect_enlarged(set_scale(card, 1), odd, (5,))


def test_every_card_has_facts_or_a_program(root: Path) -> None:
    programs = {card.name for card in commands() if "program" in card.settings}
    assert {card.name for card in commands()} == set(SCRIPTS) | programs
    assert programs == {
        *("flashvsr", "flashvsr-v1.1", "seedvr2-3b-official", "seedvr2-7b-official"),
        *("star", "swiftvr"),
    }
    for card in commands():
        assert card.weights.origin == "official"
        assert card.licence
        assert card.environment is not None
        assert "http" in card.weights.url


# --- classes and functions of others, as their scripts have them


def seedvr2(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def configure_runner(sp_size: int) -> str:
        assert sp_size == 1
        return "runner"

    def generation_loop(
        runner: str,
        video_path: str = "./test_videos",
        output_dir: str = "./results",
        batch_size: int = 1,
        cfg_scale: float = 1.0,
        cfg_rescale: float = 0.0,
        sample_steps: int = 1,
        seed: int = 666,
        res_h: int = 1280,
        res_w: int = 720,
        sp_size: int = 1,
        out_fps: float | None = None,
    ) -> None:
        assert (runner, seed, sp_size) == ("runner", 666, 1)
        clip, _ = read(video_path)
        assert (res_h, res_w) == tuple(4 * side for side in clip[0].shape[:2])
        (name,) = (p.name for p in Path(video_path).iterdir())
        out = []
        for f in clip:
            h, w = res_h // 16 * 16, res_w // 16 * 16
            top, left = (res_h - h) // 2, (res_w - w) // 2
            out.append(enlarge(f, 4)[top : top + h, left : left + w])
        lossless.Writer(Path(output_dir, name)).append_many(out)

    for size in ("3b", "7b"):
        module: Any = types.ModuleType(f"projects.inference_seedvr2_{size}")
        module.configure_runner, module.generation_loop = configure_runner, generation_loop
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(sys.modules, "projects", types.ModuleType("projects"))
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")


STAR = """
class STAR:
    def __init__(self, result_dir="./results/", file_name="000_video.mp4", model_path="",
                 solver_mode="fast", steps=15, guide_scale=7.5, upscale=4, max_chunk_len=32):
        assert model_path == "pretrained_weight/heavy_deg.pt" and upscale == 4
        self.result_dir, self.file_name = result_dir, file_name
    def enhance_a_video(self, video_path, prompt):
        import os
        from pathlib import Path
        from vsrbench.data.frames import open_frames
        from vsrbench.programs.lossless import Writer
        out = [f.repeat(4, 0).repeat(4, 1) for f in open_frames(Path(video_path))]
        Writer(os.path.join(self.result_dir, self.file_name)).append_many(out)
"""
FLASHVSR = """
import os
import numpy as np, torch
from PIL import Image
def init_pipeline():
    assert os.path.basename(os.getcwd()) == "WanVSR"
    def pipe(prompt, negative_prompt, cfg_scale, num_inference_steps, seed, tiled, LQ_video,
             num_frames, height, width, is_full_block, if_buffer, topk_ratio, kv_ratio,
             local_range, color_fix):
        assert num_frames >= 25 and (height % 128, width % 128) == (0, 0)
        assert LQ_video.shape == (1, 3, num_frames, height, width)
        return LQ_video[0, :, : num_frames - 4]
    return pipe
def prepare_input_tensor(path, scale=4, dtype=torch.float32, device="cuda"):
    names = sorted(os.listdir(path))
    frames = [np.asarray(Image.open(os.path.join(path, n))) for n in [*names, *names[-1:] * 4]]
    count = (len(frames) - 1) // 8 * 8 + 1
    big = torch.from_numpy(np.stack(frames[:count]).repeat(4, 1).repeat(4, 2)).permute(3, 0, 1, 2)
    h, w = (side // 128 * 128 for side in big.shape[2:])
    top, left = (big.shape[2] - h) // 2, (big.shape[3] - w) // 2
    return big[None, :, :, top : top + h, left : left + w], h, w, count, 30
def tensor2video(frames):
    return [Image.fromarray(f) for f in frames.permute(1, 2, 3, 0).numpy()]
"""
SWIFTVR = """
import os
import numpy as np
from PIL import Image
class SwiftVRPipeline:
    @classmethod
    def from_pretrained(cls, checkpoint_dir, *, device=None, dtype=None):
        assert checkpoint_dir == "checkpoints"
        return cls()
    def to(self, device=None, dtype=None, *, attention_backend="auto", torch_compile=False):
        return self
    def restore_video(self, input_path, output_path, *, resolution=None, upscale=4, clip_len=24,
                      dit_overlap=0, fps=None, quality=85, png_save=False, verbose=True):
        names = sorted(os.listdir(input_path))
        names = names[: (len(names) - 1) // 4 * 4 + 1]
        assert png_save
        for name in names:
            frame = np.asarray(Image.open(os.path.join(input_path, name)))
            h, w = (side // 8 * 8 for side in frame.shape[:2])
            big = frame[:h, :w].repeat(upscale, 0).repeat(upscale, 1)
            Image.fromarray(big).save(os.path.join(output_path, name))
"""


@pytest.mark.parametrize(
    "name",
    ["seedvr2-3b-official", "seedvr2-7b-official", "star", "flashvsr", "flashvsr-v1.1", "swiftvr"],
)
def test_program(name: str, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, text in {
        "video_super_resolution/scripts/inference_sr.py": STAR,
        "examples/WanVSR/infer_flashvsr_full.py": FLASHVSR,
        "examples/WanVSR/infer_flashvsr_v1.1_full.py": FLASHVSR,
        "swiftvr/__init__.py": SWIFTVR,
    }.items():
        (table / path).parent.mkdir(parents=True, exist_ok=True)
        (table / path).write_text(text)
    if name.startswith("seedvr2"):
        seedvr2(table, monkeypatch)
    card = specs.method_card(specs.ROOT, name)
    monkeypatch.chdir(table / str(card.settings.get("cwd", "")))
    monkeypatch.syspath_prepend(table)
    monkeypatch.delitem(sys.modules, "swiftvr", raising=False)
    served = []

    def run(self: command.CommandMethod, clip: dict[str, Any], place: Path) -> Usage:
        argv = command.command_line(self.card, self.values)
        assert argv[:2] == [sys.executable, str(command.WORKER)]
        if not served:
            program = worker.load_file(argv[3])
            served.extend([program, program.load(self.values)])
        served[0].restore(served[1], self.values | clip)
        return Usage(1.0, None, None)

    monkeypatch.setattr(command.CommandMethod, "_run", run)
    odd, other = sizes(card)
    expect_enlarged(card, odd)
    expect_enlarged(card, other, (5,))
