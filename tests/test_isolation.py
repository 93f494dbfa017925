"""What methods, programs and the system can do to a run: one job fails with one line, all goes on.

Many misbehaviours share a run: each is a card of its own, and all have the same clip.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import gone, heed_interrupts
from tests.test_cli import Run, bench, run, write_card, write_clip  # noqa: F401
from tests.test_evaluate import job
from vsrbench.cards.specs import method_card
from vsrbench.core import processes
from vsrbench.core.errors import UserError, WriteError
from vsrbench.core.families import end_family, family, new_mark, own_mark, read_birth
from vsrbench.core.files import name_partial, remove_leftovers
from vsrbench.core.processes import Died, Process
from vsrbench.data.frames import FrameWriter, open_frames
from vsrbench.programs.process import make_workplace, mask_secrets
from vsrbench.results.store import Store
from vsrbench.run.method import load_method, set_scale, upscale

ADAPTER = """
import os, signal, sys, threading, time, ctypes, subprocess, asyncio
import torch
import torch.nn.functional as F

class Odd:
    def __init__(self, code):
        self.code = code

    def upscale(self, frames):
        for i, x in enumerate(frames):
            y = F.interpolate(x[None], scale_factor=4)[0]
            if i == 1:
                names = dict(globals(), x=x, y=y)
                exec(self.code, names)
                y = names["y"]
            yield y

def load(card, device, dtype):
    if card.settings.get("when") == "load":
        exec(card.settings["code"], globals())
    if card.settings.get("when") == "return":
        return eval(card.settings["code"])
    return Odd(card.settings["code"])
