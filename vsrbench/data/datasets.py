"""Datasets: from a spec or from what a user has, to clips."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vsrbench.core.errors import DataError, MissingError, UserError
from vsrbench.core.files import shorten_name
from vsrbench.core.keys import digest
from vsrbench.core.progress import counted
from vsrbench.core.progress import note as say
from vsrbench.core.types import Clip, DatasetSpec, Layout
from vsrbench.core.variables import DATA, cache_folder, data_folder
from vsrbench.data import frames, numbering
from vsrbench.data.images import is_hidden, is_image
from vsrbench.data.selection import WHOLE, Selection
from vsrbench.data.video import has_video

if TYPE_CHECKING:
    from vsrbench.core.types import Frame, Size

MANIFEST = "alignment.toml"
"""File beside outputs that says where they lie in GT, see vsrbench.data.outputs."""
REDUCTION_VERSION = 1
"""Bumped when the pixels of a reduced LQ can change."""
VIDEO_SUFFIXES = frozenset(
    {".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".y4m", ".ts", ".m2ts", ".mts"}
    | {".mpg", ".mpeg", ".wmv", ".flv", ".gif", ".3gp", ".ogv"}
)
"""A file with such a name is a clip, even if it cannot be read; others are if FFmpeg reads them."""

Note = Callable[[str], None]
"""Takes a line that a user should see."""


@dataclass(frozen=True)
class Dataset:
    """A spec with its clips opened; a clip that cannot be opened stays as a named error."""

    spec: DatasetSpec
    clips: list[Clip] = field(default_factory=list)
    broken: dict[str, UserError] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    """Names of all clips that are there, chosen or not."""
    unpaired: dict[str, UserError] = field(default_factory=dict)
    """Clips that outputs do not go with, and why: the fault of these outputs alone."""


def root_variable(spec: DatasetSpec) -> str:
    """Name of the environment variable that says where a dataset lies."""
    name = spec.base or spec.name
    return spec.root_env or "VSRBENCH_" + re.sub(r"[^A-Z0-9]", "_", name.upper())


def root_of(spec: DatasetSpec) -> Path | None:
    """The local folder of a set: its own variable, its `root`, or its place in $VSRBENCH_DATA."""
    own = data_folder(root_variable(spec))
    if own or spec.root:
        return own or Path(spec.root).expanduser()
    shelf = data_folder()
    return shelf / (spec.folder or spec.name) if shelf else None


def explain_missing(spec: DatasetSpec) -> MissingError | None:
    """Why a dataset is not ready here; None when it is."""
    if spec.kind == "embedded":
        return None
    root, variable = root_of(spec), root_variable(spec)
    fetch = f"; or: vsrbench datasets fetch {spec.base or spec.name}" if spec.downloads else ""
    if root is None:
        return MissingError(
            f"dataset '{spec.name}' is not here: ${variable} and ${DATA} are not set",
            f"set ${variable} to its folder (published at {spec.source or 'see its spec'}){fetch}",
        )
    if not root.is_dir():
        return MissingError(
            f"dataset '{spec.name}' is not here: no folder {root}",
            f"set ${variable} to the folder of the data{fetch}",
        )
    return None


@dataclass(frozen=True)
class OnDisk:
    """The clips of a dataset as they lie on disk, by name."""

    layout: Layout
    lq: dict[str, Path]
    gt: dict[str, Path]


def find_layouts(spec: DatasetSpec, root: Path) -> list[OnDisk]:
    """The layouts of a spec that fit what lies below `root`, best first; at least one.

    A layout fits best when all the sides it speaks of are there. Raises MissingError when none
    fits, DataError when two files claim to be the same clip.
    """
    found = []
    for layout in spec.layouts:
        lq, gt = _matches(root, layout.lq), _matches(root, layout.gt)
        if layout.subset:
            lq = {name: path for name, path in lq.items() if name in spec.expect.names}
            gt = {name: path for name, path in gt.items() if name in spec.expect.names}
        if lq or gt:
            found.append(OnDisk(layout, lq, gt))
    if not found:
        tried = (f"{e.name} ({e.lq or e.gt})" for e in spec.layouts)
        raise MissingError(
            f"dataset '{spec.name}': {root} has none of its layouts",
            f"looked for: {', '.join(tried)}; another one: vsrbench datasets add",
        )

    def rank(here: OnDisk) -> tuple[bool, bool]:
        lacks = (here.layout.lq and not here.lq) or (here.layout.gt and not here.gt)
        return not here.lq, bool(lacks)

    return sorted(found, key=rank)


def _matches(root: Path, pattern: str) -> dict[str, Path]:
    """Clip name -> folder or video file, of all that fit a pattern such as LQ/{clip}."""
    if not pattern:
        return {}
    parts = Path(pattern).parts
    at = next((i for i, part in enumerate(parts) if "{clip}" in part), len(parts) - 1)
    form = re.compile(re.escape(parts[at]).replace(r"\{clip\}", "(.+)"))
    found: dict[str, Path] = {}
    for path in sorted(root.glob(pattern.replace("{clip}", "*"))):
        name = path.relative_to(root).parts[at]
        hidden = any(map(is_hidden, map(Path, path.relative_to(root).parts)))
        if hidden or not (path.is_dir() or is_video(path)):
            continue
        if path.is_file() and at == len(parts) - 1 and form.pattern in ("(.+)", r"\*"):
            name = path.stem
        elif "{clip}" in parts[at] and (match := form.fullmatch(name)):
            name = match[1]
        _add(found, name, path)
    return found


def _add(found: dict[str, Path], name: str, path: Path) -> None:
    """Put a clip among the others. Raises DataError when one has its name already."""
    name = safe_name(name)
    if name in found:
        raise DataError(
            f"clip '{name}' exists twice: {found[name]} and {path}", "keep one of the two"
        )
    found[name] = path


def find_on_disk(spec: DatasetSpec, note: Note) -> OnDisk:
    """The clips of a dataset that a run takes. Raises DataError, MissingError if it is not here."""
    reason = explain_missing(spec)
    if reason:
        raise reason
    root = root_of(spec)
    assert root is not None  # `find_missing` has seen to it
    here, *others = find_layouts(spec, root)
    if not here.lq:
        raise MissingError(
            f"dataset '{spec.name}': {root} holds GT and no LQ",
            f"make LQ: vsrbench datasets degrade {spec.name} --recipe realbasicvsr --seed 0",
        )
    for pattern, clips in ((here.layout.lq, here.lq), (here.layout.gt, here.gt)):
        if clips and Path(pattern).name in ("{clip}", "*"):
            for folder in sorted({path.parent for path in clips.values()}):
                files = [p for p in sorted(folder.iterdir()) if p.is_file() and not is_hidden(p)]
                if line := frames.describe_left_out(
                    folder, [p for p in files if p not in clips.values()]
                ):
                    note(line)
    # The pattern {clip} fits anything, also the folder that holds all the rest.
    more = [e.layout.name for e in others if e.lq not in ({}, here.lq) and "/" in e.layout.lq]
    if more:
        note(
            f"{spec.name}: layout '{here.layout.name}' is used, also here: {', '.join(more)} "
            f"(choose one: {spec.name}:{more[0]})"
        )
    return here


def open_dataset(spec: DatasetSpec, note: Note, selection: Selection = WHOLE) -> Dataset:
    """Open a dataset, or a part of it. Raises MissingError when it is not here, DataError."""
    if spec.kind == "embedded":
        from vsrbench.data import footage, synthetic

        make = footage.clips if spec.name == footage.NAME else synthetic.clips
        found = {clip.name: clip for clip in make(cache_folder(), note)}
        chosen = selection.choose(found).values()
        return _cut(Dataset(spec, list(chosen), names=tuple(found)), selection)
    here = find_on_disk(spec, note)
    native = here.layout.native_scale or spec.native_scale or spec.scale
    gt = here.gt if here.layout.gt else None
    return _pair(spec, here.lq, gt, note, native, selection)


def open_input(
    path: Path, gt: Path | None, scale: int, note: Note = say, selection: Selection = WHOLE
) -> Dataset:
    """An ad-hoc dataset out of a video, a folder of frames, or a folder of clips, or a part of it.

    With `gt` the scale follows from the sizes. Raises MissingError, DataError, UserError.
    """
    lq_clips = clips_below(path, note)
    single = list(lq_clips.values()) == [path]
    gt_clips = clips_below(gt, note) if gt else None
    if gt and single:
        gt_clips = {next(iter(lq_clips)): gt}
    spec = make_adhoc_spec(path, "synthetic" if gt else "real", scale)
    found = _pair(spec, lq_clips, gt_clips, note, selection=selection)
    if single and found.broken:
        raise next(iter(found.broken.values()))
    return found


def make_adhoc_spec(path: Path, kind: Literal["real", "synthetic"], scale: int) -> DatasetSpec:
    """The spec of a dataset that is named after its path."""
    name, at = name_of_path(path), str(path.resolve())
    return DatasetSpec(safe_name(name), version=1, title=name, kind=kind, scale=scale, path=at)


def name_of_path(path: Path) -> str:
    """The name of a clip or dataset by its path: that of a link, not of what it points to."""
    whole = Path(os.path.abspath(path))  # noqa: PTH100  # `resolve` follows links
    return whole.stem if path.is_file() else whole.name


def safe_name(name: str) -> str:
    """A name that is one plain path component, not too long, in Unicode's form NFC."""
    name = unicodedata.normalize("NFC", name)
    plain = "".join(c if c.isalnum() or c in "._-" else "_" for c in name).lstrip(".")
    return shorten_name(plain) or "clip"


