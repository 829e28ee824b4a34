# SPDX-License-Identifier: Apache-2.0
"""Takes a snapshot of a volume, open or not, and prints its name.

It holds what the volume held at that instant: every write that was acknowledged before. It never
changes, can be read and cloned, and costs nothing until the volume is written to.
"""
from __future__ import annotations

import argparse

from tools.vlmc._common import add_json, control, token

HELP = "take a snapshot of a volume"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="VOLUME", help="the volume")
    parser.add_argument("snapshot", metavar="SNAPSHOT", help="name of the snapshot")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    answer = control(args, "snapshot", name=args.name, snapshot=args.snapshot, token=token())
    if args.json:
        from tools import cli
        cli.print_json(answer)
    else:
        print(answer["name"])
    return 0
