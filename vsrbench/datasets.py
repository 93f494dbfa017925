"""Test sets: from a spec or from what a user has, to clips."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vsrbench import frames
from vsrbench.errors import DataError, MissingError, UserError, unknown
from vsrbench.keys import digest
from vsrbench.types import Clip, DatasetSpec

if TYPE_CHECKING:
    from vsrbench.types import Frame, Size

Policy = Literal["refuse", "center", "topleft"]
"""What to do about outputs of another size than GT: refuse, or crop both to the common size."""
VIDEO_SUFFIXES = frozenset({".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".y4m", ".ts"})


@dataclass(frozen=True)
class Dataset:
    """A spec with its clips opened; a clip that cannot be opened stays as a named error."""

    spec: DatasetSpec
    clips: list[Clip] = field(default_factory=list)
    broken: dict[str, UserError] = field(default_factory=dict)


def cache_folder() -> Path:
    """Where rendered sets and flow fields are kept: $VSRBENCH_CACHE or ~/.cache/vsrbench."""
    return Path(os.environ.get("VSRBENCH_CACHE", "~/.cache/vsrbench")).expanduser()


def missing(spec: DatasetSpec) -> MissingError | None:
    """Why a data set is not ready here; None when it is."""
    if spec.kind == "embedded":
        return None
    folder = os.environ.get(spec.root_env, "")
    if not folder:
        return MissingError(
            f"dataset '{spec.name}' is not here: ${spec.root_env} is not set",
            f"set it to the folder of the data (published at {spec.source or 'see its spec'})",
        )
    if not Path(folder).is_dir():
        return MissingError(f"${spec.root_env} names {folder}, which is not a folder")
    return None


def open_dataset(spec: DatasetSpec, note: Callable[[str], None]) -> Dataset:
    """Open all clips of a spec. Raises MissingError when the set is not here."""
    reason = missing(spec)
    if reason:
        raise reason
    if spec.kind == "embedded":
        from vsrbench import synthetic

        return Dataset(spec, synthetic.clips(cache_folder(), note))
    root = Path(os.environ[spec.root_env])
    lq = {p.stem if p.is_file() else p.name: p for p in sorted(root.glob(spec.lq))}
    gt = (
        {p.stem if p.is_file() else p.name: p for p in sorted(root.glob(spec.gt))}
        if spec.gt
        else {}
    )
    if not lq:
        raise MissingError(f"dataset '{spec.name}': nothing matches {root / spec.lq}")
    return _pair(spec, lq, gt if spec.gt else None)


def open_input(path: Path, gt: Path | None, scale: int) -> Dataset:
    """An ad-hoc set out of a video, a folder of frames, or a folder of clips.

    With `gt` the scale follows from the sizes. Raises MissingError, DataError, UserError.
    """
    lq_clips = _clips_below(path)
    single = list(lq_clips.values()) == [path]
    gt_clips = _clips_below(gt) if gt else None
    if gt and single:
        gt_clips = {next(iter(lq_clips)): gt}
    spec = _adhoc(path, "synthetic" if gt else "real", scale)
    found = _pair(spec, lq_clips, gt_clips)
    if single and found.broken:
        raise next(iter(found.broken.values()))
    return found


def open_outputs(
    path: Path,
    targets: Dataset | Path | None,
    policy: Policy = "refuse",
    rule: str = "all",
    border_px: int | None = None,
) -> Dataset:
    """Outputs that exist already, as the clips of `targets` with their frames attached.

    path: a video, a folder of frames, or a folder of clips. targets: LQ with or without GT, the
    path of GT alone, or None to score the outputs by themselves. rule: `all`, `first-mid-last`
    (frames 0, n // 2, n - 1) or `stride:N` (every Nth from 0). border_px: None for that of the
    data set. A clip that cannot be paired stays as a named error, unless it is the only one.
    Raises MissingError, DataError, UserError.
    """
    found = _clips_below(path)
    single = list(found.values()) == [path]
    if isinstance(targets, Dataset):
        spec, clips, broken = targets.spec, targets.clips, dict(targets.broken)
    else:
        spec, clips, broken = _adhoc(targets or path, "real", 0), [], {}
        for name, place in _clips_below(targets or path).items():
            try:
                clips.append(_bare_clip(spec, name, place, "gt" if targets else "outputs"))
            except UserError as error:
                broken[name] = error
    if single and len(clips) + len(broken) == 1:
        found = dict.fromkeys([*(c.name for c in clips), *broken], path)
    attached: list[Clip] = []
    for clip in clips:
        try:
            if clip.name not in found:
                raise DataError(
                    f"clip '{clip.name}' of {spec.name} has no outputs of the same name in {path}",
                    f"outputs here: {', '.join(sorted(found)[:5])}",
                )
            attached.append(_attach(clip, found[clip.name], policy, rule, border_px))
        except UserError as error:
            broken[clip.name] = error
    for name in sorted(set(found) - {c.name for c in clips} - set(broken)):
        broken[name] = DataError(
            f"outputs {found[name]} match no clip of {spec.name}",
            f"clips there: {', '.join(sorted(c.name for c in clips)[:5])}",
        )
    if single and not attached:
        raise next(iter(broken.values()))
    return Dataset(spec, attached, broken)


def _attach(clip: Clip, path: Path, policy: Policy, rule: str, border_px: int | None) -> Clip:
    """The clip with outputs, all its frames cut down by the policy and the rule."""
    outputs = _open(path)
    scale = clip.scale or 1
    want: Size = (clip.size[0] * scale, clip.size[1] * scale)
    other = clip.gt if clip.gt is not None else clip.lq
    there = getattr(other, "path", f"clip '{clip.name}' of {clip.dataset}")
    if len(outputs) != clip.count:
        raise DataError(
            f"clip '{clip.name}': outputs {path} have {len(outputs)} frames, {there} has "
            f"{clip.count}",
            "outputs must pair frame by frame; nothing is cut or repeated",
        )
    if outputs.size != want and policy == "refuse":
        times = "" if clip.gt is not None else f" x{scale}"
        raise DataError(
            f"clip '{clip.name}': outputs {path} are {_wxh(outputs.size)} px, {there}{times} is "
            f"{_wxh(want)} px",
            "score whole frames, or say --policy center or topleft to crop both to what they share",
        )
    common: Size = (min(outputs.size[0], want[0]), min(outputs.size[1], want[1]))
    at, at_outputs = _corner(want, common, policy), _corner(outputs.size, common, policy)
    if clip.lq and any(side % scale for side in (*at, *common)):
        raise DataError(
            f"clip '{clip.name}': the crop to {_wxh(common)} px at ({at[1]}, {at[0]}) does not "
            f"fall on whole LQ pixels at x{scale}",
            "score against GT alone: --gt without --lq",
        )
    border = clip.border_px if border_px is None else border_px
    if 2 * border >= min(common) or (clip.lq and border % scale):
        raise UserError(
            f"a border of {border} px does not fit frames of {_wxh(common)} px at x{scale}",
            "with LQ it is a multiple of the scale, and something must be left to score",
        )
    chosen = frame_numbers(rule, clip.count)
    cut = {"frames": rule} if len(chosen) < clip.count else {}
    cut |= {"crop": policy} if outputs.size != want else {}
    lq_size: Size = (common[0] // scale, common[1] // scale)
    lq_at: Size = (at[0] // scale, at[1] // scale)
    window = [*at, *common] if "crop" in cut else []
    own = [*at_outputs, *common] if "crop" in cut else []
    return replace(
        clip,
        count=len(chosen),
        size=lq_size,
        digest=digest([clip.digest, cut, window]) if cut else clip.digest,
        lq=View(clip.lq, chosen, lq_at, lq_size) if clip.lq and cut else clip.lq,
        gt=View(clip.gt, chosen, at, common) if clip.gt is not None and cut else clip.gt,
        flow=None if cut else clip.flow,
        border_px=border,
        outputs=View(outputs, chosen, at_outputs, common) if cut else outputs,
        outputs_digest=digest([frames.digest(outputs), own]),
        protocol=cut | ({} if border == clip.border_px else {"border_px": border}),
    )


class View(Sequence["Frame"]):
    """Chosen frames of a clip, cropped to `size` from (row, column) `at`; read when indexed."""

    def __init__(
        self, source: Sequence[Frame], chosen: Sequence[int], at: Size, size: Size
    ) -> None:
        self.source, self.chosen = source, chosen
        self.window = slice(at[0], at[0] + size[0]), slice(at[1], at[1] + size[1])

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: Any) -> Any:
        return self.source[self.chosen[index]][self.window]


def frame_numbers(rule: str, count: int) -> list[int]:
    """The frames that a rule scores: all, first-mid-last or stride:N. Raises UserError."""
    kind, _, step = rule.partition(":")
    if kind == "stride" and step.isdigit() and int(step):
        return list(range(0, count, int(step)))
    if rule == "first-mid-last":
        return sorted({0, count // 2, count - 1})
    if rule != "all":
        raise unknown("frame rule", rule, ["all", "first-mid-last", "stride:N"])
    return list(range(count))


def _corner(size: Size, common: Size, policy: Policy) -> Size:
    """(row, column) at which the common window begins."""
    if policy != "center":
        return 0, 0
    return (size[0] - common[0]) // 2, (size[1] - common[1]) // 2


def _wxh(size: Size) -> str:
    return f"{size[1]}x{size[0]}"


def _adhoc(path: Path, kind: Literal["real", "synthetic"], scale: int) -> DatasetSpec:
    """The spec of a set that is named after its path."""
    name = path.resolve().stem if path.is_file() else path.resolve().name
    return DatasetSpec(name=safe_name(name), version=1, title=name, kind=kind, scale=scale)


def _bare_clip(spec: DatasetSpec, name: str, path: Path, what: str) -> Clip:
    """A clip without LQ: GT alone (`gt`), or nothing but outputs (`outputs`)."""
    source = _open(path)
    return Clip(
        dataset=spec.name,
        name=name,
        count=len(source),
        size=source.size,
        scale=0,
        fps=source.fps,
        digest=digest([what, frames.digest(source)]),
        lq=(),
        gt=source if what == "gt" else None,
    )


def safe_name(name: str) -> str:
    """A name that is one plain path component."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name).lstrip(".") or "clip"


def _clips_below(path: Path) -> dict[str, Path]:
    """Clip name -> path: the path itself, or what lies in it when it holds clips and no images.

    Raises MissingError, DataError.
    """
    if not path.exists():
        raise MissingError(f"no file or folder at {path}", "check the path")
    if path.is_file() or any(frames.is_image(p) for p in path.iterdir()):
        return {safe_name(path.resolve().stem if path.is_file() else path.resolve().name): path}
    inside = sorted(
        p
        for p in path.iterdir()
        if (p.is_dir() or p.suffix.lower() in VIDEO_SUFFIXES) and not p.name.startswith(".")
    )
    if not inside:
        raise DataError(
            f"{path} holds no frames and no clips",
            "expected images, video files, or one folder of images per clip",
        )
    return {safe_name(p.stem if p.is_file() else p.name): p for p in inside}


def _pair(spec: DatasetSpec, lq: dict[str, Path], gt: dict[str, Path] | None) -> Dataset:
    clips: list[Clip] = []
    broken: dict[str, UserError] = {}
    for name, path in lq.items():
        try:
            if gt is not None and name not in gt:
                raise DataError(
                    f"clip '{name}' of {spec.name} has no GT of the same name",
                    f"GT clips here: {', '.join(sorted(gt)[:5])}",
                )
            clips.append(_open_clip(spec, name, path, gt[name] if gt is not None else None))
        except UserError as error:
            broken[name] = error
    for name in sorted(set(gt or {}) - set(lq)):
        broken[name] = DataError(f"clip '{name}' of {spec.name} has GT but no LQ")
    return Dataset(spec, clips, broken)


def _open(path: Path) -> frames.FrameSource:
    source = frames.open_frames(path)
    source.check()
    return source


def _open_clip(spec: DatasetSpec, name: str, lq_path: Path, gt_path: Path | None) -> Clip:
    lq = _open(lq_path)
    scale, gt, identity = spec.scale, None, [frames.digest(lq), spec.scale]
    if gt_path is not None:
        gt = _open(gt_path)
        if len(gt) != len(lq):
            raise DataError(
                f"clip '{name}': {lq_path} has {len(lq)} frames, {gt_path} has {len(gt)}",
                "LQ and GT must pair frame by frame",
            )
        (h, w), (gh, gw) = lq.size, gt.size
        if gh % h or gw % w or gh // h != gw // w:
            raise DataError(
                f"clip '{name}': GT {gw}x{gh} is not a whole multiple of LQ {w}x{h}",
                "give the GT of exactly this LQ, uncropped",
            )
        scale = gh // h
        identity = [frames.digest(lq), frames.digest(gt)]
    return Clip(
        dataset=spec.name,
        name=name,
        count=len(lq),
        size=lq.size,
        scale=scale,
        fps=lq.fps or spec.fps,
        digest=digest(identity),
        lq=lq,
        gt=gt,
        dataset_version=spec.version,
        border_px=spec.border_px,
    )
