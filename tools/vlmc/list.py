# SPDX-License-Identifier: Apache-2.0
"""Lists volumes and snapshots, by name.

One whose header is damaged is shown by its id, with what is wrong; it costs the others nothing.
Exit status 0 all the same: `vlmc check` is there to judge.
"""
from __future__ import annotations

import argparse
from typing import Any

from tools import cli
from tools.vlmc._common import add_json, portions, when

HELP = "list volumes and snapshots"


def arguments(parser: argparse.ArgumentParser) -> None:
    add_json(parser)


def rows(args: argparse.Namespace) -> list[dict[str, Any]]:
    """All volumes, by name, damaged ones last; `parent` is the parent's name, or None."""
    found = [row for answer in portions(args, "list") for row in answer["volumes"]]
    names = {row["id"]: row["name"] for row in found if "name" in row}
    for row in found:
        row["parent"] = names.get(row.get("parent_id"))
    return sorted(found, key=lambda row: ("damaged" in row, row.get("name", row["id"])))


def line(row: dict[str, Any]) -> list[Any]:
    """A row of the table."""
    if "damaged" in row:
        return ["-", "damaged", "-", "-", "-", "-", row["id"], row["damaged"]]
    notes = [word for word, true in (("open", row["open"]), ("automatic", row["auto"])) if true]
    notes += [row["making"]] if row["making"] else []
    parent = row["parent"] or (f"({row['parent_id']})" if row["parent_id"] else "-")
    return [row["name"], row["kind"], cli.human(row["size"]), cli.human(row["block_size"]), parent,
            when(row["created"]), row["id"], ", ".join(notes) or "-"]


def run(args: argparse.Namespace) -> int:
    found = rows(args)
    if args.json:
        cli.print_json(found)
    else:
        cli.print_table([line(row) for row in found],
                        ["name", "kind", "size", "block", "parent", "created", "id", "notes"])
    return 0
