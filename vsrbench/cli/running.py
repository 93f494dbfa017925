"""What commands share that run methods or metrics: cards, devices, tables, the last line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from vsrbench.core.errors import MissingError, UserError
from vsrbench.core.progress import note

if TYPE_CHECKING:
    from vsrbench.core.types import MethodCard
    from vsrbench.data.datasets import Dataset
    from vsrbench.run.runner import Run


def read_cards(options: argparse.Namespace, device: str) -> list[MethodCard]:
    """The cards of --methods, with the precision of this device. Raises UserError."""
    from vsrbench.cards import specs

    if not options.methods:
        raise UserError("say which methods to run", "--methods A,B; see: vsrbench list methods")
    cards = [specs.method_card(options.root, name) for name in options.methods]
    cards = list({(card.name, card.source): card for card in cards}.values())
    # Half precisions are for GPUs: the CPU runs fp32, and says so in records and tables.
    return [replace(card, precision="fp32") if device == "cpu" else card for card in cards]


def pick_devices(asked: str | None) -> tuple[str, ...]:
    """The torch devices to use at a time. Raises as `_device`; UserError for a mixture."""
    devices = (
        tuple(pick_device(name.strip()) for name in asked.split(","))
        if asked
        else (pick_device(None),)
    )
    if len({device.partition(":")[0] for device in devices}) > 1:
        raise UserError("--device mixes cpu and cuda", "their scores differ in the last digits")
    return devices


def pick_device(asked: str | None) -> str:
    """The torch device to use. Raises UserError, MissingError."""
    import torch

    if asked is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(asked)
    except RuntimeError as error:
        raise UserError(f"no device named '{asked}'", "cpu, cuda, cuda:1 ...") from error
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"nothing here runs on device '{asked}'", "cpu, cuda, cuda:1 ...")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise MissingError(
            f"device '{asked}' was asked for and {torch.cuda.device_count()} CUDA devices are here",
            "use --device cpu",
        )
    return "cpu" if device.type == "cpu" else str(device)


def print_commands(cards: Sequence[MethodCard], sets: Sequence[Dataset]) -> None:
    """What `run --dry-run` says: clips of each set, and the command line of each program."""
    from vsrbench.programs.command import shown
    from vsrbench.run.method import at_scale

    for dataset in sets:
        for card in cards:
            print(f"# {card.name} on {dataset.spec.name}: {len(dataset.clips)} clips")
            sizes = dict.fromkeys((clip.size, clip.scale) for clip in dataset.clips)
            for size, scale in sizes if card.kind == "command" else ():
                try:
                    print(shown(at_scale(card, scale), size))
                except UserError as error:
                    print(f"# {error}")


def print_tables(
    options: argparse.Namespace,
    run: Run,
    sets: Sequence[Dataset],
    form: str | None = None,
) -> None:
    """One table for each data set: what this run asked for, whether new or reused."""
    from vsrbench.api import Results

    records = run.store.of_run(run.id)
    for dataset in sets:
        spec = dataset.spec
        at = (r.dataset for r in records if spec.path and r.dataset_source == spec.path)
        name = next(at, spec.name)  # beside a set with a spec of that name, the end of its path
        rows = list(dict.fromkeys(r.method for r in records if r.dataset == name))
        own = {name: spec if name == spec.name else replace(spec, name=name, title=name)}
        results = Results(run.store, options.root, own, records)
        print(results.table(form, methods=rows, datasets=[name], metrics=run.wanted(dataset)))


def say_counts(run: Run) -> None:
    """The last line of a run."""
    c = run.counts
    note(
        f"done: {c['ok']} new results, {c['reused']} reused, {c['failed']} failed, "
        f"{c['skipped']} skipped; records in {run.store.records}"
    )
    if c["failed"]:
        note("  the same command tries the failed ones again")
