# SPDX-License-Identifier: Apache-2.0
"""Undoes `vlmc open`: the volume is closed when nobody else has it open any more.

--force closes it under whoever has it open; their further requests fail."""
from __future__ import annotations

import argparse

from tools.vlmc._common import add_json, control

HELP = "undo open"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a volume or snapshot")
    parser.add_argument("-f", "--force", action="store_true", help="though others have it open")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    answer = control(args, "close", name=args.name, force=args.force)
    if args.json:
        from tools import cli
        cli.print_json({"name": args.name, **answer})
    else:
        users = answer["still_open_by"]
        print(f"Volume {args.name} is still open by {users}" if users else f"Volume {args.name} closed")
    return 0
