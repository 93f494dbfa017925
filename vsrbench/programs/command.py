"""Programs that live in an environment of their own: methods and video metrics of others.

A program gets an argument list, never a shell line, and frames as lossless files; what it wrote is
read back and checked like the output of any other method. Which interpreter and which checkout to
use says a TOML file of the user, named in $VSRBENCH_COMMANDS:

    [seedvr2-3b]
    python = "/envs/seedvr/bin/python"
    repo = "/src/SeedVR"
    timeout_s = 7200   # instead of that of the card

What else a table holds goes to the arguments that name it.
"""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import json
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsrbench.cards import weights
from vsrbench.core.env import environment_for_git
from vsrbench.core.errors import ContractError, DataError, MissingError, UserError
from vsrbench.core.files import content, list_below, read_toml
from vsrbench.core.keys import digest
from vsrbench.core.progress import counted
from vsrbench.core.variables import COMMANDS, commands_file, fetched_folder
from vsrbench.data import frames
from vsrbench.data.images import is_image
from vsrbench.programs import setup
from vsrbench.programs.process import Usage, Worker, execute, make_workplace

if TYPE_CHECKING:
    import torch

    from vsrbench.core.types import Frame, MethodCard, Size

TIMEOUT_S = 3600.0
GIVEN = ("input", "input_dir", "output_dir", "height", "width", "short", "scale")
"""What a run itself gives to the arguments."""
LOSSLESS = Path(__file__).with_name("lossless.py")
WORKER = Path(__file__).with_name("worker.py")
RESERVED = frozenset(
    (
        "argv",
        "program",
        "input",
        "cwd",
        "timeout_s",
        "leave_out",
        "frames_multiple",
        "frames_offset",
        "frames_lead",
        "frames_min",
    )
)
"""Settings of a card that are not values for its arguments."""


def read_places(name: str) -> dict[str, str]:
    """The user's table for a program: `python`, `repo` and whatever else its arguments name.

    Raises MissingError when there is none or what it names is not there, UserError for bad TOML.
    """
    file = commands_file()
    hint = (
        f'set ${COMMANDS} to a TOML file with a table ["{name}"] of python = "its interpreter" and '
        'repo = "its checkout"'
    )
    if not file or not Path(file).is_file():
        where = (
            f"${COMMANDS} names {file}, which is not a file" if file else f"${COMMANDS} is not set"
        )
        raise MissingError(f"'{name}' runs in an environment of its own, and {where}", hint)
    table = read_toml(Path(file)).get(name)
    if not isinstance(table, dict):
        raise MissingError(f"'{name}' runs in an environment of its own; {file} lacks it", hint)
    found = {key: str(value) for key, value in table.items()}
    for key, there in (("python", Path.is_file), ("repo", Path.is_dir)):
        if not found.get(key) or not there(Path(found[key])):
            raise MissingError(
                f"{file}: {key} of [{name}] is '{found.get(key, '')}', which does not exist", hint
            )
        found[key] = str(Path(found[key]).absolute())  # it works in another folder
    limit = found.get("timeout_s", "1")
    with contextlib.suppress(ValueError):
        if float(limit) > 0:
            return found
    raise UserError(f"{file}: timeout_s of [{name}] is '{limit}'", "seconds: a number above 0")


def identify(card: MethodCard) -> str:
    """What a method's outputs come from: hash of its weights, or state of its program.

    Raises as `weights.identify`, or as `commit`.
    """
    if card.kind != "command":
        return weights.identify(card)
    given = collect_values(card)
    argv = [text for part in template(card) for text in _list_named(part, given)]
    state = commit(card.name, tuple(argv), tuple(card.settings.get("leave_out", ())))
    return f"{state}-{weights.identify(card)[:16]}" if card.weights.file else state


def commit(name: str, argv: Sequence[str] = (), leave_out: Sequence[str] = ()) -> str:
    """What a program is: commit of its checkout, and a digest of what else can change its output.

    That is, by content: uncommitted edits; whatever else lies in the checkout, ignored by git or
    not, but for hidden files, byte code, Python environments and what fits a pattern of
    `leave_out` (names relative to the checkout, such as "results/*"); and files and folders
    elsewhere that the user's table or an argument of `argv` names. Looked at once until
    `forget_state`. Raises as `read_places`, and DataError for what cannot be read.
    """
    return _commit(tuple(sorted(read_places(name).items())), tuple(argv), tuple(leave_out))


def forget_state() -> None:
    """Forget the state of all programs, as a run does before it begins."""
    _commit.cache_clear()


