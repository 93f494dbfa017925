"""Metrics by their pyiqa names: what pyiqa says of them, its own numbers, and what is missing."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyiqa
import pytest
import torch
from pyiqa.archs import brisque_arch
from pyiqa.archs.musiq_arch import MUSIQ
from pyiqa.default_model_configs import DEFAULT_CONFIGS
from pyiqa.utils import download_util

from vsrbench.cli import main
from vsrbench.core import download
from vsrbench.core.errors import DataError, MissingError, UserError
from vsrbench.core.types import Sample
from vsrbench.data.frames import FrameWriter, open_frames
from vsrbench.metrics import (
    availability,
    depends_on,
    load_metric,
    metric_info,
    names,
    perceptual,
    unavailable,
)
from vsrbench.results.compare import compare
from vsrbench.results.store import Store
from vsrbench.run.method import no_tf32

BRISQUE = "brisque_svm_weights.pth"


def scene(count: int, h: int = 96, w: int = 112) -> list[np.ndarray]:
    """Smooth texture that moves down."""
    y, x = np.mgrid[: h + 3 * count, :w]
    waves = [np.sin(x / a + np.cos(y / b)) for a, b in ((5, 7), (9, 4), (13, 11))]
    big = (127 + 100 * np.stack(waves, 2)).astype(np.uint8)
    return [big[3 * t : 3 * t + h].copy() for t in range(count)]


def noisy(frames: list[np.ndarray], sigma: float = 12) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [(f + rng.normal(0, sigma, f.shape)).clip(0, 255).astype(np.uint8) for f in frames]


def write(folder: Path, frames: list[np.ndarray]) -> Path:
    with FrameWriter(folder) as writer:
        for frame in frames:
            writer.write(frame)
    return folder


def direct(name: str, sr: list[np.ndarray], gt: list[np.ndarray] | None = None) -> list[float]:
    """pyiqa called as its documentation says."""
    metric = pyiqa.create_metric(name, device="cpu")

    def tensor(frame: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.asarray(frame)).permute(2, 0, 1)[None].float() / 255

    both = zip(sr, gt, strict=True) if gt else ((f,) for f in sr)
    return [float(metric(*map(tensor, frames))) for frames in both]


def run(name: str, sr: list[np.ndarray], gt: list[np.ndarray]) -> tuple[float, ...]:
    metric = load_metric(name)
    for i, (a, b) in enumerate(zip(sr, gt, strict=True)):
        metric.update(Sample(i, a, None, b, b, None))
    return metric.result().per_frame


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty folders wherever files are looked for; returns that of $VSRBENCH_WEIGHTS."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("VSRBENCH_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr(download_util, "DEFAULT_CACHE_DIR", str(tmp_path / "torch/hub/pyiqa"))
    (tmp_path / "weights").mkdir()
    perceptual.by_name.cache_clear()
    return tmp_path / "weights"


def support_vectors(path: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    torch.save([torch.randn(9, 1, generator=rng), torch.rand(9, 36, generator=rng)], path)


# names


def test_entries_are_what_pyiqa_says() -> None:
    refused, reasons = set(), set()
    for name, about in DEFAULT_CONFIGS.items():
        try:
            info = metric_info(f"pyiqa:{name}")
        except UserError as error:
            refused.add(name)
            reasons.add(error.message.partition(": ")[0].partition("' ")[2])
            continue
        assert info.better == ("lower" if about.get("lower_better") else "higher")
        assert info.needs == ({"gt"} if about["metric_mode"] == "FR" else set())
        assert (info.span, info.default, info.range) == ("frame", False, (-np.inf, np.inf))
    sets = {"fid", "sfid", "fid_dinov2", "inception_score"}
    assert reasons == {"gives no number for a frame"}
    assert refused == sets | {"clipscore", "fgresq_pair"}


def test_unknown_names_are_refused_with_a_suggestion() -> None:
    for call in (metric_info, load_metric, unavailable):
        with pytest.raises(UserError, match=r"of pyiqa named 'gmsdd'\. Did you mean 'gmsd'"):
            call("pyiqa:gmsdd")
        with pytest.raises(UserError, match="pyiqa has it: write pyiqa:topiq_nr"):
            call("topiq_nr")


@pytest.mark.parametrize("name", ["pyiqa:gmsd", "musiq"])
def test_fp32_is_no_tf32_inside(name: str, caches: Path) -> None:
    no_tf32()
    if name == "musiq":
        torch.manual_seed(0)
        path = caches / "musiq_koniq_ckpt-e95806b9.pth"
        torch.save(MUSIQ(pretrained=False).state_dict(), path)
    metric: Any = load_metric(name)
    seen = []

    def spy(*_: Any) -> None:
        cudnn = torch.backends.cudnn
        seen.append((cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32, cudnn.deterministic))

    metric._model.net.register_forward_pre_hook(spy)
    frame = scene(1)[0]
    assert metric.score(Sample(0, frame, None, frame, frame, None)) is not None
    assert seen == [(False, False, True)]
    assert not torch.backends.cudnn.allow_tf32


def test_entries_are_read_without_torch(root: Path) -> None:
    code = (
        "import sys; from vsrbench import metrics as m\n"
        "from vsrbench.core.errors import UserError\n"
        "print(m.metric_info('pyiqa:gmsd').better, m.depends_on('pyiqa:gmsd'))\n"
        "try: m.metric_info('hyperiqa')\n"
        "except UserError as e: print(e.hint)\n"
        "print({'torch', 'pyiqa'} & set(sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    version = f"pyiqa-{pyiqa.__version__}"
    expected = [f"lower {version}", "pyiqa has it: write pyiqa:hyperiqa", "set()"]
    assert said.stdout.splitlines() == expected, said.stderr


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    names.pyiqa_says.cache_clear()
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    with pytest.raises(MissingError) as error:
        metric_info("pyiqa:gmsd")
    assert error.value.hint == "pip install 'vsrbench[pyiqa]'"
    with pytest.raises(UserError, match="no metric named 'gmsd'"):
        metric_info("gmsd")


# numbers


@pytest.mark.parametrize("name", ["gmsd", "vif", "fsim", "nlpd", "psnr", "piqe", "entropy"])
def test_scores_are_those_of_pyiqa(name: str) -> None:
    gt = scene(2)
    sr = noisy(gt)
    torch.manual_seed(7)
    found = run(f"pyiqa:{name}", sr, gt)
    after = torch.rand(1)
    full = DEFAULT_CONFIGS[name]["metric_mode"] == "FR"
    assert found == pytest.approx(direct(name, sr, gt if full else None), abs=1e-6)
    assert torch.equal(after, torch.rand(1, generator=torch.Generator().manual_seed(7)))


class Answers(torch.nn.Module):
    """Stands for a metric of pyiqa that gives these numbers times a random one."""

    def __init__(self, *numbers: float) -> None:
        super().__init__()
        self.numbers = torch.tensor(numbers)

    def forward(self, *frames: torch.Tensor) -> torch.Tensor:
        return self.numbers * torch.rand(1)


@pytest.mark.parametrize(
    ("numbers", "why"),
    [((float("nan"),), "no finite value"), ((float("inf"),), "no finite"), ((1, 2), "than one")],
)
def test_what_is_no_number_is_no_score(
    numbers: tuple[float, ...], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(perceptual, "by_name", lambda name, network: Answers(*numbers))
    with pytest.raises(DataError, match=why):
        run("pyiqa:piqe", scene(1), scene(1))


def test_random_patches_are_the_same_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perceptual, "by_name", lambda name, network: Answers(1.0))
    assert len(set(run("pyiqa:piqe", scene(2), scene(2)))) == 1


# files


def test_files_are_found_where_those_of_others_are(caches: Path) -> None:
    support_vectors(caches / BRISQUE)
    assert unavailable("pyiqa:brisque") is None
    gt = scene(1)
    coefficients, vectors = torch.load(caches / BRISQUE, weights_only=True)
    picture = torch.from_numpy(gt[0]).permute(2, 0, 1)[None].float() / 255
    theirs = float(brisque_arch.brisque(picture, sv_coef=coefficients, sv=vectors))
    assert run("pyiqa:brisque", gt, gt) == pytest.approx((theirs,), abs=1e-5)


def test_files_are_fetched_once(
    caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    (tmp_path / "www").mkdir()
    support_vectors(tmp_path / "www" / BRISQUE)
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "www"))
    monkeypatch.setenv("VSRBENCH_OFFLINE", "0")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{BRISQUE}"
        monkeypatch.setitem(brisque_arch.default_model_urls, "url", url)
        assert "downloaded at first use" in str(unavailable("pyiqa:brisque", fetch=False))
        assert unavailable("pyiqa:brisque") is None
        server.shutdown()
    assert (tmp_path / "torch/hub/checkpoints" / BRISQUE).is_file()
    monkeypatch.setenv("VSRBENCH_OFFLINE", "1")
    assert unavailable("pyiqa:brisque") is None


class Code:
    """Pickles as a call that makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def test_code_in_weights_is_refused(caches: Path, tmp_path: Path) -> None:
    torch.save(Code(tmp_path / "ran"), caches / BRISQUE)
    assert "UnpicklingError" in str(unavailable("pyiqa:brisque"))
    assert not (tmp_path / "ran").exists()


