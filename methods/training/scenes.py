"""Moving photographs: windows of frames with exact flow and occlusion, rendered in batches.

A scene is a background and up to two objects with soft outlines before it. Each of these layers is
a plane that shows a photograph, and moves by a homography of its own; an outline belongs to its
layer. So flow and occlusion follow from the matrices, with nothing to be estimated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from torch import Tensor

from .batch import SCALE

Array = np.ndarray[Any, Any]

LAYERS = 3
TEXTURE = 512
"""Side of what a layer shows of a photograph, px; it goes on as its mirror image."""
ZOOM = (1.3, 2.6)
"""Photograph px per GT px: small enough a picture hides what JPEG left in it."""
STILL, TRIPOD, SHAKE, CUT, LIGHT = 0.15, 0.15, 0.35, 0.06, 0.12
"""Shares of windows: nothing moves; the camera stands; it is held by hand; the scene is cut; the
exposure changes."""
OBJECTS = (0.35, 0.35, 0.3)
"""Shares of windows with no, one, two objects."""
WAVES = 4
"""Harmonics of an outline, from the second on."""
MARGIN = 6.0
"""GT px from an outline within which motion counts as mixed: flow is interpolated between LQ px,
whose centres are up to 5.7 px apart."""
SAMPLES = 2
"""Samples per GT px along each axis."""


@dataclass(frozen=True)
class Scenes:
    """The geometry of b windows of n frames. Lengths in GT px, the origin in the frame's centre."""

    layer_to_frame: Tensor
    """(b, n, LAYERS, 3, 3) homographies."""
    layer_to_photo: Tensor
    """(b, LAYERS, 3, 3): similarities to px of the photograph, from its centre."""
    outline: Tensor
    """(b, LAYERS, 3 + 2 WAVES): mean radius, aspect, half width of the soft edge, then amplitudes
    and phases of the waves. An infinite radius is a layer without an outline."""
    gain: Tensor
    """(b, n): exposure."""
    cut: Tensor
    """(b,) whole: the frame with which another scene begins; n for none."""

    def to(self, device: torch.device) -> Scenes:
        """The same on a device."""
        return Scenes(**{k: v.to(device) for k, v in vars(self).items()})


@dataclass(frozen=True)
class Rendered:
    """Windows as `Batch` has them, without LQ."""

    gt: Tensor
    forward: Tensor
    backward: Tensor
    valid_forward: Tensor
    valid_backward: Tensor


def draw_scenes(rng: Generator, windows: int, frames: int, side: int) -> Scenes:
    """Random scenes for frames of `side` x `side` GT px. The same `rng` gives the same."""
    drawn = [_draw(rng, frames, side) for _ in range(windows)]
    stacked = [torch.from_numpy(np.stack(column)) for column in zip(*drawn, strict=True)]
    return Scenes(*(t if t.dtype == torch.int64 else t.float() for t in stacked))


def _draw(rng: Generator, n: int, side: int) -> tuple[Array, ...]:
    """The fields of `Scenes` for one window, without their first axis."""
    still = rng.random() < STILL
    t = np.zeros(n) if still else np.arange(n) - rng.uniform(0, n - 1)
    camera = _path(rng, t, fastest=9.0, side=side)
    if rng.random() < TRIPOD:
        camera *= 0
    shake = np.zeros((n, 2))
    if not still and rng.random() < SHAKE:
        shake = rng.normal(0, rng.uniform(0.2, 2.0), (n, 2))
    objects = int(rng.choice(3, p=OBJECTS))
    motion, looks, outlines = [], [], []
    for layer in range(LAYERS):
        own = _path(rng, t, fastest=9.0, side=side) if layer else np.zeros((n, 6))
        near = 1.0 if not layer else rng.uniform(1.0, 2.0)
        moved = own + camera
        moved[:, :2] = own[:, :2] + near * (camera[:, :2] + shake)
        if layer:  # it is somewhere in the frame, not in its middle
            moved[:, :2] += rng.uniform(-0.5, 0.5, 2) * side
        motion.append(_homographies(moved))
        turn = rng.normal(0, 0.1) + (math.pi / 2) * rng.integers(4)
        scale, mirror = rng.uniform(*ZOOM), rng.choice((-1.0, 1.0))
        c, s = scale * math.cos(turn), scale * math.sin(turn)
        shift = rng.uniform(-0.15, 0.15, 2) * TEXTURE
        looks.append(np.array([[mirror * c, -s, shift[0]], [mirror * s, c, shift[1]], [0, 0, 1]]))
        radius = math.inf if not layer else rng.uniform(0.1, 0.45) * side
        if layer > objects:
            radius = 0.0
        soft = rng.uniform(0.4, 1.0) if rng.random() < 0.8 else rng.uniform(1.0, 4.0)
        waves = rng.normal(0, 0.18, WAVES) / np.arange(1, WAVES + 1)
        phases = rng.uniform(0, 2 * math.pi, WAVES)
        outlines.append(np.array([radius, rng.uniform(0.5, 1.0), soft, *waves, *phases]))
    gain = np.ones(n)
    if rng.random() < LIGHT:
        rate = rng.normal(0, 0.05)
        gain = np.exp(rate * np.arange(n)) if rng.random() < 0.7 else gain
        if rng.random() < 0.5:  # a sudden change
            gain[rng.integers(1, n) if n > 1 else 0 :] *= math.exp(rng.normal(0, 0.25))
    cut = int(rng.integers(1, n)) if n > 1 and rng.random() < CUT else n
    return np.stack(motion, 1), np.stack(looks), np.stack(outlines), gain, np.array(cut)


