"""Order and pairs of frames by the numbers in their names."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vsrbench.data.numbering import explain_mismatch, find_duplicate, find_gaps, sort_by_number

TITLES = ("outputs", "GT")


def png(text: str) -> list[str]:
    return [f"{stem}.png" for stem in text.split()]


@pytest.mark.parametrize(
    "ordered",
    [
        "frame1 frame2 frame10",
        "t-10 t-2 t-1 t0 t1 t2 t10",  # a sign
        "-3 -2 -1 0 1",
        "-3 -2 -1",
        "x_-2 x_-1 x_0",
        "clip-1 clip-2 clip-10",  # a separator
        "2024-01-31_2 2024-01-31_10 2024-02-01_1",
        "0.25 0.5 0.75 1.0 10.5",  # decimals
        "0.0 0.05 0.1 0.15 0.2",
        "0.0 0.01 0.02 0.1 0.11",
        "-1.5 -0.5 0.0 1",
        "v1.8 v1.9 v1.10 v1.11",  # counts
        "s1.8 s1.9 s1.10 s2.7 s2.8 s2.9 s2.10",
        "shot.0001 shot.0002 shot.0010",
        "1.2.9 1.2.10",
        "1341846313.592026 1341846313.654184 1341846314.001",
        "f08 f09 f0a f0b f0c f0d f0e f0f f10 f11",  # hexadecimal
        "x_0e_lq x_0f_lq x_10_lq",
        "１ ２ １０",  # digits of other scripts
        "a٣ a٤ a١٠",
        "\u22122 \u22121 0 1",  # the true minus sign
    ],
)
def test_natural_order(ordered: str) -> None:
    names = png(ordered)
    assert sort_by_number(names[::-1]) == names
    assert sort_by_number(sorted(names)) == names
    assert find_duplicate(names) is None


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.decimals(-50, 50, places=2), min_size=3, unique=True))
def test_decimals_and_negatives_are_numbers(values: list[object]) -> None:
    names = {f"t_{v}.png": v for v in values}
    assert sort_by_number(list(names)) == sorted(names, key=lambda n: names[n])  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    ("names", "both"),
    [
        (["0000.png", "0000.jpg", "0001.png"], {"0000.png", "0000.jpg"}),
        (["1.png", "01.png"], {"1.png", "01.png"}),
        (["0001.png", "0001 (1).png", "0002.png"], {"0001.png", "0001 (1).png"}),
        (["0001.png", "0001_copy.png"], {"0001.png", "0001_copy.png"}),
        (["left_1.png", "left_2.png", "right_1.png", "right_2.png"], {"left_1.png", "right_1.png"}),
        (["0.5.png", "0.50.png", "1.0.png"], {"0.5.png", "0.50.png"}),
        (["１.png", "1.png", "2.png"], {"１.png", "1.png"}),
        (["é1.png", unicodedata.normalize("NFD", "é1.jpg")], None),
    ],
)
def test_numbers_that_are_there_twice(names: list[str], both: set[str] | None) -> None:
    assert set(find_duplicate(names) or ()) == (both or set(names))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("0 1 2", "1 2 3"),  # a constant offset
        ("0000 0001", "im1 im2"),
        ("0 2 4", "0 2 4"),  # the same gaps on both sides
        ("0 1 3", "1 2 4"),
        ("0 1 3 4", "000 001 003 004"),
        ("f1_x4 f2_x4 f3_x4", "1 2 3"),
        ("-1 0 1", "0 1 2"),
        ("0.5 1.0 1.5", "0.5 1.0 1.5"),
        ("s1_f1 s1_f2 s2_f1 s2_f2", "s1_f1 s1_f2 s2_f1 s2_f2"),
        ("0001_171 0002_175 0003_178", "0 1 2"),  # a counter and a time
        ("5", "9"),
        ("a b c", "a b c"),
        ("a_sr b_sr", "a b"),
        ("a b", "1 2"),
    ],
)
def test_frames_that_pair(first: str, second: str) -> None:
    assert explain_mismatch(png(first), png(second), TITLES) == ""
    assert explain_mismatch(png(second), png(first), TITLES) == ""


@pytest.mark.parametrize(
    ("first", "second", "text"),
    [
        ("0 2 3", "0 1 2", "frame 1 only in GT"),
        ("0 2 3 4", "0 1 2 4", "frame 3 only in outputs, frame 1 only in GT"),
        ("0001 0002 0004", "0001 0002 0003 0004", "frame 0003 only in GT"),
        ("0 2 4", "0 1 2", "frame 4 only in outputs, frame 1 only in GT"),
        ("-1 0 2", "0 1 2", "only in"),
        ("1 3 4", "5 6 8", "only in"),
        ("0.5 1.0 2.0", "0.5 1.0 1.5", "frame 2 only in outputs, frame 1.5 only in GT"),
        ("a b c", "a b d", "outputs has c.png where GT has d.png"),
    ],
)
def test_frames_that_do_not_pair_are_named(first: str, second: str, text: str) -> None:
    assert text in explain_mismatch(png(first), png(second), TITLES)


def test_a_video_has_no_numbers_and_no_gaps() -> None:
    for whole in ("0 1 2", "7 8 9", "0 10 20 30", "s1_f1 s1_f2 s2_f1 s2_f2", "a b c", "5"):
        assert (
            explain_mismatch(png(whole), (), TITLES)
            == explain_mismatch((), png(whole), TITLES)
            == ""
        )
    assert (
        explain_mismatch(png("0 1 3 4"), (), TITLES)
        == "outputs has no frame 2, and GT is not numbered"
    )
    assert "GT has no frame 001" in explain_mismatch((), png("000 002"), TITLES)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.integers(0, 400), min_size=2, max_size=20, unique=True),
    st.integers(0, 1000),
    st.integers(1, 8),
)
def test_what_one_side_lacks_is_found(numbers: list[int], offset: int, digits: int) -> None:
    numbers.sort()
    first = [f"{n:0{digits}d}.png" for n in numbers]
    second = [f"x{n + offset}.png" for n in numbers]
    assert explain_mismatch(first, second, TITLES) == ""
    for k in range(1, len(numbers) - 1):
        less = [*first[:k], *first[k + 1 :]]
        assert explain_mismatch(less, second, TITLES)
        # One frame less on each side, and not the same: equal numbers of frames mispair.
        other = [*second[: k - 1], *second[k:]]
        if k > 1:
            assert explain_mismatch(less, other, TITLES)


def test_gaps_of_a_folder() -> None:
    assert find_gaps(png("0001 0002 0004 0006")) == ["0003", "0005"]
    assert find_gaps(png("3 4 5")) == []
    assert find_gaps(png("0 10 20 30")) == []  # every tenth
    assert find_gaps(png("a b")) == []