@functools.cache
def _commit(
    table: tuple[tuple[str, str], ...], argv: tuple[str, ...], leave_out: tuple[str, ...]
) -> str:
    values = dict(table)
    repo = Path(values["repo"])
    told = {k: v for k, v in table if k not in ("python", "repo", "timeout_s")}
    try:
        head, edits, others = _checkout(repo, leave_out)
        named = {text: content(path) for text in told.values() if (path := _resolve(repo, text))}
        for text in argv:
            path = _resolve(repo, text)
            if text not in named and path and not path.is_relative_to(repo.resolve()):
                named[text] = content(path)
    except OSError as error:
        raise DataError(
            f"{error.filename} cannot be read: {error.strerror}",
            f"a result is identified by all that {repo} holds; name what does not matter in "
            "leave_out of the card",
        ) from error
    # By content, wherever it lies: a folder that has moved is the same one.
    more = {key: named.get(text, text) for key, text in told.items()}
    read = sorted(set(named.values()) - set(more.values()))
    about = [part for part in (edits, others, more, read) if part]
    return f"{head}-{digest(about)}" if about else head


def _list_named(part: str, values: Mapping[str, Any]) -> tuple[str, ...]:
    """What an argument of a card may name: all of it, and what follows an equals sign."""
    try:
        text = part.format_map(_Blanks(values))
    except (ValueError, LookupError, AttributeError):  # `fill` refuses it
        return ()
    return () if text == values["python"] else (text, text.partition("=")[2])


class _Blanks(dict[str, Any]):
    """What is known of the names in arguments; the rest stays open and names no file."""

    def __missing__(self, key: str) -> str:
        return f"{{{key}}}"


def _checkout(repo: Path, leave_out: Sequence[str]) -> tuple[str, str, list[tuple[str, str]]]:
    """(commit, digest of its uncommitted edits, [name, content] of what git does not track).

    A folder in a repository of something larger has the tree of that folder for a commit; outside
    of any, its content.
    """

    def is_left_out(name: str) -> bool:
        return any(fnmatch.fnmatch(name, p) or name == p.rstrip("/") for p in leave_out)

    prefix = _git(repo, "rev-parse", "--show-prefix").decode().strip()
    head = _git(repo, "rev-parse", f"HEAD:{prefix.rstrip('/')}" if prefix else "HEAD")
    tracked = set[str]()
    listed = _git(repo, "ls-files", "-s", "-v", "-z").decode(errors="surrogateescape")
    for entry in listed.split("\0"):
        mode, _, name = entry.partition("\t")
        # No links, no repositories inside, and none that git was told not to look at.
        if mode[:8] in ("H 100644", "H 100755"):
            tracked.add(name)
    others = [
        (name, content(file)) for name, file in list_below(repo, is_left_out) if name not in tracked
    ]
    if not head:
        return digest(others), "", []
    plain = ("--no-ext-diff", "--no-textconv", "--no-color", "--binary")
    edits = _git(repo, "diff", *plain, "HEAD", "--", ".")
    return head.decode().strip(), edits.hex() and digest(edits.hex()), others


def _resolve(repo: Path, text: str) -> Path | None:
    """The file or folder that a text names, unless the checkout lies in it, or None."""
    with contextlib.suppress(OSError, ValueError):  # a text that is too long for a name
        path = Path(repo, text).resolve()  # as the program, which runs there, sees it
        if text and path.exists() and not repo.resolve().is_relative_to(path):
            return path
    return None


def _git(repo: Path, *argv: str) -> bytes:
    """What git says about a checkout; nothing outside one."""
    try:
        done = subprocess.run(
            ["git", "-C", str(repo), *argv],
            capture_output=True,
            timeout=60,
            env=environment_for_git(),
        )
    except (OSError, subprocess.TimeoutExpired):
        return b""
    return done.stdout if done.returncode == 0 else b""


def fill(argv: Sequence[str], values: Mapping[str, Any]) -> list[str]:
    """The arguments with their {names} replaced. Raises UserError for an unknown one."""
    if not argv:
        raise UserError("the card has no argv", "write the program's arguments into its settings")
    try:
        return [part.format_map(values) for part in argv]
    except (ValueError, IndexError) as error:
        raise UserError(f"argv of the card: {error}", "write { as {{ and } as }}") from error
    except KeyError as error:
        raise UserError(
            f"the command names {{{error.args[0]}}}, which has no value",
            f"add it to the table in ${COMMANDS}; known: {', '.join(sorted(values))}",
        ) from error


