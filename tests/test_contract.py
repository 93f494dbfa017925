"""Every card that is ready here keeps the adapter contract; cost is measured as defined."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from spandrel.architectures.ESRGAN import ESRGAN, ESRGANArch
from torch import nn

from tests.conftest import FakeNvml, gone, heed_interrupts
from vsrbench.cards import specs
from vsrbench.cards.specs import ROOT
from vsrbench.cards.weights import load_state, read_checkpoint, save_checkpoint
from vsrbench.core import nvml
from vsrbench.core.errors import ContractError, MissingError, UserError
from vsrbench.core.types import Clip, Method, MethodCard, Size, Weights
from vsrbench.programs import command
from vsrbench.run import cost
from vsrbench.run.evaluate import error_json
from vsrbench.run.executors import Crew
from vsrbench.run.method import check_size, entry, load_method, padding, set_scale, upscale
from vsrbench.run.transfer import read_ahead

LARGE = ("spandrel", "instavsr-full", "instavsr-unpruned")  # none, or without weights
H, W, COUNT = 30, 42, 5  # odd for every multiple_of here


def clip(count: int = COUNT, size: Size = (H, W)) -> Clip:
    y, x = np.mgrid[: size[0], : size[1]]
    lq = [
        np.stack([np.sin((x + t) * 0.4 + c) + np.cos(y * 0.3) for c in range(3)], -1)
        for t in range(count)
    ]
    frames = [np.uint8((f + 2) * 63) for f in lq]
    return Clip("test", "waves", count, size, 4, 24.0, f"waves-{count}", frames)


def ready() -> list[MethodCard]:
    cards = []
    for path in specs.method_files(ROOT).values():
        card = specs.read_card(path)
        if card.kind != "python" or path.stem in LARGE:
            continue
        with contextlib.suppress(MissingError):
            command.identify(card)
            cards.append(set_scale(card, 4))
    return cards


@pytest.mark.parametrize("card", ready(), ids=lambda card: card.name)
def test_card_keeps_the_contract(card: MethodCard) -> None:
    method = load_method(card, "cpu")
    h, w = size = max(H, card.min_size + 1), max(W, card.min_size + 1)
    first = list(upscale(method, card, clip(size=size), "cpu"))
    assert [f.shape for f in first] == [(4 * h, 4 * w, 3)] * COUNT
    assert all(f.dtype == np.uint8 for f in first)
    again = list(upscale(method, card, clip(size=size), "cpu"))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True)), "not deterministic"
    # What has been answered before the end is in sight does not depend on what comes after.
    final = COUNT - 1 - max(card.lookahead, 0)
    if card.lookahead >= 0:
        prefix = list(upscale(method, card, clip(COUNT - 1, size), "cpu"))
        assert all(np.array_equal(a, b) for a, b in zip(first[:final], prefix[:final], strict=True))
    # A picture goes in and the same picture comes out, larger: no shift, no colour change.
    small = first[2].reshape(h, 4, w, 4, 3).mean((1, 3))
    assert np.abs(small - clip(size=size).lq[2]).mean() < 12


def untrained() -> list[MethodCard]:
    """The forms of networks whose weights are elsewhere: random weights, fewer channels."""
    small = {"channels": [12, 16], "heads": [0, 2], "mid_heads": 2, "layers": 1}
    small |= {"decoder_channels": [16, 12, 8, 8], "decoder_layers": 0}
    cards = []
    for name, settings in (
        ("instavsr-full", small),
        (
            "realviformer-official",
            {"num_feat": 16, "num_blocks": [1, 1, 1, 1], "hr_feat": 8, "flow_widths": [4, 8, 4, 4]},
        ),
        ("gaussiansr", {"blocks": 1, "hidden": 16}),
    ):
        card = specs.method_card(ROOT, name)
        settings = dict(card.settings) | settings
        cards.append(replace(set_scale(card, 4), settings=settings, weights=Weights("random")))
    return cards


def streaming() -> list[MethodCard]:
    """Every network that answers as it reads."""
    shipped = [set_scale(specs.method_card(ROOT, name), 4) for name in ("instavsr", "realviformer")]
    return [*untrained(), *shipped]


def varied(card: MethodCard) -> Method:
    """A method of random weights in which those that start at zero do something, too."""
    method = load_method(card, "cpu")
    net = method.net  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p += 0.02 * torch.randn(p.shape, generator=generator)
    return method


def drifting(count: int, seed: int) -> Clip:
    """A scene of smooth noise that drifts one pixel a frame."""
    coarse = np.random.default_rng(seed).random((9, 13, 3)).astype(np.float32)
    wide = np.asarray(cv2.resize(coarse, (64, 48), interpolation=cv2.INTER_CUBIC))
    frames = [np.uint8(255 * wide[8:40, i : i + 40].clip(0, 1)) for i in range(count)]
    return Clip("test", "drift", count, (32, 40), 4, 24.0, f"{seed}-{count}", frames)


@pytest.mark.parametrize("card", streaming(), ids=lambda card: card.name)
def test_streaming_looks_ahead_as_far_as_it_says_and_restarts_at_cuts(card: MethodCard) -> None:
    method = varied(card)

    def run(*scenes: Clip) -> list[np.ndarray]:
        frames = [f for scene in scenes for f in scene.lq]
        # The seed of a run comes from the clip: keep what names it.
        whole = replace(scenes[0], count=len(frames), lq=frames, digest="x")
        return list(upscale(method, card, whole, "cpu"))

    first, second = drifting(3, 1), drifting(3, 2)
    a, b, joined = run(first), run(second), run(first, second)
    assert len(joined) == 6
    assert np.ptp(joined[0]) > 3
    assert all(np.array_equal(x, y) for x, y in zip(joined, a + b, strict=True))
    long, prefix = run(drifting(5, 3)), run(drifting(4, 3))
    final = 4 - card.lookahead
    assert all(np.array_equal(x, y) for x, y in zip(long[:final], prefix[:final], strict=True))


def recurrent() -> list[MethodCard]:
    """Random networks, each with a flow network inside."""
    basic = specs.method_card(ROOT, "realbasicvsr")
    settings = {"channels": 8, "blocks": 1, "cleaning_blocks": 1}
    return [*untrained()[:2], replace(basic, settings=settings, weights=Weights("random"))]


@pytest.mark.parametrize("card", recurrent(), ids=lambda card: card.name)
def test_in_half_precision_the_flow_network_keeps_every_bit(card: MethodCard) -> None:
    def parts(dtype: torch.dtype) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        method: Any = entry(card)(card, "cpu", dtype)
        state = method.net.state_dict()
        flow = {name: state.pop(name) for name in list(state) if "spynet." in name}
        return flow, state

    exact, _ = parts(torch.float32)
    flow, rest = parts(torch.float16)
    assert all(torch.equal(flow[name], tensor) for name, tensor in exact.items())
    assert all(t.dtype == torch.float16 for t in rest.values() if t.is_floating_point())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_networks_that_spandrel_knows_to_fail_in_half_precision_run_in_float32(
    dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(ESRGAN(num_filters=8, num_blocks=1, scale=4).state_dict(), tmp_path / "x.pth")
    card = specs.method_card(ROOT, "spandrel")
    card = replace(set_scale(card, 4), weights=Weights("user", file=str(tmp_path / "x.pth")))

    def used() -> torch.dtype:
        method: Any = entry(card)(card, "cpu", dtype)
        return next(method.net.parameters()).dtype

    assert used() == dtype
    made = ESRGANArch.load

    def limited(self: ESRGANArch, state: dict[str, Any]) -> Any:
        descriptor = made(self, state)
        descriptor.supports_half = descriptor.supports_bfloat16 = False
        return descriptor

    monkeypatch.setattr(ESRGANArch, "load", limited)
    assert used() == torch.float32


def test_construction_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = cost.measure_construction(replace(TOY, scale=4), "", "cpu", tmp_path)
    assert found["params_m"] == pytest.approx((3 * 48 * 9 + 48) / 1e6)
    assert found["macs_g"] == pytest.approx(64 * 64 * 3 * 48 * 9 / 1e9)
    assert found["peak_mib"] > 100
    assert found["seconds"] > 0
    monkeypatch.setattr(cost, "run_apart", lambda *_: found)
    nowhere = Path("/proc/nobody")  # where nothing can be kept it is measured each time
    assert cost.measure_construction(replace(TOY, scale=4), "", "cpu", nowhere) == found
    monkeypatch.setattr(cost, "run_apart", None)  # asked again, it is read
    assert cost.measure_construction(replace(TOY, scale=4), "", "cpu", tmp_path) == json.loads(
        json.dumps(found)
    )


def test_attention_is_counted() -> None:
    class Attends:
        def upscale(self, frames: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
            for _ in frames:
                x = torch.rand(1, 2, 128, 16)
                nn.functional.scaled_dot_product_attention(x, x, x)
                yield x

    with torch.inference_mode():
        assert cost._macs(Attends(), [torch.zeros(1)]) == 2 * 2 * 128 * 128 * 16


def test_trained_here_means_a_hash_in_the_card() -> None:
    trained = [c for c in ready() if c.weights.origin == "trained_here"]
    assert {"instavsr", "realviformer"} <= {c.name for c in trained}
    for card in trained:
        _, metadata = load_state(card)
        assert metadata["origin"] == "trained_here"
        assert metadata["note"]
        assert isinstance(metadata["config"], dict)
        assert len(card.weights.sha256) == 64


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 48, 3, padding=1)


class Toy:
    """A network of known size and MACs."""

    def __init__(self) -> None:
        self.net = Net()

    def upscale(self, frames: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
        with torch.inference_mode():
            for x in frames:
                yield torch.pixel_shuffle(self.net.conv(x[None]), 4)[0]


def load(card: MethodCard, device: str, dtype: torch.dtype) -> Toy:
    if card.name == "dies":
        os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when memory runs out
    if card.name == "exits":
        sys.exit("no licence")
    return Toy()


TOY = MethodCard(
    "toy",
    1,
    "Toy",
    Weights("random"),
    entry="tests.test_contract:load",
    folder=str(ROOT / "a" / "b"),
)


def test_cost_counts_what_is_known() -> None:
    m = cost.measure(TOY, (24, 32), 6, "cpu")
    assert m.params_m == pytest.approx((3 * 48 * 9 + 48) / 1e6)
    assert m.macs_g == pytest.approx(24 * 32 * 3 * 48 * 9 / 1e9)
    assert (m.size, m.frames, m.region, len(m.samples_ms)) == ((24, 32), 6, "device", 5)
    assert 0 < m.median_ms <= m.p90_ms
    assert m.fps > 0
    assert m.rss_peak_mib > m.rss_idle_mib > 50
    assert m.vram_peak_mib is None
    assert m.j_per_frame is None
    assert m.why["vram_peak_mib"] == m.why["j_per_frame"] == "no CUDA device"


COUNTED = """
import sys, torch
from vsrbench.run import cost

