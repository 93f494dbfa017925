"""Real-ESRGAN's networks out of ncnn's files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from spandrel import ModelLoader
from vsrbench.methods.spandrel import ncnn

from vsrbench.cards import sources, specs
from vsrbench.core.errors import DataError, MissingError

Fetch = Callable[..., list[Path]]
CARDS = ("realesr-animevideov3", "realesrgan-anime", "realesrgan")


def compact(folder: Path) -> Path:
    """A small SRVGGNetCompact as ncnn has it: x4, 4 channels, one layer inside, random numbers."""
    rng = np.random.default_rng(0)
    lines, content = ["7767517", "8 9"], b""
    lines.append("Input input 0 1 data")
    lines.append("Split split 1 2 data a b")
    last = "a"
    for number, (inside, wide) in enumerate(((3, 4), (4, 4), (4, 48))):
        size = wide * inside * 9
        lines.append(f"Convolution conv{number} 1 1 {last} c{number} 0={wide} 1=3 4=1 5=1 6={size}")
        weight = rng.normal(0, 0.2, size).astype(np.float16).tobytes()
        content += (0x01306B47).to_bytes(4, "little") + weight + b"\0" * (-len(weight) % 4)
        content += rng.normal(0, 0.1, wide).astype(np.float32).tobytes()
        last = f"c{number}"
        if number < 2:
            lines.append(f"PReLU prelu{number} 1 1 {last} p{number} 0={wide}")
            content += rng.uniform(0, 0.5, wide).astype(np.float32).tobytes()
            last = f"p{number}"
    lines.append(f"PixelShuffle shuffle 1 1 {last} s 0=4")
    lines.append("Interp resize 1 1 b r 0=1 1=4.0 2=4.0")
    lines.append("BinaryOp add 2 1 s r output")
    lines[1] = f"{len(lines) - 2} 20"
    (folder / "net.param").write_text("\n".join(lines) + "\n")
    (folder / "net.bin").write_bytes(content)
    return folder / "net.bin"


def equals_ncnn(path: Path) -> None:
    engine = pytest.importorskip("ncnn")
    x = torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        network = ModelLoader("cpu").load_from_state_dict(ncnn.read(path)).eval().model
        ours = network.double()(x.double())[0].numpy()
    net = engine.Net()
    for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, f"use_{option}", False)
    net.opt.use_vulkan_compute = False
    net.opt.use_winograd_convolution = False  # whose roundings add up over a hundred layers
    net.load_param(str(path.with_suffix(".param")))
    net.load_model(str(path))
    run = net.create_extractor()
    run.input("data", engine.Mat(x[0].numpy()))
    theirs = np.array(run.extract("output")[1])
    # ncnn rounds as the processor has it: the worst pixel of all varies, their mean hardly does.
    assert np.sqrt(np.square(ours - theirs).mean()) < 5e-6


def test_a_network_equals_ncnn(tmp_path: Path) -> None:
    equals_ncnn(compact(tmp_path))


@pytest.mark.parametrize("name", CARDS)
def test_the_real_networks_equal_ncnn(name: str, root: Path, registry: Fetch) -> None:
    path, _ = registry(*sources.needs_of_card(specs.method_card(root, name)))
    equals_ncnn(path)


def test_weights_are_those_of_the_release(root: Path, shared: Path, registry: Fetch) -> None:
    """ncnn cuts to fp16, tiny ones to zero; biases and slopes are the same to the last bit."""
    path, _ = registry(*sources.needs_of_card(specs.method_card(root, "realesr-animevideov3")))
    file = shared / "real/weights/realesr-animevideov3.pth"
    official = torch.load(file, map_location="cpu", weights_only=True)
    ours = ncnn.read(path)
    assert ours.keys() == official["params"].keys()
    for name, value in official["params"].items():
        if value.dim() == 1:
            assert torch.equal(ours[name], value)
        else:
            below = value.abs() - ours[name].abs()
            assert float(below.min()) >= -1e-7
            tiny = value.abs() < 2**-14  # what fp16 has no normal number for
            assert not ours[name][tiny].any()
            assert bool((below <= value.abs() * 2**-10)[~tiny].all())


def test_broken_files_are_one_line(tmp_path: Path) -> None:
    path = compact(tmp_path)
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(DataError, match="4 bytes are left over"):
        ncnn.read(path)
    path.write_bytes(b"\0" * 5000)
    with pytest.raises(DataError, match="not in fp16"):
        ncnn.read(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="cannot be read as a model of ncnn"):
        ncnn.read(path)
    path.with_suffix(".param").unlink()
    with pytest.raises(MissingError, match=r"needs net\.param beside it"):
        ncnn.read(path)
