"""Where a run happens: no home, full disks, another locale, an interrupt at the wrong moment."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import heed_interrupts
from tests.test_cli import write_clip
from vsrbench.cli import main
from vsrbench.core.errors import UserError
from vsrbench.results.store import Store

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
NO_SPACE = "mount -t tmpfs -o size=4k none /dev/shm && ! head -c 9999 /dev/zero > /dev/shm/full"


def call(
    root: Path, *argv: object, out: int | Path = subprocess.PIPE, **env: str
) -> tuple[int, str, str]:
    """The command line in a process of its own: (exit code, stdout, stderr)."""
    whole = [sys.executable, str(root / "run_bench.py"), *map(str, argv)]
    with Path(out if isinstance(out, Path) else os.devnull).open("wb") as file:
        done = subprocess.run(
            whole,
            stdout=file if isinstance(out, Path) else out,
            stderr=subprocess.PIPE,
            env=os.environ | env,
            preexec_fn=heed_interrupts,
        )
    return done.returncode, (done.stdout or b"").decode(), done.stderr.decode()


def test_stdout_that_is_full(root: Path) -> None:
    code, _, err = call(
        root, "table", "--results", root / "results/reference", out=Path("/dev/full")
    )
    assert code == 1
    assert err.startswith("error: cannot write to stdout: No space left on device\n")
    assert "Traceback" not in err
    assert "Exception" not in err


def test_stderr_that_is_full(root: Path) -> None:
    """What is said there is no reason to fail."""
    argv = [sys.executable, root / "run_bench.py", "compare", *[root / "results/reference"] * 2]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([*map(str, argv), "-v"], stdout=subprocess.PIPE, stderr=full)
        fails = subprocess.run([*map(str, argv[:2]), "nothing"], stderr=full)
    assert (done.returncode, fails.returncode) == (0, 2)
    assert done.stdout


def test_a_run_without_home_shared_memory_or_unicode(root: Path, tmp_path: Path) -> None:
    """All at once: nothing can be cached, and the table has signs that cannot be shown."""
    argv = [sys.executable, root / "run_bench.py", "--methods", "bicubic", "--no-cost", "-q"]
    argv += ["--input", write_clip(tmp_path / "lq", 2), "--metrics", "lr_psnr,flicker"]
    argv += ["--results", tmp_path / "r", "--device", "cpu"]
    inside = ["unshare", "-m", "sh", "-c", NO_SPACE + ' && exec "$@"', "sh"]
    allowed = (
        shutil.which("unshare")
        and not subprocess.run([*inside, "true"], capture_output=True).returncode
    )
    env = {k: v for k, v in os.environ.items() if k not in ("VSRBENCH_CACHE", "VSRBENCH_FETCHED")}
    env |= ASCII | {"HOME": "/proc/nobody", "XDG_CACHE_HOME": "/proc/nobody/cache"}
    done = subprocess.run(
        [str(a) for a in ([*inside, *argv] if allowed else argv)], env=env, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert done.stdout.isascii()
    assert b"| Bicubic" in done.stdout
    assert {r.status for r in Store(tmp_path / "r").read()} == {"ok"}


def test_a_run_that_cannot_import_what_it_needs(root: Path, tmp_path: Path) -> None:
    """Nothing is computed, the exit code says that something is missing, and a rerun has it all.

    The rerun has no standard streams, whose numbers no file is to get.
    """
    (tmp_path / "broken/torch").mkdir(parents=True)
    (tmp_path / "broken/torch/__init__.py").write_text("raise ImportError('cannot map libtorch')")
    lq = write_clip(tmp_path / "lq", 2)
    rest = ["--metrics", "lr_psnr", "--device", "cpu", "--results", tmp_path / "r"]
    run = ["--methods", "bicubic", "--input", lq, "--no-cost", *rest]
    for argv in (
        run,
        [*run, "--device", "cpu,cpu"],
        ["score", "--outputs", write_clip(tmp_path / "sr", 2, gt=True), "--lq", lq, *rest],
        ["cost", "--methods", "bicubic", "--size", "32x24", "--results", tmp_path / "r"],
    ):
        code, _, err = call(root, *argv, PYTHONPATH=str(tmp_path / "broken"))
        assert code == 3, err
        assert "cannot be imported: cannot map libtorch" in err
        assert "Traceback" not in err
    assert {r.status for r in Store(tmp_path / "r").read()} == {"skipped"}
    words = [sys.executable, root / "run_bench.py", *run]
    closed = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *map(str, words)]
    assert subprocess.run(closed).returncode == 0
    assert list(Store(tmp_path / "r").read_runs(strict=True))
    computed = [r for r in Store(tmp_path / "r").read(strict=True) if r.status != "skipped"]
    assert [(r.status, r.metric) for r in computed] == [("ok", "lr_psnr")]


def test_lists_without_a_cache_or_a_home(root: Path) -> None:
    nowhere = {"VSRBENCH_CACHE": "/proc/nobody/cache", "HOME": "/proc/nobody"}
    for what in ("methods", "datasets", "metrics"):
        code, out, err = call(root, "list", what, **nowhere, **ASCII)
        assert code == 0, err
        assert out
        assert "Traceback" not in err


def test_results_that_cannot_be_written(root: Path, tmp_path: Path) -> None:
    """One line before anything is computed; what only reads them works."""
    lq = write_clip(tmp_path / "lq", 1)
    argv = ["--methods", "bicubic", "--input", lq, "--no-cost", "-q", "--results", "/proc/self/r"]
    code, out, err = call(root, *argv)
    assert (code, out) == (2, "")
    assert "error: the results folder /proc/self/r cannot be written" in err
    assert "Traceback" not in err


def test_what_may_not_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line. Whoever tests may be allowed all, so that the answer of the system is faked."""
    results = ["--results", str(tmp_path / "r")]
    argv = ["--methods", "bicubic", "--input", str(write_clip(tmp_path / "lq", 1)), *results]
    assert main([*argv, "--metrics", "lr_psnr", "--no-cost", "--keep-frames"]) == 0
    opened = Path.open
    for name in ("records.jsonl", "frames/bicubic/lq/lq/00000000.png"):
        place = tmp_path / "r" / name

        def refuse(path: Path, *args: Any, place: Path = place, **how: Any) -> Any:
            if path == place:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return opened(path, *args, **how)

        monkeypatch.setattr(Path, "open", refuse)
        capsys.readouterr()
        assert main(["report", *results]) == 2
        line = f"error: {place} cannot be used: Permission denied\n"
        assert capsys.readouterr().err.endswith(line)


@pytest.mark.parametrize("name", ["records.jsonl", "runs.jsonl"])
def test_a_pipe_in_place_of_a_file_is_refused(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match=f"{name} is not a file"):
        Store(tmp_path).prepare()


@pytest.mark.parametrize("module", ["argparse", "vsrbench.core.errors"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_importing(root: Path, module: str, number: int) -> None:
    code = (
        "import builtins, os, runpy, sys\nreal = builtins.__import__\n"
        "def hooked(name, *rest):\n"
        f"    if name == {module!r}:\n"
        f"        os.kill(os.getpid(), {int(number)})\n"
        "    return real(name, *rest)\n"
        "sys.argv = ['run_bench.py', 'list']\nimport vsrbench.__main__\n"
        f"builtins.__import__ = hooked\nvsrbench.__main__.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        capture_output=True,
        text=True,
        preexec_fn=heed_interrupts,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")
