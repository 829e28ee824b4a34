# SPDX-License-Identifier: Apache-2.0
"""Walks the map of volumes: are pages and journals intact, is every object that they name there and sane?

Only reads. Without NAME, all volumes and snapshots. Exit status 1 when something is wrong.
"""
from __future__ import annotations

import argparse
from typing import Any

from tools import cli
from tools.vlmc._common import add_json
from tools.vlmc._walks import walk_all
from xseg.volume_name import by_id

HELP = "check the map of volumes"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", metavar="NAME", nargs="*", help="a volume or snapshot")
    add_json(parser)


def checked(name: str, answers: list[dict[str, Any]]) -> dict[str, Any]:
    """The whole result for one volume."""
    whole: dict[str, Any] = {"name": name, "blocks": 0, "objects": 0, "problems": [], "left_out": 0}
    for answer in answers:
        for key, value in answer.items():
            whole[key] += value
    return whole


def everything(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The results for all volumes, and one for each header that cannot be read."""
    from tools.vlmc.list import rows
    found = rows(args)
    good = [row for row in found if "damaged" not in row]
    walks = walk_all(args, "check", [by_id(row["id"]) for row in good], skip_gone=True)
    results = [checked(row["name"], answers) for row, answers in zip(good, walks, strict=True) if answers]
    return results + [checked(row["id"], [{"problems": [row["damaged"]]}]) for row in found if "damaged" in row]


def run(args: argparse.Namespace) -> int:
    if args.names:
        results = [checked(name, answers or []) for name, answers
                   in zip(args.names, walk_all(args, "check", args.names), strict=True)]
    else:
        results = everything(args)
    if args.json:
        cli.print_json(results)
    for result in [] if args.json else results:
        verdict = f"{len(result['problems']) + result['left_out']} problems" if result["problems"] else "good"
        print(f"{result['name']}: {result['blocks']} blocks in {result['objects']} objects: {verdict}")
        for problem in result["problems"]:
            print(f"  {problem}")
        if result["left_out"]:
            print(f"  ... and {result['left_out']} more")
    return 1 if any(result["problems"] for result in results) else 0
