# SPDX-License-Identifier: Apache-2.0
"""Removes volumes and snapshots. The names are free at once, and so is the space that only they took.

What clones or snapshots may share stays. Refused while it is open. --force removes one whose header is
damaged, too; its space is then left to the collector. What is being made (by import, clone --count) is its maker's
until that is gone.
"""
from __future__ import annotations

import argparse
import sys

from tools.vlmc._common import LONG_S, token

HELP = "remove volumes and snapshots"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", metavar="NAME", nargs="+", help="a volume or snapshot")
    parser.add_argument("-f", "--force", action="store_true",
                        help="though its header is damaged, or another node may be making it")


def run(args: argparse.Namespace) -> int:
    from xseg.client import Client
    failed = False
    with Client(args.home, "vlmc") as client:
        for name in args.names:
            try:
                client.control("remove", timeout=LONG_S, name=name, force=args.force, token=token())
            except OSError as failure:
                print(f"vlmc: {failure}", file=sys.stderr)
                failed = True
    return 1 if failed else 0
