"""Real-world degradation: GT frames to LQ frames by blur, resizing, noise, JPEG and H.264.

A clip is degraded by one camera: everything but the noise is drawn once a clip. Every step keeps
pixel centres aligned (align_corners=False), so LQ and GT stay registered at shift 0. Frames stay
float64 between the steps, so that processors which differ in the last bits make the same LQ; only
the codecs round to 8 bits.

Bump `Recipe.version` when a recipe or the code behind it can change a pixel.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

import av
import cv2
import numpy as np

from vsrbench.core.errors import DataError
from vsrbench.core.types import size_text

if TYPE_CHECKING:
    from vsrbench.core.types import Frame, Size

    Image = np.ndarray[Any, np.dtype[np.float64]]

Range = tuple[float, float]


@dataclass(frozen=True)
class Stage:
    """One pass of blur, resize, noise and JPEG. Ranges are drawn from uniformly, once a clip."""

    blur: Range = (0.0, 0.0)
    """Standard deviation of the Gaussian along its long axis, px of the stage's input."""
    anisotropy: Range = (1.0, 1.0)
    """Short over long axis of the Gaussian; its angle is uniform."""
    resize: Range = (1.0, 1.0)
    """Size after the stage over the size of the GT; the last stage always ends at LQ size."""
    cubic: float = 0.0
    """Probability of bicubic, prefiltered when it shrinks; else area, or linear to enlarge."""
    read_noise: Range = (0.0, 0.0)
    """Standard deviation of signal-independent noise, 8-bit levels."""
    shot_noise: Range = (0.0, 0.0)
    """Standard deviation of signal-dependent noise at white, 8-bit levels."""
    grey: float = 0.0
    """Probability that all channels share one noise."""
    jpeg: Range | None = None
    """JPEG quality, 0..100; None for no JPEG."""


@dataclass(frozen=True)
class Recipe:
    """A named, versioned degradation: stages in order, then H.264."""

    name: str
    """Name in `RECIPES`."""
    version: int
    """Bumped when any pixel can change."""
    stages: tuple[Stage, ...]
    """At least one; the last ends at LQ size."""
    crf: Range | None = None
    """x264 constant rate factor; None for no codec."""


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("clean", 2, (Stage(),)),
        Recipe(
            "mild",
            2,
            (
                Stage(
                    blur=(0.4, 1.4),
                    cubic=0.5,
                    read_noise=(0.5, 2.0),
                    shot_noise=(0.5, 3.0),
                ),
            ),
            crf=(16, 22),
        ),
        Recipe(
            "real",
            2,
            (
                Stage(
                    blur=(0.6, 2.2),
                    anisotropy=(0.4, 1.0),
                    resize=(0.55, 1.2),
                    cubic=0.5,
                    read_noise=(1.0, 8.0),
                    shot_noise=(1.0, 10.0),
                    grey=0.3,
                    jpeg=(55, 95),
                ),
                Stage(
                    blur=(0.2, 1.2),
                    anisotropy=(0.5, 1.0),
                    cubic=0.5,
                    read_noise=(0.5, 3.5),
                    shot_noise=(0.5, 5.0),
                    grey=0.3,
                    jpeg=(60, 95),
                ),
            ),
            crf=(19, 28),
        ),
    )
}