"""
DIES = {
    "abort": ("os.abort()", "signal SIGABRT"),
    "segfault": ("ctypes.string_at(0)", "signal SIGSEGV"),
    "exit0": ("os._exit(0)", "exit code 0"),
    "exit7": ("os._exit(7)", "exit code 7"),
    "killed": ("os.kill(os.getpid(), 9)", "signal SIGKILL"),
    "terminated": ("os.kill(os.getpid(), 15); time.sleep(5)", "exit code 1"),
    "alarm": ("signal.alarm(1); time.sleep(5)", "signal SIGALRM"),
    "thread": ("threading.Thread(target=os.abort).start(); time.sleep(5)", "signal SIGABRT"),
    "fork": ("os.fork() or time.sleep(60); os.abort()", "signal SIGABRT"),
    "parent": ("os.kill(os.getppid(), 9); time.sleep(9)", "signal SIGKILL"),
    "halts": ("os.kill(os.getppid(), signal.SIGSTOP); os._exit(7)", "exit code 7"),
    "halts_both": (
        "os.kill(os.getppid(), signal.SIGSTOP); os.kill(os.getpid(), signal.SIGSTOP); os._exit(7)",
        "exit code 7",
    ),
    "pipes": ("os.closerange(3, 64)", "exit code 1"),
    "nonsense": (
        "[os.write(f, b'x' * 99) for f in range(3, 9) if os.path.exists(f'/dev/fd/{f}')]"
        "; time.sleep(9)",
        "signal SIGKILL",
    ),
    "group": ("os.killpg(0, 9)", "signal SIGKILL"),
    "loading": ("os.abort()", "signal SIGABRT", "load"),
    "litters": ("__import__('tempfile').mkdtemp(); os.abort()", "signal SIGABRT"),
}
"""Name -> code in the second frame, and how the worker ends."""
RAISES = {
    "interrupt": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "sysexit": ("sys.exit(0)", "SystemExit: 0"),
    "base": ("raise type('Own', (BaseException,), {})('own')", "Own: own"),
    "cancelled": ("raise asyncio.CancelledError", "CancelledError"),
    "memory": ("raise MemoryError", "ran out of memory"),
    "huge": ("bytearray(1 << 62)", "ran out of memory"),
    "tensor": ("torch.empty(1 << 60)", "ran out of memory"),
    "recursion": ("f = lambda: f(); f()", "RecursionError"),
    "stop": ("raise StopIteration", "RuntimeError: generator raised StopIteration"),
    "unpicklable": ("raise type('Bad', (Exception,), {'x': lambda: 0})('bad')", "Bad: bad"),
    "lines": ("raise ValueError('one\\ntwo\\nthree')", "ValueError: one"),
    "markup": ("raise ValueError('[bold]a[/b]')", "[bold]a[/b]"),
    "long": ("raise ValueError('x' * 99999)", "ValueError: xxx"),
    "badstr": ("raise type('E', (Exception,), {'__str__': lambda s: 1 / 0})", "E"),
    "import": ("import nowhere_at_all", "nowhere_at_all"),
    "syntax": ("(", "SyntaxError"),
    "none": ("y = None", "gave 1 frame for the 2"),
    "shape": ("y = y[:, 1:]", "expected (3, 128, 160)"),
    "type": ("y = 'text'", "not a torch tensor"),
    "numpy": ("y = y.numpy()", "not a torch tensor"),
    "inf": ("y[0, 0, 0] = float('inf')", "NaN or infinity"),
    "loadexit": ("sys.exit(3)", "SystemExit: 3", "load"),
    "loadinterrupt": ("raise KeyboardInterrupt", "KeyboardInterrupt", "load"),
    "notmethod": ("42", "AttributeError", "return"),
    "nothing": ("None", "AttributeError", "return"),
    "endless": (
        "type('M', (), {'upscale': lambda s, f: __import__('itertools').cycle("
        "[F.interpolate(x[None], scale_factor=4)[0] for x in f])})()",
        "more frames came out than the 2",
        "return",
    ),
    "session": ("os.setsid()", "PermissionError"),
    "patches": ("torch.Tensor.float = None", "'NoneType' object is not callable"),
}
"""Name -> code, and what the line says."""
HARMLESS = {
    "chdir": "os.chdir('/')",
    "stdout": "print('noise'); sys.stdout.flush(); os.write(1, b'more')",
    "closes": "sys.stdout.close(); sys.stderr.close()",
    "environ": "os.environ.clear()",
    "daemon": "subprocess.Popen(['setsid', 'sleep', '300'])",
    "leaves": "os.fork() or (os.setsid(), time.sleep(300))",
    "handler": "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
    "blocked": "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())",
    "later": "signal.alarm(3000)",
    "interrupts": "os.kill(os.getpid(), signal.SIGINT)",
    "stopped": "os.kill(os.getpid(), signal.SIGSTOP)",
    "forks": "os.fork()",
    "busy": "threading.Thread(target=lambda: [time.sleep(.1) for _ in range(3000)]).start()",
    "atexit": "__import__('atexit').register(os.abort)",
    "dtype": "torch.set_default_dtype(torch.float64)",
    "gradients": "torch.set_grad_enabled(False)",
    "algorithms": "torch._C._set_deterministic_algorithms(True)",
    "threads": "torch.set_num_threads(7)",
    "seeds": "import random, numpy; random.seed(0); numpy.random.seed(0); torch.manual_seed(0)",
    "interpolate": "F.interpolate = lambda *_, **__: 0",
    "numpy": "import numpy; numpy.mean = numpy.load = None",
    "builtins": "import builtins; builtins.open = lambda *_: 0",
    "harness": "import vsrbench.run.executors as e; e._work = e._begin = e.evaluate = None",
    "pickle": "import copyreg, pickle; pickle.Pickler = pickle.load = None",
    "warnings": "__import__('warnings').simplefilter('error')",
    "recursion": "sys.setrecursionlimit(99 + len(__import__('inspect').stack()))",
    "trace": "sys.settrace(lambda *_: None); sys.setprofile(lambda *_: None)",
    "descriptors": "[os.close(n) for n in (0, 1, 2)]",
    "replaced": "sys.stdout = sys.stderr = sys.excepthook = None",
    "printed": "[print('x' * 99) for _ in range(9)]",
    "limit": "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (40, 40))",
    "exhausted": "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (99, 99)); "
    "sys.kept = [f for f in map(lambda _: os.path.exists('/dev/fd/98') or os.dup(0), range(99))]",
    "imports": "sys.path.clear(); sys.meta_path.clear()",
    "modules": "sys.modules.pop('json', None); sys.modules.pop('numpy', None)",
    "collector": "__import__('gc').disable()",
    "umask": "os.umask(0o777)",
    "nowhere": "d = __import__('tempfile').mkdtemp(); os.chdir(d); os.rmdir(d)",
    "nice": "os.nice(5)",
    "locale": "import locale; locale.setlocale(locale.LC_ALL, 'C')",
    "time": "time.time = time.sleep = time.monotonic = None",
    "litter": "import tempfile as t; t.mkdtemp(); t.mkstemp()",
    "view": "threading.Timer(0.05, lambda: y.zero_()).start(); y = y.clone()",
}
"""Name -> code, after which the frames are right."""


def write_cards(base: Path, cards: dict[str, tuple[str, ...]]) -> str:
    for name, (code, _, *when) in cards.items():
        settings = f"code = {json.dumps(code)}, when = {json.dumps(''.join(when))}"
        write_card(base, name, settings=settings)
    (base / "methods/toy/adapter.py").write_text(ADAPTER)
    return ",".join(cards)


def errors(results: Path) -> dict[str, str]:
    """Method -> the line of its failure, empty for a score."""
    return {
        r.method: (r.error or {}).get("message", "")
        for r in Store(results).latest().values()
        if r.kind == "quality"
    }


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of temporary files, of which nothing is to be left."""
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    yield place
    assert not [path.name for path in place.iterdir()]


