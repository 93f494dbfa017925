"""`datasets check`: what a dataset on disk holds, held against its spec and its own past."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsrbench.core.config import convert
from vsrbench.core.errors import DataError, UserError
from vsrbench.core.files import read_json, replace_atomically
from vsrbench.core.progress import counted
from vsrbench.core.types import DatasetSpec, size_text
from vsrbench.data import frames, numbering
from vsrbench.data.datasets import (
    OnDisk,
    check_pairs,
    explain_missing,
    find_layouts,
    open_source,
    root_of,
    scale_between,
)
from vsrbench.metrics.fidelity import best_shift

if TYPE_CHECKING:
    from vsrbench.core.types import Frame, Size

SHIFT_CROP = 384  # px: the middle of a frame is enough to register it
SHIFT_RADIUS = 8  # px of GT
SHIFT_PX = 0.5  # bicubic(LQ) of clean, well-phased LQ stays below


@dataclass
class Findings:
    """What a check has found."""

    facts: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Clip:
    """One clip as far as it could be opened."""

    name: str
    lq: frames.FrameSource | None
    gt: frames.FrameSource | None


def check(
    spec: DatasetSpec,
    manifest: Path,
    accept: bool,
    quick: bool,
    note: Callable[[str], None],
) -> Findings:
    """Counts, names, sizes, pairing, scale, shift, readability and hashes of a dataset on disk.

    manifest: file that holds the hashes; written at the first sight of a layout, compared
    afterwards. accept: take the files as they are now. quick: read headers only, so neither shifts
    nor hashes. Raises MissingError when the dataset is not here.
    """
    reason = explain_missing(spec)
    if reason:
        raise reason
    found = Findings()
    if spec.kind == "embedded":
        found.facts.append("rendered here, nothing to check")
        return found
    root = root_of(spec)
    assert root is not None  # `explain_missing` has seen to it
    layouts = find_layouts(spec, root)
    here = layouts[0]
    found.facts.append(f"{root}, layout '{here.layout.name}'")
    if here.layout.uncertain:
        found.warnings.append(f"layout '{here.layout.name}' was a guess until now: it fits here")
    others = [f"'{other.layout.name}'" for other in layouts[1:] if other.lq]
    if others:
        found.facts.append(f"also here, not used: {', '.join(others)}")
    found.facts += [f"pitfall: {text}" for text in spec.pitfalls]
    _check_sides(spec, here, found)
    clips = [_opened(name, here, found) for name in sorted(set(here.lq) | set(here.gt))]
    _check_counts(spec, clips, found)
    _check_sizes(spec, here, clips, found)
    if not quick:
        hashes = {}
        for i, clip in enumerate(clips, start=1):
            note(f"[{i}/{len(clips)}] {spec.name}/{clip.name}: reading all frames")
            hashes[clip.name] = _read_all(clip, found)
        _check_shifts(spec, clips, found)
        _compare(manifest, here.layout.name, hashes, accept, found)
    return found


def _check_sides(spec: DatasetSpec, here: OnDisk, found: Findings) -> None:
    """Which clips there are on which side."""
    layout, want = here.layout, spec.expect
    if not here.lq:
        found.warnings.append(
            f"GT only: make LQ with `datasets degrade {spec.name} --recipe realbasicvsr --seed 0`"
        )
    if layout.gt and layout.lq and not here.gt:
        found.errors.append(f"no GT: nothing matches {layout.gt}")
    if here.lq and here.gt:
        for name in sorted(set(here.lq) - set(here.gt)):
            found.errors.append(f"clip '{name}' has LQ and no GT")
        for name in sorted(set(here.gt) - set(here.lq)):
            found.errors.append(f"clip '{name}' has GT and no LQ")
    names = set(here.lq) | set(here.gt)
    if want.clips and len(names) != want.clips:
        _differs("clips", f"{counted(len(names), 'clip')}, expected {want.clips}", spec, found)
    if want.names:
        absent, stray = set(want.names) - names, names - set(want.names)
        for which, what in ((absent, "missing"), (stray, "not of this dataset")):
            if which:
                listing = ", ".join(sorted(which)[:5])
                _differs("names", f"clips {what}: {listing}", spec, found)


def _differs(field_name: str, text: str, spec: DatasetSpec, found: Findings) -> None:
    if field_name in spec.expect.uncertain:
        found.warnings.append(f"{text} (the spec is not certain of it)")
    else:
        found.errors.append(text)


def _opened(name: str, here: OnDisk, found: Findings) -> _Clip:
    sides: dict[str, frames.FrameSource | None] = {"LQ": None, "GT": None}
    for side, paths in (("LQ", here.lq), ("GT", here.gt)):
        if name in paths:
            try:
                source = sides[side] = open_source(paths[name], found.warnings.append)
            except UserError as error:
                found.errors.append(f"clip '{name}': {side}: {error.message}")
                continue
            if lost := numbering.find_gaps(source.numbered):
                found.errors.append(f"clip '{name}': {side} lacks frame {', '.join(lost)}")
    return _Clip(name, sides["LQ"], sides["GT"])


def _check_counts(spec: DatasetSpec, clips: Sequence[_Clip], found: Findings) -> None:
    want = spec.expect
    per_name = dict(zip(want.names, want.frames, strict=True)) if _by_name(spec) else {}
    lengths = []
    for clip in clips:
        if clip.lq and clip.gt and len(clip.lq) != len(clip.gt):
            found.errors.append(
                f"clip '{clip.name}': LQ has {counted(len(clip.lq), 'frame')}, GT has "
                f"{len(clip.gt)}"
            )
        elif clip.lq and clip.gt:
            try:
                check_pairs(clip.name, clip.lq, clip.gt, ("LQ", "GT"))
            except DataError as error:
                found.errors.append(error.message)
            else:
                if _numbers(clip.lq) != _numbers(clip.gt):
                    found.warnings.append(
                        f"clip '{clip.name}': frames pair in order, LQ {clip.lq.names[0]} with GT "
                        f"{clip.gt.names[0]}"
                    )
        source = clip.lq or clip.gt
        if source is None:
            continue
        lengths.append(len(source))
        low, high = (per_name.get(clip.name, 0),) * 2 if per_name else (want.frames or (0, 0))[:2]
        if high and not low <= len(source) <= high:
            span = f"{low}" if low == high else f"{low} to {high}"
            _differs(
                "frames",
                f"clip '{clip.name}': {counted(len(source), 'frame')}, expected {span}",
                spec,
                found,
            )
    if lengths:
        span = f"{min(lengths)} to " * (len(set(lengths)) > 1) + counted(max(lengths), "frame")
        found.facts.append(f"{counted(len(clips), 'clip')} of {span}, {sum(lengths)} in all")


def _by_name(spec: DatasetSpec) -> bool:
    """True where the spec gives the frames of each clip."""
    return len(spec.expect.names) == len(spec.expect.frames) > 2


def _numbers(source: frames.FrameSource) -> list[str]:
    """The last number in each name: what pairs the frames of folders."""
    return [str(int((re.findall(r"\d+", Path(name).stem) or ["0"])[-1])) for name in source.names]


def _check_sizes(spec: DatasetSpec, here: OnDisk, clips: Sequence[_Clip], found: Findings) -> None:
    native = here.layout.native_scale or spec.native_scale or spec.scale
    sizes: dict[str, set[Size]] = {"LQ": set(), "GT": set()}
    for clip in clips:
        for side, source, want in (
            ("LQ", clip.lq, spec.expect.lq_size),
            ("GT", clip.gt, spec.expect.gt_size),
        ):
            if source is not None:
                sizes[side].add(source.size)
                if want and source.size != want[::-1]:
                    text = f"{size_text(source.size)}, expected {want[0]}x{want[1]}"
                    _differs(
                        f"{side.lower()}_size", f"clip '{clip.name}': {side} is {text}", spec, found
                    )
        if clip.lq is None or clip.gt is None:
            continue
        try:
            scale = scale_between(clip.lq.size, clip.gt.size, clip.name)
        except DataError as error:
            found.errors.append(f"{error.message}: {error.hint}")
            continue
        if scale == 1 != native:
            found.errors.append(
                f"clip '{clip.name}': LQ is as large as GT, {size_text(clip.lq.size)}; this is a "
                f"x{native} set"
            )
        elif scale not in (native, spec.scale):
            found.errors.append(f"clip '{clip.name}': GT is {scale} times LQ, expected {native}")
    for side, values in sizes.items():
        if values:
            shown = ", ".join(size_text(s) for s in sorted(values)[:4])
            shown += " ..." * (len(values) > 4)
            found.facts.append(f"{side}: {shown}")
    if native != spec.scale:
        found.facts.append(f"policy: LQ is brought down to 1/{spec.scale // native} before use")


def _read_all(clip: _Clip, found: Findings) -> dict[str, Any]:
    """Decode every frame of a clip, and give what a manifest holds of it."""
    entry: dict[str, Any] = {}
    for side, source in (("lq", clip.lq), ("gt", clip.gt)):
        if source is None:
            continue
        try:
            for _ in source:
                pass
            entry[side] = {
                "frames": len(source),
                "size": list(source.size[::-1]),
                "sha256": frames.digest(source),
            }
        except UserError as error:
            found.errors.append(f"clip '{clip.name}': {side.upper()}: {error.message}")
    return entry


def _check_shifts(spec: DatasetSpec, clips: Iterable[_Clip], found: Findings) -> None:
    """How far bicubic(LQ) lies from GT, and which is sharper, by the middle frame of each clip."""
    shifts: dict[str, tuple[float, float]] = {}
    gains, sharper = [], []
    for clip in clips:
        if clip.lq is None or clip.gt is None or len(clip.lq) != len(clip.gt):
            continue
        middle = len(clip.lq) // 2
        try:
            scale_between(clip.lq.size, clip.gt.size, clip.name)
            up = frames.Resized(clip.lq, clip.gt.size)[middle]
            gt = clip.gt[middle]
            top, left = (max(0, (side - SHIFT_CROP) // 2) for side in gt.shape[:2])
            window = slice(top, top + SHIFT_CROP), slice(left, left + SHIFT_CROP)
            if clip.lq.size == clip.gt.size and _detail(up[window]) > _detail(gt[window]):
                sharper.append(clip.name)
            dy, dx, at_zero, at_best = best_shift(up[window], gt[window], SHIFT_RADIUS)
        except UserError:
            continue  # said elsewhere, or too small to tell
        if max(abs(dy), abs(dx)) > SHIFT_PX:
            shifts[clip.name] = (dy, dx)
            gains.append(at_best - at_zero)
    if shifts:
        dy, dx = (statistics.median(values) for values in zip(*shifts.values(), strict=True))
        names = ", ".join(list(shifts)[:4]) + (" ..." if len(shifts) > 4 else "")
        text = (
            f"LQ is shifted against GT in {counted(len(shifts), 'clip')} ({names}): it lies "
            f"{dy:+g} px down and {dx:+g} px right (median, GT px); PSNR of bicubic gains "
            f"{statistics.median(gains):.1f} dB when shifted back"
        )
        phase = max(abs(dy), abs(dx)) <= (spec.scale - 1) / 2 + 0.25
        if phase:
            text += ", as LQ that takes pixel 0 of each block"
        (found.warnings if phase or spec.kind == "real" else found.errors).append(text)
    if sharper:
        found.warnings.append(
            f"LQ is sharper than GT in {counted(len(sharper), 'clip')} ({', '.join(sharper[:4])}): "
            "are the two swapped?"
        )


def _detail(frame: Frame) -> float:
    """Mean size of the Laplacian: how sharp, or noisy, a frame is."""
    import cv2

    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    return float(abs(cv2.Laplacian(grey, cv2.CV_32F)).mean())


def _compare(
    manifest: Path, layout: str, hashes: dict[str, Any], accept: bool, found: Findings
) -> None:
    """Hold the hashes against the manifest; write it where there is none of this layout yet."""
    held = dict[str, dict[str, Any]]()
    try:
        if manifest.is_file():
            held = convert(read_json(manifest), dict[str, dict[str, Any]], str(manifest))
    except UserError as error:
        raise DataError(error.message, "remove it to start over") from error
    old = held.get(layout, {}).get("clips")
    if old is not None and not accept:
        changed = [
            f"{name} ({side.upper()})"
            for name in sorted(set(old) & set(hashes))
            for side in ("lq", "gt")
            if old[name].get(side) != hashes[name].get(side)
        ]
        gone, new = sorted(set(old) - set(hashes)), sorted(set(hashes) - set(old))
        since = held[layout]["written"]
        for what, which in (("changed", changed), ("gone", gone), ("new", new)):
            if which:
                more = f" and {len(which) - 5} more" if len(which) > 5 else ""
                found.errors.append(
                    f"{what} since {since}: {', '.join(which[:5])}{more} "
                    "(if that is meant: --accept)"
                )
        if not (changed or gone or new):
            found.facts.append(f"hashes as on {since} ({manifest})")
        return
    written = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    held[layout] = {"written": written, "clips": hashes}
    with replace_atomically(manifest) as partial:
        partial.write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")
    found.facts.append(f"hashes of {counted(len(hashes), 'clip')} written to {manifest}")
