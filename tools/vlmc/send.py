# SPDX-License-Identifier: Apache-2.0
"""Writes a snapshot to standard output, as a stream that `vlmc receive` makes a snapshot of again.

With --from only what differs from another snapshot is in it, which the receiver must have: as itself, or received
before. It may have any name there, as it is known by its id. Streams are of no store: what was in files is received by
an instance on Ceph, and the other way round.

    vlmc send monday > monday.stream
    vlmc send --from monday tuesday --zstd | ssh backup vlmc receive tuesday

Zeros are not in it, and with --zstd the rest is compressed. It has checksums and an end mark, so a stream that was cut
short is known by who receives it; the exit status tells so here. Of a volume, take a snapshot and send that.
"""
from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tools.images import Progress
    from tools.vlmc._stream import Writer
    from xseg.client import Client

HELP = "write a snapshot as a stream"
LEVEL = 3                       # of zstd, if none is given


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="SNAP", help="a snapshot")
    parser.add_argument("--from", dest="base", metavar="SNAP", help="a snapshot that the receiver has")
    parser.add_argument("--zstd", metavar="LEVEL", type=int, nargs="?", const=LEVEL, choices=range(1, 20),
                        help="compress; more takes longer (1 to 19, default 3)")
    parser.add_argument("--progress", action="store_true", help="show a bar though stderr is no terminal")


def run(args: argparse.Namespace) -> int:
    import os
    import stat
    import sys

    from tools import images, streams
    from tools.vlmc._stream import Writer
    from xseg.client import Client
    number = streams.descriptor("-", 1)
    assert number is not None
    writer = Writer(lambda data: streams.write("standard output", number, data), args.zstd)
    with Client(args.home, "vlmc") as client:
        snapshot = snapshot_of(client, args.name)
        base = snapshot_of(client, args.base) if args.base else None
        wanted = args.progress or sys.stderr.isatty()
        with images.progress_bar(args.name, snapshot["size"], wanted) as progress:
            send(client, writer, snapshot, base, progress)
    if stat.S_ISREG(os.fstat(number).st_mode):
        os.fsync(number)
    return 0


def snapshot_of(client: Client, name: str) -> dict[str, Any]:
    """What is known of a snapshot. Invalid: it is a volume."""
    from xseg.errors import Invalid
    info = client.control("info", name=name)
    if info["kind"] != "snapshot":
        raise Invalid(f"'{name}' is a volume, which changes: take a snapshot of it and send that")
    return info


def send(client: Client, writer: Writer, snapshot: dict[str, Any], base: dict[str, Any] | None,
         progress: Progress) -> None:
    """All of the stream. It is held open meanwhile, so that it is not removed."""
    from tools.vlmc._ranges import differing
    from tools.vlmc._stream import DATA_MAX, Head, identity
    from xseg.client import pieces
    from xseg.volume_name import by_id
    name = by_id(snapshot["id"])
    with client.open(name, readonly=True) as volume:
        writer.begin(Head(snapshot["name"], identity(snapshot), identity(base) if base else 0,
                          base["name"] if base else "", snapshot["size"], snapshot["block_size"],
                          snapshot["created"]))
        for offset, length in differing(client, by_id(base["id"]) if base else None, name):
            for at, size in pieces(offset, length, DATA_MAX):
                writer.piece(at, volume.read(at, size), zeros_count=base is not None)
                progress((at + size) / volume.size)
        writer.end()
        progress(1.0)
