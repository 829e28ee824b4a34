# SPDX-License-Identifier: Apache-2.0
"""Shows what the stores hold: live objects, and what the collector has deleted, by kind.

The figures are those of the last cycle of the collector, on whatever node, and its age is told: nothing walks the
stores to print them. Bytes of live objects are estimated where there are many. What was removed since, and shared
something, waits for the next cycle that begins `grace_s` later.
"""
from __future__ import annotations

import argparse
import time
from typing import Any

from tools import cli

HELP = "show what the stores hold, as of the last cycle of the collector"
COLUMNS = ("kind", "live", "objects", "freed", "freed objects")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs")


def sentences(state: dict[str, Any]) -> list[str]:
    """Below the table."""
    age = time.time() - state["ended"] / 1000
    said = [f"as of {age:.0f} s ago; {state['waiting']} removed volumes and snapshots waited then; freed in all "
            f"{state['cycles']} cycles: {cli.human(state['total_freed_bytes'])}"] if "kinds" in state else []
    if state.get("refused"):
        said.append(f"the last cycle, {age:.0f} s ago, deleted nothing: {state['refused']}")
    return said


def run(args: argparse.Namespace) -> int:
    from tools.instance.collecting import last
    state = last(args.home)
    if args.json:
        cli.print_json(state)
        return 0
    if not state:
        print("the collector has not been here yet: `archipelago collect`")
        return 0
    cli.print_table([[kind, cli.human(found["bytes"]), found["objects"], cli.human(found["freed_bytes"]),
                      found["freed_objects"]] for kind, found in state.get("kinds", {}).items()], list(COLUMNS))
    for line in sentences(state):
        print(line)
    return 0
