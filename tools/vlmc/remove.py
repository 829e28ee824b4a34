# SPDX-License-Identifier: Apache-2.0
"""Removes volumes and snapshots. The names are free at once, and so is the space that only they took.

What clones or snapshots may share stays. Refused while it is open. --force removes one whose header is
damaged, too; its space is then left to the collector. What is being made (by import, clone --count) is its maker's
until that is gone.
"""
from __future__ import annotations

import argparse
import sys

from tools.vlmc._common import control, token

HELP = "remove volumes and snapshots"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", metavar="NAME", nargs="+", help="a volume or snapshot")
    parser.add_argument("-f", "--force", action="store_true",
                        help="though its header is damaged, or another node may be making it")


def run(args: argparse.Namespace) -> int:
    if len(args.names) == 1:
        control(args, "remove", name=args.names[0], force=args.force, token=token())
        return 0
    from tools.vlmc._walks import remove_all, with_mapper
    failures = with_mapper(args, lambda ask: remove_all(ask, args.names, args.force))
    for failure in failures:
        print(f"vlmc: {failure}", file=sys.stderr)
    return 1 if failures else 0
