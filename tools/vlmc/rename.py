# SPDX-License-Identifier: Apache-2.0
"""Gives a volume or snapshot another name. Its id and data stay; it may be open."""
from __future__ import annotations

import argparse

from tools.vlmc._common import add_json, control, token

HELP = "give a volume another name"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="OLD", help="its name")
    parser.add_argument("to", metavar="NEW", help="its name from now on")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    answer = control(args, "rename", name=args.name, to=args.to, token=token())
    if args.json:
        from tools import cli
        cli.print_json({"name": args.to, **answer})
    else:
        print(f"Renamed {args.name} to {args.to}")
    return 0
