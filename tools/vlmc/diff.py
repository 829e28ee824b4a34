# SPDX-License-Identifier: Apache-2.0
"""Shows which ranges of B differ from A; with one name, which are not zeros.

A and B are volumes or snapshots. If they are of one family (snapshots and clones of each other), only what one of them
has of its own is looked at, so that it takes as long as there are differences, whatever their size; no data are read.
The answer covers every difference. It is exact to 4 KiB, but for three cases: a block that one of them has and the
other has not at all is told as a whole; so may be a part that was copied within the store when layers were merged; and
of a snapshot whose blocks have content names (`vlmc hash`) and another whose have none, all those may be told. Of two
that were hashed, blocks of one name are the same, whatever family they are of.

What lies beyond the end of A counts as zeros there, and beyond the end of B nothing is told. Of a volume that is open,
what was written before the command began is in the answer; what is written meanwhile may be: of that, take a snapshot.
"""
from __future__ import annotations

import argparse
import json
from collections.abc import Iterator

from tools.vlmc._common import add_json

HELP = "show where two volumes or snapshots differ"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("base", metavar="A", nargs="?", help="a volume or snapshot; zeros if there is none")
    parser.add_argument("name", metavar="B", help="another")
    parser.add_argument("--summary", action="store_true", help="show only how much it is in all")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from tools.vlmc._ranges import differing
    from xseg.client import Client
    from xseg.volume_name import by_id
    with Client(args.home, "vlmc") as client:
        info = client.control("info", name=args.name)
        base = by_id(client.control("info", name=args.base)["id"]) if args.base else None
        found = differing(client, base, by_id(info["id"]))
        if args.summary:
            summary(args, info["size"], found)
        elif args.json:
            show_json(found)
        else:
            for offset, length in found:
                print(f"{offset:>20} {length:>20}")
    return 0


def summary(args: argparse.Namespace, size: int, found: Iterator[tuple[int, int]]) -> None:
    """How many ranges there are, and bytes in them."""
    from tools import cli
    ranges = count = 0
    for _offset, length in found:
        ranges, count = ranges + 1, count + length
    if args.json:
        cli.print_json({"size": size, "ranges": ranges, "bytes": count})
    else:
        print(f"{cli.human(count)} ({count} bytes) of {cli.human(size)} differ, in {ranges} ranges")


def show_json(found: Iterator[tuple[int, int]]) -> None:
    """A list, written as it comes: it may be long."""
    print("[", end="")
    for number, (offset, length) in enumerate(found):
        print("," * (number > 0), json.dumps({"offset": offset, "length": length}), sep="\n", end="")
    print("\n]")
