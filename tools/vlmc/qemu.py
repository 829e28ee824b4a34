# SPDX-License-Identifier: Apache-2.0
"""Prints the arguments of QEMU that give a virtual machine this volume or snapshot as a disk, one a line:

    qemu-system-x86_64 ... $(vlmc qemu vm-1)
    vlmc qemu vm-1 --memory 512M | xargs qemu-system-x86_64 ...

By vhost-user-blk if it is attached (`vlmc attach`), else by NBD with `reconnect-delay`, so that the guest lives through
restarts of the server; --via says which. vhost-user-blk wants the guest's memory shared: --memory prints that, with -M
and -m; without it, its object is said on stderr, for you to make as large as your machine's memory.
"""
from __future__ import annotations

import argparse

from tools.vlmc._common import add_json, control, nbd_socket

HELP = "print QEMU's arguments for a disk"
RECONNECT_S = 300               # that a guest waits for the NBD server


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a volume or snapshot")
    parser.add_argument("--via", choices=("vhost", "nbd"), help="how (default: vhost if it is attached)")
    parser.add_argument("--index", type=int, default=0, metavar="N", help="number of the disk, for its ids (default 0)")
    parser.add_argument("--memory", metavar="SIZE", help="the machine's memory, as QEMU takes it: printed, too")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    import sys

    from tools import cli
    from tools.attaching import machines
    info = control(args, "info", name=args.name)
    via, entry = machines.choose(args.home, info, args.via)
    if via == "vhost":
        words = [*machines.shared_memory(args.memory), *machines.qemu_vhost(entry, args.index)] if args.memory \
            else machines.qemu_vhost(entry, args.index)
        if not args.memory:
            print("vlmc: the machine's memory must be shared: " + " ".join(machines.shared_memory("SIZE")),
                  file=sys.stderr)
    else:
        words = machines.qemu_nbd(nbd_socket(args.home), info, args.index, RECONNECT_S)
        words = [*(("-m", args.memory) if args.memory else ()), *words]
    if args.json:
        cli.print_json(words)
    else:
        print("\n".join(words))
    return 0
