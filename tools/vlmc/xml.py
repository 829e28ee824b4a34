# SPDX-License-Identifier: Apache-2.0
"""Prints the <disk> element of libvirt that gives a domain this volume or snapshot, for `virsh edit` or attach-device.

By vhost-user-blk if it is attached (`vlmc attach`), else by NBD with a reconnect delay; --via says which. A domain
with a vhost-user disk wants its memory shared, which is said on stderr.
"""
from __future__ import annotations

import argparse

from tools.vlmc._common import control, nbd_socket

HELP = "print libvirt's <disk> for a volume"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a volume or snapshot")
    parser.add_argument("--via", choices=("vhost", "nbd"), help="how (default: vhost if it is attached)")
    parser.add_argument("--target", default="vda", metavar="DEV", help="the disk's name in the domain (default vda)")


def run(args: argparse.Namespace) -> int:
    import sys

    from tools.attaching import machines
    info = control(args, "info", name=args.name)
    via, entry = machines.choose(args.home, info, args.via)
    if via == "vhost":
        print("vlmc: the domain needs " + machines.XML_MEMORY, file=sys.stderr)
        print(machines.xml_vhost(entry, args.target), end="")
    else:
        print(machines.xml_nbd(nbd_socket(args.home), info, args.target), end="")
    return 0
