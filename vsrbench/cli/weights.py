"""`weights list|fetch|check`: the files that methods and metrics need."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vsrbench.cli.arguments import Parser, add_names, new_parser, positive
from vsrbench.core.errors import FAILED, MISSING, OK, UserError, unknown_name
from vsrbench.core.progress import counted, note, say_error

if TYPE_CHECKING:
    from vsrbench.cards.sources import Need
    from vsrbench.core.types import MethodCard

WIDTH = 100
USAGE = "vsrbench weights list|fetch|check [NAME ...] [--for A] [--metrics A]"


def make_parser() -> Parser:
    """The arguments of `weights` alone."""
    parser = new_parser(
        "weights", "Weights of methods and metrics: list, fetch, check them.", USAGE
    )
    parser.add_argument("action", metavar="list|fetch|check")
    return parser


def execute(options: argparse.Namespace) -> int:
    """Raise UserError: what to do comes first, before all options."""
    raise UserError("write the action right after 'weights'", USAGE)


def _parser(action: str, purpose: str) -> Parser:
    parser = new_parser(f"weights {action}", purpose, USAGE.replace("list|fetch|check", action))
    parser.add_argument("names", nargs="*", metavar="NAME", help="of a method, a metric or a file")
    add_names(parser, "--for", "methods", default=[], dest="methods")
    add_names(parser, "--metrics", "metrics", default=[])
    return parser


def list_parser() -> Parser:
    """The arguments of `weights list`."""
    return _parser("list", "The files, their sources, sizes and licences, and which are here.")


def fetch_parser() -> Parser:
    """The arguments of `weights fetch`."""
    parser = _parser(
        "fetch",
        "Fetch what is not here yet. Interrupted downloads resume; your own files in\n"
        "$VSRBENCH_WEIGHTS are used as they are.",
    )
    parser.add_argument(
        "--accept-licence", action="store_true", help="accept the licences without asking"
    )
    parser.add_argument(
        "--timeout",
        type=positive,
        default=20,
        metavar="S",
        help="seconds to wait for a silent server (default: 20)",
    )
    return parser


def check_parser() -> Parser:
    """The arguments of `weights check`."""
    return _parser("check", "Check the files that are here against their hashes.")


def list_all(options: argparse.Namespace) -> int:
    """Print each file with its owner and whether it is here; source, size and licence below."""
    from textwrap import fill, indent

    from vsrbench.cards.sources import describe

    wanted, cards = _select(options)
    if options.names or options.methods:
        _say_without(cards, wanted, print)
    for need in wanted:
        found = need.locate()
        state = (
            f"is {found}" if found and options.verbose else "is here" if found else "is not here"
        )
        print(f"{need.owner}: {need.name} {state}")
        about = fill(describe(need), WIDTH - 4, break_on_hyphens=False)
        print(indent(about, " " * 4))
    return OK


def fetch(options: argparse.Namespace) -> int:
    """Fetch files, once their licences are accepted; make of them what adapters load."""
    from vsrbench.cards import sources

    if not (options.names or options.methods or options.metrics):
        raise UserError("say what to fetch", "NAME ..., --for METHOD or --metrics NAME")
    wanted, cards = _select(options)
    _refuse_none(cards, wanted)
    code = OK
    for owner in dict.fromkeys(need.owner for need in wanted):
        files = [need for need in wanted if need.owner == owner]
        try:
            for need in sources.find_missing(files):
                if not need.is_free():
                    _ask(need, options.accept_licence)
            print(*sources.fetch(files, note, options.timeout), sep="\n")
        except UserError as error:  # the others come all the same
            say_error(error)
            code = code or error.exit_code
    for card in cards:
        if card.weights.convert and not sources.find_missing(sources.needs_of_card(card)):
            print(_converted(card))
    return code


def check(options: argparse.Namespace) -> int:
    """Print what is wrong with a file, a line each; exit code 1 if any is, 3 if one is missing."""
    from vsrbench.cards import sources

    wanted, cards = _select(options)
    asked = bool(options.names or options.methods or options.metrics)
    if asked:
        _refuse_none(cards, wanted)
    good = bad = absent = 0
    for need in wanted:
        path = need.locate()
        if path is None:
            absent += 1
            if asked:
                print(
                    f"{need.name} (for {need.owner}): not here; vsrbench weights fetch {need.owner}"
                )
            continue
        wrong = sources.find_problem(need, path)
        good, bad = good + (not wrong), bad + bool(wrong)
        if wrong or asked:
            print(f"{path}: {wrong or 'intact'}")
    note(f"{counted(good, 'file')} intact, {bad} damaged or replaced, {absent} not here")
    return FAILED if bad else MISSING if absent and asked else OK


def _select(options: argparse.Namespace) -> tuple[list[Need], list[MethodCard]]:
    """The files that were asked for, all by default, and the cards of their methods."""
    from vsrbench import metrics
    from vsrbench.cards import sources, specs
    from vsrbench.metrics.requirements import need_of

    files = specs.method_files(options.root)
    everything = not (options.names or options.methods or options.metrics)
    cards: list[MethodCard] = []
    found: list[Need] = []
    for name in files if everything else [*options.methods, *options.names]:
        if name in files:
            cards.append(specs.read_card(files[name]))
        elif name in options.methods:
            raise unknown_name("method", name, files)
    by_card = {card.name: sources.needs_of_card(card, _find_checkout(card)) for card in cards}
    found += [need for needs in by_card.values() for need in needs]
    by_metric = {name: need for name in metrics.METRICS if (need := need_of(name))}
    for name in options.metrics:
        metrics.metric_info(name)
    for name in [*options.metrics, *options.names]:
        if name in metrics.METRICS and name not in by_metric:
            note(f"{name} needs no weights")
    chosen = by_metric if everything else {*options.metrics, *options.names}
    found += [need for name, need in by_metric.items() if name in chosen]
    known = {need.owner for need in found} | set(files) | set(metrics.METRICS)
    for name in options.names:
        if name not in known:
            found += _find_by_file(options.root, name, by_metric.values())
    return found, cards


def _say_without(
    cards: Iterable[MethodCard], wanted: Sequence[Need], say: Callable[[str], None]
) -> None:
    """A line for each method that no source of weights is known for."""
    owners = {need.owner for need in wanted}
    for card in cards:
        if card.name not in owners:
            say(f"{card.name}: {_describe_origin(card)}")


def _refuse_none(cards: Sequence[MethodCard], wanted: Sequence[Need]) -> None:
    """Raise UserError where none of the methods that were asked for has a source of weights."""
    if cards and not wanted:
        names = ", ".join(f"'{card.name}'" for card in cards)
        raise UserError(f"no source of weights is known for {names}", _describe_origin(cards[0]))
    _say_without(cards, wanted, note)


def _find_by_file(root: Path, name: str, of_metrics: Iterable[Need]) -> list[Need]:
    """The first need of a file of this name. Raises UserError."""
    from vsrbench.cards import sources, specs

    cards = [specs.read_card(path) for path in specs.method_files(root).values()]
    needs = [need for card in cards for need in sources.needs_of_card(card)]
    needs += of_metrics
    same = [need for need in needs if need.name == name]
    if not same:
        owners = {need.owner for need in needs} | {need.name for need in needs}
        raise unknown_name("method, metric or file of weights", name, owners)
    return same[:1]


def _find_checkout(card: MethodCard) -> Path | None:
    """The checkout of a method in an environment of its own, if the user has named it."""
    from vsrbench.programs import command

    if card.kind != "command":
        return None
    try:
        return Path(command.read_places(card.name)["repo"])
    except UserError:
        return None


def _describe_origin(card: MethodCard) -> str:
    if card.weights.file and card.weights.origin == "trained_here":
        return "its weights come with it"
    url = card.weights.url
    return f"its weights are published at {url}" if url else "it needs no weights"


def _ask(need: Need, accepted: bool) -> None:
    """Show a licence that asks for something, and remember that it was accepted."""
    from vsrbench.cards import sources

    note(f"licence of {need.name}: {need.licence or 'none stated'}")
    if need.licence.endswith("(repository)"):
        note("  that of the repository which links to the weights: theirs is not stated")
    if not accepted:
        if not sys.stdin.isatty():
            raise UserError("accept the licence first", "--accept-licence")
        note("Do you accept this licence? [y/N] ")
        if input().strip().lower() not in ("y", "yes"):
            raise UserError(f"{need.name} is not fetched", "its licence was not accepted")
    sources.accept(need.licence)


def _converted(card: MethodCard) -> Path:
    """What the adapter loads, made of what was fetched unless it is there."""
    from dataclasses import replace

    from vsrbench.cards import sources
    from vsrbench.cards.weights import search
    from vsrbench.core.variables import fetched_folder
    from vsrbench.run.method import entry

    name = card.weights.file or Path(str(_declared_file(card))).name
    if found := search(name, Path(card.folder)):
        return found
    target = fetched_folder() / name
    paths = [need.locate() for need in sources.needs_of_card(card)]
    entry(replace(card, entry=card.weights.convert))(paths, target)
    return target


def _declared_file(card: MethodCard) -> str:
    """The file that a card names, which `find_named_file` takes away while it is nowhere."""
    from vsrbench.core.files import read_toml

    return str(read_toml(Path(card.folder) / f"{card.name}.toml")["weights"]["file"])
