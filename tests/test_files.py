"""Files: whole or not at all, TOML, and hashes that are remembered while a file stays as it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vsrbench.core.errors import UserError
from vsrbench.core.files import content, list_below, read_toml, replace_atomically, shorten_name
from vsrbench.core.keys import sha256_file


def test_a_reader_sees_the_old_file_or_all_of_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "table.csv"
    with replace_atomically(path) as partial:
        partial.write_text("one")
        assert not path.exists()
    assert path.read_text() == "one"
    with replace_atomically(path) as partial:
        partial.write_text("half of tw")
        assert path.read_text() == "one"
        partial.write_text("two")
    assert path.read_text() == "two"

    def interrupted() -> None:
        with replace_atomically(path) as partial:
            partial.write_text("half of thr")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "two"
    assert [p.name for p in path.parent.iterdir()] == ["table.csv"]


@pytest.mark.parametrize("letter", ["a", "é", "視"])
def test_names_may_be_long(tmp_path: Path, letter: str) -> None:
    longest = letter * (255 // len(os.fsencode(letter)))
    with replace_atomically(tmp_path / longest) as partial:
        partial.write_text("text")
    assert [path.name for path in tmp_path.iterdir()] == [longest]
    names = {shorten_name(letter * 200 + end) for end in ("", "a", "b")}
    assert len(names) == 3
    assert all(name.startswith(letter) and len(os.fsencode(name)) <= 128 for name in names)
    assert shorten_name(letter * 40) == letter * 40


def test_links_and_devices_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with replace_atomically(tmp_path / "link") as partial:
        partial.write_text("text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "text"
    os.mkfifo(tmp_path / "pipe")
    with replace_atomically(tmp_path / "pipe") as partial:
        assert partial == tmp_path / "pipe"
    assert (tmp_path / "pipe").is_fifo()
    assert len(list(tmp_path.iterdir())) == 3


def test_toml_is_read_or_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    with pytest.raises(UserError, match=r"a\.toml cannot be read: No such file"):
        read_toml(path)
    path.write_text("a = 1\n[b]\nc = 'ä'\n", encoding="utf-8")
    assert read_toml(path) == {"a": 1, "b": {"c": "ä"}}
    for damaged in (b"a = = 1", b"a = '\xff'"):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="is not valid TOML") as caught:
            read_toml(path)
        assert "\n" not in str(caught.value)


def test_content_is_the_hash_of_what_lies_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VSRBENCH_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    big = folder / "sub" / "weights.pth"
    big.write_bytes(bytes(1 << 17))
    (folder / ".hidden").write_text("x")
    assert [name for name, _ in list_below(folder)] == ["sub/weights.pth"]
    seen = []
    for last in (b"\0", b"\1"):
        big.write_bytes(bytes((1 << 17) - 1) + last)  # of the same size
        os.utime(big, ns=(10**18, 10**18))  # and time
        assert content(big) == sha256_file(big)
        seen.append(content(folder))
    assert seen[0] != seen[1]
    (folder / ".hidden").write_text("y")
    folder.rename(tmp_path / "moved")
    assert content(tmp_path / "moved") == seen[1]
