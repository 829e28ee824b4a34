# SPDX-License-Identifier: Apache-2.0
"""Shows what is known of a volume or snapshot: size, epoch, parent, who has it open, its NBD address.

Of the two addresses the first is of whichever volume has this name, the second of this volume for ever."""
from __future__ import annotations

import argparse
import sys

from tools import cli
from tools.vlmc._common import add_json, control, nbd_uri, when
from xseg.volume_name import by_id

HELP = "show what is known of a volume"
EPOCHS_WARNED = 1 << 28             # from which on people are told how many are left


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a volume or snapshot")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    answer = control(args, "info", name=args.name)
    answer["nbd_uri"] = nbd_uri(args.home, answer["name"])
    answer["nbd_uri_by_id"] = nbd_uri(args.home, by_id(answer["id"]))
    if args.json:
        cli.print_json(answer)
        return 0
    if answer["epochs_left"] is not None and answer["epochs_left"] < EPOCHS_WARNED:
        print(f"note: '{answer['name']}' has used up most of its epochs: make a clone of it (`vlmc clone`) and use "
              "that", file=sys.stderr)
    used = answer.pop("open")
    answer["created"] = when(answer["created"])
    answer["size"] = f"{answer['size']} ({cli.human(answer['size'])})"
    answer["open"] = "no"
    if used:
        by = [f"{role} {times}" for role, times in used.pop("by").items()]
        by += ["vlmc open"] * used.pop("administrative")
        by += ["vlmc lock"] * used.pop("locked")
        answer["open"] = f"yes, by {', '.join(by) or 'nobody'}"
        answer |= used
    for key, value in answer.items():
        print(f"{key.replace('_', ' ')}: {'-' if value is None else value}")
    return 0
