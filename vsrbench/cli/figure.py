"""`figure`: from stored records and kept frames."""

from __future__ import annotations

import argparse
from pathlib import Path

from vsrbench.cli.arguments import Parser, add_names, add_results, box, new_parser, number
from vsrbench.cli.stored import open_results
from vsrbench.core.errors import OK


def make_parser() -> Parser:
    """The arguments."""
    parser = new_parser("figure", "Draw a figure from stored records and kept frames.", "")
    kinds = ["teaser", "crops", "profile", "scatter", "drift", "growth", "video"]
    parser.usage = f"vsrbench figure {'|'.join(kinds)} [options]"
    parser.add_argument("kind", choices=kinds)
    parser.add_argument("--dataset", help="default: the one with results, or synthetic")
    parser.add_argument(
        "--clip", help="default: the one on which methods differ most; drift: the longest"
    )
    add_names(parser, "--methods", "default: all that have results; lq: the input")
    parser.add_argument(
        "--metric", default="", help="scatter, drift (default: the best known one that there is)"
    )
    parser.add_argument(
        "--x", default="", metavar="COLUMN", help="scatter: the other axis (default: ms, if there)"
    )
    parser.add_argument("--row", type=int, help="profile: GT row (default: chosen by rule)")
    parser.add_argument("--frame", type=int, help="teaser, crops: default: the middle one")
    parser.add_argument(
        "--box",
        type=box,
        help="teaser, crops, video: x,y,w,h in GT px (default: by rule; video: the whole frame)",
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
        "--format",
        choices=["png", "svg", "pdf", "mp4", "gif", "webp"],
        default="",
        help="png, svg or pdf (default: png); for video mp4, gif or webp (default: mp4)",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        help="file, whose suffix is the format (default: DIR/figures/...)",
    )
    add_results(parser)
    return parser


def execute(options: argparse.Namespace) -> int:
    """Draw, and print the path of the file."""
    path = open_results(options).figure(
        options.kind,
        options.output,
        dataset=options.dataset,
        clip=options.clip,
        methods=options.methods,
        metric=options.metric,
        x=options.x,
        form=options.format,
        row=options.row,
        frame=options.frame,
        box=options.box,
        how=options.how,
        limit_mib=options.limit,
    )
    print(path)
    return OK
