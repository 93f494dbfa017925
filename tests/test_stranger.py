"""A stranger with the README: each block of its commands, and of the page on metrics, as printed.

In an environment of its own, so that `pip install` puts there what a page makes; the dependencies
are those of this one. The page on methods has its test in test_methods_new.py.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import package_folders


def blocks(page: Path) -> list[str]:
    """Its blocks of bash commands."""
    return re.findall(r"^```bash\n(.*?)^```", page.read_text(), flags=re.S | re.M)


@pytest.fixture
def shell(tmp_path: Path, root: Path) -> dict[str, str]:
    """The variables of a shell in a new environment, in which vsrbench is that of the checkout."""
    place = tmp_path / "env"
    venv.create(place)
    site = next(place.glob("lib/*/site-packages"))
    (site / "rest.pth").write_text("\n".join([*package_folders(), str(root)]))
    for name in ("vsrbench", "pip"):
        script = place / "bin" / name
        script.write_text(f'#!/bin/sh\nexec "{place}/bin/python" -m {name} "$@"\n')
        script.chmod(0o755)
    changed = {"PATH": f"{place}/bin:{os.environ['PATH']}", "PYTHONPATH": ""}
    # Without network: setuptools is that of this environment.
    return os.environ | changed | {"PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_INDEX": "1"}


def test_every_command_of_the_readme_and_the_page_on_metrics(
    root: Path, tmp_path: Path, shell: dict[str, str]
) -> None:
    work = tmp_path / "work"
    noise = np.random.default_rng(0).integers(0, 256, (72, 104, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    picture = cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    for i in range(3):
        gt = picture[:64, i : i + 96]
        lq = cv2.resize(gt, (24, 16), interpolation=cv2.INTER_AREA)
        for side, frame in (("LQ", lq), ("GT", gt)):
            for folder in (work / "clips" / side / "walk", work / side.lower()):
                folder.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(folder / f"{i}.png"), frame)
    (work / "methods.py").write_text("raise SystemExit('the methods.py of a stranger')")

    def run(commands: str) -> subprocess.CompletedProcess[str]:
        shown = ["bash", "-exc", commands]
        return subprocess.run(shown, cwd=work, env=shell, capture_output=True, text=True)

    gate, extend = blocks(root / "README.md")
    (metric,) = blocks(root / "docs" / "adding-a-metric.md")
    for commands in (gate, extend, metric):
        done = run(commands)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert re.search(r"bicubic +.*Sharpness|Sharpness levels ↑", done.stdout)
    assert "READY" in done.stdout
    assert "sharpness" in done.stdout

    # The gate closes when a number falls.
    records = work / "new" / "records.jsonl"
    text = re.sub(r'("metric": ?"psnr".*?"value": ?)([\d.]+)', r"\g<1>3.0", records.read_text())
    assert text != records.read_text()
    records.write_text(text)
    done = run(gate.splitlines()[-1])
    assert done.returncode == 4, done.stdout + done.stderr
    assert sys.prefix not in done.stdout
