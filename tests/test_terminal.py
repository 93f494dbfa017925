"""Every command of README and docs is one that exists; what they print fits a terminal.

The cheap ones run on a pseudo-terminal against the reference results.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shlex
import shutil
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from rich.cells import cell_len

from vsrbench.cli import COMMANDS, GROUPS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CHEAP = ("list", "table", "report", "compare", "merge", "weights list", "weights check")
"""Commands that only read what is there."""
RAW = re.compile(r"</?\w+>|\*\*|\[/?(?:bold|dim|red|green|cyan)\b|&lt;|\\\[")
"""Markup of another medium."""
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def documented() -> list[tuple[str, list[str]]]:
    """(page, words after `vsrbench`) of each command in a block of code."""
    found = []
    for page in PAGES:
        for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text("utf-8"), re.M | re.S):
            text = block.replace("\\\n", " ")
            for match in re.finditer(
                r"(?:^|- run: |&& |;)\s*(?:\w+=\S+ )*(?:vsrbench|python run_bench\.py)( .*|$)",
                text,
                re.M,
            ):
                words = shlex.split(match[1].partition("&&")[0], comments=True)
                if not any(word in ("[options]", "...", "|") for word in words):
                    found.append((page.name, words))
    return found


COMMANDS_SHOWN = documented()


def split(words: list[str]) -> tuple[str, list[str]]:
    """(name of the command, its arguments), as `main` takes them apart."""
    words = list(words)
    name = "run"
    if words and not words[0].startswith("-"):
        name = words.pop(0)
        if name in GROUPS and words and not words[0].startswith("-"):
            name += f" {words.pop(0)}"
    return name, words


@pytest.mark.parametrize(
    ("page", "words"), COMMANDS_SHOWN, ids=[" ".join(w)[:60] for _, w in COMMANDS_SHOWN]
)
def test_documented_commands_exist(page: str, words: list[str]) -> None:
    name, rest = split([w for w in words if not re.fullmatch(r"\[[A-Z]+\]?|\.\.\.\]?", w)])
    assert name in COMMANDS, f"{page}: vsrbench {shlex.join(words)}"
    rest = [re.sub(r"\$\w+", "0", word) for word in rest]
    COMMANDS[name][0]().parse_args(rest)


def on_terminal(words: list[str], columns: int, folder: Path) -> tuple[int, list[str]]:
    """(exit code, lines) of a command on a terminal of that width.

    Without colours, and without the folder in names of files: it may be of any length.
    """
    terminal, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    env = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    process = subprocess.Popen(
        [sys.executable, "-m", "vsrbench", *words],
        cwd=folder,
        env=env | {"TERM": "xterm-256color", "PYTHONPATH": str(ROOT)},
        stdin=inside,
        stdout=inside,
        stderr=inside,
        start_new_session=True,
    )
    os.close(inside)
    text = b""
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # the terminal is closed
            break
        if not data:
            break
        text += data
    os.close(terminal)
    plain = ANSI.sub("", text.decode("utf-8")).replace("\r\n", "\n")
    return process.wait(60), plain.replace(f"{folder}/", "").split("\n")


def fits(lines: list[str], columns: int) -> None:
    """No line is wider than the terminal, and none shows the markup of another medium."""
    for line in lines:
        path = max((len(word) for word in line.split()), default=0) > columns - 12
        assert cell_len(line) <= columns or path, f"{cell_len(line)} wide: {line}"
        assert not RAW.search(line), line


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to work in: the reference results where results of a user are, and a base."""
    folder = tmp_path_factory.mktemp("terminal")
    for place in ("results/local", "results/part0", "results/all", "ci/base", "base", "new"):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(ROOT / "results" / "reference", folder / place)
    return folder


READING = [w for _, w in COMMANDS_SHOWN if split(w)[0] in CHEAP and not {"[NAME"} & set(w)]


@pytest.mark.parametrize("words", READING, ids=map(" ".join, READING))
def test_documented_commands_fit_a_terminal(words: list[str], bench: Path) -> None:
    words = ["instavsr" if word == "mine" else word for word in words]
    words = [
        w for word in words for w in (["results/part0"] if word == "results/part*" else [word])
    ]
    code, lines = on_terminal(words, 100, bench)
    assert code in (0, 3) if words[:2] == ["weights", "check"] else code == 0, "\n".join(lines)
    if "latex" not in words and "json" not in words:
        fits(lines, 100)


HELP = [*(name.split() for name in COMMANDS), []]


@pytest.mark.parametrize("columns", [100, 80])
def test_help_fits_and_says_what_each_command_does(columns: int, tmp_path: Path) -> None:
    for words in HELP:
        code, lines = on_terminal([*words, "--help"], columns, tmp_path)
        assert code == 0
        if columns == 100 or words not in ([], ["run"]):  # whose examples are whole lines
            fits(lines, columns)
        text = "\n".join(lines)
        assert "usage: vsrbench" in text
        assert len(text.split("\n\n")[1].split()) >= 4, f"{words}: no purpose"


@pytest.mark.parametrize("columns", [60, 80])
@pytest.mark.parametrize(
    "words",
    [
        ["table"],
        ["list", "methods"],
        ["list", "datasets"],
        ["list", "metrics"],
        ["table", "--agreement"],
    ],
    ids=" ".join,
)
def test_narrow_terminals(words: list[str], columns: int, bench: Path) -> None:
    code, lines = on_terminal(words, columns, bench)
    assert code == 0
    fits(lines, columns)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tabel"], "table"),
        (["--methods", "instavrs"], "instavsr"),
        (["--methods", "bicubic", "--metrics", "lipps"], "lpips"),
        (["--methods", "bicubic", "--dataset", "x"], "--datasets"),
        (["list", "method"], "methods"),
        (["figure", "scater"], "scatter"),
        (["table", "--sort", "pnsr"], "psnr"),
        (["table", "--format", "laTeX"], "latex"),
        (["run", "nowhere.toml"], "nowhere.toml"),
        (["cost", "--methods", "bicubic", "--size", "64"], "320x180"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_answered_in_two_lines(words: list[str], said: str, bench: Path) -> None:
    code, lines = on_terminal(words, 100, bench)
    text = "\n".join(lines).strip()
    assert code == 2, text
    assert said in text
    assert len(text.split("\n")) <= 5
    fits(lines, 100)


def test_votes_fit_a_terminal(bench: Path) -> None:
    votes = [
        {"dataset": "synthetic", "clip": "c", "left": a, "right": b, "choice": "left"}
        for a, b in (("instavsr", "bicubic"), ("instavsr", "realviformer"), ("gt", "instavsr"))
    ]
    file = bench / "votes.json"
    file.write_text(json.dumps({"schema": 1, "voter": "v", "votes": votes}))
    code, lines = on_terminal(["votes", str(file)], 100, bench)
    assert code == 0
    fits(lines, 100)
