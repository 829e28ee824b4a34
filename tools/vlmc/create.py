# SPDX-License-Identifier: Apache-2.0
"""Makes a volume: an empty one of SIZE, with --snap a clone of a snapshot, with --from-hashes one of known contents.

An empty volume takes no space. Sizes are in bytes, with K, M, G, T or P for powers of 1024, and must
be multiples of 512. A clone has the snapshot's size unless a larger one is given, and its block size.

--from-hashes reads a list as `vlmc hashes` prints it, with size, block size and a digest a block. The store must have
each of them as a content; which it lacks is told, and nothing is made then. No data are moved.
"""
from __future__ import annotations

import argparse

from tools.vlmc._common import add_json, add_size, control, token

HELP = "make a volume"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="its name")
    add_size(parser, "--size", help="its size; needed without --snap")
    parser.add_argument("--snap", metavar="SNAP", help="the snapshot it is a clone of")
    parser.add_argument("--from-hashes", metavar="FILE", help="a list of hashes of its blocks; -: standard input")
    add_size(parser, "--block-size", help="a power of two from 64K to 16M (default 4M)")
    add_json(parser)
    parser.set_defaults(usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    if args.from_hashes is not None:
        if args.snap is not None or args.size is not None or args.block_size is not None:
            args.usage_error("sizes stand in the list of hashes: leave out --size, --block-size and --snap")
        from tools.vlmc._hashes import adopt
        adopt(args)
        return told(args)
    if args.snap is None and args.size is None:
        args.usage_error("--size is needed, or --snap or --from-hashes")
    if args.snap is not None and args.block_size is not None:
        args.usage_error("a clone has the block size of its snapshot: leave out --block-size")
    if args.snap is None:
        control(args, "create", name=args.name, size=args.size, block_size=args.block_size, token=token())
    else:
        control(args, "clone", name=args.snap, names=[args.name], size=args.size, token=token())
    return told(args)


def told(args: argparse.Namespace) -> int:
    """Says what was made, if that is wanted."""
    if args.json:
        from tools import cli
        cli.print_json({"name": args.name})
    return 0