class Net:
    conv = torch.nn.Conv2d(3, 8, 3, padding=1)

    @torch.inference_mode()
    def upscale(self, frames):
        yield from map(self.conv, frames)

count = lambda: cost._macs(Net(), [torch.zeros(3, 6, 5)])
print(count(), "torch._dynamo" in sys.modules)
import torch._dynamo
print(count())
"""


def test_counting_imports_no_compiler_and_agrees_with_one_that_is_there() -> None:
    argv = [sys.executable, "-c", COUNTED]
    told = subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    macs = str(8 * 3 * 9 * 6 * 5.0)
    assert told.split() == [macs, "False", macs]


def test_a_process_that_waits_to_measure_measures_once_and_ends() -> None:
    crew = Crew()
    crew.prepare_measure()
    process = crew._meter
    assert process is not None
    pid = process.submit(os.getpid).result()
    crew.prepare_measure()
    assert crew._meter is process
    m = crew.measure(TOY, (24, 32), 2, "cpu", Path())
    assert m.macs_g == pytest.approx(24 * 32 * 3 * 48 * 9 / 1e9)
    assert m.rss_peak_mib is not None
    assert gone(pid)
    assert crew._meter is None
    crew.prepare_measure()
    assert crew._meter is not None
    pid = crew._meter.submit(os.getpid).result()
    crew.end()
    assert gone(pid)


def test_a_dead_measuring_process_is_one_clear_error() -> None:
    with pytest.raises(ContractError, match="'dies' crashed its process at 32x24, 2 frames"):
        cost.measure(replace(TOY, name="dies"), (24, 32), 2, "cpu")


STRANGE = """
import os, sys, time
from pathlib import Path
from vsrbench.programs.process import execute

