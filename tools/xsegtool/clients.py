# SPDX-License-Identifier: Apache-2.0
"""Shows who is connected to the servers of a pipeline: process, user and group as the kernel noted them when the
connection was made, the volume he has open, and for how long he has been there. Over TCP it is not known who it is.
"""
from __future__ import annotations

import argparse
import contextlib
import grp
import pwd
from typing import Any

from tools import cli
from xseg import look
from xseg._native import lib
from xseg.client import Client

HELP = "who is connected, and to which volume"
ROOM = lib.XSEG_IO_MAX
COLUMNS = ("role", "pid", "user", "group", "seconds", "volume", "name")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs; has uid and gid as well")


def clients(client: Client, role: str) -> list[dict[str, Any]]:
    """Those of one server, as native/nbd/allow.c tells them."""
    lines = client.call(role, lib.XOP_INFO, room=ROOM).data.decode(errors="backslashreplace").splitlines()
    return [_client(role, *line.split(" ", 5)) for line in lines]


def _client(role: str, pid: str, uid: str, gid: str, ms: str, volume: str, name: str) -> dict[str, Any]:
    known = int(pid) != 0
    return {"role": role, "pid": int(pid) or None, "uid": int(uid) if known else None,
            "gid": int(gid) if known else None, "user": _name(pwd.getpwuid, int(uid)) if known else None,
            "group": _name(grp.getgrgid, int(gid)) if known else None, "seconds": int(ms) // 1000,
            "volume": volume if name else None, "name": name or None}


def _name(find: Any, number: int) -> str:
    with contextlib.suppress(KeyError):
        return str(find(number)[0])
    return str(number)


def run(args: argparse.Namespace) -> int:
    with Client(args.home, "xseg") as client:
        shown = [row for role in look.roles_of_type(client.segment, "nbd") for row in clients(client, role)]
    if args.json:
        cli.print_json({"clients": shown})
    else:
        cli.print_table([[row[key] if row[key] is not None else "-" for key in COLUMNS] for row in shown],
                        list(COLUMNS))
    return 0
