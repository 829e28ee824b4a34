# SPDX-License-Identifier: Apache-2.0
"""Changes the size of a volume, open or not.

What a smaller size cuts off is lost and its space given back; when the volume grows again it reads as
zeros. Shrink the file system first. NBD clients see the new size when they connect again.
"""
from __future__ import annotations

import argparse

from tools.vlmc._common import add_json, add_size, control

HELP = "change the size of a volume"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the volume")
    add_size(parser, "size", help="its size from now on")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    answer = control(args, "resize", name=args.name, size=args.size)
    if args.json:
        from tools import cli
        cli.print_json({"name": args.name, **answer})
    return 0
