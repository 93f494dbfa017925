"""Outputs of others as clips: which file is which clip, and where its frames lie in GT.

Nothing is compared that is not known to show the same: outputs of another size or length are
refused with what could be found out about them, unless a policy or an alignment says what to do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vsrbench.core.config import convert
from vsrbench.core.errors import DataError, UserError, unknown_name
from vsrbench.core.files import read_toml
from vsrbench.core.keys import digest
from vsrbench.core.progress import counted, note
from vsrbench.core.types import Clip, DatasetSpec, size_text
from vsrbench.data import frames
from vsrbench.data.datasets import (
    Dataset,
    check_pairs,
    clips_below,
    make_adhoc_spec,
    open_source,
)
from vsrbench.data.selection import WHOLE, Selection, refuse_unknown

if TYPE_CHECKING:
    from vsrbench.core.types import Frame, Size

Policy = Literal["refuse", "center", "topleft"]
"""What to do about outputs of another size than GT: refuse, or crop both to the common size."""
Box = tuple[int, int, int, int]
"""x, y, width, height in GT px."""


@dataclass(frozen=True)
class Convention:
    """What the published inference script of a method does to names, sizes and lengths."""

    multiple_of: int = 1
    """The size of GT is cut to a multiple of this, about the centre, px."""
    period: int = 1
    """A clip, its last frame repeated `repeats` times, is cut to `period` * n + 1 frames ..."""
    repeats: int = 0
    """... of which the last `repeats` do not come back."""
    name: str = r"(.+)"
    """Regular expression of the output's name without suffix; group 1 is the clip."""

    def box(self, gt: Size) -> Box:
        """The part of GT that its outputs show."""
        h, w = (side - side % self.multiple_of for side in gt)
        return (gt[1] - w) // 2, (gt[0] - h) // 2, w, h

    def length(self, count: int) -> int:
        """Frames that come back of `count`."""
        return (count + self.repeats - 1) // self.period * self.period + 1 - self.repeats


CONVENTIONS: Mapping[str, Convention] = {
    "dove": Convention(),
    "seedvr2": Convention(multiple_of=16),
    "flashvsr": Convention(
        multiple_of=128,
        period=8,
        repeats=4,
        name=r"FlashVSR(?:_v[\d.]+)?_(?:Full|Tiny_Long|Tiny)_(.+)_seed\d+",
    ),
}
"""As read in the scripts of the authors. DOVE pads, and takes the padding off again."""


@dataclass(frozen=True)
class Placement:
    """Where the outputs of one clip lie in GT."""

    crop: Box | None = None
    """The box of GT that they show; None for all of it."""
    frames: str | tuple[int, ...] = ":"
    """GT frame of each output: a slice such as 0:29, or the numbers."""


@dataclass(frozen=True)
class Alignment:
    """Where the outputs of a method lie in GT, for all clips."""

    convention: Convention | None = None
    """Rule that places every clip; None to go by `default` and `clips`."""
    default: Placement = Placement()
    """Clips without an entry of their own."""
    clips: Mapping[str, Placement] = field(default_factory=dict)
    """Clips that differ."""

    def place(self, clip: str, size: Size, count: int) -> tuple[Box, list[int]]:
        """(box of GT, GT frame of each output) for a clip of GT `size` and `count` frames."""
        if self.convention is not None:
            return self.convention.box(size), list(range(self.convention.length(count)))
        placement = self.clips.get(clip, self.default)
        box = placement.crop or (0, 0, size[1], size[0])
        if isinstance(placement.frames, str):
            return box, list(range(count)[_slice(placement.frames)])
        return box, list(placement.frames)


def _slice(text: str) -> slice:
    """`start:stop:step` as in Python. Raises UserError."""
    parts = text.split(":")
    if not 2 <= len(parts) <= 3 or not all(re.fullmatch(r"-?\d*", p) for p in parts):
        raise UserError(
            f"'{text}' is not a slice of frames", "write it as 0:29, or list the numbers"
        )
    return slice(*(int(p) if p else None for p in parts))


def read_alignment(name: str) -> Alignment:
    """The alignment of a convention, or of a TOML file. Raises UserError.

    The file holds `convention = "seedvr2"`; or `crop = [x, y, width, height]` in GT px and
    `frames = "0:29"` (or a list of numbers), where a table [clips.NAME] may differ.
    """
    if name in CONVENTIONS:
        return Alignment(CONVENTIONS[name])
    path = Path(name)
    if not path.is_file():
        raise unknown_name(
            "convention", name, CONVENTIONS, "or the path of an alignment file (TOML)"
        )
    table = read_toml(path)
    rule = table.pop("convention", None)
    if rule is not None:
        if rule not in CONVENTIONS or table:
            raise UserError(
                f"{path}: convention '{rule}'" + (" stands beside other fields" if table else ""),
                f"one of {', '.join(CONVENTIONS)}, alone; or crop and frames",
            )
        return Alignment(CONVENTIONS[rule])
    clips = table.pop("clips", {})
    default = _placement(table, path)
    if not isinstance(clips, dict):
        raise UserError(f"{path}: clips is not a table", "write [clips.NAME]")
    return Alignment(None, default, {c: _placement(t, path, default) for c, t in clips.items()})


