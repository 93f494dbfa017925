"""The numbers in names of frames: their order, numbers that are there twice, and pairs.

A number may be padded with zeros, have a sign or decimals, and is hexadecimal where that counts
without a gap. What a hyphen or a point means shows only beside the other names of a folder: in
`t-1, t0, t1` it is a sign, in `clip-1, clip-2` a separator; `0.25, 0.5` are decimals, `v1.9, v1.10`
count the tenth picture of version 1. Names are compared in Unicode's form NFC, and the digits of
all scripts count.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import PurePath

from vsrbench.core.errors import DataError

_NUMBER = re.compile(r"(-?)([0-9]+(?:\.[0-9]+)*)")


@dataclass(frozen=True)
class _Name:
    """A stem, cut into the text around its numbers and the numbers."""

    stem: str
    texts: tuple[str, ...]
    """One more than there are numbers, without the hyphens that could be signs."""
    signs: tuple[bool, ...]
    """Whether a hyphen stands before the number."""
    whole: tuple[str, ...]
    """Digits before the point."""
    decimals: tuple[str, ...]
    """Digits after it; empty where there are none."""


Key = tuple[tuple[str | Fraction | int, ...], str]
"""Text and numbers in turn, then the whole name."""


def sort_by_number(names: Sequence[str]) -> list[str]:
    """File names of one folder, sorted by the numbers in them: frame2 before frame10."""
    if counted := _hexadecimal(names):
        return [counted[number] for number in sorted(counted)]
    keys = dict(zip(names, _keys(names), strict=True))
    return sorted(names, key=lambda name: keys[name])


def _hexadecimal(names: Sequence[str]) -> dict[int, str]:
    """Number -> name, where names count without a gap in hexadecimal digits; else nothing."""
    ends = _bare(names)
    if len({len(end) for end in ends}) != 1 or not re.search("[a-fA-F]", "".join(ends)):
        return {}
    if not all(re.fullmatch("[0-9a-fA-F]+", end) for end in ends):
        return {}
    found = {int(end, 16): name for end, name in zip(ends, names, strict=True)}
    gapless = len(found) == len(names) == max(found) - min(found) + 1
    return found if gapless and any(end.isdigit() for end in ends) else {}


def find_duplicate(names: Sequence[str]) -> tuple[str, str] | None:
    """Two names of a folder that stand for the same frame; None when there are none.

    Such are 0001.png and 0001.jpg, 1.png and 01.png, 0001.png and its copy `0001 (1).png`, and two
    series with the same numbers, such as left_1.png and right_1.png.
    """
    by_number: dict[object, str] = {}
    series: dict[tuple[str, ...], dict[object, str]] = defaultdict(dict)
    cut = _cut(names)
    for name, (values, _), parts in zip(names, _keys(names), cut, strict=True):
        if values in by_number:
            return by_number[values], name
        by_number[values] = name
        if parts.whole:
            series[_shape(parts)][values[1::2]] = name
    stems = {parts.stem: name for name, parts in zip(names, cut, strict=True)}
    for name, parts in zip(names, cut, strict=True):
        for at in range(1, len(parts.stem)):
            head, rest = parts.stem[:at], parts.stem[at:]
            if head in stems and head[-1].isdigit() and not re.match(r"[0-9]|\.[0-9]", rest):
                return stems[head], name
    counted = [members for members in series.values() if len(members) > 1]
    for i, one in enumerate(counted):
        for other in counted[:i]:
            if shared := [values for values in other if values in one]:
                return other[shared[0]], one[shared[0]]
    return None


def explain_mismatch(first: Sequence[str], second: Sequence[str], titles: tuple[str, str]) -> str:
    """Why the frames of two clips do not pair in their order, by number; empty when they do.

    first, second: names of the frames in order, of equal number or not; () for a side without
    numbers, such as a video. A constant offset between both is allowed, and so is a side that
    counts without a gap against one without numbers. titles: what the sides are called.
    """
    columns = (_columns(first), _columns(second))
    if not any(columns):
        return _other_names(first, second, titles)
    if all(columns):
        if _constant(*columns) or (_gapless(columns[0]) and _gapless(columns[1])):
            return ""
        return _list_unpaired(first, second, columns, titles)
    at = 0 if columns[0] else 1
    if _is_regular(columns[at]):
        return ""
    lost = _find_first_gap(columns[at], (first, second)[at])
    return f"{titles[at]} has no frame {lost}, and {titles[1 - at]} is not numbered"


def find_gaps(names: Sequence[str]) -> list[str]:
    """The numbers that a folder lacks between its first and its last frame, at most five.

    None where most are missing: every Nth frame, or numbers that mean something else.
    """
    columns = _columns(names)
    if not columns:
        return []
    counter = min(columns, key=lambda c: max(c) - min(c))
    here = {int(v) for v in counter if v.denominator == 1}
    whole = range(min(here, default=0), max(here, default=-1) + 1)
    if len(here) < len(counter) or len(whole) > 2 * len(counter):
        return []
    return [_like(names, n) for n in whole if n not in here][:5]


def _cut(names: Iterable[str]) -> list[_Name]:
    found = []
    for name in names:
        stem = PurePath(_plain(name)).stem
        texts, signs, whole, decimals, end = [], [], [], [], 0
        for match in _NUMBER.finditer(stem):
            first, *rest = match[2].split(".")
            texts.append(stem[end : match.start()])
            signs.append(bool(match[1]))
            whole.append(first)
            decimals.append(rest[0] if len(rest) == 1 else "")
            if len(rest) > 1:  # a date or a version
                texts += ["."] * len(rest)
                signs += [False] * len(rest)
                whole += rest
                decimals += [""] * len(rest)
            end = match.end()
        texts.append(stem[end:])
        found.append(_Name(stem, tuple(texts), tuple(signs), tuple(whole), tuple(decimals)))
    return found


def _plain(name: str) -> str:
    """A name in NFC, with the digits of all scripts and the true minus sign as in ASCII."""
    text = unicodedata.normalize("NFC", name).replace("\u2212", "-")
    if text.isascii():
        return text
    return "".join(str(unicodedata.decimal(c, c)) for c in text)


def _shape(name: _Name) -> tuple[str, ...]:
    return name.texts


def _keys(names: Sequence[str]) -> list[Key]:
    """One sort key a name, hyphens and points read as the whole folder suggests."""
    cut = _cut(names)
    alike: dict[tuple[str, ...], list[_Name]] = defaultdict(list)
    for name in cut:
        alike[_shape(name)].append(name)
    signed = {
        shape: [_is_sign(shape, i, {n.signs[i] for n in group}) for i in range(len(shape) - 1)]
        for shape, group in alike.items()
    }
    counts = {
        shape: [
            not (signed[shape][i] and any(n.signs[i] for n in group))
            and _is_counter([(n.whole[i], n.decimals[i]) for n in group])
            for i in range(len(shape) - 1)
        ]
        for shape, group in alike.items()
    }
    keys: list[Key] = []
    for raw, name in zip(names, cut, strict=True):
        shape = _shape(name)
        parts: list[str | Fraction | int] = []
        for i, text in enumerate(name.texts[:-1]):
            minus = name.signs[i] and signed[shape][i]
            hyphen = "-" if name.signs[i] and not minus else ""
            if name.decimals[i] and not counts[shape][i]:
                value = Fraction(f"{name.whole[i]}.{name.decimals[i]}")
                parts += [text + hyphen, -value if minus else value]
            else:
                value = Fraction(int(name.whole[i]))
                parts += [text + hyphen, -value if minus else value]
                if name.decimals[i]:
                    parts += [".", Fraction(int(name.decimals[i]))]
        keys.append(((*parts, name.texts[-1]), raw))
    return keys


def _is_sign(texts: tuple[str, ...], at: int, hyphens: set[bool]) -> bool:
    """Whether a hyphen makes the number after text `at` negative."""
    before = texts[at]
    return hyphens == {True, False} or (before[-1] in "_=([," if before else at == 0)


def _is_counter(values: Sequence[tuple[str, str]]) -> bool:
    """Whether the digits after the point count by themselves: they do so nearly without a gap."""
    pairs = {(whole, part) for whole, part in values if part}
    numbers = {int(part) for _, part in pairs}
    padded = any(part[0] == "0" < part for _, part in pairs)
    if len(numbers) < 2 or (padded and len({len(part) for _, part in pairs}) > 1):
        return False
    equal = len({Fraction(f"{whole}.{part}") for whole, part in pairs}) < len(pairs)
    one = len({whole for whole, _ in pairs}) == 1 and len(pairs) == len(values)
    # No number ends in a zero where others have fewer decimals.
    tens = any(part[-1] == "0" != part for _, part in pairs)
    return (equal or one or tens) and max(numbers) - min(numbers) < 2 * len(numbers)


def _columns(names: Sequence[str]) -> list[list[Fraction]]:
    """The numbers that differ from name to name, one list a place; [] where there are none.

    Of a folder with names of several kinds, only the last number of each, if all have one.
    """
    if not names:
        return []
    keys = [values for values, _ in _keys(names)]
    numbers = [[v for v in values[1::2] if isinstance(v, Fraction)] for values in keys]
    if len({values[::2] for values in keys}) > 1:
        return [[n[-1] for n in numbers]] if all(numbers) else []
    columns = [list(column) for column in zip(*numbers, strict=True)]
    varying = [column for column in columns if len(set(column)) > 1]
    return varying or columns[-1:]


def _constant(first: list[list[Fraction]], second: list[list[Fraction]]) -> bool:
    """Whether the numbers differ by the same offset in all frames that both sides have."""
    if len(first) == len(second):
        return all(_offset(a, b) for a, b in zip(first, second, strict=True))
    return any(_offset(a, b) for a in first for b in second)


def _offset(first: list[Fraction], second: list[Fraction]) -> bool:
    return (
        len(first) == len(second) and len({a - b for a, b in zip(first, second, strict=True)}) < 2
    )


def _steps(columns: list[list[Fraction]]) -> list[list[Fraction]]:
    """How each number goes on from frame to frame; the last one also within equal others."""
    steps = [[b - a for a, b in pairwise(column)] for column in columns]
    rows = pairwise(zip(*columns, strict=True))
    within = [b[-1] - a[-1] for a, b in rows if a[:-1] == b[:-1]]
    return [*steps, within] if 2 * len(within) >= len(columns[0]) else steps


def _gapless(columns: list[list[Fraction]]) -> bool:
    """Whether one of the numbers goes up by 1 from frame to frame."""
    return any(set(steps) <= {1} for steps in _steps(columns))


def _is_regular(columns: list[list[Fraction]]) -> bool:
    """Whether one of the numbers goes up by a constant step, which two frames alone do not show."""
    return _gapless(columns) or any(len(s) > 1 == len(set(s)) for s in _steps(columns))


def _find_first_gap(columns: list[list[Fraction]], names: Sequence[str]) -> str:
    """The first number that is missing where the usual step is not kept."""
    column = columns[-1]
    steps = [b - a for a, b in pairwise(column)]
    usual = max(set(steps), key=lambda step: (steps.count(step), -abs(step)))
    if len(set(steps)) == 1:  # two frames, which show no step
        usual = Fraction(1)
    at = next(i for i, step in enumerate(steps) if step != usual)
    return _like(names, column[at] + usual)


def _list_unpaired(
    first: Sequence[str],
    second: Sequence[str],
    columns: tuple[list[list[Fraction]], list[list[Fraction]]],
    titles: tuple[str, str],
) -> str:
    """The frames that only one side has, once the offset that fits most frames is taken off."""
    a, b = columns[0][-1], columns[1][-1]
    offsets = [x - y for x, y in zip(a, b, strict=False)]
    shift = max(offsets, key=lambda o: (len(set(a) & {y + o for y in b}), o == 0))
    only = (
        [_like(first, x) for x in sorted(set(a) - {y + shift for y in b})],
        [_like(second, y) for y in sorted(set(b) - {x - shift for x in a})],
    )
    says = [
        f"{', '.join(some[:3])}{' and more' if len(some) > 3 else ''} only in {title}"
        for some, title in zip(only, titles, strict=True)
        if some
    ]
    if says:
        return "frame " + ", frame ".join(says)
    at = next(i for i, offset in enumerate(offsets) if offset != offsets[0])
    return f"{titles[0]} has {first[at]} where {titles[1]} has {second[at]}"


def _other_names(first: Sequence[str], second: Sequence[str], titles: tuple[str, str]) -> str:
    """Names without numbers must be the same, up to what all of a side begin or end with."""
    a, b = _bare(first), _bare(second)
    if not a or not b or a == b or len(a) != len(b):
        return ""
    at = next(i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)
    return f"{titles[0]} has {first[at]} where {titles[1]} has {second[at]}"


def _bare(names: Sequence[str]) -> list[str]:
    stems = [name.stem for name in _cut(names)]
    if len(stems) < 2:
        return []
    head = len(_common(stems))
    tail = len(_common([stem[head:][::-1] for stem in stems]))
    return [stem[head : len(stem) - tail] for stem in stems]


def _common(texts: Sequence[str]) -> str:
    low, high = min(texts), max(texts)
    at = next((i for i, c in enumerate(low) if i >= len(high) or c != high[i]), len(low))
    return low[:at]


def _like(names: Sequence[str], number: Fraction | int) -> str:
    """A number, padded as in these names."""
    if Fraction(number).denominator != 1:
        return f"{float(number):g}"
    parts = _cut(names[:1])[0].whole
    return f"{int(number):0{len(parts[-1]) if parts and parts[-1][0] == '0' else 1}d}"


def refuse_duplicate(names: Sequence[str], where: object) -> None:
    """Raise DataError when a folder holds a frame twice."""
    if both := find_duplicate(names):
        raise DataError(
            f"{where} holds a frame twice: {both[0]} and {both[1]}",
            "keep one of the two, or put each series into a folder of its own",
        )
