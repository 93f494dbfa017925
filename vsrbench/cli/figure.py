"""`figure`: from stored records and kept frames."""

from __future__ import annotations

import argparse
from pathlib import Path

from vsrbench.cli.arguments import Parser, add_results, box, names, new_parser, number
from vsrbench.cli.stored import open_store, read_records, summarise_for, writing
from vsrbench.core.errors import OK, UserError, unknown

FPS = 12.0
"""Of frames that do not say how fast they go."""


def make_parser() -> Parser:
    """The arguments."""
    parser = new_parser("figure", "Draw a figure from stored records and kept frames.", "")
    parser.usage = "vsrbench figure profile|crops|scatter|time|video [options]"
    parser.add_argument("kind", choices=["profile", "crops", "scatter", "time", "video"])
    parser.add_argument("--dataset", help="default: the one with results, or synthetic")
    parser.add_argument("--clip", help="default: the first one")
    parser.add_argument("--methods", type=names, help="default: all that have results")
    parser.add_argument("--metric", default="psnr", help="scatter, time (default: psnr)")
    parser.add_argument("--row", type=int, help="profile: GT row (default: chosen by rule)")
    parser.add_argument("--frame", type=int, help="crops: frame (default: the middle one)")
    parser.add_argument(
        "--box",
        type=box,
        help="crops, video: x,y,w,h in GT px (default: chosen by rule; video: the whole frame)",
    )
    parser.add_argument(
        "--how",
        choices=["side", "grid", "wipe"],
        default="side",
        help="video: one row, a grid, or two methods under a moving bar (default: side)",
    )
    parser.add_argument(
        "--limit",
        type=number,
        default=3.0,
        metavar="MIB",
        help="video: largest GIF or WebP (default: 3)",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        help="PNG file; for video MP4, GIF or WebP (default: DIR/figures/...)",
    )
    add_results(parser)
    return parser


def execute(options: argparse.Namespace) -> int:
    """Draw, and print the path of the file."""
    from vsrbench.show import figures, moving

    store = open_store(options)
    records = read_records(store)
    quality = [r for r in records if r.kind == "quality"]
    sets = list(dict.fromkeys(r.dataset for r in quality))
    dataset = options.dataset or ("synthetic" if "synthetic" in sets else sets[0] if sets else "")
    if dataset not in sets:
        raise unknown("dataset with results", dataset, sets)
    clips = list(dict.fromkeys(r.clip for r in quality if r.dataset == dataset))
    clip = options.clip or clips[0]
    if clip not in clips:
        raise unknown(f"clip of {dataset}", clip, clips)
    have = list(dict.fromkeys(r.method for r in quality if r.dataset == dataset))
    for name in options.methods or []:
        if name not in have:
            raise unknown("method with results", name, have)
    kept = [name for name in have if (store.frames / name / dataset / clip).is_dir()]
    from_frames = options.kind in ("profile", "crops", "video")
    methods = options.methods or (kept if from_frames and kept else have)
    label = dataset if options.kind == "scatter" else f"{dataset}-{clip}"
    out = options.output or store.folder / "figures" / f"{options.kind}-{label}"
    usual = ".mp4" if options.kind == "video" else ".png"
    out = out if out.suffix else out.with_name(out.name + usual)
    if options.kind != "video" and out.suffix.lower() != ".png":
        raise UserError(f"figures are PNG, and {out} is not", f"-o {out.with_suffix('.png')}")
    frames = store.frames
    with writing(out):
        if options.kind == "profile":
            figures.profile(frames, dataset, clip, methods, out, options.row, records)
        elif options.kind == "crops":
            figures.crops(frames, dataset, clip, methods, out, options.box, options.frame, records)
        elif options.kind == "video":
            sources = figures.kept_frames(frames, dataset, clip, methods)
            titles = figures.titles_of(records, sources)
            if options.how == "wipe" and options.methods:
                sources = {name: sources[name] for name in options.methods}
            fps = next((s.fps for s in sources.values() if s.fps), 0.0) or FPS
            shown = {titles[name]: source for name, source in sources.items()}
            moving.write(
                moving.arranged(shown, options.how, options.box, fps), out, fps, options.limit
            )
        elif options.kind == "scatter":
            summary = summarise_for(options, records, methods, [dataset], None)
            figures.scatter(summary, out, y=options.metric, dataset=dataset)
        else:
            figures.over_time(records, dataset, clip, methods, options.metric, out)
    print(out)
    return OK
