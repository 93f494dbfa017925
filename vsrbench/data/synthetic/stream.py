"""Random scenes, without end, that networks are trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vsrbench.data.synthetic.engine import TEXELS, Layer, Motion, Ramp, Scene
from vsrbench.data.synthetic.textures import TEXTURES, blob, foliage, photo

if TYPE_CHECKING:
    from numpy.random import Generator

    from vsrbench.core.types import Size

    Image = np.ndarray[Any, np.dtype[np.float64]]

TRAIN_PHOTOS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "retina.jpg",
)
MARGIN = 48  # px of texture around the frame; beyond it the texture is mirrored


def random_scene(rng: Generator, size: Size = (256, 256), frames: int = 8) -> Scene:
    """An endless supply of training scenes: a moving background, up to three things before it.

    Uses the training photographs only. Background motion stays below about 5 px a frame and that
    of objects below about 8.
    """
    layers = [Layer(_texture(rng, texels(size)), _motion(rng, 3.0, max(size)))]
    for _ in range(rng.choice(4, p=(0.3, 0.3, 0.25, 0.15))):
        if rng.random() < 0.2:
            extent = texels(size)
            alpha = foliage(rng, extent)
            motion = _motion(rng, 4.0, max(size))
        else:
            low, high = 0.15 * min(size), 0.6 * min(size)
            extent = (
                int(TEXELS * rng.uniform(low, high)),
                int(TEXELS * rng.uniform(low, high)),
            )
            alpha = blob(rng, extent)
            at = (
                rng.uniform(-0.45, 0.45) * size[1],
                rng.uniform(-0.45, 0.45) * size[0],
            )
            motion = _motion(rng, 5.0, max(extent) // TEXELS, at, rng.uniform(-np.pi, np.pi))
        layers.append(Layer(_texture(rng, extent), motion, alpha))
    gain = Ramp(1.0, rng.normal(0, 0.02)) if rng.random() < 0.15 else None
    return Scene(tuple(layers), size, frames, gain)


def texels(size: Size, margin: int = MARGIN) -> Size:
    """Texture size that covers a frame with `margin` px on each side."""
    return (size[0] + 2 * margin) * TEXELS, (size[1] + 2 * margin) * TEXELS


def _texture(rng: Generator, size: Size) -> Image:
    if rng.random() < 0.45:
        return photo(rng, size, TRAIN_PHOTOS[rng.integers(len(TRAIN_PHOTOS))])
    return TEXTURES[rng.choice(4, p=(0.4, 0.2, 0.15, 0.25))](rng, size)


def _motion(
    rng: Generator,
    fastest: float,
    extent: int,
    at: tuple[float, float] = (0.0, 0.0),
    angle: float = 0.0,
) -> Motion:
    """Half of the motions are translations only; one in ten stands still."""
    if rng.random() < 0.1:
        return Motion(at=at, angle=angle)
    speed, heading = fastest * rng.beta(1.2, 1.8), rng.uniform(0, 2 * np.pi)
    turning = rng.random() < 0.5
    # Rotation and zoom each move the rim of the picture by at most about 2 px a frame.
    rate = 3.0 / extent
    return Motion(
        at=at,
        velocity=(speed * np.cos(heading), speed * np.sin(heading)),
        sway=tuple(rng.normal(0, 0.8, 2)),
        period=rng.uniform(8, 24),
        angle=angle,
        spin=rng.uniform(-rate, rate) if turning else 0.0,
        size=rng.uniform(0.9, 1.15),
        zoom=rng.uniform(-rate, rate) if turning else 0.0,
    )