def clips_below(path: Path, note: Note = say) -> dict[str, Path]:
    """Clip name -> path: the path itself, or what lies in it when it holds clips and no images.

    What else lies there is said to `note`. Raises MissingError, DataError.
    """
    if not path.exists():
        raise MissingError(f"no file or folder at {path}", "check the path")
    frames.refuse_special(path)
    if path.is_file():
        return {safe_name(name_of_path(path)): path}
    there = sorted(path.iterdir())
    inside = [p for p in there if not is_hidden(p)]
    clips = [p for p in inside if p.is_dir() or is_video(p)]
    if image := next(filter(is_image, inside), None):
        if video := next((p for p in clips if p.is_file() or _holds_frames(p)), None):
            kind = "videos" if video.is_file() else "folders of frames"
            raise DataError(
                f"{path} holds images and {kind}, such as {image.name} and {video.name}",
                "move one kind away: is it one clip or several?",
            )
        return {safe_name(name_of_path(path)): path}
    if not clips:
        raise DataError(
            f"{path} holds no frames and no clips",
            "expected images, video files, or one folder of images per clip",
        )
    found: dict[str, Path] = {}
    for p in clips:
        _add(found, p.stem if p.is_file() else p.name, p)
    own = {f"{p.name}{suffix}" for p in clips for suffix in (".key", ".sha256")}
    others = [p for p in there if p not in clips and p.name not in {MANIFEST, *own}]
    if line := frames.describe_left_out(path, others):
        note(line)
    return found


