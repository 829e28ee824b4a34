# SPDX-License-Identifier: Apache-2.0
"""Lists volumes and snapshots, by name.

One whose header is damaged is shown by its id, with what is wrong; it costs the others nothing.
Exit status 0 all the same: `vlmc check` is there to judge.
"""
from __future__ import annotations

import argparse
import functools
import sys
from typing import Any

from tools import cli
from tools.vlmc._common import add_json, portions, when

HELP = "list volumes and snapshots"
human = functools.lru_cache(maxsize=4096)(cli.human)        # of sizes, of which there are few


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=limit, metavar="COUNT", help="no more than so many")
    parser.add_argument("--after", metavar="NAME", help="only what comes after that one, which need not be there")
    add_json(parser)


def limit(word: str) -> int:
    """A number from 1 on; what is none is wrong usage."""
    if not word.isascii() or not word.isdigit() or int(word) < 1:
        raise argparse.ArgumentTypeError("it must be a whole number from 1 on")
    return int(word)


def rows(args: argparse.Namespace) -> list[dict[str, Any]]:
    """All volumes, by name, damaged ones last; `parent` is the parent's name, or None."""
    found = [row for answer in portions(args, "list") for row in answer["volumes"]]
    names = {row["id"]: row["name"] for row in found if "name" in row}
    for row in found:
        row["parent"] = names.get(row.get("parent_id"))
    return sorted(found, key=place)


def place(row: dict[str, Any]) -> tuple[bool, str]:
    """By which the rows are in order."""
    return "damaged" in row, row.get("name", row["id"])


def page(found: list[dict[str, Any]], after: str | None, most: int | None) -> tuple[list[dict[str, Any]], int]:
    """The rows behind `after` (a name, or the id of a damaged one), so many at most, and how many come behind these."""
    if after is not None:
        start = max((place(row) for row in found if after == place(row)[1]), default=(False, after))
        found = [row for row in found if place(row) > start]
    return found[:most], len(found) - len(found[:most])


def line(row: dict[str, Any]) -> list[Any]:
    """A row of the table."""
    if "damaged" in row:
        return ["-", "damaged", "-", "-", "-", "-", row["id"], row["damaged"]]
    notes = ", ".join(filter(None, ("open" if row["open"] else "", "automatic" if row["auto"] else "",
                                    "protected" if row["protected"] else "", row["making"])))
    parent = row["parent"] or (f"({row['parent_id']})" if row["parent_id"] else "-")
    return [row["name"], row["kind"], human(row["size"]), human(row["block_size"]), parent, when(row["created"]),
            row["id"], notes or "-"]


def run(args: argparse.Namespace) -> int:
    found, left = page(rows(args), args.after, args.limit)
    if left:
        print(f"note: {left} more come after these: vlmc list --after '{place(found[-1])[1]}'", file=sys.stderr)
    if args.json:
        cli.print_json(found)
    else:
        cli.print_table([line(row) for row in found],
                        ["name", "kind", "size", "block", "parent", "created", "id", "notes"])
    return 0
