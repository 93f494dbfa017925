"""`methods setup`: the environment of a program of others, by the recipe on its card."""

from __future__ import annotations

import functools
import json
import re
import shlex
import shutil
import subprocess
import tomllib
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vsrbench.core import download
from vsrbench.core.env import environment_for_git
from vsrbench.core.errors import ContractError, DataError, MissingError, UserError
from vsrbench.core.files import read_toml, replace_atomically
from vsrbench.core.types import Edit, Environment, MethodCard, Source
from vsrbench.core.variables import COMMANDS, commands_file

Note = Callable[[str], None]


@dataclass(frozen=True)
class Step:
    """One thing to do, and how it is told of."""

    text: str
    """The command, as one would type it; of what no command does, a line that begins with #."""
    work: Callable[[], None]
    """Does it. Raises UserError."""
    done: bool = False
    """It has been done before."""


def recipe(card: MethodCard) -> Environment:
    """How to make the environment of a card. Raises UserError for one without."""
    if card.kind != "command":
        raise UserError(f"'{card.name}' runs in this environment", "there is nothing to set up")
    if card.environment is None:
        raise UserError(
            f"the card of '{card.name}' does not say how to make its environment",
            "add a table [environment], or write its places into the file of $" + COMMANDS,
        )
    return card.environment


def steps(card: MethodCard, to: Path, note: Note) -> list[Step]:
    """What makes the environment of a card in `to`/NAME, in order. Raises UserError, MissingError.

    Environments are made with uv where it is, else with the venv of an interpreter of that version.
    """
    made = recipe(card)
    table = table_file(to)
    _read_entry(table, card.name)  # before hours of downloads, not after
    place = to.resolve() / card.name
    repo, python = place / "repo", place / "env/bin/python"
    found = [*_plan_checkout(made, repo), *_environment(made, place / "env", repo)]
    for edit in made.edits:
        found.append(
            Step(
                f"# in {repo / edit.file}: {edit.old} becomes {edit.new}",
                functools.partial(apply, edit, repo),
            )
        )
    weights = (repo / made.weights_to).resolve()
    for source in card.weights.sources if made.weights_to else ():
        found.append(
            Step(
                f"# {download.describe(source)} goes to {weights / _name(source)}",
                functools.partial(_weights, source, weights, note),
                done=_has_arrived(weights / _name(source)),
            )
        )
    text = f'["{card.name}"] python = "{python}", repo = "{repo}"'
    write = functools.partial(write_table, table, card.name, python, repo)
    return [*found, Step(f"# {table}: {text}", write)]


def table_file(to: Path) -> Path:
    """The user's table: that of $VSRBENCH_COMMANDS, else commands.toml in `to`."""
    return Path(commands_file() or to / "commands.toml").resolve()


def _command(*argv: str | Path, cwd: Path | None = None, done: bool = False) -> Step:
    words = [str(part) for part in argv]
    text = shlex.join(words)
    return Step(
        f"(cd {shlex.quote(str(cwd))} && {text})" if cwd else text,
        functools.partial(_execute, words, cwd),
        done,
    )


def _execute(argv: Sequence[str], cwd: Path | None) -> None:
    """Run a command whose output is shown. Raises MissingError, ContractError."""
    try:
        code = subprocess.run(
            argv, cwd=cwd, stdin=subprocess.DEVNULL, env=environment_for_git()
        ).returncode
    except OSError as error:
        raise MissingError(
            f"{argv[0]} cannot be started: {error.strerror}", "install it"
        ) from error
    if code:
        raise ContractError(
            f"exit code {code} of: {shlex.join(argv)}",
            "see its output above; running this command again resumes",
        )


def _plan_checkout(made: Environment, repo: Path) -> Iterator[Step]:
    there = (repo / ".git").exists()
    yield _command("git", "clone", "--filter=blob:none", made.repo, repo, done=there)
    if made.commit:
        head = repo / ".git/HEAD"
        at = head.read_text().strip() if there and head.is_file() else ""
        checkout = ("git", "-C", repo, "checkout", "--quiet", made.commit)
        yield _command(*checkout, done=at == made.commit)


def _environment(made: Environment, folder: Path, repo: Path) -> Iterator[Step]:
    uv, python = shutil.which("uv"), folder / "bin/python"
    if uv:
        yield _command("uv", "venv", "--python", made.python, folder, done=python.exists())
    else:
        new = _command(f"python{made.python}", "-m", "venv", folder, done=python.exists())
        yield replace(new, work=functools.partial(_venv, made.python, new.work))
    for line in made.install:
        pip = ("uv", "pip") if uv else (python, "-m", "pip")
        where = ("--python", python) if uv else ()
        yield _command(*pip, "install", *where, *shlex.split(line), cwd=repo)


