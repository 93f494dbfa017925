"""`export`: the networks of a method as ONNX files."""

from __future__ import annotations

import argparse
from pathlib import Path

from vsrbench.cli.arguments import Parser, new_parser, size
from vsrbench.core.errors import OK, UserError
from vsrbench.core.progress import note


def make_parser() -> Parser:
    """The arguments."""
    parser = new_parser(
        "export",
        "Write those parts of a method that keep no state as ONNX files, for frames of one size.",
        "vsrbench export NAME --onnx DIR [--size WxH]",
    )
    parser.add_argument("name", help="method, or path of a checkpoint")
    parser.add_argument("--onnx", type=Path, required=True, metavar="DIR", help="folder for them")
    parser.add_argument(
        "--size",
        type=size,
        default=(180, 320),
        metavar="WxH",
        help="LQ size in px (default: 320x180)",
    )
    return parser


def execute(options: argparse.Namespace) -> int:
    """Write the files, and say what each takes and gives."""
    from vsrbench.cards import specs
    from vsrbench.run.export import export_all

    card = specs.method_card(options.root, options.name)
    try:
        options.onnx.mkdir(parents=True, exist_ok=True)
        for path, about in export_all(card, options.size, options.onnx):
            print(path)
            note(f"  {about}")
    except OSError as error:
        raise UserError(
            f"cannot write {options.onnx}: {error.strerror}", "choose another folder: --onnx"
        ) from error
    return OK
