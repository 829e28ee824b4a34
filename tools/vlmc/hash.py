# SPDX-License-Identifier: Apache-2.0
"""Gives every block of a snapshot its content name: SHA-256 of its bytes without the zeros at their end.

Blocks with the same bytes are stored once then, whoever has them: clones made from the snapshot afterwards, other
hashed snapshots, images uploaded as contents. The blocker of the data hashes, so no bytes of objects come here. It
may be stopped at any time, and goes on where it was. What the blocks were stored as before is still there as long as
something else reaches it.
"""
from __future__ import annotations

import argparse
import sys

from tools.vlmc._common import add_json, portions

HELP = "give the blocks of a snapshot content names"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="SNAPSHOT", help="the snapshot")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    blocks = hashed = 0
    for answer in portions(args, "hash", name=args.name):
        blocks += answer["blocks"]
        hashed += answer["hashed"]
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{blocks} blocks, {hashed} of them hashed now ")
    if sys.stderr.isatty():
        sys.stderr.write("\n")
    if args.json:
        from tools import cli
        cli.print_json({"name": args.name, "blocks": blocks, "hashed": hashed})
    else:
        print(f"{args.name}: {blocks} blocks have content names, {hashed} of them since now")
    return 0