def _placement(table: Any, path: Path, default: Placement | None = None) -> Placement:
    default = default or Placement()
    if not isinstance(table, dict):
        raise UserError(f"{path}: {table!r} is not a table", "write crop and frames")
    if stray := set(table) - {"crop", "frames"}:
        raise UserError(
            f"{path}: {unknown_name('field', stray.pop(), ['crop', 'frames', 'clips'])}"
        )
    where = f"{path}: "
    crop = convert(table.get("crop", default.crop), tuple[int, ...] | None, f"{where}crop")
    which = convert(table.get("frames", default.frames), str | tuple[int, ...], f"{where}frames")
    numbers = [*(crop or ()), *(() if isinstance(which, str) else which)]
    if not all(type(n) is int and n >= 0 for n in numbers) or (crop and len(crop) != 4):
        raise UserError(
            f"{path}: crop {crop} and frames {which} are not whole numbers, 0 or more",
            "crop = [x, y, width, height] in GT px, frames = [0, 1, ...] or a slice",
        )
    if isinstance(which, str):
        _slice(which)
    return Placement(
        tuple(crop) if crop else None, which if isinstance(which, str) else tuple(which)
    )


@dataclass(frozen=True)
class ScoringPolicy:
    """What to do where outputs and targets differ, and what to score."""

    policy: Policy = "refuse"
    """Outputs of another size."""
    shortest: bool = False
    """Outputs of another length: score the frames that both have, counted from the first."""
    rule: str = "all"
    """`all`, `first-mid-last` (frames 0, n // 2, n - 1) or `stride:N` (every Nth from 0)."""
    border_px: int | None = None
    """Cut from each side before per-frame metrics; None for that of the dataset."""
    alignment: Alignment | None = None
    """Where outputs lie in GT; goes before `policy` and `shortest`."""
    names: str = ""
    """Pattern of output names with `{clip}`; empty for the known conventions."""
    need_lq: bool = True
    """A crop that does not fall on whole LQ pixels is refused; else LQ is left out."""


def open_outputs(
    path: Path,
    targets: Dataset | Path | None,
    rules: ScoringPolicy | None = None,
    selection: Selection = WHOLE,
) -> Dataset:
    """Outputs that exist already, as the clips of `targets` with their frames attached.

    path: a video, a folder of frames, or a folder of clips. targets: LQ with or without GT, the
    path of GT alone, or None to score the outputs by themselves. selection: the clips that are
    wanted, as which a Dataset is opened; outputs of others are passed over. A clip that cannot be
    paired stays as a named error, unless it is the only one. Raises MissingError, DataError,
    UserError.
    """
    rules = rules or ScoringPolicy()
    found = clips_below(path, note)
    single = list(found.values()) == [path]
    if isinstance(targets, Dataset):
        spec, clips, broken, names = targets.spec, targets.clips, targets.broken, targets.names
    else:
        spec, clips, broken = make_adhoc_spec(targets or path, "real", 0), [], {}
        there = clips_below(targets, note) if targets else found
        names = tuple(there)
        for name, place in selection.choose(there).items():
            try:
                clips.append(_bare_clip(spec, name, place, "gt" if targets else "outputs"))
            except UserError as error:
                broken[name] = error
    refuse_unknown(selection, names)
    known = [*(c.name for c in clips), *broken]
    unpaired: dict[str, UserError] = {}
    if single and len(known) == 1:
        found = dict.fromkeys(known, path)
    elif targets is not None:
        found, unpaired = _group_by_clip(found, [*known, *names], rules.names)
    left_out = set(names) - set(known)
    unpaired = {name: error for name, error in unpaired.items() if name not in left_out}
    attached: list[Clip] = []
    absent: list[str] = []
    for clip in clips:
        if clip.name in unpaired:
            continue
        if clip.name not in found:
            absent.append(clip.name)
            continue
        try:
            attached.append(_attach(clip, found[clip.name], rules))
        except UserError as error:
            unpaired[clip.name] = error
    if absent:
        unpaired |= dict.fromkeys(absent, _explain_absent(absent, spec.name, path, found))
    for name in sorted(set(found) - set(known) - left_out - set(unpaired)):
        unpaired[name] = DataError(
            f"outputs {found[name]} match no clip of {spec.name}",
            f"clips there: {', '.join(sorted(c.name for c in clips)[:5])}; "
            "other names: --names 'PREFIX_{clip}_SUFFIX'",
        )
    if single and not attached:
        raise next(iter([*broken.values(), *unpaired.values()]))
    return Dataset(spec, attached, broken, unpaired=unpaired)


