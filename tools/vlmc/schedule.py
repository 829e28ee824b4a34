# SPDX-License-Identifier: Apache-2.0
"""Has snapshots of a volume taken by the clock, and the older ones removed: `vlmc schedule disk hourly=24 daily=7`.

There are hourly, daily, weekly and monthly, each with how many are kept. The first are taken at once, the others by the
supervisor when an hour, day, week or month (UTC) begins; one that was missed is made up when the instance runs again.
They are called VOLUME@hourly-2026-11-26T23 and so on. What is protected (`vlmc protect`) or was renamed since is kept,
and so is what was taken by hand. `none` takes the schedule back; what it took stays. With no words: what schedules
there are.
"""
from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from tools import cli
from tools.vlmc._common import add_json, control
from xseg import schedule
from xseg.errors import Invalid, NotFound

HELP = "have snapshots taken by the clock, and thinned"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="VOLUME", nargs="?", help="a volume")
    parser.add_argument("parts", metavar="KIND=N", nargs="*", help="hourly=N, daily=N, weekly=N, monthly=N; or none")
    add_json(parser)


def rule_of(parts: list[str]) -> str:
    """What the words say. Invalid."""
    if parts == [schedule.NONE]:
        return ""
    try:
        return schedule.text_of(schedule.parse(parts))
    except ValueError as wrong:
        raise Invalid(str(wrong)) from None


def begin(args: argparse.Namespace, volume: str) -> None:
    """Takes what is due of one volume, which is known by its id."""
    from tools.schedules import Keeper
    from tools.vlmc._walks import with_mapper
    with_mapper(args, lambda ask: Keeper(ask, time.time, lambda words: print(f"vlmc: {words}", file=sys.stderr)
                                         ).round(volume))


def listed(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The volumes that have a schedule, or the one that is meant."""
    from tools.schedules import taken_by_rule
    from tools.vlmc.list import rows
    found = [row for row in rows(args) if "name" in row]
    snapshots = taken_by_rule(found)
    chosen = [row for row in found if row["kind"] == "volume" and (row["name"] == args.name if args.name
                                                                    else row["schedule"])]
    if args.name and not chosen:
        raise NotFound(f"there is no volume '{args.name}': `vlmc list` shows what there is")
    return [{"name": row["name"], "id": row["id"], "schedule": row["schedule"] or schedule.NONE,
             "snapshots": sorted(snapshot["name"] for snapshot in snapshots.get(row["id"], []))} for row in chosen]


def run(args: argparse.Namespace) -> int:
    if args.parts:
        control(args, "schedule", name=args.name, rule=rule_of(args.parts))
        if args.parts != [schedule.NONE]:
            begin(args, control(args, "info", name=args.name)["id"])
        return 0
    found = listed(args)
    if args.json:
        cli.print_json(found)
    else:
        cli.print_table([[row["name"], row["schedule"], len(row["snapshots"]), (row["snapshots"] or ["-"])[-1]]
                         for row in found], ["name", "schedule", "snapshots", "last"])
    return 0