class Two(Exception):
    def __init__(self, one, two):  # cannot be unpickled
        super().__init__(one)

class Strange:
    def __init__(self, card, device, dtype):
        self.how = card.settings["how"]

    def upscale(self, frames):
        if self.how == "raises":
            raise Two("boom", "bang")
        pids = Path(__file__).with_name("pids")
        if self.how == "sleeps":
            pids.write_text(f"{os.getpid()} .")
            time.sleep(60)
        program = f"import os, pathlib, time; pathlib.Path({str(pids)!r}).write_text("
        program += "f'{os.getppid()} {os.getpid()} .'); time.sleep(60)"
        execute("program", [sys.executable, "-c", program], pids.parent, 60, "cpu")
"""


def strange(folder: Path, how: str, **changes: Any) -> MethodCard:
    own = folder / "methods" / "odd"
    own.mkdir(parents=True)
    (own / "strange.py").write_text(STRANGE)
    entry = "methods.odd.strange:Strange"
    return replace(TOY, entry=entry, folder=str(own), settings={"how": how}, **changes)


@pytest.mark.parametrize("kind", ["python", "command"])
def test_whatever_a_measured_method_raises_is_one_clear_error(tmp_path: Path, kind: str) -> None:
    card = strange(tmp_path, "raises", kind=kind)
    with pytest.raises(ContractError, match="'toy' failed at 32x24, 2 frames: Two: boom") as caught:
        cost.measure(card, (24, 32), 2, "cpu")
    assert "in upscale" in error_json(caught.value)["log"]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize(("how", "kind"), [("sleeps", "python"), ("program", "command")])
def test_an_interrupted_measurement_ends_at_once(tmp_path: Path, how: str, kind: str) -> None:
    card = pickle.dumps(strange(tmp_path, how, kind=kind))
    code = "import pickle; from vsrbench.run import cost; "
    code += f"cost.measure(pickle.loads({card!r}), (24, 32), 2, 'cpu')"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        preexec_fn=heed_interrupts,
    )
    pids, deadline = tmp_path / "methods" / "odd" / "pids", time.monotonic() + 60
    while not (pids.is_file() and pids.read_text().endswith(".")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert b"KeyboardInterrupt" in process.communicate(timeout=30)[1]
    assert all(gone(int(pid)) for pid in pids.read_text().split()[:-1])


@pytest.mark.parametrize("multiple", [1, 2, 7, 64])
@pytest.mark.parametrize("side", ["bottom-right", "top-left"])
def test_sizes_that_cannot_be_mirrored_are_refused(multiple: int, side: str) -> None:
    card = replace(TOY, multiple_of=multiple, pad=side)  # type: ignore[arg-type]
    for height in range(1, 70):
        try:
            cost.make_resident_clip(card, (height, 70), 1, "cpu")
        except RuntimeError:
            with pytest.raises(UserError, match=f"at least {multiple // 2 + 1} px"):
                check_size(card, (height, 70))
        else:
            check_size(card, (height, 70))


def test_a_method_that_exits_does_not_end_the_run() -> None:
    with pytest.raises(ContractError, match="'exits' failed loading: SystemExit: no licence"):
        load_method(replace(TOY, name="exits"), "cpu")


def test_nvml_peak_is_over_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNvml("pynvml")
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    meter = nvml.MemoryMeter("GPU-1")
    with meter:
        fake.used = 350 * 2**20
        torch.ones(1)
        while meter._peak < fake.used:  # the poll sees it
            pass
        fake.used = 120 * 2**20
    assert meter.peak_mib == 250


def test_nvml_knows_an_instance_of_a_divided_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    class Divided(FakeNvml):
        def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
            if uuid != "MIG-1":
                raise RuntimeError("Not Found")
            return uuid

    monkeypatch.setitem(sys.modules, "pynvml", Divided("pynvml"))
    assert nvml.MemoryMeter("GPU-1").why == ""
    assert nvml.MemoryMeter("GPU-2").why == "NVML: Not Found"


class Device:
    """A GPU that works `kernel` seconds a frame behind a host that takes `launch` to ask for it."""

    def __init__(self, launch: float, kernel: float) -> None:
        self.launch, self.kernel = launch, kernel
        self.host = self.busy_until = 100.0
        self.waits = 0

    def upscale(self, frames: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
        for x in frames:
            self.host += self.launch
            self.busy_until = max(self.host, self.busy_until) + self.kernel
            yield x

    def synchronize(self, device: str) -> None:
        self.host = max(self.host, self.busy_until)
        self.waits += 1

    def event(self, enable_timing: bool) -> Any:
        def elapsed_time(other: Any) -> float:
            assert self.host >= other.at, "it has not come yet"
            return float(1000 * (other.at - event.at))

        def record(stream: str) -> None:
            assert (stream, enable_timing) == ("stream of cuda:1", True)
            event.at = max(self.host, self.busy_until)

        event = types.SimpleNamespace(record=record, elapsed_time=elapsed_time)
        return event


@pytest.mark.parametrize(
    ("launch", "kernel", "first", "between", "total"),
    [(0.1, 0.5, 600, 500, 2100), (0.5, 0.1, 600, 500, 2100)],  # one waits for the other
)
def test_a_gpu_is_timed_by_its_own_events(
    launch: float,
    kernel: float,
    first: float,
    between: float,
    total: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = Device(launch, kernel)
    monkeypatch.setattr(torch.cuda, "synchronize", device.synchronize)
    monkeypatch.setattr(torch.cuda, "Event", device.event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda name: f"stream of {name}")
    found = cost._timed(device, [torch.ones(3, 8, 8)] * 4, "cuda:1")
    assert found[0] == pytest.approx(first)
    assert found[1] == pytest.approx([between] * 3)
    assert found[2] == pytest.approx(total)
    assert device.waits == 2


def test_counting_changes_no_other_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    rss = {"VmRSS": 100.0, "VmHWM": 200.0}

    def count(*_: Any) -> float:
        rss["VmHWM"] = 900.0
        return 1.0

    monkeypatch.setattr(cost, "_rss_mib", rss.get)
    monkeypatch.setattr(cost, "_macs", count)
    assert cost._measure(TOY, (24, 32), 2, "cpu", None).rss_peak_mib == 200


def test_nvml_tells_other_processes_apart_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNvml("pynvml")
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    own, parent, other = os.getpid(), os.getppid(), 2**30  # above what Linux gives to a process
    for pids, shared in (((own, parent), False), ((own, parent, other), True), ((other,), None)):
        fake.pids = pids
        with nvml.MemoryMeter("GPU-1") as meter:
            pass
        assert meter.shared is shared
    for pids, found in (((), False), ((other,), True)):  # programs listed by our numbers before
        fake.pids = pids
        assert nvml.is_shared("GPU-1", known=True) is found
    # In a PID namespace of its own a tree has other numbers there: unknown, not nothing.
    assert nvml._device_mib({own}) is None
    fake.pids = (own, 1)
    assert nvml._device_mib({own}) == 1024


def test_nvml_absent_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    meter = nvml.MemoryMeter("GPU-1")
    with meter:
        pass
    assert meter.peak_mib is None
    assert "nvidia-ml-py" in meter.why


class Slow:
    """A method, and the time that it lives in: each frame takes `seconds`."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.now, self.calls = seconds, 1000.0, 0

    def clock(self) -> float:
        return self.now

    def upscale(self, frames: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
        self.calls += 1
        for x in frames:
            self.now += self.seconds
            yield x


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    """A GPU that NVML knows, in the place of the CPU."""
    fake = FakeNvml("pynvml")
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(cost, "_uuid", lambda device: "GPU-1")
    return fake


def in_time_of(method: Slow, gpu: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu.clock = method.clock
    monkeypatch.setattr(cost, "time", types.SimpleNamespace(perf_counter=method.clock))
    monkeypatch.setattr(cost, "load_method", lambda card, device: method)


# Whole calls of 4 frames until 5 s are over: 2.8, 5.6; 5.0 at once; 4.0, 8.0; 40.
@pytest.mark.parametrize(("seconds", "calls"), [(0.7, 2), (1.25, 1), (1.0, 2), (10.0, 1)])
def test_energy_is_power_by_time_over_five_seconds(
    seconds: float, calls: int, gpu: FakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = Slow(seconds)
    in_time_of(method, gpu, monkeypatch)
    frames = [torch.ones(3, 8, 8)] * 4
    found, why = cost._energy(method, frames, "cpu", "GPU-1")
    assert (method.calls, why) == (calls, "")
    assert found == pytest.approx(gpu.watts * seconds)


def test_energy_leaves_the_other_figures_alone(
    gpu: FakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = Slow(0.25)
    in_time_of(method, gpu, monkeypatch)
    m = cost._measure(TOY, (8, 8), 4, "cpu", None)
    assert m.j_per_frame == pytest.approx(50)
    assert "j_per_frame" not in m.why
    assert method.calls == 3 + 5  # warm-up, the timed pass, counting; then five of 1 s
    assert (m.frames, m.samples_ms, m.first_output_ms, m.fps) == (4, (250, 250, 250), 250, 4)


def test_energy_of_a_shared_gpu_is_no_figure(
    gpu: FakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = Slow(1.0)
    in_time_of(method, gpu, monkeypatch)
    frames = [torch.ones(3, 8, 8)] * 4
    none = (None, "another process was on the GPU")
    gpu.pids = (os.getpid(), 2**30)
    assert cost._energy(method, frames, "cpu", "GPU-1") == none
    assert method.calls == 0  # it was there before
    gpu.pids = (os.getpid(), os.getppid())
    assert cost._energy(method, frames, "cpu", "GPU-1")[0] == pytest.approx(200)

    class Busy(Slow):
        def upscale(self, frames: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
            gpu.pids = (os.getpid(), 2**30)  # it came meanwhile
            return super().upscale(frames)

    busy = Busy(1.0)
    in_time_of(busy, gpu, monkeypatch)
    assert cost._energy(busy, frames, "cpu", "GPU-1") == none
    assert busy.calls == 2


def test_energy_absent_says_why(gpu: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(handle: str) -> int:
        raise RuntimeError("Not Supported")

    method = Slow(1.0)
    in_time_of(method, gpu, monkeypatch)
    monkeypatch.setattr(gpu, "nvmlDeviceGetTotalEnergyConsumption", unsupported)
    m = cost._measure(TOY, (8, 8), 4, "cpu", None)
    assert (m.j_per_frame, m.why["j_per_frame"]) == (None, "NVML: Not Supported")
    assert m.vram_peak_mib == 0  # which the card does tell
    monkeypatch.setattr(cost, "_uuid", lambda device: None)
    m = cost._measure(TOY, (8, 8), 4, "cpu", None)
    assert (m.j_per_frame, m.why["j_per_frame"]) == (None, "no CUDA device")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "nvidia-ml-py" in nvml.energy_counter("GPU-1")[1]


def test_only_gpus_are_measured_again_for_their_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "device_name", lambda device: device)
    assert set(cost.machine("cpu")) == {"version", "device", "torch", "threads"}
    assert cost.machine("cuda")["energy_s"] == 5


@pytest.mark.parametrize("side", ["bottom-right", "top-left"])
def test_padding_is_cut_where_it_was_put(side: str) -> None:
    card = set_scale(specs.method_card(ROOT, "nearest"), 4)
    card = replace(card, multiple_of=16, pad=side)  # type: ignore[arg-type]
    assert sum(padding(card, (H, W))) == (-H % 16) + (-W % 16)
    out = list(upscale(load_method(card, "cpu"), card, clip(), "cpu"))
    assert np.array_equal(out[1], clip().lq[1].repeat(4, 0).repeat(4, 1))


def test_frames_computed_ahead_are_the_same_and_judged_by_their_number() -> None:
    """As on a GPU: reading on a thread, each frame given when the next is computed."""
    card = set_scale(specs.method_card(ROOT, "bicubic"), 4)
    whole = replace(clip(), count=COUNT)
    for window in (0, 2):
        card = replace(card, window=window)
        ahead = list(upscale(load_method(card, "cpu"), card, whole, "cpu", ahead=True))
        assert np.array_equal(ahead, list(upscale(load_method(card, "cpu"), card, whole, "cpu")))

    class Damaged:
        def upscale(self, frames: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
            for i, x in enumerate(frames):
                yield x.repeat(1, 4, 4) + (torch.nan if i == 2 else 0)

    frames = upscale(Damaged(), TOY, whole, "cpu", ahead=True)
    assert len([next(frames), next(frames)]) == 2
    with pytest.raises(ContractError, match=r"at frame 2 of clip .*NaN"):
        next(frames)
    assert list(read_ahead(lambda i: i * i, range(4))) == [0, 1, 4, 9]
    assert list(read_ahead(lambda i: i, [])) == []


def test_windows_restart_the_state() -> None:
    class Counter:
        def upscale(self, frames: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
            for i, x in enumerate(frames):
                yield torch.full((3, x.shape[1] * 4, x.shape[2] * 4), i / 255)

    card = replace(TOY, window=2)
    assert [f.max() for f in upscale(Counter(), card, clip(), "cpu")] == [0, 1, 0, 1, 0]


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    state = {"a": torch.randn(3, 4), "n": torch.tensor(7)}
    save_checkpoint(path, state, {"width": 3}, "5 steps")
    back, metadata = read_checkpoint(path)
    assert torch.equal(back["a"], state["a"].half().float())
    assert back["n"] == 7
    assert (metadata["config"], metadata["note"]) == ({"width": 3}, "5 steps")
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]
