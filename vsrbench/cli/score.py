"""`score`: outputs that exist already, by the code of a run."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from vsrbench.cli.arguments import (
    METRICS,
    SEVERAL,
    Parser,
    add_device,
    add_format,
    add_names,
    add_part,
    add_ray,
    add_results,
    new_parser,
    positive,
    whole,
)
from vsrbench.cli.running import crew_of, print_tables, say_counts
from vsrbench.cli.stored import open_store
from vsrbench.core.errors import UserError, unknown_name
from vsrbench.core.progress import note


def make_parser() -> Parser:
    """The arguments."""
    parser = new_parser(
        "score",
        "Score frames or videos that you already have, exactly as a run does. Without --gt:\n"
        "metrics that need none; without --lq as well: only those of the outputs alone.",
        "vsrbench score --outputs PATH [--gt PATH] [--lq PATH] [options]\n"
        "       vsrbench score --outputs PATH --dataset NAME [options]",
    )
    what = parser.add_argument_group("what")
    clips = "video, folder of frames or of clips"
    what.add_argument("--outputs", type=Path, required=True, metavar="PATH", help=clips)
    what.add_argument("--gt", type=Path, metavar="PATH", help="ground truth, in the same layout")
    what.add_argument("--lq", type=Path, metavar="PATH", help="inputs, in the same layout")
    what.add_argument("--scale", type=positive, default=4, help="of --lq without --gt (default: 4)")
    what.add_argument("--dataset", metavar="NAME", help="dataset that supplies LQ and GT")
    what.add_argument("--name", help="name in tables (default: that of the file or folder)")
    add_part(parser.add_argument_group("a part of the clips"))
    how = parser.add_argument_group("how")
    add_names(how, "--metrics", METRICS)
    how.add_argument(
        "--preset",
        help="PSNR and SSIM as in dove (with its cropping), classic-y or strict-rgb",
    )
    how.add_argument("--border", type=whole, metavar="PX", help="cut from each side (default: 0)")
    how.add_argument(
        "--policy",
        help="outputs of another size than GT: refuse (default), or crop both to what they share: "
        "center, topleft",
    )
    how.add_argument(
        "--align",
        metavar="NAME|FILE",
        help="where outputs lie in GT: dove, seedvr2, flashvsr, or a TOML file (default: "
        "alignment.toml beside the outputs)",
    )
    how.add_argument("--names", metavar="PATTERN", help="names of outputs, such as 'sr_{clip}_x4'")
    how.add_argument(
        "--frames", default="all", help="all (default), first-mid-last, or stride:N for every Nth"
    )
    add_format(how)
    add_device(how, SEVERAL)
    add_ray(how)
    how.add_argument("--fresh", action="store_true", help="recompute results that are on disk")
    how.add_argument("-q", "--quiet", action="store_true", help="hide progress")
    add_results(how)
    return parser


def execute(options: argparse.Namespace) -> int:
    """Score the outputs, and print a table."""
    from vsrbench.cards import specs
    from vsrbench.core.types import MethodCard, Weights
    from vsrbench.data import datasets, outputs
    from vsrbench.data.selection import Selection
    from vsrbench.metrics import PRESETS, metric_info
    from vsrbench.run.runner import Run, RunConfig

    crew = crew_of(options)
    if options.preset and options.preset not in PRESETS:
        raise unknown_name("preset", options.preset, PRESETS)
    dove = options.preset == "dove"
    policy: Any = options.policy or ("topleft" if dove else "refuse")
    if policy not in get_args(outputs.Policy):
        raise unknown_name("policy", policy, get_args(outputs.Policy))
    outputs.frame_numbers(options.frames, 1)
    beside = options.outputs / datasets.MANIFEST
    align = options.align or (str(beside) if beside.is_file() else "")
    if align and align not in outputs.CONVENTIONS:
        note(f"alignment: {align}")
    rules = outputs.ScoringPolicy(
        policy=policy,
        shortest=dove,
        rule=options.frames,
        border_px=0 if dove and options.border is None else options.border,
        alignment=outputs.read_alignment(align) if align else None,
        names=options.names or "",
        need_lq=not (align or dove),
    )
    if options.dataset and (options.gt or options.lq):
        raise UserError("--dataset brings its own LQ and GT", "leave out --gt and --lq")
    metrics = (*PRESETS.get(options.preset, ()), *(options.metrics or ()))
    for metric in metrics:
        metric_info(metric)
    source = options.outputs.resolve()
    title = options.name or datasets.name_of_path(options.outputs)
    name = datasets.safe_name(title)
    if name in {specs.GT_CARD.name, *specs.method_files(options.root)}:
        raise UserError(f"'{name}' is the name of a method here", "choose another with --name")
    store = open_store(options)
    selection = Selection(tuple(options.clips or ()), options.limit or 0)
    targets: datasets.Dataset | Path | None = options.gt
    if options.dataset:
        spec = specs.dataset_spec(options.root, options.dataset)
        targets = datasets.open_dataset(spec, note, selection)
    elif options.lq:
        targets = datasets.open_input(options.lq, options.gt, options.scale, selection=selection)
    found = outputs.open_outputs(options.outputs, targets, rules, selection)
    store.prepare()
    outputs_card = MethodCard(name, 1, title, Weights("user", note="outputs"), kind="frames")
    cards = [replace(outputs_card, scale=0, source=str(source))]
    if found.clips and all(clip.lq for clip in found.clips):
        cards.insert(0, specs.method_card(options.root, "bicubic"))
    with crew:
        config = RunConfig(
            root=options.root,
            devices=crew.devices(options.device),
            metrics=tuple(dict.fromkeys(metrics)),
            fresh=options.fresh,
            quiet=options.quiet,
            with_cost=False,
            verbose=options.verbose,
            preset=options.preset or "",
            began_s=options.began_s,
        )
        run = Run(config, store, crew)
        run.go(cards, [found])
        print_tables(options, run, [found], options.format)
        say_counts(run)
        return run.exit_code