def digest(recipe: Recipe, seed: int) -> str:
    """sha256 in hex of everything this module draws from: the recipe with its version, the seed."""
    text = json.dumps({"recipe": asdict(recipe), "seed": seed}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def degrade(frames: Iterable[Frame], scale: int, recipe: Recipe, seed: int) -> list[Frame]:
    """LQ frames (uint8 RGB, H/scale x W/scale x 3) of GT `frames` (uint8 RGB, H x W x 3).

    The parameters of `recipe` are drawn once from `seed`; noise is drawn per frame from `seed` and
    the frame's index, so it is independent in time. The same input gives the same bits.
    Raises DataError when a side is not a multiple of `scale` or the frames differ in size.
    """
    rng = np.random.default_rng(seed)
    drawn = [_Drawn(stage, rng) for stage in recipe.stages]
    rate = rng.uniform(*recipe.crf) if recipe.crf else None
    lq = _stages(frames, scale, drawn, seed)
    return list(lq if rate is None else _h264(lq, rate))


class _Drawn:
    """The parameters of one stage for one clip."""

    def __init__(self, stage: Stage, rng: np.random.Generator) -> None:
        self.kernel = _gaussian(
            rng.uniform(*stage.blur),
            rng.uniform(*stage.anisotropy),
            rng.uniform(0, np.pi),
        )
        self.factor = rng.uniform(*stage.resize)
        self.cubic = rng.random() < stage.cubic
        self.read = rng.uniform(*stage.read_noise)
        self.shot = rng.uniform(*stage.shot_noise)
        self.channels = 1 if rng.random() < stage.grey else 3
        self.quality = round(rng.uniform(*stage.jpeg)) if stage.jpeg else None

    def apply(self, x: Image, size: Size, rng: np.random.Generator) -> Image:
        """Blur, resize to `size`, noise, JPEG; x is float64 RGB in 0..255."""
        if self.kernel is not None:
            x = cv2.filter2D(x, -1, self.kernel, borderType=cv2.BORDER_REFLECT_101)
        x = _resize(x, size, self.cubic)
        if self.read or self.shot:
            noise = rng.standard_normal((*size, self.channels), dtype=np.float32)
            # Poisson-Gaussian noise with the Poisson part taken as normal: variance a + b x.
            x = x + noise * np.sqrt(self.read**2 + self.shot**2 * np.clip(x / 255, 0, 1))
        return x if self.quality is None else _jpeg(x, self.quality)


def _stages(frames: Iterable[Frame], scale: int, drawn: list[_Drawn], seed: int) -> Iterator[Frame]:
    first: Size | None = None
    for t, frame in enumerate(frames):
        h, w = frame.shape[:2]
        first = first or (h, w)
        if (h, w) != first:
            raise DataError(f"frame {t} is {size_text((h, w))}, frame 0 {size_text(first)}")
        if h % scale or w % scale:
            raise DataError(
                f"{size_text((h, w))} px is not a multiple of {scale}", "crop the GT frames first"
            )
        # Seeded apart from the parameters: [seed, t] never collides with the plain seed.
        rng = np.random.default_rng([seed, t])
        x = frame.astype(np.float64)
        for stage in drawn[:-1]:
            x = stage.apply(x, (round(h * stage.factor), round(w * stage.factor)), rng)
        yield _to_uint8(drawn[-1].apply(x, (h // scale, w // scale), rng))


def _to_uint8(x: Image) -> Frame:
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)


def _gaussian(sigma: float, anisotropy: float, angle: float) -> Image | None:
    """Normalised, odd-sized (hence centred) kernel; None when there is nothing to blur."""
    if sigma < 0.1:
        return None
    radius = int(np.ceil(3 * sigma))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float64)
    along, across = (
        x * np.cos(angle) + y * np.sin(angle),
        y * np.cos(angle) - x * np.sin(angle),
    )
    kernel = np.exp(-0.5 * ((along / sigma) ** 2 + (across / (sigma * anisotropy)) ** 2))
    return np.asarray(kernel / kernel.sum(), np.float64)


def _resize(x: Image, size: Size, cubic: bool) -> Image:
    """Antialiased, pixel-centre aligned resize to (height, width)."""
    ratio = x.shape[0] / size[0]
    if ratio == 1:
        return x
    if cubic and ratio > 1:
        # cv2's bicubic kernel does not widen when it shrinks.
        x = cv2.GaussianBlur(x, (0, 0), 0.4 * ratio, borderType=cv2.BORDER_REFLECT_101)
    way = cv2.INTER_CUBIC if cubic else cv2.INTER_AREA if ratio > 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(x, size[::-1], interpolation=way), np.float64)


def _jpeg(x: Image, quality: int) -> Image:
    _, data = cv2.imencode(".jpg", _to_uint8(x)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    bgr = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))
    return bgr[..., ::-1].astype(np.float64)


def _h264(frames: Iterable[Frame], crf: float) -> Iterator[Frame]:
    """Through libx264 at a constant rate factor.

    x264 runs without its assembly, part of which (AVX-512, macroblock tree) does not always write
    the same bits twice.
    """
    options = {"crf": f"{crf:.2f}", "preset": "medium", "x264-params": "asm=0"}
    return coded(frames, "libx264", options)


DECODERS = {"libx264": "h264", "libx265": "hevc", "mpeg4": "mpeg4"}
"""Of what each encoder writes."""


def coded(
    frames: Iterable[Frame],
    codec: Literal["libx264", "libx265", "mpeg4"],
    options: dict[str, str],
    bits_per_frame: float = 0,
) -> Iterator[Frame]:
    """Through a codec (yuv420p, one thread) and back, in memory; frames of one size.

    yuv420p needs even sides: an odd one gets its last row or column doubled, then cut off again.
    """
    encoder: av.VideoCodecContext | None = None
    decoder = av.CodecContext.create(DECODERS[codec], "r")
    decoder.thread_count = 1
    h = w = 0

    def decode(packets: list[av.Packet]) -> Iterator[Frame]:
        for packet in packets:
            for out in decoder.decode(packet):
                yield out.to_ndarray(format="rgb24")[:h, :w]

    for t, frame in enumerate(frames):
        h, w = frame.shape[:2]
        even = np.pad(frame, ((0, h % 2), (0, w % 2), (0, 0)), mode="edge")
        if encoder is None:
            encoder = av.CodecContext.create(codec, "w")
            encoder.height, encoder.width = even.shape[:2]
            encoder.pix_fmt = "yuv420p"
            encoder.time_base = Fraction(1, 24)
            encoder.thread_count = 1
            encoder.options = options
            if bits_per_frame:
                encoder.framerate = Fraction(24)
                encoder.bit_rate = round(24 * bits_per_frame)
        picture = av.VideoFrame.from_ndarray(even, format="rgb24").reformat(format="yuv420p")
        picture.pts = t
        yield from decode(encoder.encode(picture))
    if encoder is not None:
        yield from decode(encoder.encode(None))
        yield from decode([None])
