# SPDX-License-Identifier: Apache-2.0
"""Shows what comes from what: volumes, below them their snapshots, below those the clones of them.

With NAME: what that one comes from, and all that comes from it. Sizes are those of `vlmc du`: exclusive is what
removing that one gives back, shared what others may have as well. They are found by a walk over each map; --no-sizes
leaves that out. One whose origin is gone begins a tree of its own, and says so. --json gives a list in the order of
the tree, each with its depth.
"""
from __future__ import annotations

import argparse
from typing import Any

from tools import cli
from tools.vlmc._common import add_json
from xseg.errors import NotFound

HELP = "show volumes, snapshots and clones as a tree"
DEPTH_SHOWN = 24                # levels that are drawn; deeper ones are told by their number
Row = dict[str, Any]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="only its origins, and what comes from it")
    parser.add_argument("--no-sizes", action="store_true", help="do not look how much space each takes")
    add_json(parser)


# --- the tree

def in_order(rows: list[Row], name: str | None = None) -> list[Row]:
    """The rows of `vlmc list` in the order of the tree: each behind its parent, siblings by age. Each gets `depth` and
    `last` (of its siblings). With a name: its line of parents, it, and what comes from it. NotFound."""
    known = {row["id"]: row for row in rows if "name" in row}
    below: dict[str | None, list[Row]] = {}
    for row in sorted(known.values(), key=lambda row: (row["created"], row["id"])):
        below.setdefault(row["parent_id"] if row["parent_id"] in known else None, []).append(row)
    if name is None:
        return spread([], below.get(None, []), below)
    chosen = next((row for row in known.values() if row["name"] == name), None)
    if chosen is None:
        raise NotFound(f"there is no volume '{name}': `vlmc list` shows what there is")
    return spread(origins(chosen, known), [chosen], below)


def origins(row: Row, known: dict[str, Row]) -> list[Row]:
    """Its parents, the oldest first."""
    line: dict[str, Row] = {}
    while (row := known.get(row["parent_id"], {})) and row["id"] not in line:
        line[row["id"]] = row
    return list(line.values())[::-1]


def spread(line: list[Row], roots: list[Row], below: dict[str | None, list[Row]]) -> list[Row]:
    """A line of parents, one below the other, and below them some rows with all that comes from them."""
    found = [row | {"depth": depth, "last": True} for depth, row in enumerate(line)]
    todo = [(row, len(line), row is roots[-1]) for row in reversed(roots)]
    while todo:
        row, depth, last = todo.pop()
        found.append(row | {"depth": depth, "last": last})
        more = below.get(row["id"], [])
        todo += [(child, depth + 1, child is more[-1]) for child in reversed(more)]
    return found


# --- sizes

def add_sizes(args: argparse.Namespace, rows: list[Row]) -> None:
    """Puts `exclusive` and `shared` (bytes) into the rows; None where one has gone meanwhile."""
    from tools.vlmc._walks import walk_all
    from tools.vlmc.du import usage
    from xseg.volume_name import by_id
    walks = walk_all(args, "du", [by_id(row["id"]) for row in rows], skip_gone=True)
    for row, answers in zip(rows, walks, strict=True):
        used = usage(row["name"], answers) if answers else {}
        row["exclusive"], row["shared"] = used.get("exclusive"), used.get("shared")


# --- drawing

def branches(rows: list[Row]) -> list[str]:
    """What is drawn before each name."""
    open_levels: list[bool] = []            # whether a sibling comes later, at each depth
    drawn = []
    for row in rows:
        depth = row["depth"]
        del open_levels[depth:]
        open_levels.append(not row["last"])
        if depth > DEPTH_SHOWN:
            drawn.append(f"{'   ' * DEPTH_SHOWN}[{depth}] ")
            continue
        before = "".join("│  " if later else "   " for later in open_levels[1:depth])
        drawn.append(before + ("" if depth == 0 else "└─ " if row["last"] else "├─ "))
    return drawn


def line(branch: str, row: Row, sizes: bool) -> list[Any]:
    """A row of the table."""
    gone = row["parent_id"] and not row["parent"]
    notes = [word for word, true in (("open", row["open"]), ("automatic", row["auto"]), ("protected", row["protected"]),
                                     (f"of {row['parent_id']}, which is gone", gone)) if true]
    notes += [row["making"]] if row["making"] else []
    space = ["-" if row[key] is None else cli.human(row[key]) for key in ("exclusive", "shared")] if sizes else []
    return [branch + row["name"], row["kind"], cli.human(row["size"]), *space, ", ".join(notes) or "-"]


def run(args: argparse.Namespace) -> int:
    from tools.vlmc.list import rows
    found = in_order(rows(args), args.name)
    if not args.no_sizes:
        add_sizes(args, found)
    if args.json:
        cli.print_json([{key: value for key, value in row.items() if key != "last"} for row in found])
        return 0
    heads = ["name", "kind", "size", *([] if args.no_sizes else ["exclusive", "shared"]), "notes"]
    cli.print_table([line(branch, row, not args.no_sizes) for branch, row in zip(branches(found), found, strict=True)],
                    heads)
    return 0
