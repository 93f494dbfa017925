"""Training clips: a pool of rendered, degraded clips on disk, and random batches from it.

`python -m vsrbench.methods.training.pool POOL --clips 300 --seed 1` renders the pool; `--own PATH`
adds the user's own clips to it, `--teacher METHOD` the frames of a teacher. Scenes come from the
procedural stream of vsrbench.data.synthetic, under seeds that the embedded dataset never draws.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from itertools import count, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from vsrbench.cards.specs import ROOT, method_card
from vsrbench.core.errors import DataError, MissingError, UserError
from vsrbench.core.files import read_json
from vsrbench.core.keys import digest
from vsrbench.core.progress import say_error
from vsrbench.core.types import Clip, PairFlow
from vsrbench.data.datasets import open_input
from vsrbench.data.second_order import degrade_by_recipe
from vsrbench.data.synthetic import random_scene
from vsrbench.flow.estimators import best_estimator
from vsrbench.flow.masks import occlusion_mask
from vsrbench.run.method import load_method, set_scale, upscale

from .batch import SCALE, Batch, Draw

if TYPE_CHECKING:
    from vsrbench.core.types import Frame

MIX = {"real": 0.6, "realbasicvsr": 0.1, "mild": 0.2, "clean": 0.1}
"""Shares of the degradations; realbasicvsr has MPEG-4 beside H.264."""
STILL = 0.2
"""Share of clips in which nothing moves but noise and compression, as before a fixed camera."""
STREAM = 0x747261696E  # "train": first word of every seed here, so no test clip can share one
MAX_SPREAD_PX = (
    4.0  # flow range in one LQ pixel, GT px, above which their mean describes neither side
)

OWN = "own-"
"""How the files of the user's own clips begin."""

Array = np.ndarray[Any, Any]


def lq_flow(flow: Array, occluded: Array | None) -> tuple[Array, Array]:
    """A GT-grid flow on the LQ grid: mean over blocks of `SCALE` x `SCALE`, in LQ px.

    flow: (H, W, 2) in GT px; occluded: (H, W) bool. Returns float16 (H/s, W/s, 2) and the validity
    mask (H/s, W/s): False where any GT pixel is occluded or the block straddles two motions.
    """
    h, w = flow.shape[0] // SCALE, flow.shape[1] // SCALE
    blocks = flow.reshape(h, SCALE, w, SCALE, 2)
    spread = np.ptp(blocks, axis=(1, 3)).max(axis=-1)
    valid = spread <= MAX_SPREAD_PX
    if occluded is not None:
        valid &= ~occluded.reshape(h, SCALE, w, SCALE).any(axis=(1, 3))
    return (blocks.mean(axis=(1, 3)) / SCALE).astype(np.float16), valid


def render_clip(path: Path, seed: int, index: int, size: tuple[int, int], frames: int) -> None:
    """Render clip `index` of stream `seed` to `path` (.npz); an existing file is kept."""
    if path.exists():
        return
    rng = np.random.default_rng([STREAM, seed, index])
    lq = _recipe(rng)
    scene = random_scene(rng, size=size, frames=frames)
    if rng.random() < STILL:
        nothing = np.zeros((*size, 2), np.float32)
        gt, pairs = [scene.frame(0)] * frames, [PairFlow(nothing, nothing)] * (frames - 1)
    else:
        gt = [scene.frame(t) for t in range(frames)]
        pairs = [scene.flow(t) for t in range(frames - 1)]
    _save(path, gt, pairs, *lq)


def _recipe(rng: np.random.Generator) -> tuple[str, int]:
    """Name of a random degradation of MIX, and its seed."""
    return str(rng.choice(list(MIX), p=list(MIX.values()))), int(rng.integers(2**31))


def _save(
    path: Path, gt: Sequence[Frame], pairs: Sequence[PairFlow], recipe: str, seed: int
) -> None:
    """Degrade GT and write the clip, so that other processes see the whole file or none."""
    forward = [lq_flow(p.forward, p.occluded_forward) for p in pairs]
    backward = [lq_flow(p.backward, p.occluded_backward) for p in pairs]
    arrays = {
        "gt": np.stack(gt),
        "lq": np.stack(list(degrade_by_recipe(gt, SCALE, recipe, seed))),
        "forward": np.stack([f for f, _ in forward]),
        "backward": np.stack([f for f, _ in backward]),
        "valid_forward": np.stack([v for _, v in forward]),
        "valid_backward": np.stack([v for _, v in backward]),
    }
    _write(path, arrays)


def _write(path: Path, arrays: dict[str, Array]) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        part = Path(folder, path.name)
        np.savez(part, **arrays)  # type: ignore[arg-type]  # the stubs forget its keywords
        part.replace(path)