def _path(rng: Generator, t: Array, fastest: float, side: int) -> Array:
    """A smooth motion at times `t`, (n, 6): shift x and y, log zoom, angle, two of perspective."""
    speed, heading = fastest * rng.beta(1.0, 2.5), rng.uniform(0, 2 * math.pi)
    velocity = speed * np.array((math.cos(heading), math.sin(heading)))
    bend = rng.normal(0, 0.15, 2)
    turning = rng.random() < 0.5  # else it is translated alone
    # Each of these moves the rim of the picture by at most a few px a frame.
    zoom, angle = turning * rng.normal(0, 1.2, 2) / side
    tilt = turning * rng.normal(0, 0.5, 2) / side**2
    along = t[:, None]
    return np.concatenate(
        (velocity * along + bend * along**2, zoom * along, angle * along, tilt * along), 1
    )


def _homographies(path: Array) -> Array:
    """(n, 3, 3) layer to frame, from (n, 6) as `_path` makes them."""
    out = np.zeros((len(path), 3, 3))
    x, y, zoom, angle, out[:, 2, 0], out[:, 2, 1] = path.T
    c, s = np.exp(zoom) * np.cos(angle), np.exp(zoom) * np.sin(angle)
    out[:, 0, 0], out[:, 0, 1], out[:, 0, 2] = c, -s, x
    out[:, 1, 0], out[:, 1, 1], out[:, 1, 2] = s, c, y
    out[:, 2, 2] = 1
    return out


def centres(side: int, step: float, device: torch.device) -> Tensor:
    """(k, k, 2): x and y of the centres of k x k cells of `step` px, k = side / step."""
    k = round(side / step)
    at = (torch.arange(k, device=device) + 0.5) * step - side / 2
    y, x = torch.meshgrid(at, at, indexing="ij")
    return torch.stack((x, y), -1)


def project(matrix: Tensor, points: Tensor) -> Tensor:
    """Homographies (..., 3, 3) of points (..., h, w, 2); axes in front broadcast."""
    m = matrix[..., None, None, :, :]
    x, y = points.unbind(-1)
    w = m[..., 2, 0] * x + m[..., 2, 1] * y + m[..., 2, 2]
    u = (m[..., 0, 0] * x + m[..., 0, 1] * y + m[..., 0, 2]) / w
    v = (m[..., 1, 0] * x + m[..., 1, 1] * y + m[..., 1, 2]) / w
    return torch.stack((u, v), -1)


def inner_distance(outline: Tensor, points: Tensor) -> Tensor:
    """How far points (..., h, w, 2) of a layer lie inside its outline (..., 3 + 2 WAVES), px.

    To first order, and at most the distance itself: along the ray from the centre, times the cosine
    between the ray and the outline's normal.
    """
    radius, aspect, _, *waves = outline[..., None, None].unbind(-3)
    x, y = points[..., 0], points[..., 1] / aspect
    angle = torch.atan2(y, x)
    edge, slope = torch.ones_like(angle), torch.zeros_like(angle)
    for k, (size, phase) in enumerate(zip(waves[:WAVES], waves[WAVES:], strict=True), 2):
        edge = edge + size * torch.cos(k * angle + phase)
        slope = slope + k * size * torch.sin(k * angle + phase)
    edge = edge.clamp(min=0.2)
    cosine = aspect * edge / torch.hypot(edge, slope)
    there = (radius > 0) & ~radius.isinf()
    depth = cosine * (torch.where(there, radius, 0) * edge - torch.hypot(x, y))
    return torch.where(there, depth, torch.where(radius > 0, math.inf, -math.inf))