def test_in_process_misbehaviours(
    run: Run,  # noqa: F811
    bench: Path,  # noqa: F811
    tmp_path: Path,
    scratch: Path,
) -> None:
    """Each method fails with its one line, and whoever comes after it scores."""
    harmless = {name: (code, "") for name, code in HARMLESS.items()}
    cards = {**harmless, **RAISES, **DIES, "last": ("pass", "")}
    scored = {name for name, (_, says, *_) in cards.items() if not says}
    code, _, err = run(
        *("--methods", write_cards(bench, cards), "--input", write_clip(tmp_path / "lq", 2)),
        *("--metrics", "lr_psnr", "--no-cost", "--device", "cpu"),
    )
    assert code == 1
    assert "Traceback" not in err
    found = errors(tmp_path / "results")
    assert found.keys() == {"bicubic", *cards}
    wrong = {}
    for name, (_, says, *_) in cards.items():
        message = found[name]
        line = f"'{name}' crashed its process on clip 'lq' ({says})"
        fits = message == "" if not says else message == line if name in DIES else says in message
        if "\n" in message or not fits:
            wrong[name] = message
    assert not wrong
    scores = {r.value for r in Store(tmp_path / "results").latest().values() if r.method in scored}
    assert len(scores) == 1, "nobody is changed by whoever was there before"
    assert not family(own_mark()) - {t._popen.pid for t in processes._templates}


