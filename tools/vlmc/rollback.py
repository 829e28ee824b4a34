# SPDX-License-Identifier: Apache-2.0
"""Makes a volume again what one of its snapshots is, in a moment whatever its size.

Nobody may have it open meanwhile: unmap it, and stop the machine that uses it. What it was before stays as a snapshot,
whose name is printed, or which gets the name that --keep says; `vlmc rollback` to that one undoes this. --discard keeps
nothing of it, and gives its space back. Other snapshots stay. The size is that of the snapshot, too.
"""
from __future__ import annotations

import argparse

from tools.vlmc._common import add_json, control, token

HELP = "make a volume what a snapshot of it is"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="VOLUME", help="the volume")
    parser.add_argument("snapshot", metavar="SNAPSHOT", help="a snapshot of it")
    before = parser.add_mutually_exclusive_group()
    before.add_argument("--keep", metavar="NAME", help="name of the snapshot that keeps what it was")
    before.add_argument("--discard", action="store_true", help="do not keep what it was")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    answer = control(args, "rollback", name=args.name, snapshot=args.snapshot, keep=args.keep, discard=args.discard,
                     token=token())
    if args.json:
        from tools import cli
        cli.print_json(answer)
    elif answer["snapshot"]:
        print(f"what {args.name} was is kept as {answer['snapshot']}")
    return 0
