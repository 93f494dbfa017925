"""Advice on a clip: which part, what the order rests on, which method fits what limit, the page."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.test_cli import write_adapter, write_card, write_clip
from tests.test_quick_look import measured
from vsrbench.cli import main
from vsrbench.core.types import Clip
from vsrbench.data.datasets import make_adhoc_spec
from vsrbench.results.advice import Advice, Candidate, advise, duration, scale_time
from vsrbench.results.agreement import Opinion, Study
from vsrbench.results.limits import Constraints
from vsrbench.run.advise import LENGTH, PART, cut, find_liveliest, make_rehearsal, metrics_here

STUDY = Study(
    "S",
    "",
    "",
    (
        Opinion("DISTS", 0.9, 0.82, "dists"),
        Opinion("LPIPS", 0.9, 0.81, "lpips"),
        Opinion("NIQE", 0.4, 0.51, "niqe"),
    ),
)


def a_candidate(
    name: str, ms: float, rehearsed: dict[str, float] | None = None, **scores: float
) -> Candidate:
    m = measured((90, 160), ms)
    return Candidate(name, name.title(), "official", ms, "", m, "", scores, rehearsed or {})


def judged(*found: Candidate, fps: float = 0.0, vram: str = "", of_clip: float = 0.0) -> Advice:
    return advise(found, STUDY, Constraints(vram, fps), of_clip, 100)


def test_metrics_that_agree_with_people_decide() -> None:
    found = judged(
        a_candidate("bicubic", 1, {"dists": 0.3, "psnr": 30}, niqe=9),
        a_candidate("sharp", 50, {"dists": 0.2, "psnr": 25}, niqe=8),
        a_candidate("noisy", 20, {"dists": 0.25, "psnr": 20}, niqe=3),
    )
    assert [c.method for c in found.candidates] == ["sharp", "noisy", "bicubic"]
    assert [e.metric for e in found.evidence if e.decides] == ["dists"]
    assert found.choices[0].method == "sharp"
    assert "All metrics that agree with people put Sharp first" in found.sure
    assert any(d.startswith("NIQE puts Noisy first on the clip and is not") for d in found.doubts)
    assert any("PSNR puts Bicubic first in the rehearsal" in d for d in found.doubts)


def test_trusted_metrics_that_disagree_leave_it_to_the_eye() -> None:
    found = judged(
        a_candidate("a", 5, {"dists": 0.20, "lpips": 0.31}),
        a_candidate("b", 5, {"dists": 0.21, "lpips": 0.30}),
    )
    assert found.candidates[0].method == "a"  # .82 weighs more than .81
    assert "LPIPS would take B rather than A: compare these two with your eyes" in found.sure


def test_without_a_trusted_metric_nothing_is_claimed() -> None:
    found = judged(a_candidate("a", 5, niqe=4.0), a_candidate("bicubic", 1, niqe=9.0))
    assert found.choices[0].method == ""
    assert "choose by eye among" in found.choices[0].why
    assert "Nothing measured here tells" in found.sure
    assert not found.told
    assert "the fastest of those that fit" in judged(*found.candidates, fps=1).choices[1].why
    assert any("weights fetch --metrics dists lpips" in d for d in found.doubts)
    found = judged(
        a_candidate("a", 5, {"stlpips": 0.1}), a_candidate("bicubic", 1, {"stlpips": 0.3})
    )
    assert found.choices[0].method == "a"
    assert "which no study has held against people: a hint" in found.sure


def test_networks_that_gave_nothing_are_said() -> None:
    late = replace(a_candidate("a", 5), problem="'a' had not ended after 44 s", measurement=None)
    why = judged(a_candidate("bicubic", 1, niqe=9.0), late).choices[0].why
    assert why.startswith("No network gave a picture (A: 'a' had not ended after 44 s).")


def test_limits_choose_the_best_that_fits() -> None:
    three = (
        a_candidate("slow", 500, {"dists": 0.1}),
        a_candidate("fast", 20, {"dists": 0.2}),
        a_candidate("bicubic", 1, {"dists": 0.3}),
    )
    choice = judged(*three, fps=24).choices[1]
    assert (choice.when, choice.method) == ("At 24 fps", "fast")
    assert "out of reach: Slow (2.00 fps)" in choice.why
    assert judged(*three, of_clip=16).choices[1].when == "At 16 fps"
    nothing = judged(three[0], fps=24).choices[1]
    assert nothing.method == ""
    assert "Nearest: Slow" in nothing.why
    unknown = judged(*three, vram="8GiB").choices[1]
    assert unknown.method == ""
    assert "as for Slow: VRAM not measured: no CUDA device" in unknown.why
    both = judged(*three, vram="8GiB", fps=1).choices[1].why
    assert "as for Slow: VRAM not measured: no CUDA device, 2.00 fps. Run this" in both
    on_card = [
        replace(c, measurement=measured((90, 160), c.ms or 1, v))
        for c, v in zip(three, (9000, 2000, 10), strict=True)
    ]
    fits = judged(*on_card, vram="8GiB").choices[1]
    assert fits.method == "fast"
    assert "Slow (8.8 GiB)" in fits.why


def test_what_to_mind_is_said() -> None:
    found = judged(
        a_candidate("bicubic", 1, {"dists": 0.3}, ewarp=1.0, lr_psnr=40),
        a_candidate("a", 9, {"dists": 0.2}, ewarp=1.6, lr_psnr=24.9),
        a_candidate("b", 9, {"dists": 0.4}, ewarp=1.4, lr_psnr=25.1),
    )
    flags = {c.method: c.flags for c in found.candidates}
    assert flags["a"] == (
        "less steady: E_warp 1.6 times that of bicubic",
        "changes what is there: LR-PSNR 24.9 dB",
    )
    assert flags["b"] == flags["bicubic"] == ()
    own = judged(replace(a_candidate("instavsr", 9), origin="trained_here")).candidates[0]
    assert own.flags == ("small weights, trained in this repository",)


def test_times_are_reckoned_by_pixels() -> None:
    assert scale_time(measured((90, 160), 10), (180, 320)) == 40
    said = [duration(s) for s in (0.0123, 1, 89, 90, 5400)]
    assert said == ["12 ms", "1.0 s", "89.0 s", "2 min", "1.5 h"]


def test_the_liveliest_part_is_found() -> None:
    """Grey but for texture that moves in one corner, in frames 40 to 60 of 100."""
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 255, (150, 400, 3), dtype=np.uint8)
    frames = []
    for t in range(100):
        frame = np.full((320, 400, 3), 128, np.uint8)
        if 40 <= t < 60:
            frame[160:310, 200:] = texture[:, t : t + 200]
        frames.append(frame)
    first, (y, x, h, w) = find_liveliest(frames, 4)
    assert 40 <= first <= 60 - LENGTH + 4
    assert (h, w) == PART
    assert y + h > 280
    assert x + w > 380
    assert find_liveliest(frames[:1], 4)[0] == 0
    assert find_liveliest([f[:40, :30] for f in frames[:3]], 4)[1] == (0, 0, 40, 24)


def test_part_and_rehearsal_have_identities_of_their_own() -> None:
    frames = [np.full((180, 320, 3), t, np.uint8) for t in range(30)]
    clip = Clip("c", "c", 30, (180, 320), 4, 25.0, "digest", frames)
    part = cut(clip, 5, (8, 16, 144, 192))
    assert (part.count, part.size, part.protocol["span"]) == (LENGTH, (144, 192), [5, 13, 30])
    assert part.lq[0].shape == (144, 192, 3)
    assert int(part.lq[2][0, 0, 0]) == 7
    other = cut(clip, 5, (0, 16, 144, 192))
    found = make_rehearsal(make_adhoc_spec(Path("c"), "real", 4), part)
    again = found.clips[0]
    assert len({clip.digest, part.digest, other.digest, again.digest}) == 4
    assert (again.size, again.scale) == ((36, 48), 4)
    assert again.lq[0].shape == (36, 48, 3)
    assert again.gt is not None
    assert again.gt[0].shape == (144, 192, 3)


ADAPTER = """
import torch.nn.functional as F


