# SPDX-License-Identifier: Apache-2.0
"""Takes the lock of a volume, so that no other node can open it.

This node still can. The lock is held until `vlmc unlock` or `archipelago stop`; the volume counts as open here."""
from __future__ import annotations

import argparse

from tools.vlmc._common import add_json, control

HELP = "take the lock of a volume"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a volume")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    answer = control(args, "lock", name=args.name)
    if args.json:
        from tools import cli
        cli.print_json({"name": args.name, **answer})
    else:
        print(f"Volume {args.name} locked")
    return 0
