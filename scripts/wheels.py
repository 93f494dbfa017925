"""Wheels of what a machine without a package registry lacks, gathered where there is one.

`pip list --format=freeze > have.txt` on that machine, then here

    python scripts/wheels.py --have have.txt --to build/wheels

fetches what vsrbench and the extras named need beyond that list, at the versions of
constraints.txt, and what those need in turn. There, from the checkout:

    pip install --no-index --no-deps --target site build/wheels/*.whl
    PYTHONPATH=site python scripts/gpu_check.py
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable, Mapping
from email.parser import Parser
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
GLIBC = range(5, 40)
"""Versions 2.N of the C library whose wheels are taken, newest first; pip matches them exactly."""


def requirements(lines: Iterable[str]) -> list[Requirement]:
    """Requirements, one a line; comments, blank and other lines are passed over."""
    found = []
    for line in lines:
        text = line.partition("#")[0].strip()
        try:
            found += [Requirement(text)] if text else []
        except InvalidRequirement:
            continue
    return found


def read_pins(file: Path) -> dict[str, str]:
    """Name -> version of the lines `name==version` of a file."""
    return {
        canonicalize_name(r.name): str(r.specifier).removeprefix("==")
        for r in requirements(file.read_text().splitlines())
        if str(r.specifier).startswith("==")
    }


def read_declared(extras: Iterable[str]) -> list[Requirement]:
    """What pyproject.toml asks for, with these extras and those that they name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found, queue, seen = requirements(project["dependencies"]), list(extras), set[str]()
    while queue:
        if (extra := queue.pop()) in seen:
            continue
        seen.add(extra)
        for requirement in requirements(project["optional-dependencies"][extra]):
            if requirement.name == project["name"]:
                queue += requirement.extras
            else:
                found.append(requirement)
    return found


def is_lacking(requirement: Requirement, have: Mapping[str, str], python: str) -> bool:
    """Whether `have` (name -> version) does not meet it on Linux under this Python."""
    machine = {
        **{"python_version": python, "python_full_version": f"{python}.0", "extra": ""},
        **{"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"},
        **{"platform_machine": "x86_64", "implementation_name": "cpython"},
    }
    if requirement.marker is not None and not requirement.marker.evaluate(machine):
        return False
    version = have.get(canonicalize_name(requirement.name))
    return version is None or not requirement.specifier.contains(version, prereleases=True)


def fetch(requirement: Requirement, pinned: Mapping[str, str], python: str, folder: Path) -> Path:
    """Download one wheel, at its pinned version if that is allowed, without what it needs."""
    version = pinned.get(canonicalize_name(requirement.name), "")
    usable = version and requirement.specifier.contains(version, prereleases=True)
    asked = f"{requirement.name}{f'=={version}' if usable else requirement.specifier}"
    platforms = [f"--platform=manylinux_2_{n}_x86_64" for n in reversed(GLIBC)]
    platforms += ["--platform=manylinux2014_x86_64", "--platform=linux_x86_64"]
    with tempfile.TemporaryDirectory(dir=folder) as name:
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
                *("--only-binary=:all:", f"--python-version={python}", "--implementation=cp"),
                *platforms,
                *("--disable-pip-version-check", "--dest", name, asked),
            ],
            check=True,
        )
        (wheel,) = Path(name).glob("*.whl")
        return wheel.rename(folder / wheel.name)


def read_needs(wheel: Path) -> list[Requirement]:
    """What a wheel says it needs."""
    with zipfile.ZipFile(wheel) as archive:
        (about,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        message = Parser().parsestr(archive.read(about).decode())
    return requirements(message.get_all("Requires-Dist") or [])


def gather(extras: Iterable[str], have: Mapping[str, str], python: str, folder: Path) -> list[Path]:
    """Fetch everything that is missing into `folder`; the wheels, largest first."""
    folder.mkdir(parents=True, exist_ok=True)
    pinned, queue, known = read_pins(ROOT / "constraints.txt"), read_declared(extras), dict(have)
    wheels = list[Path]()
    while queue:
        requirement = queue.pop()
        if is_lacking(requirement, known, python):
            wheel = fetch(requirement, pinned, python, folder)
            print(f"{wheel.stat().st_size / 2**20:7.2f} MiB  {wheel.name}", flush=True)
            wheels.append(wheel)
            known[canonicalize_name(requirement.name)] = wheel.name.split("-")[1]
            queue += read_needs(wheel)
    return sorted(wheels, key=lambda wheel: -wheel.stat().st_size)


def main() -> None:
    """The command line; exits with 1 where the wheels take more room than there is."""
    parser = argparse.ArgumentParser("wheels", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--have", type=Path, required=True, help="`pip list --format=freeze` there")
    parser.add_argument("--to", type=Path, required=True, help="folder of wheels")
    parser.add_argument("--extras", default="run,instavsr,spandrel", help="of pyproject.toml")
    parser.add_argument("--python", default="3.12", help="version there (default: 3.12)")
    parser.add_argument("--limit", type=float, default=64, help="MiB that may travel")
    args = parser.parse_args()
    if not args.have.is_file():
        raise SystemExit(f"error: no file {args.have}")
    if args.to.exists() and not args.to.is_dir():
        raise SystemExit(f"error: {args.to} is not a folder")
    if args.to.is_dir() and any(args.to.iterdir()):
        raise SystemExit(f"error: {args.to} is not empty: two versions of one package cannot be")
    wheels = gather(args.extras.split(","), read_pins(args.have), args.python, args.to)
    total = sum(wheel.stat().st_size for wheel in wheels) / 2**20
    print(f"{total:7.2f} MiB  {len(wheels)} wheels in {args.to}")
    if total > args.limit:
        raise SystemExit(f"error: more than {args.limit:g} MiB; the largest is {wheels[0].name}")


if __name__ == "__main__":
    main()
