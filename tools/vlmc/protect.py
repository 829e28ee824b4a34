# SPDX-License-Identifier: Apache-2.0
"""Protects a volume or snapshot: `vlmc remove` refuses it until `vlmc unprotect`, also with --force.

A schedule does not thin it, and a protected volume is rolled back only if what it was before is kept. It may be
written, renamed, cloned as before. `vlmc list` and `vlmc info` say which are protected.
"""
from __future__ import annotations

import argparse

from tools.vlmc._common import control

HELP = "keep a volume or snapshot from being removed"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", metavar="NAME", nargs="+", help="a volume or snapshot")


def run(args: argparse.Namespace) -> int:
    for name in args.names:
        control(args, "protect", name=name)
    return 0