def _explain_absent(names: Sequence[str], of: str, path: Path, found: Iterable[str]) -> DataError:
    """The error for clips without outputs: one for all of them."""
    which = (
        f"clip '{names[0]}' of {of} has" if len(names) == 1 else f"{len(names)} clips of {of} have"
    )
    return DataError(
        f"{which} no outputs of the same name in {path}",
        f"outputs here: {', '.join(sorted(found)[:5])}; a part of the clips: --clips or --limit",
    )


def _group_by_clip(
    found: Mapping[str, Path], known: Sequence[str], pattern: str
) -> tuple[dict[str, Path], dict[str, UserError]]:
    """(clip -> its outputs, by the names of the known conventions; clips claimed twice)."""
    if pattern and "{clip}" not in pattern:
        raise UserError(f"--names '{pattern}' does not say where the clip is", "write {clip} there")
    own = re.escape(pattern).replace(r"\{clip\}", "(.+)")
    forms = [own] if pattern else [c.name for c in CONVENTIONS.values()]
    by_clip: dict[str, Path] = {}
    twice: dict[str, UserError] = {}
    for name, path in found.items():
        matches = (re.fullmatch(form, name) for form in forms)
        clip = next((m[1] for m in matches if m and m[1] in known), name)
        if clip in by_clip:
            twice[clip] = DataError(
                f"clip '{clip}' has two outputs: {by_clip[clip]} and {path}", "keep one of them"
            )
        by_clip[clip] = path
    return by_clip, twice


