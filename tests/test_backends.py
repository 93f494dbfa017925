"""Other engines for the networks of methods: the same pictures, and one line where they cannot."""

from __future__ import annotations

import builtins
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vsrbench.cards import specs
from vsrbench.cli import main
from vsrbench.core.errors import MissingError, UserError
from vsrbench.core.parts import Part
from vsrbench.core.processes import Died, Process
from vsrbench.core.types import MethodCard, Weights
from vsrbench.results.store import Store
from vsrbench.run import backends, cost
from vsrbench.run.backends import accelerate, check, export, parts_of
from vsrbench.run.export import export_all
from vsrbench.run.method import load_method


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 12, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.pixel_shuffle(self.last(F.silu(self.first(x))), 2)


class Toy:
    """A method with one part."""

    def __init__(self) -> None:
        self.net = Net().eval().requires_grad_(False)

    def parts(self) -> dict[str, Part]:
        return {"network": Part(self.net, "forward")}

    @torch.inference_mode()
    def upscale(self, frames: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
        for x in frames:
            yield self.net(x[None])[0]


def need(engine: str, precision: str) -> None:
    """Skip a test of an engine that is not here, or not in this precision on this CPU."""
    package = pytest.importorskip(engine)
    if engine == "openvino" and precision == "bf16":
        able = backends._core(package.Core).get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if "BF16" not in able:
            pytest.skip("needs a CPU on which OpenVINO has bf16")


def card(**changes: Any) -> MethodCard:
    return replace(MethodCard("toy", 1, "Toy", Weights("user")), **changes)


@pytest.mark.parametrize(
    ("engine", "precision", "least"),
    [
        ("onnxruntime", "fp32", 110),
        ("openvino", "fp32", 110),
        ("openvino", "bf16", 40),
        ("torch", "bf16", 40),
    ],
)
def test_an_engine_gives_the_pictures_of_torch(engine: str, precision: str, least: float) -> None:
    if engine != "torch":
        need(engine, precision)
    clips = [[torch.rand(3, *size) for _ in range(2)] for size in ((9, 14), (16, 8), (9, 14))]
    plain, fast = Toy(), Toy()
    accelerate(fast, card(precision=precision, settings={"backend": engine}), "cpu")
    for clip in clips:
        for a, b in zip(plain.upscale(iter(clip)), fast.upscale(iter(clip)), strict=True):
            assert a.shape == b.shape
            assert b.dtype == torch.float32
            mse = float((a - b).square().mean())
            assert -10 * torch.log10(torch.tensor(max(mse, 1e-20))) > least


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_one_method_serves_several_threads(engine: str) -> None:
    pytest.importorskip(engine)
    clips = [[torch.rand(3, 30 + 2 * (n // 2), 40)] * 20 for n in range(4)]
    methods = [Toy(), Toy()] * 2
    for toy in methods[:2]:
        accelerate(toy, card(settings={"backend": engine}), "cpu")

    def upscale(toy: Toy, clip: list[torch.Tensor]) -> list[torch.Tensor]:
        return list(toy.upscale(iter(clip)))

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(upscale, methods, clips))
    for toy, clip, frames in zip(methods, clips, found, strict=True):
        for a, b in zip(upscale(toy, clip), frames, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("outputs", "kernel", "width", "of_16", "of_8"),
    [
        (2, 7, 16, 8, 4),
        (2, 7, 12, 4, 4),
        (2, 7, 5, 1, 1),
        (24, 7, 2, 2, 1),
        (24, 7, 9, 1, 1),
        (3, (1, 3), 4, 4, 2),
        (12, 3, 4, 1, 1),
        (16, 7, 8, 1, 1),
    ],
)
def test_neighbours_that_are_made_at_once_are_the_same(
    outputs: int, kernel: Any, width: int, of_16: int, of_8: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    padding = tuple(side // 2 for side in sides)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, outputs, kernel, padding=padding, bias=outputs > 2),
        torch.nn.Conv2d(outputs, outputs, 3, padding=2, dilation=2),
    )
    x = torch.rand(2, 3, 6, width)
    wanted = net(x)
    conv2d, counts = F.conv2d, list[int]()

    def watched(x: torch.Tensor, weight: torch.Tensor, *args: Any) -> torch.Tensor:
        counts.append(weight.shape[0] // outputs)
        return conv2d(x, weight, *args)

    monkeypatch.setattr(F, "conv2d", watched)
    for lanes in ("AVX512", "AVX2"):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda lanes=lanes: lanes)
        with backends._filling_lanes(net), torch.no_grad():
            found = net(x)
        assert found.shape == wanted.shape
        assert (found - wanted).abs().max() < 1e-5
    assert counts == [of_16, 1, of_8, 1]
    assert not any("forward" in vars(layer) for layer in net)


class Standardised(torch.nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, self.weight - mean, self.bias, padding=1)


class Unusual(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.standardised = Standardised(3, 4, 3, padding=1)
        self.normed = torch.nn.utils.weight_norm(torch.nn.Conv2d(4, 4, 3, padding=1))
        self.normed.load_state_dict(
            {name: torch.randn_like(x) for name, x in self.normed.state_dict().items()}
        )
        self.rewritten = torch.nn.Conv2d(4, 3, 3, padding=1)
        self.kernel = torch.randn(3, 4, 3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.normed(self.standardised(x)[0])[None]
        self.rewritten.weight.data = self.kernel
        y = self.rewritten(y)
        return y.view(1, 3 * x.shape[2], x.shape[3]).reshape(x.shape)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_networks_that_do_not_keep_to_layers_as_they_come(engine: str) -> None:
    pytest.importorskip(engine)
    plain, fast = Toy(), Toy()
    for toy in (plain, fast):
        toy.net = Unusual().eval().requires_grad_(False)  # type: ignore[assignment]
    accelerate(fast, card(settings={"backend": engine}), "cpu")
    x = torch.rand(3, 8, 16)
    (found,) = fast.upscale(iter([x]))  # before the other one has made its weights
    (wanted,) = plain.upscale(iter([x]))
    assert (found - wanted).abs().max() < 1e-3 * wanted.abs().max()


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_instavsr_in_bf16_is_near_that_in_fp32(engine: str, root: Path) -> None:
    if engine != "torch":
        need(engine, "bf16")
    lq = []
    for t in range(6):  # sharp text that moves fast, where motion that is off shows most
        page = np.full((256, 512, 3), 245, np.uint8)
        for line in range(22, 256, 22):
            place = (10 + line % 44 - 20 * t, line)
            cv2.putText(page, 12 * "The quick brown fox ", place, 0, 0.5, (20, 20, 40))
        small = cv2.resize(page, (128, 64), interpolation=cv2.INTER_AREA)
        lq.append(torch.from_numpy(small).permute(2, 0, 1) / 255)
    plain = specs.method_card(root, "instavsr")
    half = replace(plain, precision="bf16", settings={backends.SETTING: engine})
    wanted, found = (list(load_method(c, "cpu").upscale(iter(lq))) for c in (plain, half))
    worst = max(float((a - b).square().mean()) for a, b in zip(wanted, found, strict=True))
    assert 1e-9 < worst < 4e-6  # 54 dB; with flow in bf16 it would be 40


def test_multiply_adds_are_counted_whatever_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(card: MethodCard, device: str) -> Any:
        toy = Toy()
        accelerate(toy, card, device)
        return toy

    monkeypatch.setattr(cost, "load_method", load)
    for engine, precision in [("torch", "fp32"), ("torch", "bf16"), ("openvino", "bf16")]:
        if engine != "torch":
            need(engine, precision)
        asked = card(precision=precision, settings={"backend": engine})
        measured = cost._measure(asked, (8, 8), 4, "cpu", None).macs_g
        built = cost._construct(asked, (8, 8), "cpu")["macs_g"]
        assert measured == built == pytest.approx((3 * 8 * 9 + 8 * 12) * 64 / 1e9)


_SIGNALLED = """
import gc, os, signal, threading
import torch
from tests.test_backends import Toy, accelerate, card

signal.signal(signal.SIGUSR1, lambda *_: print("heard"))
methods = [Toy(), Toy()]
for method in methods:
    accelerate(method, card(precision="bf16", settings={"backend": "openvino"}), "cpu")
    list(method.upscale(iter([torch.rand(3, 8, 8)])))
del method
for _ in range(2):
    del methods[0]
    thread = threading.Thread(target=gc.collect)  # a network that an engine computes is a cycle
    thread.start()
    thread.join()
    os.kill(os.getpid(), signal.SIGUSR1)
"""


def test_signals_arrive_once_methods_by_openvino_are_gone(root: Path) -> None:
    need("openvino", "bf16")
    command = [sys.executable, "-c", _SIGNALLED]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "heard\n" * 2), done.stderr


def test_a_precision_that_the_cpu_lacks_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO itself takes another one and says nothing: scores would have a wrong name."""
    pytest.importorskip("openvino")
    old = SimpleNamespace(get_property=lambda *_: ["FP32", "INT8"])
    monkeypatch.setattr(backends, "_core", lambda make: old)
    for precision in ("bf16", "fp16"):
        asked = card(precision=precision, settings={"backend": "openvino"})
        with pytest.raises(UserError, match=f"OpenVINO has no {precision} on this CPU"):
            accelerate(Toy(), asked, "cpu")
    accelerate(Toy(), card(settings={"backend": "openvino"}), "cpu")


def test_what_cannot_be_done_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no backend 'tensorrt'"):
        check(card(settings={"backend": "tensorrt"}), "cpu")
    with pytest.raises(UserError, match="computes on the CPU"):
        check(card(settings={"backend": "openvino"}), "cuda")
    with pytest.raises(UserError, match="has no bf16"):
        check(card(settings={"backend": "onnxruntime"}, precision="bf16"), "cpu")
    with pytest.raises(UserError, match="is a program"):
        check(card(settings={"backend": "openvino"}, kind="command"), "cpu")
    with pytest.raises(UserError, match="no part that can be exported"):
        parts_of(object(), card())  # type: ignore[arg-type]

    real = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name in ("openvino", "onnxruntime"):
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    for engine in ("onnxruntime", "openvino"):
        with pytest.raises(MissingError, match=f"needs the package {engine}") as caught:
            accelerate(Toy(), card(settings={"backend": engine}), "cpu")
        assert caught.value.hint == f"pip install 'vsrbench[{engine}]'"
    accelerate(Toy(), card(), "cpu")


def test_the_parts_of_instavsr_are_exported(tmp_path: Path, root: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    shipped = specs.method_card(root, "instavsr")
    files = dict(export_all(shipped, (16, 20), tmp_path))
    assert sorted(path.name for path in files) == [
        f"instavsr-{part}-20x16.onnx" for part in ("draw", "finish", "flow")
    ]
    session = runtime.InferenceSession(str(tmp_path / "instavsr-draw-20x16.onnx"))
    two = {e.name: torch.zeros(2, *e.shape[1:]).numpy() for e in session.get_inputs()}
    with pytest.raises(Exception, match="dimensions"):  # a file is for its size and one picture
        session.run(None, two)
    with pytest.raises(UserError, match="too small"):
        list(export_all(shipped, (8, 8), tmp_path))


def test_a_part_is_restored_after_its_export(tmp_path: Path) -> None:
    toy = Toy()
    before = toy.net.forward
    export(toy.parts()["network"], ((1, 3, 8, 8),), tmp_path / "net.onnx")
    assert toy.net.forward == before
    assert (tmp_path / "net.onnx").stat().st_size > 1000


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["export", "bicubic", "--onnx", "{}"], "'bicubic' has no part that can be exported"),
        (["export", "dove", "--onnx", "{}"], "'dove' is a program"),
        (["--methods", "instavsr", "--precision", "int8"], "no precision named 'int8'"),
        (
            ["--methods", "instavsr", "--device", "cpu", "--precision", "fp16"],
            "fp16 on a CPU is for --backend openvino alone",
        ),
        (["--methods", "instavsr", "--backend", "tpu"], "no backend named 'tpu'"),
        (
            [
                "--methods",
                "instavsr",
                "--device",
                "cpu",
                "--backend",
                "onnxruntime",
                "--precision",
                "bf16",
            ],
            "backend onnxruntime has no bf16",
        ),
    ],
)
def test_bad_command_lines(
    argv: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [word.replace("{}", str(tmp_path)) for word in argv]
    if argv[0] != "export":
        given += ["--results", str(tmp_path)]
    assert main(given) == 2
    assert said in capsys.readouterr().err


def test_bf16_without_parts_does_not_speak_of_exports() -> None:
    half = card(precision="bf16")
    with pytest.raises(UserError, match="no part that bf16 on a CPU could take over") as raised:
        accelerate(object(), half, "cpu")  # type: ignore[arg-type]
    assert raised.value.hint.startswith("--precision fp32")


def test_methods_without_a_network_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--methods", "nearest", "lanczos", "--device", "cpu", "--dry-run"]
    options += ["--results", str(tmp_path), "--input", str(tmp_path / "in.png")]
    cv2.imwrite(str(tmp_path / "in.png"), np.zeros((16, 16, 3), np.uint8))
    assert main([*options, "--backend", "openvino"]) == 0
    said = "nearest, lanczos have no network for --backend openvino: they run as without"
    assert said in capsys.readouterr().err
    assert main(options) == 0
    assert "network" not in capsys.readouterr().err


def test_cost_of_an_engine_is_measured_beside_idle_threads_that_sleep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those of OpenMP would hold the cores of the engine; torch by itself is faster as it comes."""
    asked: list[Process] = []

    def ask(*_: Any, process: Process, **__: Any) -> Any:
        asked.append(process)

    monkeypatch.setattr(cost, "run_apart", ask)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    waiting, later = Process(fresh=True), Process(fresh=True)
    cost.measure(card(settings={"backend": "openvino"}), (8, 8), 3, "cpu", process=waiting)
    cost.measure(card(), (8, 8), 3, "cpu", process=later)
    try:
        found = [process.submit(os.getenv, "GOMP_SPINCOUNT").result() for process in asked]
        assert found == ["1000", None]
        with pytest.raises(Died):
            waiting.submit(os.getpid).result()
    finally:
        for process in asked:
            process.end()


def test_engines_stand_side_by_side_with_their_frames(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "lq").mkdir()
    for i in range(2):
        picture = np.random.default_rng(i).integers(0, 256, (24, 32, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f"lq/{i}.png"), picture)
    run = ["--methods", "instavsr", "--input", str(tmp_path / "lq"), "--metrics", "lr_psnr", "-q"]
    run += ["--no-cost", "--keep-frames", "--device", "cpu", "--results", str(tmp_path / "results")]
    assert main(run) == main([*run, "--backend", "onnxruntime"]) == 0
    found = Store(tmp_path / "results").require()
    assert [r.method for r in found if r.status == "ok"] == [
        "instavsr",
        "bicubic",
        "instavsr (onnxruntime)",
    ]
    assert len({r.place for r in found}) == 3
    picture_of = ["figure", "crops", "--results", str(tmp_path / "results")]
    assert main([*picture_of, "-o", str(tmp_path / "crops.png")]) == 0
    about = json.loads((tmp_path / "crops.json").read_text())
    assert {"instavsr", "instavsr (onnxruntime)"} <= set(about["methods"])


def test_precision_and_backend_are_part_of_the_identity() -> None:
    from vsrbench.api.running import set_precision
    from vsrbench.core.keys import cost_key

    plain = card(precision="fp16")
    free = card(name="bicubic", weights=Weights("none"))
    asked = set_precision([plain, free], "cpu", "bf16", "openvino")
    assert [(c.precision, dict(c.settings)) for c in asked] == [
        ("bf16", {"backend": "openvino"}),
        ("fp32", {}),
    ]
    assert [c.title for c in asked] == [f"{plain.title} (openvino, bf16)", free.title]
    assert set_precision([plain], "cuda:0", "fp16")[0].title == plain.title
    assert set_precision([plain], "cuda:0", "bf16")[0].title == f"{plain.title} (bf16)"
    assert set_precision([free], "cuda:0", "bf16")[0] == free
    found = [set_precision([plain], "cpu")[0], asked[0], set_precision([plain], "cpu", "bf16")[0]]
    assert len({cost_key(c, "", "", (8, 8), 3, {}) for c in found}) == 3
    assert backends.network_settings(asked[0]) == {}
    assert set_precision([plain], "cpu", "", "torch") == set_precision([plain], "cpu")
    (back,) = set_precision([replace(plain, settings={"backend": "openvino"})], "cpu", "", "torch")
    assert (back.title, back.settings) == (f"{plain.title} (torch)", {"backend": "torch"})
