# SPDX-License-Identifier: Apache-2.0
"""Walks the map of volumes: are pages and journals intact, is every object that they name there and sane?

Only reads. Without NAME, all volumes and snapshots. Exit status 1 when something is wrong.
"""
from __future__ import annotations

import argparse
from typing import Any

from tools import cli
from tools.vlmc._common import add_json, portions

HELP = "check the map of volumes"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", metavar="NAME", nargs="*", help="a volume or snapshot")
    add_json(parser)


def check(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """The whole result for one volume."""
    whole: dict[str, Any] = {"name": name, "blocks": 0, "objects": 0, "problems": [], "left_out": 0}
    for answer in portions(args, "check", name=name):
        for key, value in answer.items():
            whole[key] += value
    return whole


def everything(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The results for all volumes, and one for each header that cannot be read."""
    from tools.vlmc.list import rows
    return [{"name": row["id"], "blocks": 0, "objects": 0, "problems": [row["damaged"]], "left_out": 0}
            if "damaged" in row else check(args, row["name"]) for row in rows(args)]


def run(args: argparse.Namespace) -> int:
    results = [check(args, name) for name in args.names] if args.names else everything(args)
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
