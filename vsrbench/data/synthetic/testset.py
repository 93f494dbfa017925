"""The nine clips of the embedded dataset: their scenes, rendered once into a cache.

Bump `VERSION`, and `version` in datasets/synthetic.toml with it, whenever a pixel of GT or LQ or
a flow vector can change.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from vsrbench.core.errors import DataError, UserError
from vsrbench.core.files import read_json
from vsrbench.core.types import Clip, PairFlow
from vsrbench.data.degrade import RECIPES, degrade
from vsrbench.data.frames import FrameWriter, open_frames
from vsrbench.data.synthetic.engine import TEXELS, Cut, Layer, Motion, Ramp, Scene, SceneLike
from vsrbench.data.synthetic.stream import MARGIN, texels
from vsrbench.data.synthetic.textures import (
    blob,
    coloured_noise,
    foliage,
    gratings,
    leaves,
    photo,
    text,
)

if TYPE_CHECKING:
    from numpy.random import Generator

    from vsrbench.core.types import Frame, Size

    Image = np.ndarray[Any, np.dtype[np.float64]]

NAME = "synthetic"
VERSION = 2
SIZE = (384, 512)
FRAMES = 12
SCALE = 4
FPS = 24.0
TEST_PHOTOS = ("coffee.png", "motorcycle_left.png", "rocket.jpg")


def _cover(texture: Image, **motion: Any) -> Layer:
    return Layer(texture, Motion(**motion))


def _thing(
    rng: Generator,
    texture: Callable[[Generator, Size], Image],
    h: int,
    w: int,
    **motion: Any,
) -> Layer:
    extent = (h * TEXELS, w * TEXELS)
    return Layer(texture(rng, extent), Motion(**motion), blob(rng, extent))


def _leaves_pan(rng: Generator) -> Scene:
    pan = _cover(leaves(rng, texels(SIZE)), velocity=(3.3, 0.9), sway=(0.0, 2.0), period=14)
    return Scene((pan,), SIZE, FRAMES)


def _text_scroll(rng: Generator) -> Scene:
    sheet = _cover(text(rng, texels(SIZE)), velocity=(0.15, -2.6), angle=0.03)
    return Scene((sheet,), SIZE, FRAMES)


def _gratings_rotate(rng: Generator) -> Scene:
    chart = _cover(gratings(rng, texels(SIZE)), angle=-0.1, spin=0.018)
    return Scene((chart,), SIZE, FRAMES)


def _texture_parallax(rng: Generator) -> Scene:
    extent = texels(SIZE, 2 * MARGIN)
    return Scene(
        (
            _cover(coloured_noise(rng, extent), velocity=(0.7, 0.1)),
            Layer(leaves(rng, extent), Motion(velocity=(2.4, 0.3)), foliage(rng, extent)),
            Layer(
                coloured_noise(rng, extent),
                Motion(velocity=(5.6, 0.8)),
                foliage(rng, extent),
            ),
        ),
        SIZE,
        FRAMES,
    )


def _photo_zoom(rng: Generator) -> Scene:
    picture = photo(rng, texels(SIZE, 8), "coffee.png")
    return Scene((_cover(picture, velocity=(0.4, 0.2), zoom=0.012),), SIZE, FRAMES)


def _photo_objects(rng: Generator) -> Scene:
    return Scene(
        (
            _cover(
                photo(rng, texels(SIZE, 32), "motorcycle_left.png"),
                velocity=(-1.4, 0.3),
            ),
            _thing(rng, leaves, 130, 150, at=(-150, -60), velocity=(6.5, 1.5), spin=0.03),
            _thing(rng, text, 90, 170, at=(120, 90), velocity=(-4.2, -2.0), angle=0.2),
            _thing(
                rng,
                coloured_noise,
                150,
                110,
                at=(60, -90),
                velocity=(1.5, 5.5),
                zoom=0.02,
            ),
        ),
        SIZE,
        FRAMES,
    )


def _cut(rng: Generator) -> Cut:
    before = _cover(photo(rng, texels(SIZE, 16), "rocket.jpg"), velocity=(-2.1, 0.6))
    after = _cover(leaves(rng, texels(SIZE)), velocity=(1.7, -1.2), spin=0.006)
    half = FRAMES // 2
    return Cut(Scene((before,), SIZE, half), Scene((after,), SIZE, FRAMES - half))


def _static(rng: Generator) -> Scene:
    return Scene((_cover(photo(rng, texels(SIZE, 16), "motorcycle_left.png")),), SIZE, FRAMES)


def _light(rng: Generator) -> Scene:
    back = _cover(coloured_noise(rng, texels(SIZE)), velocity=(1.1, -0.5))
    front = _thing(rng, leaves, 230, 260, at=(-20, 10), velocity=(-0.9, 0.7), spin=-0.01)
    return Scene((back, front), SIZE, FRAMES, Ramp(0.6, 0.04))


TESTS: dict[str, tuple[Callable[[Generator], SceneLike], str]] = {
    "leaves-pan": (_leaves_pan, "real"),
    "text-scroll": (_text_scroll, "mild"),
    "gratings-rotate": (_gratings_rotate, "mild"),
    "texture-parallax": (_texture_parallax, "real"),
    "photo-zoom": (_photo_zoom, "real"),
    "photo-objects": (_photo_objects, "real"),
    "cut": (_cut, "real"),
    "static": (_static, "real"),
    "light": (_light, "real"),
}
"""Clip name -> (scene, recipe of its LQ)."""


def _seed(name: str) -> int:
    """Fixed per clip and for all versions, independent of the order in `TESTS` and out of reach of
    small seeds.
    """
    return int.from_bytes(hashlib.sha256(f"{NAME}-v1/{name}".encode()).digest()[:8], "big")


@lru_cache(maxsize=1)
def scene(name: str) -> SceneLike:
    """The test scene `name`, one of `TESTS`."""
    return TESTS[name][0](np.random.default_rng(_seed(name)))


def clips(cache: Path, progress: Callable[[str], None] | None = None) -> list[Clip]:
    """The clips of the embedded dataset, rendered below `cache` on first use and read from there.

    `progress` gets one line per clip that is rendered. A clip's folder appears whole or not at all.
    Raises UserError when `cache` cannot be written, DataError when a cached clip is damaged.
    """
    root = cache / f"{NAME}-v{VERSION}"
    for i, name in enumerate(TESTS, 1):
        if not (root / name).is_dir():
            if progress is not None:
                progress(f"rendering {NAME}/{name} ({i} of {len(TESTS)})")
            _render(name, root)
    return [_clip(root / name) for name in TESTS]


def _render(name: str, root: Path) -> None:
    shown = scene(name)
    gt = [shown.frame(t) for t in range(shown.count)]
    keep_clip(root, name, degrade(gt, SCALE, RECIPES[TESTS[name][1]], _seed(name)), gt)


def keep_clip(root: Path, name: str, lq: Sequence[Frame], gt: Sequence[Frame]) -> None:
    """Write both sides of a clip below `root`, with a digest of their pixels: whole or not at all.

    Raises UserError when it cannot be written.
    """
    sha = hashlib.sha256(b"".join(image.tobytes() for image in (*lq, *gt)))
    try:
        root.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(prefix=f".{name}-", dir=root)
    except OSError as error:
        hint = "set VSRBENCH_CACHE to a folder that can be written"
        raise UserError(f"cannot write {root}: {error.strerror}", hint) from error
    with temporary:
        built = Path(temporary.name) / name
        for kind, images in (("lq", lq), ("gt", gt)):
            with FrameWriter(built / kind) as writer:
                for image in images:
                    writer.write(image)
        (built / "clip.json").write_text(json.dumps({"digest": sha.hexdigest()}))
        try:
            built.replace(root / name)
        except OSError:
            if not (root / name).is_dir():  # else another process was first: the same bits
                raise


def read_digest(folder: Path) -> str:
    """The digest that `keep_clip` wrote beside the pixels. Raises UserError when there is none."""
    about = read_json(folder / "clip.json")
    if not isinstance(about, dict) or not isinstance(about.get("digest"), str):
        raise DataError(f"{folder / 'clip.json'} is damaged", f"delete {folder}: it is made again")
    return str(about["digest"])


def _clip(folder: Path) -> Clip:
    lq, gt = open_frames(folder / "lq"), open_frames(folder / "gt")
    if not len(lq) == len(gt) == FRAMES:
        raise DataError(f"{folder} is incomplete", "delete it and it is rendered again")
    return Clip(
        dataset=NAME,
        name=folder.name,
        count=FRAMES,
        size=lq.size,
        scale=SCALE,
        fps=FPS,
        digest=read_digest(folder),
        lq=lq,
        gt=gt,
        flow=_Flow(folder.name),
        dataset_version=VERSION,
    )


@dataclass(frozen=True)
class _Flow(Sequence[PairFlow]):
    """The exact motion of a test scene, computed when indexed: a closed form needs no file."""

    name: str

    def __len__(self) -> int:
        return FRAMES - 1

    @overload
    def __getitem__(self, index: int) -> PairFlow: ...
    @overload
    def __getitem__(self, index: slice) -> list[PairFlow]: ...
    def __getitem__(self, index: int | slice) -> PairFlow | list[PairFlow]:
        wanted = range(len(self))[index]
        shown = scene(self.name)
        return shown.flow(wanted) if isinstance(wanted, int) else [shown.flow(t) for t in wanted]
