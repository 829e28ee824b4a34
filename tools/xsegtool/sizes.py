# SPDX-License-Identifier: Apache-2.0
"""Shows how large the requests were that came by each `log` filter of a pipeline, since it started: for each
operation how many there were of a class of sizes, named by the largest in it.
"""
from __future__ import annotations

import argparse
from typing import Any

from tools import cli
from xseg import look
from xseg._native import lib
from xseg.client import Client

HELP = "requests by size, as counted by filters of the type log"
ROOM = 1 << 16
COLUMNS = ("role", "op", "most", "count")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs; sizes in bytes")


def sizes(client: Client, role: str) -> list[dict[str, Any]]:
    """What one filter has counted, as native/filters/log.c tells it; `most` bytes, None: more than the others."""
    rows = [line.split() for line in client.call(role, lib.XOP_INFO, room=ROOM).data.decode().splitlines()]
    return [{"role": role, "op": op, "most": int(most) if int(most) >= 0 else None, "count": int(count)}
            for op, most, count in rows]


def run(args: argparse.Namespace) -> int:
    with Client(args.home, "xseg") as client:
        shown = [row for role in look.roles_of_type(client.segment, "log") for row in sizes(client, role)]
    if args.json:
        cli.print_json({"sizes": shown})
        return 0
    cli.print_table([[row["role"], row["op"], "more" if row["most"] is None else cli.human(row["most"]), row["count"]]
                     for row in shown], list(COLUMNS))
    return 0