def check_arguments(card: MethodCard) -> None:
    """Raises MissingError or UserError for a place that is not given, and for what is not there.

    That is a place that the arguments name, and what the recipe of the environment puts there.
    """
    values = collect_values(card)
    command_line(card, values | dict.fromkeys(GIVEN, ""))
    if (why := setup.environment_problem(card, Path(values["repo"]))) is not None:
        raise why


def collect_values(card: MethodCard) -> dict[str, Any]:
    """What arguments can name before a clip is there: settings, the user's table, our scripts.

    Raises as `read_places`.
    """
    try:
        return list_card_values(card) | read_places(card.name)
    except MissingError as error:
        if command := setup.hint(card):
            error.hint = f"{command}, or {error.hint}"
        raise


def list_card_values(card: MethodCard) -> dict[str, Any]:
    """What arguments can name that the card itself gives."""
    told = {k: v for k, v in card.settings.items() if k not in RESERVED}
    return told | {"lossless": str(LOSSLESS), "weights": str(fetched_folder())}


def clip_values(card: MethodCard, size: Size, given: Path, out: Path) -> dict[str, Any]:
    """What arguments can name of a clip: LQ frames of `size` (height, width) lie in `given`."""
    height, width = size[0] * card.scale, size[1] * card.scale
    return {
        "input": str(given),
        "input_dir": str(given.parent),
        "output_dir": str(out),
        "height": height,
        "width": width,
        "short": min(height, width),
        "scale": card.scale,
    }


def command_line(card: MethodCard, values: Mapping[str, Any]) -> list[str]:
    """The command of a card, with `values` for the names in it. Raises UserError, MissingError.

    A card with a `program` gives the command that starts its worker.
    """
    argv = template(card)
    if "program" in card.settings and not Path(argv[-1]).is_file():
        raise MissingError(f"the card of '{card.name}' names {argv[-1]}, which does not exist")
    return fill(argv, values)


def template(card: MethodCard) -> Sequence[str]:
    """The argument list of a card, names open."""
    if "program" not in card.settings:
        return tuple(card.settings.get("argv", ()))
    # The worker replaces video writers, too: what does is said, so that it is part of the identity.
    return ("{python}", str(WORKER), "{lossless}", str(Path(card.folder, card.settings["program"])))


