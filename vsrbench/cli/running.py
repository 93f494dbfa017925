"""What commands share that run methods or metrics: cards, devices, tables, the last line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from vsrbench.core import processes
from vsrbench.core.errors import UserError
from vsrbench.core.progress import counted, note

if TYPE_CHECKING:
    from vsrbench.core.types import MethodCard
    from vsrbench.data.datasets import Dataset
    from vsrbench.run.cluster import Cluster
    from vsrbench.run.executors import Crew
    from vsrbench.run.runner import Run


def read_cards(options: argparse.Namespace, device: str) -> list[MethodCard]:
    """The cards of --methods, in the precision and by the backend asked for. Raises UserError."""
    from vsrbench.api.running import set_precision
    from vsrbench.cards import specs
    from vsrbench.run.backends import check

    if not options.methods:
        raise UserError("say which methods to run", "--methods A,B; see: vsrbench list methods")
    cards = [specs.method_card(options.root, m) for m in options.methods]
    found = set_precision(
        cards,
        device,
        getattr(options, "precision", "") or "",
        getattr(options, "backend", "") or "",
    )
    for card in found:
        check(card, device)
    _say_untouched(options, found)
    return found


def _say_untouched(options: argparse.Namespace, cards: Sequence[MethodCard]) -> None:
    """Name the methods that were asked for and that --backend and --precision pass over."""
    asked = ((name, getattr(options, name, None)) for name in ("backend", "precision"))
    flags = [f"--{name} {value}" for name, value in asked if value not in (None, "torch", "fp32")]
    names = [card.name for card in cards if card.weights.origin == "none"]
    if flags and names:
        has, runs = ("has", "it runs") if len(names) == 1 else ("have", "they run")
        note(f"{', '.join(names)} {has} no network for {' and '.join(flags)}: {runs} as without")


def print_commands(cards: Sequence[MethodCard], sets: Sequence[Dataset]) -> None:
    """What `run --dry-run` says: clips of each dataset, and the command line of each program."""
    from vsrbench.programs.command import show_command
    from vsrbench.run.method import set_scale

    for dataset in sets:
        for card in cards:
            print(f"# {card.name} on {dataset.spec.name}: {counted(len(dataset.clips), 'clip')}")
            sizes = dict.fromkeys((clip.size, clip.scale) for clip in dataset.clips)
            for size, scale in sizes if card.kind == "command" else ():
                try:
                    print(show_command(set_scale(card, scale), size))
                except UserError as error:
                    print(f"# {error}")


def crew_of(options: argparse.Namespace) -> Crew | Cluster:
    """The workers of a run: of this machine, or of the cluster that --ray names.

    What is asked on this machine imports what it needs from now on.
    """
    processes.warm_up()
    if options.ray is None:
        from vsrbench.run.executors import Crew

        return Crew()
    from vsrbench.run.cluster import Cluster

    return Cluster(options.ray)


def print_tables(
    options: argparse.Namespace,
    run: Run,
    sets: Sequence[Dataset],
    form: str | None = None,
) -> None:
    """One table for each dataset: what this run asked for, whether new or reused."""
    from vsrbench.api import Results
    from vsrbench.results.store import explain_software

    records = run.store.of_run(run.id)
    earlier = run.store.software({r.run_id for r in records} - {run.id})
    if software := explain_software(earlier, run.store.software({run.id})):
        note(f"note: what is reused was computed with {software}; --fresh computes it again")
    for dataset in sets:
        spec = dataset.spec
        at = (r.dataset for r in records if spec.path and r.dataset_source == spec.path)
        name = next(at, spec.name)  # beside a dataset with a spec of that name, the end of its path
        rows = list(dict.fromkeys(r.method for r in records if r.dataset == name))
        if not rows:  # all of it is in other shards
            continue
        own = {name: spec if name == spec.name else replace(spec, name=name, title=name)}
        results = Results(run.store, options.root, own, records)
        print(
            results.table(form, methods=rows, datasets=[name], metrics=run.choose_metrics(dataset))
        )


def say_counts(run: Run) -> None:
    """The last lines of a run."""
    c = run.counts
    note(run.describe_time())
    note(
        f"done: {counted(c['ok'], 'new result')}, {c['reused']} reused, {c['failed']} failed, "
        f"{c['skipped']} skipped; records in {run.store.records}"
    )
    if c["failed"]:
        note("  run the same command again to retry the failed ones")