def render(scenes: Scenes, photos: Tensor, side: int) -> Rendered:
    """Render windows of `side` x `side` GT px.

    photos: (b, LAYERS, 3, TEXTURE, TEXTURE) in 0..1, what each layer shows.
    """
    to_layer = torch.linalg.inv(scenes.layer_to_frame)
    points = centres(side, 1 / SAMPLES, photos.device)
    picture: Tensor | None = None
    for layer in range(LAYERS):
        # Only windows that have this layer are drawn.
        there = (scenes.outline[:, layer, 0] > 0).nonzero()[:, 0]
        if not len(there):
            continue
        plane = project(to_layer[there, :, layer], points)
        shown = _sampled(
            photos[there, layer], project(scenes.layer_to_photo[there, None, layer], plane)
        )
        if picture is None:
            picture = shown
            continue
        outline = scenes.outline[there, None, layer]
        alpha = 0.5 + inner_distance(outline, plane) / (2 * outline[..., 2, None, None])
        alpha = alpha.clamp(0, 1)[:, :, None]
        picture[there] = picture[there] + alpha * (shown - picture[there])
    assert picture is not None
    gt = F.avg_pool2d(picture.flatten(0, 1), SAMPLES).unflatten(0, picture.shape[:2])
    gt = (gt * scenes.gain[:, :, None, None, None]).clamp(0, 1)
    forward, valid_forward = _motion(scenes, to_layer, side, slice(None, -1), slice(1, None))
    backward, valid_backward = _motion(scenes, to_layer, side, slice(1, None), slice(None, -1))
    made = Rendered(gt, forward, backward, valid_forward, valid_backward)
    for window, start in enumerate(scenes.cut.tolist()):
        if start < gt.shape[1]:
            _cut(made, window, start)
    return made


def _sampled(photo: Tensor, at: Tensor) -> Tensor:
    """Photographs (m, 3, T, T) at px `at` (m, n, h, w, 2) from their centres: (m, n, 3, h, w)."""
    m, n, h, w = at.shape[:4]
    grid = (at * (2 / photo.shape[-1])).flatten(1, 2)
    # All frames of a window sample the same photograph: as one tall picture.
    shown = F.grid_sample(photo, grid, "bilinear", "reflection", align_corners=False)
    return shown.unflatten(2, (n, h)).transpose(1, 2).reshape(m, n, 3, h, w)


def _motion(
    scenes: Scenes, to_layer: Tensor, side: int, here: slice, there: slice
) -> tuple[Tensor, Tensor]:
    """(flow in LQ px (b, n-1, 2, h, w), whether it can be relied on (b, n-1, 1, h, w)).

    From the frames `here` to those `there`, in the centre of each LQ pixel. It can be relied on
    where all of the pixel shows one layer in both frames, and ends inside the frame.
    """
    points = centres(side, SCALE, to_layer.device)
    top, sure = _shown(scenes, to_layer[:, here], points)
    flow = torch.zeros_like(top, dtype=points.dtype)[..., None]
    for layer in range(LAYERS):
        between = scenes.layer_to_frame[:, there, layer] @ to_layer[:, here, layer]
        flow = torch.where((top == layer)[..., None], project(between, points) - points, flow)
    top_there, sure_there = _shown(scenes, to_layer[:, there], points + flow)
    inside = ((points + flow).abs() <= side / 2 - SCALE / 2).all(-1)
    valid = sure & sure_there & (top == top_there) & inside
    return flow.movedim(-1, 2) / SCALE, valid[:, :, None].float()


def _shown(scenes: Scenes, to_layer: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """(the layer that points of frames show, whether none of their surroundings shows another)."""
    top = torch.zeros(())
    sure = torch.ones(())
    for layer in range(LAYERS):
        plane = project(to_layer[:, :, layer], points)
        outline = scenes.outline[:, None, layer]
        depth = inner_distance(outline, plane)
        clear = depth.abs() > outline[..., 2, None, None] + MARGIN
        if layer == 0:
            top, sure = torch.zeros_like(depth, dtype=torch.long), clear
        else:
            top = torch.where(depth > 0, layer, top)
            sure = torch.where(depth > outline[..., 2, None, None] + MARGIN, True, sure & clear)
    return top, sure


def _cut(made: Rendered, window: int, start: int) -> None:
    """From frame `start` on, the window goes on as the one before it does."""
    for name, tensor in vars(made).items():
        first = start if name == "gt" else start - 1
        if name.startswith("valid"):
            tensor[window, first] = 0
            first += 1
        elif name != "gt":
            first += 1
        tensor[window, first:] = tensor[window - 1, first:]
