# SPDX-License-Identifier: Apache-2.0
"""Lists volumes that are attached to sockets for virtual machines, by their present names, and who is connected.

State: running, a guest uses the disk; connected, a front-end is there and its guest does not; ready, nobody is;
stopped, the peer does not serve it now. Survived: how many restarts or deaths of the process that serves it the
connection has come through.
"""
from __future__ import annotations

import argparse
from typing import Any

from tools.vlmc._common import add_json

HELP = "list attached volumes"


def arguments(parser: argparse.ArgumentParser) -> None:
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from tools import cli
    from tools.attaching.attaching import Attaching
    rows = Attaching(args.home).shown()
    if args.json:
        cli.print_json(rows)
        return 0
    cli.print_table([columns(row) for row in rows],
                    ["name", "socket", "mode", "state", "front-end", "survived", "since"])
    return 0


def columns(row: dict[str, Any]) -> list[str]:
    ends = row["front_ends"]
    return [row["name"], row["socket"], ("ro" if row["readonly"] else "rw") + (" shared" if row["shared"] else ""),
            row["state"], ", ".join(f"{end['pid']} {end['program']}" for end in ends) or "-",
            str(max((end["survived"] for end in ends), default=0)), row["since"]]
