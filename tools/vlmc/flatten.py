# SPDX-License-Identifier: Apache-2.0
"""Makes all that a clone holds its own: it shares no data with what it came from any more, and comes from nothing.

Machines may use the volume meanwhile, and snapshots of it be taken. It goes on for as long as the command does: Ctrl-C
stops it at any time, and the next `vlmc flatten` goes on where that one was. Zeros take no space. What only this clone
still needed of volumes and snapshots that are gone is garbage afterwards.
"""
from __future__ import annotations

import argparse
import sys

from tools.vlmc._common import LONG_S, add_json
from xseg.client import Client, Volume
from xseg.volume_name import by_id

HELP = "make all that a clone holds its own"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="VOLUME", help="a volume")
    parser.add_argument("--progress", action="store_true", help="show a bar though stderr is no terminal")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    with Client(args.home, "vlmc") as client:
        info = client.control("info", name=args.name)
        with client.open(by_id(info["id"])) as volume:
            blocks = flatten(client, args, by_id(info["id"]), volume)
    if args.json:
        from tools import cli
        cli.print_json({"name": info["name"], "id": info["id"], "blocks": blocks})
    return 0


def flatten(client: Client, args: argparse.Namespace, name: str, volume: Volume) -> int:
    """Portion after portion. How many blocks were not the volume's own."""
    from tools import images
    size, block_size = volume.size, volume.block_size
    cursor = since = 0
    blocks: int = 0
    try:
        with images.progress_bar(args.name, size, args.progress or sys.stderr.isatty()) as progress:
            while True:
                answer = client.control("flatten", name=name, cursor=cursor, since=since, timeout=LONG_S)
                cursor, since = answer["cursor"], answer["since"]
                blocks += answer["blocks"]
                if cursor == 0:
                    progress(1)
                    return blocks
                progress(min(1, cursor * block_size / size))
    except KeyboardInterrupt:
        print(f"vlmc: {blocks} blocks are its own now; `vlmc flatten {args.name}` goes on", file=sys.stderr)
        raise