def add_own(folder: Path, source: Path, device: str = "cpu") -> int:
    """Cut the user's own clips (a video, a folder of frames, or of either) into a pool; how many.

    Each run of as many frames as the pool's clips have gives one, cropped at random to their size.
    Motion is estimated, by RAFT on `device` if it is here, and occlusion follows from it. Adding a
    path again replaces its clips. A clip that cannot be read is named and left out. Raises
    MissingError without a pool, DataError where frames are too small or no clip is long enough.
    """
    about = _manifest(folder)
    (h, w), count = about["size"], about["frames"]
    estimator, made = best_estimator(device), 0
    found = open_input(source, None, SCALE)
    origin = f"{source.stem}-{digest(str(source.resolve()))[:8]}"  # other folders, equal names
    for error in found.broken.values():
        say_error(error)
    for number, clip in enumerate(found.clips):
        room = clip.size[0] - h, clip.size[1] - w
        if min(room) < 0:
            raise DataError(
                f"clip '{clip.name}' in {source} is {clip.size[1]}x{clip.size[0]}",
                f"clips of this pool need at least {w}x{h}",
            )
        for start in range(0, clip.count - count + 1, count):
            rng = np.random.default_rng([STREAM, about["seed"], number, start])
            y, x = (int(rng.integers(r + 1)) for r in room)
            gt = [np.array(clip.lq[t][y : y + h, x : x + w]) for t in range(start, start + count)]
            pairs = []
            for a, b in pairwise(gt):
                motion = estimator.both(a, b)
                ways = motion.forward, motion.backward
                hidden = occlusion_mask(*ways), occlusion_mask(*ways[::-1])
                pairs.append(PairFlow(*ways, *hidden))
            name = f"{OWN}{origin}-{clip.name}-{start:06d}.npz"
            _save(folder / name, gt, pairs, *_recipe(rng))
            made += 1
    if not made:
        raise DataError(f"no clip in {source} has {count} frames", "give longer ones")
    return made


def add_teacher(folder: Path, method: str, device: str) -> None:
    """Add to every clip what a method of this project makes of its LQ frames.

    Clips that have it already are done again. Raises UserError for an unknown method, what the
    method raises, MissingError without a pool.
    """
    _manifest(folder)
    card = method_card(ROOT, method)
    teacher = load_method(set_scale(card, SCALE), device)
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        lq = list(arrays["lq"])
        clip = Clip(
            "pool", path.stem, len(lq), lq[0].shape[:2], SCALE, 24.0, digest(path.stem), lq=lq
        )
        made = list(upscale(teacher, set_scale(card, SCALE), clip, device))
        _write(path, arrays | {"teacher": np.stack(made)})


def _manifest(folder: Path) -> dict[str, Any]:
    """What the clips of a pool share.

    Raises MissingError when the folder holds none, UserError when they were made by other shares.
    """
    if not (folder / "pool.json").exists():
        raise MissingError(
            f"no training clips in {folder}",
            f"render some: python -m vsrbench.methods.training.pool {folder} --clips 300 --seed 1",
        )
    about: dict[str, Any] = read_json(folder / "pool.json")
    if (about["mix"], about.get("still")) != (MIX, STILL):
        raise UserError(f"{folder} holds a pool of other settings", "render a new one")
    return about


