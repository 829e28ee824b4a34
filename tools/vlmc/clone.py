# SPDX-License-Identifier: Apache-2.0
"""Makes clones of a snapshot, in a moment whatever its size: they share all its data.

With --count, NAME holds {} where the number goes: `vlmc clone base vm-{} --count 200` makes vm-1 to
vm-200. All are made or none, also when the command is interrupted; until then none can be used. When
SOURCE is a volume, a snapshot of it is taken first, and kept unless the clones fail; its name (SOURCE@clone-...)
is printed, and `vlmc list` shows it.
"""
from __future__ import annotations

import argparse

from tools.vlmc._common import add_json, add_size, control, token

HELP = "make clones of a snapshot"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="a snapshot, or a volume")
    parser.add_argument("name", metavar="NAME", help="name of the clone; with {} in it for many")
    parser.add_argument("--count", type=int, metavar="N", help="how many")
    parser.add_argument("--first", type=int, default=1, metavar="N", help="number of the first (default 1)")
    add_size(parser, "--size", help="their size, if larger than the source's")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    many = {"pattern": args.name, "count": args.count, "first": args.first}
    wanted = {"names": [args.name]} if args.count is None else many
    key = token()
    try:
        answer = control(args, "clone", name=args.source, size=args.size, token=key, **wanted)
    except KeyboardInterrupt:
        control(args, "cancel", token=key)      # and what was made so far is removed when this returns
        raise
    if args.json:
        from tools import cli
        cli.print_json(answer)
    elif answer["snapshot"]:
        print(f"took the snapshot {answer['snapshot']} first")
    return 0
