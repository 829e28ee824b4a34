# SPDX-License-Identifier: Apache-2.0
"""Makes a volume or snapshot a block device of this machine, and prints the device's path.

What it uses is said on stderr: the kernel's NBD client (nbd) where /dev/nbd0 and nbd-client are there,
else nbdfuse and a loop device with direct I/O. Partitions in it become devices as well (/dev/loop0p1).
A snapshot is mapped read-only. Needs root. Undone by `vlmc unmap`.

The device stays on this volume whatever is renamed, removed or restarted meanwhile. Of a volume that is mapped already
the device is printed that it has.

A flush of the device (fsync, sync) is a flush of the volume. A mapped volume can be snapshotted and
cloned like any other: a snapshot holds what the file system had written by then, so run sync before.
"""
from __future__ import annotations

import argparse

from tools.vlmc._common import add_json, control, served_uri

HELP = "make a volume a block device"
WORDS = {"nbd": "the kernel's NBD client", "nbdfuse": "nbdfuse and a loop device"}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a volume or snapshot")
    parser.add_argument("--read-only", action="store_true", help="refuse writes (always so for a snapshot)")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    import sys

    from tools import cli
    from tools.mapping import mapping
    info = control(args, "info", name=args.name)
    entry = mapping.Entry(args.name, info["id"], args.home, args.read_only or info["readonly"])
    entry, notes = mapping.attach(entry, served_uri(args.home, args.name))
    for note in notes:
        print(f"vlmc: {note}", file=sys.stderr)
    if args.json:
        cli.print_json(entry.shown())
    else:
        print(f"mapped by {WORDS[entry.method]}{', read-only' if entry.readonly else ''}", file=sys.stderr)
        print(entry.device)
    return 0