def render_pool(
    folder: Path,
    clips: int,
    seed: int,
    size: tuple[int, int] = (256, 256),
    frames: int = 8,
    jobs: int = 1,
) -> None:
    """Render clips 0..clips-1 into `folder`; finished ones are kept, so a rerun continues.

    Raises UserError when the folder holds a pool of other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    about = {"seed": seed, "size": list(size), "frames": frames, "mix": MIX, "still": STILL}
    manifest = folder / "pool.json"
    if manifest.exists() and read_json(manifest) != about:
        raise UserError(f"{folder} holds a pool of other settings", "name a new folder")
    manifest.write_text(json.dumps(about))
    job = partial(render_clip, seed=seed, size=size, frames=frames)
    paths = [folder / f"{i:05d}.npz" for i in range(clips)]
    if jobs <= 1:
        for i, path in enumerate(paths):
            job(path, index=i)
        return
    with ProcessPoolExecutor(jobs) as pool:
        futures = [pool.submit(job, path, index=i) for i, path in enumerate(paths)]
        for done, future in enumerate(as_completed(futures), 1):
            future.result()
            if done % 20 == 0 or done == clips:
                print(f"{done}/{clips} clips", file=sys.stderr, flush=True)


def turn(images: Array, code: int) -> Array:
    """One of the 8 symmetries of the square, by the bits of `code`: flip x, flip y, transpose.

    images: (n, h, w, ...).
    """
    if code & 1:
        images = images[:, :, ::-1]
    if code & 2:
        images = images[:, ::-1]
    return images.swapaxes(1, 2) if code & 4 else images


def turn_flow(flow: Array, code: int) -> Array:
    """`turn` for flow (n, h, w, 2): the vectors turn with the grid."""
    signs = np.array([-1 if code & 1 else 1, -1 if code & 2 else 1], flow.dtype)
    flow = turn(flow, code) * signs
    return flow[..., ::-1] if code & 4 else flow


def _inside(flow: Array) -> Array:
    """(n, h, w) bool: the flow (n, h, w, 2) ends inside its own grid."""
    h, w = flow.shape[1:3]
    x = np.arange(w) + flow[..., 0]
    y = np.arange(h)[:, None] + flow[..., 1]
    return (x >= 0) & (x <= w - 1) & (y >= 0) & (y <= h - 1)


class Pool:
    """The clips of a folder written by `render_pool`, read when they are drawn; a `Source`.

    start, count: the numbered clips that are drawn from; those that are not there yet are rendered
    when drawn. count 0: all that are there from `start` on. Those before are held out. The user's
    own clips are drawn from, too. renew: batches after which a new clip takes the place of the
    oldest; 0 = never. workers: processes that prepare batches; 0 = none. Raises MissingError when
    there is none, DataError when one is unreadable.
    """

    def __init__(
        self, folder: Path, start: int = 0, count: int = 0, renew: int = 0, workers: int = 0
    ) -> None:
        self.manifest = _manifest(folder)
        there = sorted(folder.glob("[0-9]*.npz"))
        self.folder, self.start = folder, start
        self.renew, self.workers = renew, workers
        self.count = count or max(0, len(there) - start)
        self.own = sorted(folder.glob(f"{OWN}*.npz"))
        if not len(self) or len(there) < start:
            raise MissingError(f"{folder} holds too few clips", "render more, or set clips")

    def describe(self) -> str:
        """What it holds, in words."""
        about, renewed = self.manifest, f", one new every {self.renew} steps" if self.renew else ""
        h, w = about["size"]
        mix = ", ".join(f"{share:.0%} {name}" for name, share in about["mix"].items())
        return (
            f"{len(self)} clips of {about['frames']} frames, {w}x{h} px{renewed} "
            f"(stream {about['seed']}, {about['still']:.0%} still; LQ {mix})"
        )

    def batches(self, draw: Draw, first: int, pin: bool) -> Generator[Batch, None, None]:
        """The batches of a stage from number `first` on. Raises as `batch`."""
        loader = DataLoader(
            Windows(self, draw),
            batch_size=None,
            sampler=count(first),
            num_workers=self.workers,
            worker_init_fn=_quiet_worker if self.workers else None,
            pin_memory=pin,
        )
        for batch in loader:
            if isinstance(batch, UserError):
                raise batch
            yield batch

    def read_held_out(self, index: int, frames: int) -> Batch:
        """The first `frames` frames of clip `index` of those before `start`."""
        return self.clip(index - self.start, frames)

    def __len__(self) -> int:
        return self.count + len(self.own)

    def _read(self, index: int, offset: int = 0) -> dict[str, Array]:
        """Clip `index` of those that are drawn from when the first `offset` are gone."""
        path = self.folder / f"{self.start + offset + index:05d}.npz"
        if index >= self.count:
            path = self.own[index - self.count]
        elif not path.exists():
            about = self.manifest
            render_clip(path, about["seed"], int(path.stem), about["size"], about["frames"])
        try:
            with np.load(path) as file:
                return {name: file[name] for name in file.files}
        except (OSError, EOFError, ValueError, BadZipFile) as error:
            raise DataError(f"cannot read {path}: {error}", "delete it and rerun") from error

    def batch(
        self,
        rng: np.random.Generator,
        size: int,
        frames: int,
        patch: int,
        pan: int = 0,
        offset: int = 0,
    ) -> Batch:
        """`size` random windows of `frames` frames, `patch` x `patch` LQ px, randomly turned.

        Half of them run backwards in time. In half of them the patch pans over the clip by up to
        `pan` LQ px a frame along each axis, which adds motion that is exactly known too. Equal
        states of `rng` give equal batches. offset: numbered clips at the start that are no longer
        drawn, as many further on taking their place. Raises UserError when such windows do not fit
        the clips.
        """
        return _collate([self._window(rng, frames, patch, pan, offset) for _ in range(size)])

    def clip(self, index: int, frames: int) -> Batch:
        """The first `frames` frames of one clip, whole, as a batch of one."""
        clip = self._read(index)
        corners = np.zeros((min(frames, len(clip["lq"])), 2), int)
        return _collate([_cut(clip, 0, corners, clip["lq"].shape[1:3], 0, False)])

    def _window(
        self, rng: np.random.Generator, frames: int, patch: int, pan: int, offset: int
    ) -> dict[str, Array]:
        clip = self._read(int(rng.integers(len(self))), offset)
        count, h, w = clip["lq"].shape[:3]
        if frames > count or patch > min(h, w):
            raise UserError(
                f"training windows of {frames} frames, {patch} px do not fit the pool's clips",
                f"at most {count} frames and {min(h, w)} px",
            )
        start = int(rng.integers(count - frames + 1))
        room = np.array((h - patch, w - patch))
        speed = rng.integers(-pan, pan + 1, 2) * rng.integers(2)
        corners = rng.integers(room + 1) + speed * np.arange(frames)[:, None]
        code, reverse = int(rng.integers(8)), bool(rng.integers(2))
        return _cut(clip, start, corners.clip(0, room), (patch, patch), code, reverse)


class Windows(Dataset[Batch | UserError]):
    """The batch of every step of a stage, by the number of the step.

    An error comes as itself: raised in another process, it would come back as a traceback.
    """

    def __init__(self, pool: Pool, draw: Draw) -> None:
        self.pool, self.draw = pool, draw

    def __getitem__(self, step: int) -> Batch | UserError:
        draw, renew = self.draw, self.pool.renew
        rng = np.random.default_rng([*draw.seed, step])
        patch = int(rng.choice(draw.patch))
        offset = step // renew if renew else 0
        try:
            return self.pool.batch(rng, draw.batch, draw.frames, patch, draw.pan, offset)
        except UserError as error:
            return error


def _quiet_worker(_: int) -> None:
    """Workers leave the processor to the training, and stopping to the main process."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Batches come through a socket among the temporary files. With a name of more than 107 letters
    # it cannot be made, and who waits for batches would wait for ever.
    if len(os.fsencode(tempfile.gettempdir())) > 70 and os.access("/tmp", os.W_OK):
        tempfile.tempdir = "/tmp"


