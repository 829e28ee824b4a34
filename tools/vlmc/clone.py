# SPDX-License-Identifier: Apache-2.0
"""Makes clones of a snapshot, in a moment whatever its size: they share all its data.

With --count, NAME holds {} where the number goes: `vlmc clone base vm-{} --count 200` makes vm-1 to
vm-200. All are made or none, also when the command is interrupted; until then none can be used. When
SOURCE is a volume, a snapshot of it is taken first, and kept unless the clones fail; its name (SOURCE@clone-...)
is printed, and `vlmc list` shows it.

With --attach each has a socket for a virtual machine afterwards, as `vlmc attach` makes it (all or none), and the
sockets' paths are printed. If that fails the clones stay.
"""
from __future__ import annotations

import argparse

from tools.vlmc._common import add_json, add_size, control, token

HELP = "make clones of a snapshot"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="a snapshot, or a volume")
    parser.add_argument("name", metavar="NAME", help="name of the clone; with {} in it for many")
    parser.add_argument("--count", type=int, metavar="N", help="how many")
    parser.add_argument("--first", type=int, default=1, metavar="N", help="number of the first (default 1)")
    add_size(parser, "--size", help="their size, if larger than the source's")
    parser.add_argument("--attach", action="store_true", help="make a socket for each, as `vlmc attach` does")
    parser.add_argument("--queues", type=int, metavar="N", help="with --attach: request queues of each (default 1)")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    many = {"pattern": args.name, "count": args.count, "first": args.first}
    wanted = {"names": [args.name]} if args.count is None else many
    if args.attach:
        from tools.attaching.attaching import Attaching
        Attaching(args.home).options(None)      # there is who serves them
    key = token()
    try:
        answer = control(args, "clone", name=args.source, size=args.size, token=key, **wanted)
    except KeyboardInterrupt:
        control(args, "cancel", token=key)      # and what was made so far is removed when this returns
        raise
    sockets = attach(args) if args.attach else []
    if args.json:
        from tools import cli
        cli.print_json(answer | ({"sockets": sockets} if args.attach else {}))
        return 0
    if answer["snapshot"]:
        print(f"took the snapshot {answer['snapshot']} first")
    for path in sockets:
        print(path)
    return 0


def attach(args: argparse.Namespace) -> list[str]:
    """Attaches the clones that were made; the sockets' paths."""
    from tools.attaching.attaching import Attaching
    from xseg.client import Client
    numbers = range(args.first, args.first + (args.count or 0))
    names = [args.name] if args.count is None else [args.name.replace("{}", str(n)) for n in numbers]
    attaching = Attaching(args.home)
    with Client(args.home, "vlmc") as client:
        entries = [attaching.new_entry(name, client.control("info", name=name), None, None, args.queues)
                   for name in names]
        attaching.attach(client, entries)
    return [entry.socket for entry in entries]
