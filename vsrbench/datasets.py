"""Test sets: from a spec or from what a user has, to clips."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from vsrbench import frames
from vsrbench.errors import DataError, MissingError, UserError
from vsrbench.keys import digest
from vsrbench.types import Clip, DatasetSpec


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
    for given in (path, gt):
        if given is not None and not given.exists():
            raise MissingError(f"no file or folder at {given}", "check the path")
    lq_clips = _clips_below(path)
    single = list(lq_clips.values()) == [path]
    if gt is None:
        gt_clips = None
    elif single:
        gt_clips = {next(iter(lq_clips)): gt}
    else:
        gt_clips = _clips_below(gt)
    name = path.resolve().stem if path.is_file() else path.resolve().name
    spec = DatasetSpec(
        name=_safe(name), version=1, title=name, kind="synthetic" if gt else "real", scale=scale
    )
    found = _pair(spec, lq_clips, gt_clips)
    if single and found.broken:
        raise next(iter(found.broken.values()))
    return found


def _safe(name: str) -> str:
    """A name that is one plain path component."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name).lstrip(".") or "clip"


def _clips_below(path: Path) -> dict[str, Path]:
    """Clip name -> path: the path itself, or what lies in it when it holds clips and no images."""
    if path.is_file() or any(p.suffix.lower() in frames.IMAGE_SUFFIXES for p in path.iterdir()):
        return {_safe(path.resolve().stem if path.is_file() else path.resolve().name): path}
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
    return {_safe(p.stem if p.is_file() else p.name): p for p in inside}


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


def _open_clip(spec: DatasetSpec, name: str, lq_path: Path, gt_path: Path | None) -> Clip:
    lq = frames.open_frames(lq_path)
    lq.check()
    scale, gt, identity = spec.scale, None, [frames.digest(lq), spec.scale]
    if gt_path is not None:
        gt = frames.open_frames(gt_path)
        gt.check()
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
