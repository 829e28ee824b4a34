# SPDX-License-Identifier: Apache-2.0
"""Takes the protection of `vlmc protect` back; nothing happens if there is none."""
from __future__ import annotations

import argparse

from tools.vlmc._common import control

HELP = "let a protected volume or snapshot be removed again"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", metavar="NAME", nargs="+", help="a volume or snapshot")


def run(args: argparse.Namespace) -> int:
    for name in args.names:
        control(args, "unprotect", name=name)
    return 0
