# SPDX-License-Identifier: Apache-2.0
"""Undoes `vlmc attach`: takes the socket away. The volume stays.

Refused while a virtual machine is connected; with --force it loses its disk. Works for an instance that is stopped, and
for a volume that was removed, too.
"""
from __future__ import annotations

import argparse

HELP = "undo attach"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME|ID|SOCKET",
                        help="the volume, by its present name or its id, or its socket")
    parser.add_argument("-f", "--force", action="store_true", help="though a machine is connected")


def run(args: argparse.Namespace) -> int:
    from tools.attaching.attaching import Attaching
    entry = Attaching(args.home).detach(args.name, args.force)
    print(f"detached {entry.name} ({entry.socket})")
    return 0