def test_missing_files_offline(caches: Path) -> None:
    """One whose file has a plain address, one with CLIP, one with a backbone on the Hub."""
    start = time.monotonic()
    for name, file in (
        ("niqe", "niqe_modelparameters.mat"),
        ("clipiqa+", "openaipublic.azureedge.net"),
        ("topiq_nr", "https://huggingface.co/timm/resnet50"),
    ):
        error = unavailable(f"pyiqa:{name}")
        assert isinstance(error, MissingError), name
        assert file in error.message
        assert "VSRBENCH_OFFLINE=1 forbids" in error.message
    assert time.monotonic() - start < 30


def test_no_network_is_noticed_quickly(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses that swallow what is sent to them: nothing but our own question waits for them."""
    monkeypatch.setenv("VSRBENCH_OFFLINE", "0")
    monkeypatch.setattr(download, "_silent", set())
    swallow = threading.Event()
    monkeypatch.setattr(download.urllib.request, "urlopen", lambda *_, **__: swallow.wait(60))

    def lacks(name: str, network: bool) -> Any:
        assert not network
        raise OSError(f"{name}.pt was not asked")

    monkeypatch.setattr(perceptual, "by_name", lacks)
    start = time.monotonic()
    for name, why in (("clipiqa+", "no answer within 5 s"), ("afine_nr", "did not answer before")):
        error = str(unavailable(f"pyiqa:{name}"))
        assert why in error
        assert f"{name}.pt" in error
    swallow.set()
    assert 4 < time.monotonic() - start < 10


def test_what_pyiqa_itself_lacks_is_not_asked_for(
    caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacks(name: str, network: bool) -> Any:
        raise ModuleNotFoundError("No module named 'icecream'")

    monkeypatch.setenv("VSRBENCH_OFFLINE", "0")
    monkeypatch.setattr(perceptual, "by_name", lacks)
    monkeypatch.setattr(availability, "open_url", lambda url, **_: pytest.fail(url))
    assert "No module named 'icecream'" in str(unavailable("pyiqa:qalign"))


# the whole way


@pytest.fixture
def scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """Results of a `score` of outputs with GT."""
    gt = scene(3)
    write(tmp_path / "truth", gt)
    sr = write(tmp_path / "mine", noisy(gt))
    results = tmp_path / "results"
    asked = "psnr,pyiqa:gmsd,pyiqa:vif,pyiqa:niqe"
    args = ["score", "--outputs", sr, "--gt", tmp_path / "truth", "--metrics", asked]
    assert main([*map(str, args), "--results", str(results), "-q"]) == 3
    out = capsys.readouterr()
    assert "gmsd (pyiqa) ↓" in out.out
    assert "vif (pyiqa) ↑" in out.out
    assert "niqe_modelparameters.mat: not here" in out.out
    assert "missing: weights niqe_modelparameters.mat" in out.err
    return results


def test_score_to_table_without_torch_and_pyiqa(scored: Path, root: Path) -> None:
    frames = [list(open_frames(scored.parent / name)) for name in ("mine", "truth")]
    latest = Store.at(scored).require()
    found = {r.metric: r for r in latest if r.method == "mine"}
    for name in ("gmsd", "vif"):
        record = found[f"pyiqa:{name}"]
        assert record.per_frame == pytest.approx(direct(name, *frames), abs=1e-6)
        assert record.value == pytest.approx(np.mean(direct(name, *frames)), abs=1e-6)
    about = {"version": f"pyiqa-{pyiqa.__version__}", "better": "lower", "needs": ["gt"]}
    assert found["pyiqa:gmsd"].extra["pyiqa"] == about
    assert found["pyiqa:niqe"].status == "skipped"
    assert "pyiqa" not in found["psnr"].extra

    code = (
        "import sys; sys.modules |= dict.fromkeys(('torch', 'pyiqa'))\n"
        "from vsrbench.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    for command in (
        ["table"],
        ["table", "--metrics", "pyiqa:vif,pyiqa:gmsd", "--format", "latex"],
        ["figure", "drift", "--metric", "pyiqa:gmsd"],
        ["report"],
        ["compare", str(scored), str(scored), "--all", "--tolerance", "pyiqa:gmsd=0.1"],
    ):
        results = ["--results", str(scored)] if command[0] != "compare" else []
        call = [sys.executable, "-c", code, *command, *results]
        done = subprocess.run(call, cwd=root, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        if command == ["table"]:
            head = next(line for line in done.stdout.splitlines() if "PSNR" in line)
            assert [c.strip() for c in head.split("|")[3:6]] == [
                *("PSNR dB ↑", "gmsd (pyiqa) ↓", "vif (pyiqa) ↑"),
            ]
            assert f"{found['pyiqa:gmsd'].value:.4f}" in done.stdout
            assert "niqe_modelparameters.mat: not here" in done.stdout
        if command[0] == "compare":
            assert "gmsd (pyiqa) ↓" in done.stdout
    assert "gmsd (pyiqa)" in (scored / "report.html").read_text()


def test_another_pyiqa_is_another_result(scored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = [r for r in Store.at(scored).require() if r.metric == "pyiqa:gmsd"]
    other = {"pyiqa": {**base[0].extra["pyiqa"], "version": "pyiqa-9"}}
    changes = compare(base, [replace(r, extra=other) for r in base])
    assert {c.verdict for c in changes} == {"apart"}
    assert f"pyiqa-{pyiqa.__version__} against pyiqa-9" in changes[0].note
    lines = (scored / "records.jsonl").read_text().splitlines()
    args = ["score", "--outputs", scored.parent / "mine", "--gt", scored.parent / "truth"]
    call = [*map(str, args), "--metrics", "psnr,pyiqa:gmsd", "--results", str(scored), "-q"]
    assert main(call) == 0
    assert (scored / "records.jsonl").read_text().splitlines() == lines
    monkeypatch.setitem(names.pyiqa_says("version"), "__version__", "9")
    assert depends_on("pyiqa:gmsd") == "pyiqa-9"
    assert main(call) == 0
    more = map(json.loads, (scored / "records.jsonl").read_text().splitlines()[len(lines) :])
    assert {r["metric"] for r in more} == {"pyiqa:gmsd"}


def test_full_reference_without_gt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sr = write(tmp_path / "mine", scene(2))
    args = ["score", "--outputs", str(sr), "--results", str(tmp_path / "results"), "-q"]
    assert main([*args, "--metrics", "pyiqa:gmsd,pyiqa:piqe"]) == 3
    assert "not computed: 'pyiqa:gmsd' needs ground truth" in capsys.readouterr().err
    status = {r.metric: r.status for r in Store.at(tmp_path / "results").require()}
    assert status == {"pyiqa:gmsd": "skipped", "pyiqa:piqe": "ok"}
    for bad in ("pyiqa:fid", "pyiqa:gmsdd", "gmsd"):
        assert main([*args, "--metrics", bad]) == 2


def test_set_with_such_metrics(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gt = scene(2)
    write(tmp_path / "data/gt/a", gt)
    write(tmp_path / "data/lq/a", [f[::4, ::4].copy() for f in gt])
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets/mine.toml").write_text(
        'version = 1\ntitle = "Mine"\nkind = "real"\nscale = 4\nlq = "lq/{clip}"\n'
        'gt = "gt/{clip}"\n'
        f'root = "{tmp_path / "data"}"\nmetrics = ["psnr", "pyiqa:gmsd"]\n'
    )
    common = ["--root", str(tmp_path), "--results", str(tmp_path / "results")]
    call = ["--methods", "bicubic", "--datasets", "mine", "--no-cost", "--keep-frames", "-q"]
    assert main([*call, *common]) == 0
    assert "gmsd (pyiqa) ↓" in capsys.readouterr().out
    assert main(["report", *common]) == 0
    value = {r.method: r.value for r in Store.at(tmp_path / "results").require() if ":" in r.metric}
    # Beside the kept frames that it scored: its identity can be made again from the record.
    assert f"gmsd (pyiqa) {value['bicubic']:.4f}" in (tmp_path / "results/report.html").read_text()


def test_list_and_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "metrics"]) == 0
    assert "pyiqa:NAME" in capsys.readouterr().out
    assert main(["check", "--metrics", "pyiqa:gmsd"]) == 0
    assert "metric pyiqa:gmsd: ready" in capsys.readouterr().out
    assert main(["check", "--metrics", "pyiqa:gmsdd"]) == 2
