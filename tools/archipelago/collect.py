# SPDX-License-Identifier: Apache-2.0
"""Deletes what nothing reaches any more: one cycle of the collector over the stores, while they are in use.

Objects, map pages and journals that removed volumes and snapshots shared, what interrupted work left, names that lead
nowhere, and half-made volumes whose maker is gone. What is removed is kept for `grace_s` of [collector] before that.

The supervisor begins a cycle by itself (--if-due) `every_s` after the last, of whatever node; this begins one at once.
It keeps to the budget of [collector], unless --now is given, and goes on beside guests' I/O; whatever ends it, the next
begins again. If anything on the way cannot be read, nothing is deleted. Exit status 1: so, or another is at it.
"""
from __future__ import annotations

import argparse
import os
import sys
from typing import Any, Never

from tools import cli

NICE = 19                       # of a cycle that nobody waits for
HELP = "delete what nothing reaches any more: one cycle of the collector"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--now", action="store_true", help="as fast as it can, whatever the budget and guests do")
    parser.add_argument("--if-due", action="store_true", help="only if the last one was `every_s` ago")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be deleted")
    parser.add_argument("--json", action="store_true", help="for programs")


def show(account: dict[str, Any]) -> None:
    """For people."""
    verb = "would delete" if account["dry_run"] else "deleted"
    for kind, found in account["kinds"].items():
        print(f"{verb} {found['freed_objects']} {kind} objects, {cli.human(found['freed_bytes'])}; "
              f"{found['objects']} are live, {cli.human(found['bytes'])}")
    print(f"{verb} {account['names']} names, {account['headers']} headers, {account['locks']} locks, "
          f"{account['half_made']} half-made volumes")
    print(f"{account['volumes']} volumes and snapshots; {account['waiting']} removed ones wait; {account['pages']} "
          f"pages in {account['seconds']} s")


def run(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from tools.instance import config
    from tools.instance.collecting import collect, is_due
    settings = config.read_in_force(args.home)
    if args.if_due:
        os.nice(NICE)
        if not is_due(args.home, settings):
            return 0
    bar: tqdm[Never]
    with tqdm(disable=None, leave=False, bar_format="{desc} {elapsed}", file=sys.stderr) as bar:
        account = collect(args.home, settings, args.now, args.dry_run, bar.set_description)
    if args.json:
        cli.print_json(account)
    else:
        show(account)
    return 0
