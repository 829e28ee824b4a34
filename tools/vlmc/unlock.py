# SPDX-License-Identifier: Apache-2.0
"""Gives back the lock of a volume that `vlmc lock` took. Refused while the volume is open here.

--force breaks the lock of another. On files its owner must be gone. On RADOS it is made sure first that the
owner can write no more: its whole node is fenced, which takes 2 to 3 seconds."""
from __future__ import annotations

import argparse

from tools.vlmc._common import add_json, control

HELP = "give back the lock of a volume"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a volume")
    parser.add_argument("-f", "--force", action="store_true", help="though another has it")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    answer = control(args, "unlock", name=args.name, force=args.force)
    if args.json:
        from tools import cli
        cli.print_json({"name": args.name, **answer})
    else:
        print(f"Volume {args.name} unlocked")
    return 0
