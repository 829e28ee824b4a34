# SPDX-License-Identifier: Apache-2.0
"""Shows the map of a volume: each block that is not zeros, and the objects its bytes lie in.

The objects of a block are listed from the top: where a chunk of 4 KiB is in several, the first counts.
Each is shown as volume id:epoch (or the digest of content) and the number of chunks it gives.
"""
from __future__ import annotations

import argparse

from tools import cli
from tools.vlmc._common import add_json, portions

HELP = "show where the blocks of a volume lie"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a volume or snapshot")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    entries = [entry for answer in portions(args, "mapinfo", name=args.name) for entry in answer["entries"]]
    if args.json:
        cli.print_json([{"block": block, "layers": [
            {"kind": kind, "object": name, "epoch": epoch, "chunks": chunks} for kind, name, epoch, chunks in layers]}
            for block, layers in entries])
        return 0
    cli.print_table([[block, " > ".join(f"{name}:{epoch} ({chunks})" if kind == "data" else f"{name} ({chunks})"
                                        for kind, name, epoch, chunks in layers)] for block, layers in entries],
                    ["block", "objects, topmost first (chunks)"])
    return 0