def write_video(path: Path, clip: Sequence[Frame], fps: int = 25) -> Path:
    """Write frames as lossless H.264 in RGB, which decord, OpenCV and FFmpeg read; gives `path`."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", fps, options={"crf": "0", "preset": "fast"})
        stream.height, stream.width = clip[0].shape[:2]
        stream.pix_fmt = "rgb24"
        for frame in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())
    return path


def show_command(card: MethodCard, size: Size) -> str:
    """The command line of a program for clips of this LQ size, as one would type it.

    INPUT and OUTPUT stand for scratch folders; {python} and {repo} stay where the user's table does
    not give them. Raises UserError for arguments that cannot be filled in.
    """
    open_ = {name: f"{{{name}}}" for name in ("python", "repo")}
    try:
        values = collect_values(card)
    except MissingError:
        values = list_card_values(card) | open_
    height, width = (side + -side % card.multiple_of for side in size)
    video = card.settings.get("input", "frames") == "video"
    clip = Path("INPUT", "clip.mp4" if video else "clip")
    values |= clip_values(card, (height, width), clip, Path("OUTPUT"))
    argv = command_line(card, values)
    told = "" if "program" not in card.settings else f"  # {json.dumps(values, default=str)}"
    where = Path(str(values["repo"]), str(card.settings.get("cwd", "")))
    return f"cd {where} && {shlex.join(argv)}{told}".replace("'{python}'", "{python}")


class CommandMethod:
    """A program as a method: all frames in, all frames out.

    Settings of the card: `argv`, the arguments, with names in braces (below); or `program`, a file
    beside the card that worker.py serves clips from, loaded once. `input`: `frames` (a folder of
    PNG) or `video` (`write_video`); `cwd`, where it runs, below its checkout; `frames_multiple` and
    `frames_offset`: the program gives back only counts n with (n - offset) divisible by multiple,
    so the last frame is repeated up to the next such count and the surplus dropped; `frames_lead`:
    it gives nothing back for that many frames at the start, so the first is repeated as often in
    front of itself; `frames_min`; `timeout_s`; `leave_out`, what in the checkout is no part of the
    identity (`commit`), such as what the program writes there.
    What it crops, `multiple_of` of the card keeps whole: the harness pads before and crops after.

    Names: {input}, the clip, {input_dir}, the folder that it alone lies in, {output_dir}; {width},
    {height} and {short} of the output in px, {scale}; {lossless}, our script that runs the next
    argument with its video writers replaced (lossless.py); {weights}, the folder of fetched files;
    {python}, {repo} and whatever else the settings or, before them, the user's table hold.
    """

    def __init__(self, card: MethodCard, device: str) -> None:
        self.card, self.device, self.values = card, device, collect_values(card)
        self.places = read_places(card.name)
        self.usage: Usage | None = None
        """Of the last call."""
        self.loading: Usage | None = None
        """Of loading the model of a `program`, which no call includes."""
        self.read: dict[str, Any] = {}
        """Of the files that the last call wrote: `codec`, `pixels`, `lossy`."""
        self.counter: Callable[[], float] | None = None
        """Reads energy in J, for `usage`."""
        self._worker: Worker | None = None

    def upscale(self, inputs: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Super-resolve one clip. Raises as `execute`; DataError for outputs that do not fit."""
        import torch

        settings = self.card.settings
        with make_workplace(self.card.name, self.places) as scratch:
            given, out = Path(scratch, "frames", "clip"), Path(scratch, "out")
            out.mkdir()
            count, size, like = 0, (0, 0), None
            with frames.FrameWriter(given) as writer:
                for like in inputs:
                    pixels = (like.float().clamp(0, 1) * 255).round().to(torch.uint8)
                    frame = pixels.permute(1, 2, 0).contiguous().cpu().numpy()
                    for _ in range(1 if count else 1 + int(settings.get("frames_lead", 0))):
                        writer.write(frame)
                    count, size = count + 1, frame.shape[:2]
                if like is None:
                    return
                for _ in range(self._count_surplus(count)):
                    writer.write(frame)
            if settings.get("input", "frames") == "video":
                given = write_video(Path(scratch, "video", "clip.mp4"), frames.open_frames(given))
            self.usage = self._run(clip_values(self.card, size, given, out), scratch)
            outputs = _outputs(self.card.name, out)
            self.read = {
                "codec": outputs.codec,
                "pixels": outputs.pixel_format,
                "lossy": frames.is_lossy(outputs),
            }
            expected = count + self._count_surplus(count)
            if len(outputs) != expected:
                raise ContractError(
                    f"'{self.card.name}' gave {counted(len(outputs), 'frame')} for {expected}",
                    "correct frames_multiple, frames_offset and frames_lead in its card",
                )
            for index in range(count):
                image = torch.from_numpy(outputs[index]).to(like.device)
                yield (image.permute(2, 0, 1).float() / 255).to(like.dtype)

    def _run(self, clip: dict[str, Any], place: Path) -> Usage:
        """Have the program upscale a clip. Raises as `execute`."""
        settings, values = self.card.settings, self.values | clip
        limit = float(self.values.get("timeout_s", settings.get("timeout_s", TIMEOUT_S)))
        argv = command_line(self.card, values)
        repo = Path(values["repo"])
        where = repo / str(settings.get("cwd", ""))
        if "program" not in settings:
            return execute(
                self.card.name, argv, where, limit, self.device, self.counter, (repo,), place
            )
        if self._worker is None or not self._worker.alive:
            self._worker = Worker(self.card.name, argv, where, self.device, path=(repo,))
            self.loading = self._worker.ask(self.values, limit, place=place)
        return self._worker.ask(values, limit, self.counter, place)

    def _count_surplus(self, count: int) -> int:
        """How many copies of the last frame make a count that the program gives back whole."""
        multiple = int(self.card.settings.get("frames_multiple", 1))
        offset = int(self.card.settings.get("frames_offset", 0))
        wanted = max(count, int(self.card.settings.get("frames_min", 1)))
        return wanted + (offset - wanted) % multiple - count


def _outputs(name: str, folder: Path) -> frames.FrameSource:
    """The one folder of images, or else the one video, below `folder`. Raises DataError."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    found = list(dict.fromkeys(p.parent for p in files if is_image(p))) or files
    if len(found) != 1:
        what = ", ".join(str(p.relative_to(folder)) for p in found[:5]) or "nothing"
        raise DataError(
            f"'{name}' left {what} instead of one folder of images or one video",
            "correct the arguments in its card",
        )
    return frames.open_frames(found[0])


def load(card: MethodCard, device: str, dtype: torch.dtype) -> CommandMethod:
    """The adapter of cards of kind `command`. Raises MissingError."""
    return CommandMethod(card, device)