def _attach(clip: Clip, path: Path, rules: ScoringPolicy) -> Clip:
    """The clip with outputs, all its frames cut down to what is to be scored."""
    outputs = open_source(path, note)
    target = clip.gt if clip.gt is not None else clip.lq
    titles = "outputs", "LQ" if clip.gt is None else "GT"
    scale = clip.scale or 1
    want: Size = (clip.size[0] * scale, clip.size[1] * scale)
    at_outputs: Size = (0, 0)
    if rules.alignment is not None:
        (x, y, w, h), numbers = rules.alignment.place(clip.name, want, clip.count)
        at, common, how = (y, x), (h, w), f"{w}x{h} px at x {x}, y {y}"
        inside = x + w <= want[1] and y + h <= want[0] and max(numbers, default=0) < clip.count
        if not inside or outputs.size != common or len(outputs) != len(numbers):
            raise DataError(
                f"clip '{clip.name}': the alignment puts {counted(len(numbers), 'frame')} of "
                f"{how} into {counted(clip.count, 'frame')} of {size_text(want)} px, and outputs "
                f"{path} are {counted(len(outputs), 'frame')} of {size_text(outputs.size)} px",
                "is it the alignment of these outputs?",
            )
        check_pairs(clip.name, outputs, target, titles, numbers)
    else:
        if target:
            check_pairs(clip.name, outputs, target, titles)
        shorter = len(outputs) != clip.count and not rules.shortest
        if shorter or (outputs.size != want and rules.policy == "refuse"):
            raise _mismatch(clip, outputs, path, want)
        common = (min(outputs.size[0], want[0]), min(outputs.size[1], want[1]))
        at, how = _corner(want, common, rules.policy), rules.policy
        at_outputs = _corner(outputs.size, common, rules.policy)
        numbers = list(range(min(len(outputs), clip.count)))
    lq = clip.lq
    if lq and any(side % scale for side in (*at, *common)):
        if rules.need_lq:
            raise DataError(
                f"clip '{clip.name}': the crop to {size_text(common)} px at ({at[1]}, {at[0]}) "
                f"does not fall on whole LQ pixels at x{scale}",
                "score against GT alone: --gt without --lq",
            )
        lq, scale = (), 1
    border = clip.border_px if rules.border_px is None else rules.border_px
    if 2 * border >= min(common) or (lq and border % scale):
        raise UserError(
            f"a border of {border} px does not fit frames of {size_text(common)} px at x{scale}",
            "with LQ it is a multiple of the scale, and something must be left to score",
        )
    chosen = frame_numbers(rules.rule, len(numbers))
    targets = [numbers[i] for i in chosen]
    cut: dict[str, Any] = {"frames": rules.rule} if len(chosen) < len(numbers) else {}
    if len(numbers) < clip.count or len(outputs) != len(numbers):
        if numbers == list(range(numbers[0], numbers[-1] + 1)):
            cut["span"] = [numbers[0], numbers[-1], clip.count]
        else:
            cut["frames"] = f"alignment {numbers}"
    cut |= {"crop": how} if common != want or outputs.size != common else {}
    window = [*at, *common] if "crop" in cut else []
    own = [*at_outputs, *common] if "crop" in cut else []
    size: Size = (common[0] // scale, common[1] // scale)
    corner: Size = (at[0] // scale, at[1] // scale)
    left_out = (
        {"lq": "left out, the crop does not fall on its pixels"} if clip.lq and not lq else {}
    )
    return replace(
        clip,
        count=len(chosen),
        size=size,
        scale=clip.scale if lq or not clip.lq else 0,
        digest=digest([clip.digest, cut | left_out, window]) if cut else clip.digest,
        lq=View(lq, targets, corner, size) if lq and cut else lq,
        gt=View(clip.gt, targets, at, common) if clip.gt is not None and cut else clip.gt,
        flow=None if cut else clip.flow,
        border_px=border,
        outputs=View(outputs, chosen, at_outputs, common) if cut else outputs,
        outputs_digest=digest([frames.digest(outputs), own]),
        protocol={
            **clip.protocol,
            **cut,
            **left_out,
            **({} if border == clip.border_px else {"border_px": border}),
        },
    )


def _mismatch(clip: Clip, outputs: frames.FrameSource, path: Path, want: Size) -> DataError:
    """The error for outputs of another size or length, with what could be found out about them."""
    other = clip.gt if clip.gt is not None else clip.lq
    there = getattr(other, "path", f"clip '{clip.name}' of {clip.dataset}")
    times = "" if clip.gt is not None else f" x{clip.scale or 1}"
    count = len(outputs)
    place = _locate(outputs, clip, want)
    says = []
    if count != clip.count:
        text = f"have {counted(count, 'frame')}, {there} has {clip.count}"
        if count < clip.count:
            first = f", their first one fits frame {place[0]}" if place else ""
            text += f" ({clip.count - count} short{first})"
        says.append(text)
    if outputs.size != want:
        text = f"are {size_text(outputs.size)} px, {there}{times} is {size_text(want)} px"
        about = []
        for multiple in (*(c.multiple_of for c in CONVENTIONS.values()), 8, 32, 64):
            if outputs.size == (want[0] - want[0] % multiple, want[1] - want[1] % multiple):
                about.append(f"cropped to multiples of {multiple}")
                break
        if place:
            centre, corner = _corner(want, outputs.size, "center"), (0, 0)
            spot = {corner: ", the top left", centre: ", the centre"}.get(place[1:], "")
            about.append(f"they fit at x {place[2]}, y {place[1]}{spot}")
        says.append(text + (f" ({'; '.join(about)})" if about else ""))
    fitting = [
        name
        for name, c in CONVENTIONS.items()
        if c.box(want)[:1:-1] == outputs.size and c.length(clip.count) == count
    ]
    hint = "pair them frame by frame and whole, or say how they lie: --align FILE"
    if fitting:
        hint = f"as {fitting[0]} does it: --align {fitting[0]} undoes it"
    elif count == clip.count:
        hint = "score whole frames, or say how they lie: --align FILE; or crop both to what they "
        hint += "share: --policy center or topleft"
    return DataError(f"clip '{clip.name}': outputs {path} {' and '.join(says)}", hint)


def _locate(outputs: frames.FrameSource, clip: Clip, want: Size) -> tuple[int, int, int] | None:
    """(frame, y, x) of GT at which the first output fits best; None where nothing fits well."""
    import cv2

    if clip.gt is None or outputs.size[0] > want[0] or outputs.size[1] > want[1]:
        return None
    try:
        first = cv2.cvtColor(outputs[0], cv2.COLOR_RGB2GRAY)
        best = (0.5, (0, 0, 0))  # correlations below that of the first are chance
        for frame in range(min(max(clip.count - len(outputs), 0) + 1, 16, clip.count)):
            gt = cv2.cvtColor(clip.gt[frame], cv2.COLOR_RGB2GRAY)
            _, score, _, (x, y) = cv2.minMaxLoc(cv2.matchTemplate(gt, first, cv2.TM_CCOEFF_NORMED))
            if score > best[0]:
                best = (score, (frame, y, x))
    except UserError:
        return None
    return best[1] if best[0] > 0.5 else None


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
        raise unknown_name("frame rule", rule, ["all", "first-mid-last", "stride:N"])
    return list(range(count))


def _corner(size: Size, common: Size, policy: Policy) -> Size:
    """(row, column) at which the common window begins."""
    if policy != "center":
        return 0, 0
    return (size[0] - common[0]) // 2, (size[1] - common[1]) // 2


def _bare_clip(spec: DatasetSpec, name: str, path: Path, what: str) -> Clip:
    """A clip without LQ: GT alone (`gt`), or nothing but outputs (`outputs`)."""
    source = open_source(path, note)
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
