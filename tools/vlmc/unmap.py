# SPDX-License-Identifier: Apache-2.0
"""Undoes `vlmc map`: flushes the device, takes it away, and ends what served it.

Refused while it is mounted or open; the error says where or by whom. With --force it goes all the
same: whoever uses it then gets I/O errors. Works without the pipeline, too: what is left of a mapping
whose processes are gone (a boot, a kill) is cleared away. Needs root.
"""
from __future__ import annotations

import argparse

HELP = "undo map"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME|ID|DEVICE",
                        help="the volume, by its present name or its id, or its device")
    parser.add_argument("-f", "--force", action="store_true", help="though it is in use or cannot be flushed")


def run(args: argparse.Namespace) -> int:
    import sys

    from tools.mapping import mapping
    entry, notes = mapping.detach(args.home, args.name, args.force)
    for note in notes:
        print(f"vlmc: {note}", file=sys.stderr)
    print(f"unmapped {entry.name}" + (f" ({entry.device})" if entry.device else ""))
    return 0
