# SPDX-License-Identifier: Apache-2.0
"""Makes a volume: an empty one of SIZE, or with --snap a clone of a snapshot.

An empty volume takes no space. Sizes are in bytes, with K, M, G, T or P for powers of 1024, and must
be multiples of 512. A clone has the snapshot's size unless a larger one is given, and its block size.
"""
from __future__ import annotations

import argparse

from tools.vlmc._common import add_json, add_size, control, token

HELP = "make a volume"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="its name")
    add_size(parser, "--size", help="its size; needed without --snap")
    parser.add_argument("--snap", metavar="SNAP", help="the snapshot it is a clone of")
    add_size(parser, "--block-size", help="a power of two from 64K to 16M (default 4M)")
    add_json(parser)
    parser.set_defaults(usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    if args.snap is None and args.size is None:
        args.usage_error("--size is needed, or --snap")
    if args.snap is not None and args.block_size is not None:
        args.usage_error("a clone has the block size of its snapshot: leave out --block-size")
    if args.snap is None:
        control(args, "create", name=args.name, size=args.size, block_size=args.block_size, token=token())
    else:
        control(args, "clone", name=args.snap, names=[args.name], size=args.size, token=token())
    if args.json:
        from tools import cli
        cli.print_json({"name": args.name})
    return 0