class Toy:
    def upscale(self, frames):
        for x in frames:
            yield F.interpolate(x[None], scale_factor=4, mode="nearest")[0]


def load(card, device, dtype):
    return Toy()
"""


def test_an_advice_is_one_page_that_needs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "root"
    write_card(base, "good")
    write_adapter(base, ADAPTER)
    clip = write_clip(tmp_path / "my street", 3)
    words = [
        "advise",
        "--input",
        str(clip),
        "--methods",
        "good",
        "--fps",
        "0.001",
        "--vram",
        "8GiB",
    ]
    words += ["--root", str(base), "--results", str(tmp_path / "r"), "--device", "cpu"]
    words += ["--minutes", "200"]
    assert main(words) == 0
    out = capsys.readouterr().out
    page = tmp_path / "r" / "advice-my_street.html"
    assert out.rstrip().endswith(str(page))
    assert "VRAM" in out
    html = page.read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(?!data:)', html)
    assert html.count("data:image/webp") == 3  # LQ, bicubic, good
    assert "no CUDA device" in html
    told = "No metric here tells" not in html
    assert ("in order of preference" in html) == told
    assert ("Methods, the fastest first" in html) != told
    assert "vsrbench --methods good --input" in re.sub("<[^>]+>", "", html)
    shown = re.sub("<[^>]+>", "", html).replace("&#39;", "'")
    assert f"'{clip}'" in shown
    assert main([*words, "--vram", "eight"]) == 2
    assert "no size of memory" in capsys.readouterr().err


def test_metrics_of_an_advice_tell_something() -> None:
    from vsrbench.results.agreement import read_study

    alone, with_gt = metrics_here(read_study(ROOT))
    assert "psnr" in with_gt
    assert {"lr_psnr", "ewarp"} <= set(alone)
    assert not {"vmaf", "vmaf_neg"} & set(with_gt)  # which agree hardly better than chance