def test_methods_that_end_processes_while_they_are_measured(
    run: Run,  # noqa: F811
    bench: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Not even the parent of such a process is the main one."""
    deadly = {
        name: DIES[name] for name in ("exit0", "killed", "parent", "group", "halts", "halts_both")
    }
    names = write_cards(bench, {**deadly, "last": ("pass", "")})
    code, _, err = run("cost", "--methods", names, "--size", "40x32", "--device", "cpu")
    assert code == 1
    assert "Traceback" not in err
    found = {r.method: r for r in Store(tmp_path / "results").latest().values()}
    assert found["last"].status == "ok"
    for name, (_, how, *_) in deadly.items():
        message = (found[name].error or {})["message"]
        assert message == f"'{name}' crashed its process at 40x32, 10 frames ({how})"


@pytest.mark.parametrize("when", ["load", ""])
def test_a_method_does_not_decide_how_its_metrics_round(
    bench: Path,  # noqa: F811
    tmp_path: Path,
    when: str,
) -> None:
    code = "torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True"
    write_cards(bench, {"rounds": (code, "", *([when] if when else []))})
    card = set_scale(method_card(bench, "rounds"), 4)
    lq = open_frames(write_clip(tmp_path / "lq", 2))
    clip = replace(job().clip, name="c", lq=lq, gt=None, outputs=None, count=2, size=lq.size)
    assert len(list(upscale(load_method(card, "cpu"), card, clip, "cpu"))) == 2
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32


def test_a_crash_leaves_where_it_was(run: Run, bench: Path, tmp_path: Path) -> None:  # noqa: F811
    cards = {"segfault": DIES["segfault"]}
    run(
        *("--methods", write_cards(bench, cards), "--input", write_clip(tmp_path / "lq", 2)),
        *("--metrics", "lr_psnr", "--no-cost", "--device", "cpu"),
    )
    (log,) = (
        r.error["log"]
        for r in Store(tmp_path / "results").latest().values()
        if r.method == "segfault" and r.error
    )
    assert "Segmentation fault" in log
    assert "adapter.py" in log


def test_the_main_process_imports_neither_torch_nor_foreign_code(
    bench: Path,  # noqa: F811
    root: Path,
    tmp_path: Path,
) -> None:
    code = (
        "import sys; from vsrbench.cli import main; code = main(sys.argv[1:]); "
        "bad = [m for m in sys.modules if m.split('.')[0] in ('torch', 'lpips', 'methods')"
        " or m.startswith(('vsrbench_root_', 'vsrbench.methods'))]; "
        "print(code, bad)"
    )
    argv = ["--methods", "good", "--input", str(write_clip(tmp_path / "lq", 2)), "--no-cost"]
    argv += ["--root", str(bench), "--results", str(tmp_path / "r")]
    done = subprocess.run(
        [sys.executable, "-c", code, *argv], cwd=root, capture_output=True, text=True
    )
    assert done.stdout.endswith("0 []\n"), done.stdout + done.stderr


PROGRAM = """
import os, shutil, signal, subprocess, sys, time
from pathlib import Path
import cv2
given, out, code = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
def write(count=None, scale=4, folder="result"):
    (out / folder).mkdir()
    for i, p in enumerate(sorted(given.iterdir())[:count]):
        big = cv2.resize(cv2.imread(str(p)), None, fx=scale, fy=scale)
        cv2.imwrite(str(out / folder / f"{i}.png"), big)
exec(code)
"""
PROGRAMS = {
    "exit3": ("sys.exit(3)", "failed with exit code 3"),
    "says": ("print('RuntimeError: no layer', file=sys.stderr); sys.exit(1)", "no layer"),
    "stdout": ("print('said on stdout'); sys.exit(1)", "said on stdout"),
    "abort": ("os.abort()", "signal SIGABRT"),
    "segv": ("os.kill(os.getpid(), 11)", "signal SIGSEGV"),
    "killed": ("os.kill(os.getpid(), 9)", "signal SIGKILL"),
    "realtime": ("os.kill(os.getpid(), 40)", "signal 40"),
    "raises": ("1 / 0", "ZeroDivisionError"),
    "nothing": ("pass", "left nothing"),
    "few": ("write(1)", "gave 1 frame for 2"),
    "small": ("write(scale=3)", "expected (3, 128, 160)"),
    "two": ("write(); write(folder='more')", "left more, result"),
    "text": ("(out / 'a.txt').write_text('x')", "a.txt"),
    "junk": ("(out / '0.png').write_bytes(b'junk'); (out / '1.png').write_bytes(b'')", "0.png"),
    "cut": ("write(); p = out / 'result/1.png'; p.write_bytes(p.read_bytes()[:99])", "1.png"),
    "htmlpng": ("[(out / f'{i}.png').write_text('<html>') for i in (0, 1)]", "0.png"),
    "removes": ("shutil.rmtree(out)", ""),
    "noinput": ("shutil.rmtree(given); write()", "failed with exit code 1"),
    "interrupt": ("os.kill(os.getpid(), 2)", "KeyboardInterrupt"),
    "stopped": (
        "os.fork() or (time.sleep(1), os.kill(os.getppid(), 15)); time.sleep(9)",
        "signal SIGTERM",
    ),
    "binary": ("os.write(2, bytes(range(256)) * 99); sys.exit(1)", "failed with exit code 1"),
    "floods": ("os.write(2, b'x' * 3000000); sys.exit(1)", "failed with exit code 1"),
    "token": (
        "print('bad key ' + os.environ['MY_API_KEY'], sys.argv[4]); sys.exit(1)",
        "bad key $MY_API_KEY {key}",
    ),
    "slow": (
        "subprocess.Popen(['setsid', 'sleep', '300']); time.sleep(60)",
        "did not end within 2 s",
    ),
    "deaf": ("signal.signal(15, signal.SIG_IGN); time.sleep(60)", "did not end within 2 s"),
    "daemon": ("write(); subprocess.Popen(['setsid', 'sleep', '300'])", ""),
    "double": ("write(); os.fork() or (os.setsid(), os.fork(), time.sleep(300))", ""),
    "noenv": ("write(); subprocess.Popen(['env', '-i', 'setsid', '/bin/sleep', '300'])", ""),
    "nohup": ("write(); subprocess.Popen('nohup sleep 300 &', shell=True)", ""),
    "litters": ("write(); import tempfile as t; t.mkdtemp(); t.mkstemp()", ""),
    "many": (
        "write(); [subprocess.Popen(['sleep', '300'], start_new_session=True) for _ in range(9)]",
        "",
    ),
    "chatty": ("write(); print('x' * 100000)", ""),
    "last": ("write()", ""),
}
"""Name -> what the program does, and what the line says; empty for a score."""


def test_foreign_misbehaviours(
    run: Run,  # noqa: F811
    bench: Path,  # noqa: F811
    tmp_path: Path,
    scratch: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One line each; the log and the input are kept; no process is left; no secret is told."""
    repo, table = tmp_path / "checkout", ""
    repo.mkdir()
    (repo / "odd.py").write_text(PROGRAM)
    for name, (code, _) in PROGRAMS.items():
        argv = json.dumps(["{python}", "odd.py", "{input}", "{output_dir}", "{code}", "{key}"])
        (bench / f"methods/toy/{name}.toml").write_text(
            f'version = 1\ntitle = "{name}"\nkind = "command"\n'
            'entry = "vsrbench.programs.command:load"\n[settings]\n'
            f"argv = {argv}\ncode = {json.dumps(code)}\n"
            f"timeout_s = {2 if name in ('slow', 'deaf') else 60}\n"
            '[weights]\norigin = "official"\n'
        )
        table += f'[{name}]\npython = "{sys.executable}"\nrepo = "{repo}"\nkey = "hf_s3cr3t"\n'
    (tmp_path / "commands.toml").write_text(table)
    monkeypatch.setenv("VSRBENCH_COMMANDS", str(tmp_path / "commands.toml"))
    monkeypatch.setenv("MY_API_KEY", "sk-0123456789")
    code, _, err = run(
        *("--methods", ",".join(PROGRAMS), "--input", write_clip(tmp_path / "lq", 2)),
        *("--metrics", "lr_psnr", "--no-cost", "--device", "cpu"),
    )
    assert code == 1
    assert "Traceback" not in err
    found = errors(tmp_path / "results")
    for name, (_, says) in PROGRAMS.items():
        assert says in found[name], (name, found[name])
        if not says and name != "removes":
            assert found[name] == "", (name, found[name])
    assert "left nothing" in found["removes"]
    written = (tmp_path / "results/records.jsonl").read_text()
    for secret in ("hf_s3cr3t", "sk-0123456789", str(repo)):
        assert secret not in written
    logs = tmp_path / "results/logs"
    failed = {name for name, message in found.items() if message} - {
        "small"
    }  # of its size we judge
    assert {p.name.rsplit("-", 2)[0] for p in logs.iterdir()} == failed
    (flood,) = logs.glob("floods-*/log.txt")
    assert flood.stat().st_size == 3_000_000
    (kept,) = logs.glob("few-*")
    assert len(list((kept / "frames/clip").iterdir())) == 2
    shutil.rmtree(kept / "out/result")
    by_hand = (kept / "command.txt").read_text()
    assert subprocess.run(by_hand, shell=True).returncode == 0
    assert len(list((kept / "out/result").iterdir())) == 1
    assert not family(own_mark()) - {t._popen.pid for t in processes._templates}


def start_run(root: Path, base: Path, tmp_path: Path, name: str, *methods: str) -> Any:
    argv = [sys.executable, str(root / "run_bench.py"), "--methods", ",".join(methods)]
    argv += ["--root", str(base), "--input", str(tmp_path / "lq"), "--metrics", "lr_psnr"]
    argv += ["--no-cost", "--keep-frames", "--device", "cpu", "--results", str(tmp_path / name)]
    return subprocess.Popen(
        argv,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
        env=os.environ | {"MARKED": str(tmp_path)},
    )


def started_by(tmp_path: Path) -> set[int]:
    """All processes with the environment of this test."""
    mark, found = f"MARKED={tmp_path}".encode(), set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                found.add(int(entry.name))
        except OSError:
            continue
    return found


@pytest.fixture
def three_clips(
    bench: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The root of a method and a program, beside which there are clips."""
    repo = tmp_path / "checkout"
    repo.mkdir()
    (repo / "odd.py").write_text(PROGRAM)
    argv = json.dumps(["{python}", "odd.py", "{input}", "{output_dir}", "write()"])
    (bench / "methods/toy/program.toml").write_text(
        'version = 1\ntitle = "P"\nkind = "command"\nentry = "vsrbench.programs.command:load"\n'
        f'[settings]\nargv = {argv}\n[weights]\norigin = "official"\n'
    )
    (tmp_path / "c.toml").write_text(f'[program]\npython = "{sys.executable}"\nrepo = "{repo}"\n')
    monkeypatch.setenv("VSRBENCH_COMMANDS", str(tmp_path / "c.toml"))
    for name in "abc":
        write_clip(tmp_path / "lq" / name, 4)
    return bench


def all_scores(results: Path) -> dict[str, Any]:
    """Key -> scores; nothing may have failed."""
    records = Store(results).latest()
    assert {r.status for r in records.values()} == {"ok"}
    return {key: (r.value, r.per_frame) for key, r in records.items()}


@pytest.mark.slow
def test_kills_at_random_moments_lose_nothing(
    three_clips: Path, root: Path, tmp_path: Path, scratch: Path
) -> None:
    """The main process, a worker or a program; a rerun completes what an unbroken run finds."""
    whole = start_run(root, three_clips, tmp_path, "whole", "good", "program")
    began = time.monotonic()
    assert whole.wait(300) == 0
    took = time.monotonic() - began
    chance = random.Random(0)
    for number in range(int(os.environ.get("ROUNDS_OF_KILLS", "4"))):
        name = f"killed{number}"
        process = start_run(root, three_clips, tmp_path, name, "good", "program")
        time.sleep(chance.uniform(0.3, 0.9) * took)
        victims = started_by(tmp_path)
        victim = process.pid if number % 3 == 0 or not victims else chance.choice(sorted(victims))
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
        process.wait(300)
        assert all(gone(pid) for pid in started_by(tmp_path))
        again = start_run(root, three_clips, tmp_path, name, "good", "program")
        assert again.wait(300) == 0
        assert all_scores(tmp_path / name) == all_scores(tmp_path / "whole")
        assert not list((tmp_path / name).rglob("*.partial"))


@pytest.mark.slow
def test_two_runs_into_one_folder_lose_nothing(
    three_clips: Path, root: Path, tmp_path: Path, scratch: Path
) -> None:
    """At the same time, with the same work and kept frames: nothing fails, nothing is torn."""
    whole = start_run(root, three_clips, tmp_path, "whole", "good", "program")
    assert whole.wait(300) == 0
    for number in range(int(os.environ.get("ROUNDS_OF_PAIRS", "1"))):
        name = f"pair{number}"
        pair = [start_run(root, three_clips, tmp_path, name, "good", "program") for _ in range(2)]
        assert [process.wait(300) for process in pair] == [0, 0]
        store = Store(tmp_path / name)
        assert all_scores(store.folder) == all_scores(tmp_path / "whole")
        assert len(list(store.read_runs(strict=True))) == 2
        assert len(store.read(strict=True)) >= len(store.latest())
        assert not list(store.folder.rglob("*.partial"))
        marks = {p.relative_to(store.folder) for p in store.folder.rglob("*.key")}
        assert marks == {p.relative_to(tmp_path / "whole") for p in tmp_path.glob("whole/**/*.key")}


def test_descendants_end_with_a_main_process_that_is_killed(
    bench: Path,  # noqa: F811
    root: Path,
    tmp_path: Path,
    scratch: Path,
) -> None:
    """A grandchild in a session of its own, of a worker that is busy and deaf; and its files."""
    code = (
        "__import__('tempfile').mkdtemp(); subprocess.Popen(['setsid', 'sleep', '300']); "
        "signal.signal(15, signal.SIG_IGN); "
        f"open({str(tmp_path / 'there')!r}, 'w').close(); time.sleep(300)"
    )
    write_cards(bench, {"deaf": (code, "")})
    write_clip(tmp_path / "lq", 2)
    process = start_run(root, bench, tmp_path, "results", "deaf")
    for _ in range(600):
        if (tmp_path / "there").exists():
            break
        time.sleep(0.1)
    pids = started_by(tmp_path)
    assert len(pids) > 3
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while (started_by(tmp_path) or any(scratch.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not started_by(tmp_path)


def test_work_and_deaths_of_a_process() -> None:
    process = Process()
    heard: list[Any] = []
    assert process.submit(pow, 2, 5).result(60) == 32
    assert process.submit(processes.tell, "hello", told=heard.append).result(60) is None
    assert heard == ["hello"]
    with pytest.raises(ZeroDivisionError):
        process.submit(divmod, 1, 0).result(60)
    with pytest.raises(RuntimeError, match="SystemExit: 3"):
        process.submit(sys.exit, 3).result(60)
    with pytest.raises(UserError, match=r"what \(hint"):
        process.submit(_raise, UserError("what", "hint")).result(60)
    left = process.submit(os._exit, 5), process.submit(pow, 2, 5)
    for future in left:
        with pytest.raises(Died, match="exit code 5"):
            future.result(60)
    with pytest.raises(Died):
        process.submit(pow, 2, 5).result(60)


def test_work_that_does_not_end_is_given_up() -> None:
    process = Process()
    process.submit(time.sleep, 2)  # what comes before does not count
    assert process.submit(pow, 2, 5, limit_s=1).result(60) == 32
    assert process.submit(pow, 2, 5, limit_s=1 << 60).result(60) == 32
    with pytest.raises(Died, match="no end after 1 s") as died:
        process.submit(_loop, limit_s=1).result(60)
    assert died.value.late
    assert gone(process.pid)


def _loop() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        pass


def _raise(error: Exception) -> None:
    raise error


def test_an_ended_process_unwinds_its_work(tmp_path: Path) -> None:
    process = Process()
    process.submit(_write_slowly, tmp_path / "clip")
    for _ in range(600):
        if list(tmp_path.glob(".clip*")):
            break
        time.sleep(0.05)
    process.end()
    assert gone(process.pid)
    assert not list(tmp_path.iterdir())


def _write_slowly(folder: Path) -> None:
    with FrameWriter(folder):
        time.sleep(60)


def test_a_family_is_found_by_mark_session_and_descent() -> None:
    mark = new_mark()
    shell = "sleep 300 & setsid sleep 300 & env -i setsid /bin/sleep 300 & wait"
    process = subprocess.Popen(["sh", "-c", shell], env=os.environ | {"VSRBENCH_PROCESS": mark})
    for _ in range(200):
        if len(family(mark)) == 4:
            break
        time.sleep(0.05)
    assert len(family(mark)) == 4
    assert process.pid in family(mark) <= family(own_mark())
    assert not family(mark[:-1])
    end_family(mark)
    assert not family(mark)
    process.wait()


def test_leftovers_of_the_dead_are_removed_and_of_the_living_kept(tmp_path: Path) -> None:
    ours = name_partial(tmp_path / "clip")
    own = f".{os.getpid()}-{read_birth(os.getpid())}."
    assert own in ours.name
    ended = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    dead = Path(str(ours).replace(own, f".{ended.pid}-{read_birth(ended.pid)}."))
    assert dead != ours
    assert ended.stdin is not None
    ended.stdin.close()
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    assert Path(f"/proc/{ended.pid}").exists()  # until somebody waits for it
    ancient = tmp_path / f".clip.{socket.gethostname()}.{ended.pid}.0123abcd.partial"
    before = Path(str(ours).replace(own, f".{os.getpid()}-1."))  # of the same number
    elsewhere = tmp_path / f".clip.node7.{ended.pid}-12345.0123abcd.partial"
    old = tmp_path / f".clip.node8.{ended.pid}-12345.0123abcd.partial"
    other = tmp_path / ".mine.partial"
    for folder in (ours, dead, ancient, before, elsewhere, old, other):
        folder.mkdir()
        (folder / "0.png").touch()
    os.utime(old, (0, 0))
    remove_leftovers(tmp_path)
    ended.wait()
    assert {p.name for p in tmp_path.iterdir()} == {ours.name, elsewhere.name, other.name}


def test_a_disk_that_fills_up_stops_the_run(
    run: Run,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the record that could not be written, with one line; nothing more is computed."""
    for name in "abcdef":
        write_clip(tmp_path / "lq" / name, 2)
    append, written = Store.append_all, list[str]()

    def full(store: Store, records: Any) -> None:
        records = list(records)
        if len(written) == 2:
            store.records = Path("/dev/full")
            store.runs = Path("/dev/full")
        append(store, records)
        written.extend(record.clip for record in records)

    monkeypatch.setattr(Store, "append_all", full)
    args = ["--methods", "good", "--input", tmp_path / "lq", "--metrics", "lr_psnr", "--no-cost"]
    code, out, err = run(*args, "--device", "cpu")
    assert (code, out) == (1, "")
    assert "error: cannot write /dev/full: No space left on device" in err
    assert "Traceback" not in err
    assert len(written) == 2
    monkeypatch.undo()


def test_frames_that_cannot_be_kept_stop_the_run(
    run: Run,  # noqa: F811
    bench: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Where records could be written, but what was asked for cannot be kept."""
    for name in "abc":
        write_clip(tmp_path / "lq" / name, 2)
    (tmp_path / "results").mkdir()
    (tmp_path / "results/frames").write_text("a file")
    args = ["--methods", "good", "--input", tmp_path / "lq", "--metrics", "lr_psnr", "--no-cost"]
    code, _, err = run(*args, "--keep-frames", "--device", "cpu")
    assert code == 1
    assert err.count("cannot write") == 1
    assert "Traceback" not in err


def test_secrets_are_named_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdef")
    assert (
        mask_secrets("at hf_abcdef of /src/x/y", {"repo": "/src/x"}) == "at $HF_TOKEN of {repo}/y"
    )
    monkeypatch.setenv("VSRBENCH_LOGS", str(tmp_path / "logs"))
    with pytest.raises(WriteError), make_workplace("p", {}):
        raise WriteError("full")
    assert not list((tmp_path / "logs").iterdir())