def _cut(
    clip: dict[str, Array],
    start: int,
    corners: Array,
    size: tuple[int, int],
    code: int,
    reverse: bool,
) -> dict[str, Array]:
    """The window of a clip from frame `start`, turned by `code`, in reversed time if asked.

    corners: (n, 2) ints, top and left of the patch in each frame; size: of the patch; in LQ px.
    """

    def crop(name: str, where: Array, scale: int = 1) -> Array:
        h, w = scale * size[0], scale * size[1]
        images = clip[name][start : start + len(where)]
        out = np.empty((len(where), h, w, *images.shape[3:]), images.dtype)
        for target, image, (y, x) in zip(out, images, scale * where, strict=True):
            target[...] = image[y : y + h, x : x + w]
        return out

    pan = np.diff(corners, axis=0)[:, None, None, ::-1].astype(np.float32)
    steps = {
        "forward": (corners[:-1], -pan),
        "backward": (corners[1:], pan),
    }
    order = slice(None, None, -1) if reverse else slice(None)
    out = {
        "lq": turn(crop("lq", corners), code)[order],
        "gt": turn(crop("gt", corners, SCALE), code)[order],
    }
    if "teacher" in clip:
        out["teacher"] = turn(crop("teacher", corners, SCALE), code)[order]
    names = ("forward", "backward")
    for name, source in zip(names, names[::-1] if reverse else names, strict=True):
        where, added = steps[source]
        flow = turn_flow(crop(source, where).astype(np.float32) + added, code)[order]
        valid = turn(crop(f"valid_{source}", where), code)[order]
        out[name] = flow
        out[f"valid_{name}"] = (valid & _inside(flow))[..., None]
    return out


def _collate(windows: list[dict[str, Array]]) -> Batch:
    def tensor(name: str) -> torch.Tensor:
        stacked = np.stack([w[name] for w in windows]).astype(np.float32)
        values = torch.from_numpy(stacked).permute(0, 1, 4, 2, 3).contiguous()
        return values / 255 if name in ("lq", "gt", "teacher") else values

    shared = set.intersection(*(set(w) for w in windows))
    return Batch(**{name: tensor(name) for name in windows[0] if name in shared})


def main(argv: list[str] | None = None) -> None:
    """Render a pool from the command line."""
    parser = argparse.ArgumentParser(
        "vsrbench.methods.training.pool", description="Render training clips."
    )
    parser.add_argument("pool", type=Path, help="folder to write to")
    parser.add_argument("--clips", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--own", type=Path, help="add clips cut from your own videos or frames")
    parser.add_argument("--teacher", help="add what this method makes of every clip's LQ")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    try:
        if args.own:
            print(f"{add_own(args.pool, args.own, args.device)} clips added", file=sys.stderr)
        if args.teacher:
            add_teacher(args.pool, args.teacher, args.device)
        if not args.own and not args.teacher:
            render_pool(args.pool, args.clips, args.seed, jobs=args.jobs)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error


if __name__ == "__main__":
    main()
