# SPDX-License-Identifier: Apache-2.0
"""Changes the size of a volume, open or not.

What a smaller size cuts off is lost and its space given back; when the volume grows again it reads as
zeros. Shrink the file system first. A smaller size is refused without --allow-shrink, but a person at a terminal is
asked. NBD clients see the new size when they connect again, and a device that the volume is mapped to has it when it
was unmapped and mapped again; if there is one, that is said.
"""
from __future__ import annotations

import argparse
from typing import Any

from tools.vlmc._common import add_json, add_size, control

HELP = "change the size of a volume"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the volume")
    add_size(parser, "size", help="its size from now on")
    parser.add_argument("--allow-shrink", action="store_true", help="though that cuts off what lies beyond")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    info = control(args, "info", name=args.name)
    if args.size < info["size"] and not args.allow_shrink:
        confirm(args, info)
    answer = control(args, "resize", name=args.name, size=args.size)
    if args.json:
        from tools import cli
        cli.print_json({"name": args.name, **answer})
    if args.size != info["size"]:
        say_what_is_mapped(args.home, info["id"])
    return 0


def confirm(args: argparse.Namespace, info: dict[str, Any]) -> None:
    """Returns if a person at a terminal agrees that the volume becomes smaller. Invalid."""
    import sys

    from tools import cli
    from xseg.errors import Invalid
    cut = f"the last {cli.human(info['size'] - args.size)} of {args.name} would be lost"
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise Invalid(f"{cut}: --allow-shrink if that is meant")
    print(f"vlmc: {cut}. Shrink it? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Invalid(f"{args.name} has still {cli.human(info['size'])}")


def say_what_is_mapped(home: str, volume: str) -> None:
    """Which device has the former size, on stderr."""
    import sys

    from tools.mapping import mapping
    for entry in mapping.entries(home):
        if entry.id == volume and entry.alive:
            print(f"vlmc: {entry.device} keeps its size until `vlmc unmap {entry.device}` and `vlmc map {entry.name}`",
                  file=sys.stderr)