def _holds_frames(folder: Path) -> bool:
    return any(is_image(p) or is_video(p) for p in folder.iterdir())


def is_video(path: Path) -> bool:
    """True for a video: by its name, or since FFmpeg finds one in it."""
    if is_hidden(path) or is_image(path) or not path.is_file():
        return False
    return path.suffix.lower() in VIDEO_SUFFIXES or has_video(path)


def _pair(
    spec: DatasetSpec,
    lq: dict[str, Path],
    gt: dict[str, Path] | None,
    note: Note,
    native: int = 0,
    selection: Selection = WHOLE,
) -> Dataset:
    clips: list[Clip] = []
    broken: dict[str, UserError] = {}
    for name, path in selection.choose(lq).items():
        try:
            if gt is not None and name not in gt:
                raise DataError(
                    f"clip '{name}' of {spec.name} has no GT of the same name",
                    f"GT clips here: {', '.join(sorted(gt)[:5])}",
                )
            gt_path = gt[name] if gt is not None else None
            clips.append(_open_clip(spec, name, path, gt_path, note, native))
        except UserError as error:
            broken[name] = error
    every = not (selection.clips or selection.limit)
    for name in sorted(set(gt or {}) - set(lq)) if every else ():
        broken[name] = DataError(f"clip '{name}' of {spec.name} has GT but no LQ")
    return _cut(Dataset(spec, clips, broken, tuple(lq)), selection)


def _cut(dataset: Dataset, selection: Selection) -> Dataset:
    """Its clips with the frames that are wanted; one that has none of them is broken."""
    clips, broken = list[Clip](), dict(dataset.broken)
    for clip in dataset.clips:
        try:
            clips.append(selection.cut(clip))
        except UserError as error:
            broken[clip.name] = error
    return replace(dataset, clips=clips, broken=broken)


