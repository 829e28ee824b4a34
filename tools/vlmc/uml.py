# SPDX-License-Identifier: Apache-2.0
"""Prints the argument of user-mode Linux that gives it this attached volume as a disk:

    linux.uml mem=256M $(vlmc uml vm-1) ...
"""
from __future__ import annotations

import argparse

from tools.vlmc._common import control

HELP = "print user-mode Linux's argument for a disk"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a volume or snapshot that is attached")


def run(args: argparse.Namespace) -> int:
    from tools.attaching import machines
    _via, entry = machines.choose(args.home, control(args, "info", name=args.name), "vhost")
    print(f"virtio_uml.device={entry.socket}:2")
    return 0
