"""`advise`: which method for a clip without ground truth, by a short part of it."""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from vsrbench.cli.arguments import (
    Parser,
    add_device,
    add_names,
    add_results,
    new_parser,
    number,
    positive,
)
from vsrbench.core.errors import OK, UserError
from vsrbench.core.progress import note

if TYPE_CHECKING:
    from vsrbench.core.types import MethodCard


def make_parser() -> Parser:
    """The arguments."""
    parser = new_parser(
        "advise",
        "Which method to use for your clip: runs what is ready on a short part of it, "
        "times it at the clip's size, and writes one page with answers, pictures and doubts.",
        "vsrbench advise --input my.mp4 [--fps 24] [--vram 8GiB] [options]",
    )
    parser.add_argument(
        "--input", type=Path, required=True, metavar="PATH", help="your video or folder of frames"
    )
    parser.add_argument("--scale", type=positive, default=4, metavar="N", help="(default: 4)")
    parser.add_argument("--fps", type=number, default=0.0, help="frames a second it must keep up")
    parser.add_argument("--vram", default="", metavar="8GiB", help="device memory it must fit")
    add_names(parser, "--methods", "methods (default: all that is ready)")
    parser.add_argument(
        "--minutes",
        type=number,
        default=3.0,
        metavar="N",
        help="about how long it may take (default: 3)",
    )
    add_device(parser)
    parser.add_argument("-o", "--output", type=Path, help="page (default: DIR/advice-CLIP.html)")
    add_results(parser, "results/local/advice")
    return parser


def execute(options: argparse.Namespace) -> int:
    """Look at the clip, print the answers, write the page, and print its path."""
    from vsrbench.api import default_results
    from vsrbench.api.running import set_precision
    from vsrbench.cards import specs
    from vsrbench.core.env import device_name
    from vsrbench.results import advice
    from vsrbench.results.agreement import read_study
    from vsrbench.results.limits import Constraints, mib
    from vsrbench.results.store import Store
    from vsrbench.run import advise
    from vsrbench.run.devices import pick_device
    from vsrbench.run.executors import Crew
    from vsrbench.run.runner import Run, RunConfig
    from vsrbench.show import advice as page

    started = time.monotonic()
    if options.vram:
        mib(options.vram)
    with Crew() as crew:
        device = crew.ask(pick_device, options.device).result()
        absent: dict[str, UserError] = {}
        if options.methods:
            cards = [specs.method_card(options.root, name) for name in options.methods]
            if not any(card.name == "bicubic" for card in cards):
                cards.insert(0, specs.method_card(options.root, "bicubic"))
        else:
            cards, absent = advise.select_ready(options.root, options.scale)
        cards = set_precision(cards, device)
        study = read_study(specs.ROOT)
        store = Store(options.results or default_results() / "advice")
        store.prepare()
        config = RunConfig(
            options.root,
            (device,),
            keep_frames=True,
            with_cost=False,
            quiet=True,
            verbose=options.verbose,
        )
        seen = advise.look(
            lambda: Run(config, store, crew),
            cards,
            options.input,
            options.scale,
            study,
            options.minutes * 60,
            note,
        )
    constraints = Constraints(options.vram, options.fps)
    clip = seen.clip
    found = advice.advise(seen.candidates, study, constraints, clip.fps, clip.count)
    names = [c.method for c in found.candidates if not c.problem and c.method != "bicubic"]
    sizes = f"{clip.size[1]}x{clip.size[0]}"
    about = page.About(
        path=str(options.input),
        clip=clip,
        where=seen.where,
        device=device_name(device),
        commands={card.name: _command(card, options) for card in cards},
        absent=_todo(absent),
        grid=f"vsrbench cost --methods {' '.join(names) or 'instavsr'} --grid {sizes} "
        f"--frames 10 30 100",
        seconds=time.monotonic() - started,
    )
    part = seen.part.clips[0]
    pictures = page.loops(found, part, store.frames, seen.records)
    out = options.output or store.folder / f"advice-{clip.name}.html"
    page.write(found, about, pictures, seen.records, out)
    print(page.text(found, about, shutil.get_terminal_size((100, 24)).columns))
    print(f"\n{out}")
    return OK


def _command(card: MethodCard, options: argparse.Namespace) -> str:
    """What upscales the whole clip."""
    words = ["vsrbench", "--methods", card.source or card.name, "--input", str(options.input)]
    words += ["--scale", str(options.scale)] if options.scale != 4 else []
    return shlex.join([*words, "--no-cost", "--video"])


def _todo(absent: dict[str, UserError]) -> list[tuple[str, str]]:
    """What to do for methods that are one command away; those of another scale are left out."""
    found = []
    for name, error in absent.items():
        if match := re.search(r"vsrbench (weights fetch|methods setup) [^,;()]+", error.hint):
            found.append((name, match[0].strip()))
    return found
