# SPDX-License-Identifier: Apache-2.0
"""Opens a volume and keeps it open until `vlmc close`, though nobody uses it.

It takes the volume's lock, so that no other node can open it for writing."""
from __future__ import annotations

import argparse

from tools.vlmc._common import add_json, control

HELP = "open a volume and keep it open"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a volume or snapshot")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    answer = control(args, "open", name=args.name)
    if args.json:
        from tools import cli
        cli.print_json({"name": args.name, **answer})
    else:
        print(f"Volume {args.name} opened")
    return 0
