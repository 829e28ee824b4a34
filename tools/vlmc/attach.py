# SPDX-License-Identifier: Apache-2.0
"""Makes a socket at which virtual machines get a volume or snapshot as a disk (vhost-user-blk); prints its path.

It is there again after every start, until `vlmc detach`, and stays on this volume whatever that is called meanwhile. Of
a volume that is attached in the same way already the path is printed that it has. One machine runs the disk at a time:
others that connect wait, which a migration needs; with --shared they run it together (a cluster file system, a
disk that all only read).

`vlmc qemu`, `vlmc xml` and `vlmc uml` print what to start a machine with. It needs a peer of the type vhost in
archipelago.toml: [peers.vhost] with type = "vhost".
"""
from __future__ import annotations

import argparse

from tools.vlmc._common import add_json

HELP = "make a socket for virtual machines"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a volume or snapshot")
    parser.add_argument("--socket", metavar="PATH", help="where (default: run/vhost/NAME.sock below the home)")
    parser.add_argument("--read-only", action="store_true", help="refuse writes (always so for a snapshot)")
    parser.add_argument("--shared", action="store_true", help="several machines may run it at the same time")
    parser.add_argument("--queues", type=int, metavar="N", help="request queues (default 1)")
    parser.add_argument("--block-size", type=int, choices=(512, 4096), default=512,
                        help="bytes of a logical block as the guest sees it (default 512)")
    parser.add_argument("--role", metavar="ROLE", help="the peer that serves it, if there are several of type vhost")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from tools import cli
    from tools.attaching.attaching import Attaching
    from xseg.client import Client
    attaching = Attaching(args.home)
    attaching.options(args.role)
    with Client(args.home, "vlmc") as client:
        info = client.control("info", name=args.name)
        entry = attaching.new_entry(info["name"], info, args.role, args.socket, args.queues,
                                    readonly=args.read_only, shared=args.shared, block_size=args.block_size)
        attaching.attach(client, [entry])
    if args.json:
        cli.print_json(vars(entry))
    else:
        print(entry.socket)
    return 0
