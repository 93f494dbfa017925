"""The table of metrics: what each is called, what it needs, how it is printed. Data alone.

Those of every run stand here, those that are asked for by name in `asked`.
"""

from __future__ import annotations

from collections.abc import Mapping

from vsrbench.core.types import MetricInfo
from vsrbench.metrics.asked import ASKED

_GT, _LQ = frozenset({"gt"}), frozenset({"lq"})
_REFERENCE, _FLOW = frozenset({"reference"}), frozenset({"flow"})
_WEIGHTS, _GT_WEIGHTS = frozenset({"weights"}), frozenset({"gt", "weights"})
_COMMAND = frozenset({"command"})

# In the order of columns: first, among the metrics of every run, those that agree best with people
# (results/published/agreement.toml), then fidelity, then time; then what is asked for by name.
METRICS: dict[str, MetricInfo] = {
    info.name: info
    for info in (
        MetricInfo(
            name="dists",
            title="DISTS",
            version=1,
            better="lower",
            target="perceptual:DISTS",
            smallest=32,
            range=(0.0, 2.0),
            needs=_GT_WEIGHTS,
            decimals=4,
            tolerance=0.0005,
            same=0.0,
            source="Ding et al. 2020, package DISTS_pytorch, no resizing; values that rounding "
            "puts below 0 count as 0.",
            flaw="texture of the right kind in the wrong place",
            verified="the package and pyiqa's twin, on a seeded backbone",
        ),
        MetricInfo(
            name="lpips",
            title="LPIPS",
            version=1,
            better="lower",
            target="perceptual:LPIPS",
            smallest=32,
            range=(0.0, 5.0),
            needs=_GT_WEIGHTS,
            decimals=4,
            tolerance=0.0005,
            same=0.0,
            source="Zhang et al. 2018, package lpips, v0.1, AlexNet, frames in -1..1.",
            flaw="sharp texture in the wrong place",
            verified="the package and pyiqa's twin, on a seeded backbone",
        ),
        MetricInfo(
            name="stlpips",
            title="ST-LPIPS",
            version=1,
            better="lower",
            target="shift_tolerant:ShiftTolerant",
            smallest=64,
            range=(0.0, 10.0),
            needs=_GT_WEIGHTS,
            rule="first-mid-last",
            decimals=4,
            tolerance=0.0005,
            same=0.0,
            source="Shift-tolerant LPIPS (Ghildyal and Liu, ECCV 2022), AlexNet, weights from the "
            "wheel `stlpips-pytorch==0.0.2`, network written here. **Not LPIPS**: backbone and "
            "head differ, so values do not compare. Scored on the first, middle and last frame of "
            "a clip.",
            flaw="sharp texture in the wrong place; on one clip it prefers nearest neighbour to "
            "bicubic",
            verified="values recorded from the package's own code",
            seconds=2.36,
        ),
        MetricInfo(
            name="brisque_svr",
            title="BRISQUE",
            version=1,
            better="lower",
            target="brisque:BRISQUE",
            smallest=32,
            range=(-300.0, 300.0),
            needs=_WEIGHTS,
            decimals=2,
            tolerance=0.05,
            source="Mittal et al., TIP 2012, with the support vectors and the features of the "
            "package `brisque` 0.2.0 (rho -155.845), written here. The models of LIVE and of "
            "pyiqa (`pyiqa:brisque`) differ. Good pictures may score below 0.",
            flaw="noise and sharpening; depends on resolution",
            verified="values recorded from the package's own code",
            seconds=0.038,
        ),
        MetricInfo(
            name="niqe",
            title="NIQE",
            version=1,
            better="lower",
            target="naturalness:NIQE",
            smallest=96,
            longer=192,
            range=(0.0, 100.0),
            needs=_WEIGHTS,
            decimals=3,
            tolerance=0.005,
            source="Mittal et al., SPL 2013, written here over numpy and OpenCV in the convention "
            "of pyiqa (equal to 1e-6): luma, original model, 96x96 blocks, at least two; what is "
            "left over at right and bottom is cut. Needs no pyiqa. The NIQE of BasicSR and of "
            "MATLAB differ by up to 0.4 (borders, resizing).",
            flaw="noise and sharpening; depends on resolution; in the study above it ranks first "
            "the method that people like least",
            verified="pyiqa to 1e-6 on real clips (its own scores differ by 1e-5 between "
            "processors where luma lies on half a level, since BLAS sums it in another order)",
            seconds=0.035,
        ),
        MetricInfo(
            name="psnr",
            title="PSNR",
            version=1,
            better="higher",
            target="fidelity:FullReference",
            unit="dB",
            range=(0.0, 80.0),
            needs=_GT,
            decimals=2,
            tolerance=0.02,
            same=80.0,
            source="RGB, 8 bit, mean squared error over pixels and channels; capped at 80 dB, "
            "which is what identical frames get. The convention of pyiqa's `psnr`.",
            flaw="blur",
            verified="closed form, scikit-image, pyiqa, a published output (Vid4 calendar)",
            seconds=0.006,
        ),
        MetricInfo(
            name="ssim",
            title="SSIM",
            version=1,
            better="higher",
            target="fidelity:FullReference",
            smallest=11,
            range=(0.0, 1.0),
            needs=_GT,
            decimals=4,
            tolerance=0.0005,
            same=1.0,
            source="Wang et al. 2004 on luma (0.299 R + 0.587 G + 0.114 B, full range, rounded to "
            "8 bit), 11x11 Gaussian of sigma 1.5, valid part, contrast term clipped at 0. The "
            "convention of pyiqa's `ssim`.",
            flaw="blur",
            verified="closed form, scikit-image, pyiqa",
            seconds=0.035,
        ),
        MetricInfo(
            name="lr_psnr",
            title="LR-PSNR",
            version=1,
            better="higher",
            target="fidelity:LRPSNR",
            unit="dB",
            range=(0.0, 80.0),
            needs=_LQ,
            decimals=2,
            tolerance=0.02,
            source="PSNR (as `psnr`) between LQ and the output brought down to its size by "
            "Pillow's antialiased bicubic, 8 bit. Catches content that the input does not "
            "support.",
            flaw="keeping the noise of the input: GT itself scores low where LQ is noisy",
            verified="closed form, torch's antialiased bicubic",
            seconds=0.004,
        ),
        MetricInfo(
            name="ewarp",
            title="E_warp",
            version=2,
            better="lower",
            target="temporal:EWarp",
            unit="x1e-3",
            range=(0.0, 1000.0),
            needs=_FLOW,
            span="pair",
            decimals=3,
            tolerance=0.01,
            source="Warping error of Lai et al. 2018: squared error in 0..1 between frame t and "
            "frame t+1 warped onto it by the flow of the reference (GT, else bicubic LQ), mean "
            "over channels and over the pixels that the reference shows in both frames. Pixels "
            "that leave the frame are left out; where occlusion is known exactly, it replaces the "
            "estimated mask. Our main measure of steadiness: more in [Warping "
            "error](#warping-error).",
            flaw="blur: see `excess`",
            verified="closed forms with exact motion (shift, flicker, noise), Lai's mask pixel by "
            "pixel in float64",
        ),
        MetricInfo(
            name="flicker",
            title="Flicker",
            version=1,
            better="lower",
            target="temporal:Flicker",
            unit="levels",
            range=(0.0, 255.0),
            needs=_REFERENCE,
            span="pair",
            decimals=3,
            tolerance=0.01,
            same=0.0,
            source="Change from frame to frame that the reference (GT, else bicubic LQ) does not "
            "have: mean of max(0, |o_t - o_(t-1)| - |r_t - r_(t-1)|) over pixels and channels in "
            "8-bit levels, o the output, r the reference. No motion compensation.",
            flaw="blur; motion that is missing",
            verified="closed forms",
            seconds=0.004,
        ),
        *ASKED,
    )
}


PRESETS: Mapping[str, tuple[str, ...]] = {
    "dove": ("psnr", "ssim"),
    "classic-y": ("psnr_y", "ssim_y"),
    "strict-rgb": ("psnr", "ssim_rgb"),
}
"""Fidelity as families of papers compute it: PSNR on RGB with SSIM on luma (DOVE and whoever prints
its tables), both on limited-range Y (MATLAB, BasicSR), both on RGB."""
