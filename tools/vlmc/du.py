# SPDX-License-Identifier: Apache-2.0
"""Shows how much space volumes take on the store.

logical: their size. exclusive: of objects that only this volume can have; removing it gives that back.
shared: of objects that a snapshot or clone may have, too; the same bytes are counted for each of them.
Changes that were not flushed yet are not counted.
"""
from __future__ import annotations

import argparse
from typing import Any

from tools import cli
from tools.vlmc._common import add_json
from tools.vlmc._walks import walk_all
from xseg.volume_name import by_id

HELP = "show the space that volumes take"
COLUMNS = ("name", "logical", "exclusive", "shared", "blocks", "objects")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", metavar="NAME", nargs="*", help="a volume or snapshot; all if there is none")
    add_json(parser)


def usage(name: str, answers: list[dict[str, Any]]) -> dict[str, Any]:
    """The whole result for one volume. Bytes, but for blocks and objects."""
    whole = {"name": name, "logical": 0, "exclusive": 0, "shared": 0, "blocks": 0, "objects": 0}
    for answer in answers:
        whole["logical"] = answer.pop("logical")
        for key, value in answer.items():
            whole[key] += value
    return whole


def everything(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The results for all volumes whose headers can be read."""
    from tools.vlmc.list import rows
    found = [row for row in rows(args) if "name" in row]
    walks = walk_all(args, "du", [by_id(row["id"]) for row in found], skip_gone=True)
    return [usage(row["name"], answers) for row, answers in zip(found, walks, strict=True) if answers]


def run(args: argparse.Namespace) -> int:
    if args.names:
        results = [usage(name, answers or []) for name, answers
                   in zip(args.names, walk_all(args, "du", args.names), strict=True)]
    else:
        results = everything(args)
    if args.json:
        cli.print_json(results)
        return 0
    cli.print_table([[row["name"], *(cli.human(row[key]) for key in COLUMNS[1:4]), row["blocks"], row["objects"]]
                     for row in results], list(COLUMNS))
    return 0