def _venv(version: str, work: Callable[[], None]) -> None:
    if not shutil.which(f"python{version}"):
        raise MissingError(
            f"Python {version} is needed, and neither uv nor python{version} is on PATH",
            "pip install uv",
        )
    work()


def apply(edit: Edit, repo: Path) -> None:
    """Make an edit, once. Raises DataError where the file holds neither text."""
    path = repo / edit.file
    why = find_problem(edit, repo)
    if why is None:
        return
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if edit.old not in text:
        raise why
    with replace_atomically(path) as partial:
        partial.write_text(text.replace(edit.old, edit.new), encoding="utf-8")


def find_problem(edit: Edit, repo: Path) -> UserError | None:
    """Why an edit is still to be made; None when it has been."""
    path = repo / edit.file
    if not path.is_file():
        return DataError(f"{path} does not exist", "is it the authors' checkout?")
    text = path.read_text(encoding="utf-8", errors="replace")
    if edit.old in text:
        return DataError(f"{path} has '{edit.old}'", f"its script needs '{edit.new}' there")
    if edit.new not in text:
        return DataError(f"{path} has neither '{edit.old}' nor '{edit.new}'", "another commit?")
    return None


def _name(source: Source) -> str:
    """Where a source goes, below the folder of weights."""
    last = (source.hub or source.github or source.drive or source.url).rpartition("/")[2]
    return source.file or last.rpartition(":")[2]


def _weights(source: Source, folder: Path, note: Note) -> None:
    """Fetch one source and put it where it belongs. Raises as `download.fetch`."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / _name(source)
    # Beside, so that what came stays for another try, and is moved without a copy.
    came = download.fetch(source, folder / ".fetched", note)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(came, target)
    if target.suffix == ".zip":
        try:
            with zipfile.ZipFile(target) as archive:
                archive.extractall(folder)
        except download.DAMAGED as error:
            target.unlink()
            raise DataError(f"{target} is damaged: {error}", "set it up again") from error
        target.write_bytes(b"")  # that it has come


def _has_arrived(target: Path) -> bool:
    """Whether weights are there; of an archive, what was unpacked by hand will do."""
    return target.exists() or (target.suffix == ".zip" and target.with_suffix("").is_dir())


def _read_entry(file: Path, name: str) -> dict[str, object]:
    """What the user's table says of a program. Raises UserError where that is no table."""
    found = read_toml(file).get(name, {}) if file.exists() else {}
    if not isinstance(found, dict):
        raise UserError(f"{file}: '{name}' is not a table", f'write ["{name}"] above its places')
    return found


def write_table(file: Path, name: str, python: Path, repo: Path) -> None:
    """Write the places of a program into the user's table; what else it says of it stays.

    Raises UserError when the file is no TOML, or its entry for the program no table.
    """
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    kept = {k: v for k, v in _read_entry(file, name).items() if k not in ("python", "repo")}
    lines = [f"[{json.dumps(name)}]", f"python = {_toml(python)}", f"repo = {_toml(repo)}"]
    lines += [f"{json.dumps(key)} = {_toml(value)}" for key, value in kept.items()]
    header = rf"""^\[\s*["']?{re.escape(name)}["']?\s*\].*?(?=^\[|\Z)"""
    rest = re.sub(header, "", text, flags=re.S | re.M).rstrip()
    whole = "\n".join([*([rest, ""] if rest else []), *lines, ""])
    tomllib.loads(whole)
    with replace_atomically(file) as partial:
        partial.write_text(whole, encoding="utf-8")


def _toml(value: object) -> str:
    return json.dumps(value if isinstance(value, (bool, int, float)) else str(value))


def run(plan: Sequence[Step], note: Note) -> None:
    """Do what is not done yet, in order. Raises UserError at the first that fails."""
    for step in plan:
        if step.done:
            note(f"done before: {step.text}")
            continue
        note(step.text)
        step.work()


def environment_problem(card: MethodCard, repo: Path) -> UserError | None:
    """What is wrong with a checkout: an edit that its script needs, weights that are not there."""
    if card.environment is None:
        return None
    for edit in card.environment.edits:
        if (why := find_problem(edit, repo)) is not None:
            return why
    if card.environment.weights_to:
        folder = repo / card.environment.weights_to
        for source in card.weights.sources:
            if not _has_arrived(folder / _name(source)):
                return MissingError(
                    f"'{card.name}' needs {folder / _name(source)}, which does not exist",
                    f"{hint(card)}, or put {download.describe(source)} there",
                )
    return None


def hint(card: MethodCard) -> str:
    """The one command that helps; empty for a card without a recipe."""
    return f"vsrbench methods setup {card.name} --to DIR" if card.environment else ""
