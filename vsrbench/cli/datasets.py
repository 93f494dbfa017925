"""`datasets check|add|fetch|degrade`: datasets on disk."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vsrbench.cli.arguments import Parser, new_parser, next_step, positive, whole
from vsrbench.core.errors import FAILED, OK, UserError
from vsrbench.core.progress import counted, note, plain
from vsrbench.core.variables import DATA


def make_parser() -> Parser:
    """The arguments of `datasets` alone."""
    parser = new_parser(
        "datasets",
        "Datasets on disk: check them, add your own, fetch published packs, degrade GT.",
        "vsrbench datasets check|add|fetch|degrade ...   (each has its --help)",
    )
    parser.add_argument("action", metavar="check|add|fetch|degrade")
    return parser


def execute(options: argparse.Namespace) -> int:
    """Raise UserError: what to do comes first, before all options."""
    usage = "vsrbench datasets check|add|fetch|degrade NAME [options]"
    raise UserError("write the action right after 'datasets'", usage)


def check_parser() -> Parser:
    """The arguments of `datasets check`."""
    parser = new_parser(
        "datasets check",
        "Check a dataset on disk against its spec (counts, names, sizes, pairing, scale, shift of\n"
        "LQ against GT, every frame readable) and the hashes of the first check.",
        "vsrbench datasets check NAME [--accept] [--quick]",
    )
    parser.add_argument("--accept", action="store_true", help="accept the files as they are now")
    parser.add_argument("--quick", action="store_true", help="headers only: no shifts, no hashes")
    parser.add_argument("name", metavar="NAME", help="name of the dataset")
    return parser


def check(options: argparse.Namespace) -> int:
    """Check a dataset; exit code 1 if it is not as its spec says."""
    from vsrbench.cards import specs
    from vsrbench.run import datacheck

    spec = specs.dataset_spec(options.root, options.name)
    manifest = options.root / "results" / "manifests" / f"{spec.name}.json"
    found = datacheck.check(spec, manifest, options.accept, options.quick, note)
    for kind in ("facts", "warnings", "errors"):
        for text in getattr(found, kind):
            print(plain(text if kind == "facts" else f"{kind[:-1]}: {text}"))
    verdict = f"{counted(len(found.errors), 'error')}, {counted(len(found.warnings), 'warning')}"
    print(f"{spec.name}: {verdict if found.errors or found.warnings else 'as its spec says'}")
    return FAILED if found.errors else OK


def add_parser() -> Parser:
    """The arguments of `datasets add`."""
    parser = new_parser(
        "datasets add",
        "Write a spec for a folder of clips of your own. Folders LQ and GT in it are found.",
        "vsrbench datasets add NAME FOLDER [--lq PATTERN] [--gt PATTERN] [options]",
    )
    parser.add_argument("name", metavar="NAME", help="name of the new dataset")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where the clips are")
    parser.add_argument("--lq", metavar="PATTERN", help="such as 'input/{clip}'")
    parser.add_argument("--gt", metavar="PATTERN", help="such as '{clip}/truth'")
    parser.add_argument("--scale", type=positive, help="default: from the sizes, 4 without GT")
    return parser


def add(options: argparse.Namespace) -> int:
    """Write the spec, and print its path."""
    from vsrbench.data import newset

    path, spec = newset.add(
        options.root, options.name, options.folder, options.lq, options.gt, options.scale
    )
    print(f"{path}: {spec.kind}, x{spec.scale}")
    next_step(options, f"datasets check {spec.name}")
    return OK


def fetch_parser() -> Parser:
    """The arguments of `datasets fetch`."""
    parser = new_parser(
        "datasets fetch",
        "Download and unpack a published pack; interrupted downloads resume.",
        "vsrbench datasets fetch NAME [--pack NAME] [--to DIR] [--accept-licence]",
    )
    parser.add_argument("--pack", help="which publisher's pack (default: the first in the spec)")
    parser.add_argument("--to", type=Path, metavar="DIR", help="default: the folder of the dataset")
    parser.add_argument(
        "--accept-licence", action="store_true", help="accept the licence without asking"
    )
    parser.add_argument("--keep", action="store_true", help="keep the downloaded archives")
    parser.add_argument(
        "--timeout",
        type=positive,
        default=20,
        metavar="S",
        help="seconds to wait for a silent server (default: 20)",
    )
    parser.add_argument("name", metavar="NAME", help="name of the dataset")
    return parser


def fetch(options: argparse.Namespace) -> int:
    """Download and unpack a pack, once its licence is accepted."""
    from vsrbench.cards import specs
    from vsrbench.data import datasets
    from vsrbench.data import fetch as packs

    spec = specs.dataset_spec(options.root, options.name)
    downloads = packs.choose_pack(spec, options.pack)
    place = options.to or datasets.root_of(spec)
    if place is None:
        raise UserError(
            f"no destination folder for {spec.name}",
            f"--to DIR, or set ${DATA} to the folder of all datasets",
        )
    note(f"{spec.title}: {spec.source}")
    note(f"licence: {spec.licence or 'none stated'}")
    note(f"cite: {spec.citation}")
    if not options.accept_licence:
        if not sys.stdin.isatty():
            raise UserError("accept the licence first", "--accept-licence")
        note("Do you accept this licence? [y/N] ")
        if input().strip().lower() not in ("y", "yes"):
            note("nothing fetched")
            return UserError.exit_code
    packs.fetch(spec, downloads, place, note, options.keep, options.timeout)
    print(place)
    if datasets.root_of(spec) != place:
        note(f"next: export {datasets.root_variable(spec)}={place.resolve()}")
    next_step(options, f"datasets check {spec.name}")
    return OK


def degrade_parser() -> Parser:
    """The arguments of `datasets degrade`."""
    parser = new_parser(
        "datasets degrade",
        "Make LQ for a dataset that ships GT only: a new dataset, named by recipe, seed and a\n"
        "hash of its frames. Recipes: realbasicvsr, clean, mild, real.",
        "vsrbench datasets degrade NAME --recipe NAME --seed N",
    )
    parser.add_argument("--recipe", required=True, metavar="NAME", help="see above")
    parser.add_argument("--seed", required=True, type=whole, metavar="N", help="0, 1, ...")
    parser.add_argument("name", metavar="NAME", help="name of the dataset")
    return parser


def degrade(options: argparse.Namespace) -> int:
    """Make LQ, and print the name of the new dataset."""
    from vsrbench.cards import specs
    from vsrbench.data import newset

    own, _, layout = options.name.partition(":")
    if layout:
        raise UserError("`degrade` always uses GT", f"drop the layout: {own}")
    spec = specs.dataset_spec(options.root, options.name)
    name, folder = newset.degrade_set(options.root, spec, options.recipe, options.seed, note)
    print(name)
    note(f"LQ in {folder}")
    next_step(options, f"--methods bicubic --datasets {name}")
    return OK
