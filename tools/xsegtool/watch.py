# SPDX-License-Identifier: Apache-2.0
"""Shows each second what each port did in it: requests, bytes, errors, bells, latency.

Ends after COUNT seconds, or by Ctrl-C. --json prints one line a second.
"""
from __future__ import annotations

import argparse
import json
import time
from typing import Any

from tools import cli
from xseg import look
from xseg.segment import Segment, text

HELP = "rates of each port, every second"
INTERVAL_S = 1.0
COLUMNS = ("role", "in_flight", "served", "errors", "sent", "read", "written", "rings", "wakes", "p50_us", "p99_us")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-n", "--count", type=int, default=0, metavar="COUNT", help="so many seconds (0: for ever)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def snapshot(segment: Segment) -> dict[int, tuple[str, dict[str, int], list[int]]]:
    """Role, counters and latency buckets of each port."""
    return {number: (text(port.role), look.counters(port),
                     [sum(counts) for counts in zip(*look.latency(port).values(), strict=True)])
            for number, port in look.ports(segment)}


def rates(before: dict[int, Any], after: dict[int, Any], held: list[int], seconds: float) -> list[dict[str, Any]]:
    """What each port did a second between two snapshots; ports that came between are left out."""
    rows = []
    for number, (role, counters, buckets) in after.items():
        if number not in before or before[number][0] != role:
            continue
        then = before[number]
        rate = {name: max(0, round((value - then[1][name]) / seconds)) for name, value in counters.items()}
        between = [max(0, now - earlier) for now, earlier in zip(buckets, then[2], strict=True)]
        rows.append({"port": number, "role": role, "in_flight": held[number], **rate,
                     "p50_us": look.percentile(between, 0.5), "p99_us": look.percentile(between, 0.99)})
    return rows


def show(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"ports": rows}), flush=True)
        return
    shown = [row | {"read": cli.human(row["bytes_read"]), "written": cli.human(row["bytes_written"])} for row in rows]
    cli.print_table([[row[key] for key in COLUMNS] for row in shown], [name.replace("_", " ") for name in COLUMNS])
    print(flush=True)


def run(args: argparse.Namespace) -> int:
    with Segment.of_home(args.home) as segment:
        before, since = snapshot(segment), time.monotonic()
        turn = 0
        while args.count == 0 or turn < args.count:
            time.sleep(INTERVAL_S)
            after, now = snapshot(segment), time.monotonic()
            show(rates(before, after, look.in_flight(segment), now - since), args.json)
            before, since, turn = after, now, turn + 1
    return 0