def open_source(path: Path, note: Note = say) -> frames.FrameSource:
    """Frames whose headers are all readable and of one size. Raises MissingError, DataError."""
    source = frames.open_frames(path)
    source.check()
    if source.note:
        note(source.note)
    return source


def check_pairs(
    clip: str,
    first: Sequence[Frame],
    second: Sequence[Frame],
    titles: tuple[str, str],
    places: Sequence[int] | None = None,
) -> None:
    """Raise DataError unless the frames of both sides pair by their numbers.

    The numbers may differ by a constant. places: frame of `second` for each of `first`; None when
    they pair in their order, of which one side may have more at the end.
    """
    a, b = _numbered(first), _numbered(second)
    # Where both sides count without gaps, places suffice.
    why = numbering.explain_mismatch(a, b, titles)
    if why and len(first) != len(second) and places is None:
        places = range(min(len(first), len(second)))
        a = a[: len(places)]
    if (
        why
        and places is not None
        and not numbering.explain_mismatch(a, [b[i] for i in places if b], titles)
    ):
        why = ""
    if why:
        raise DataError(
            f"clip '{clip}': frames do not pair by their numbers: {why}",
            "number both sides alike, without gaps on one of them; a constant offset may stay",
        )


def _numbered(source: Sequence[Frame]) -> Sequence[str]:
    """The names that number frames; none where they come in order without."""
    if isinstance(source, frames.Resized):
        return _numbered(source.source)
    return source.numbered if isinstance(source, frames.FrameSource) else ()


def scale_between(lq: Size, gt: Size, name: str) -> int:
    """How many times larger GT is than LQ. Raises DataError unless it is a whole number."""
    (h, w), (gh, gw) = lq, gt
    if gh % h or gw % w or gh // h != gw // w:
        fits = [
            s for s in range(1, gh // h + 1) if gh - s * h < s and gw - s * w < s and gw >= s * w
        ]
        hint = "give the GT of exactly this LQ, uncropped"
        if h % gh == 0 and w % gw == 0:
            hint = "LQ and GT are swapped"
        elif fits:
            hint = f"crop GT to {fits[-1] * w}x{fits[-1] * h}, as it was before LQ was made of it"
        raise DataError(f"clip '{name}': GT {gw}x{gh} is not a whole multiple of LQ {w}x{h}", hint)
    return gh // h


def _open_clip(
    spec: DatasetSpec, name: str, lq_path: Path, gt_path: Path | None, note: Note, native: int
) -> Clip:
    """native: GT size over LQ size that the files must have; 0 to take what they have."""
    source = open_source(lq_path, note)
    lq: Sequence[Frame] = source
    size, protocol = source.size, {}
    scale, gt, identity = spec.scale, None, [frames.digest(source), spec.scale]
    if gt_path is not None:
        gt = open_source(gt_path, note)
        check_pairs(name, source, gt, ("LQ", "GT"))
        if len(gt) != len(source):
            raise DataError(
                f"clip '{name}': {lq_path} has {counted(len(source), 'frame')}, "
                f"{gt_path} has {len(gt)}",
                "LQ and GT must pair frame by frame",
            )
        found = scale_between(source.size, gt.size, name)
        if native and found not in (native, spec.scale):
            raise DataError(
                f"clip '{name}': GT is {found} times the size of LQ, and {spec.name} has x{native}",
                f"look closer: vsrbench datasets check {spec.name}",
            )
        scale = spec.scale if native else found
        identity = [frames.digest(source), frames.digest(gt)]
        factor = scale // found
        if factor > 1:
            if source.size[0] % factor or source.size[1] % factor:
                raise DataError(
                    f"clip '{name}': LQ {source.size[1]}x{source.size[0]} cannot be brought down "
                    f"to 1/{factor}",
                    "its sides must be multiples of that",
                )
            size = (source.size[0] // factor, source.size[1] // factor)
            lq = frames.Resized(source, size)
            protocol = {"lq": f"1/{factor} of the size in the files, antialiased bicubic"}
            identity.append([protocol["lq"], REDUCTION_VERSION])
    return Clip(
        dataset=spec.name,
        name=name,
        count=len(source),
        size=size,
        scale=scale,
        fps=source.fps or spec.fps,
        digest=digest(identity),
        lq=lq,
        gt=gt,
        dataset_version=spec.version,
        border_px=spec.border_px,
        protocol=protocol,
    )
