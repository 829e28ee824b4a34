# SPDX-License-Identifier: Apache-2.0
"""Shows each port in use: counters, and how fast the requests it sent came back.

p50, p99: within so many microseconds half, 99 of 100 of the requests it sent to others came
back; from buckets of powers of two, so up to twice the true figure. --all shows every counter.
"""
from __future__ import annotations

import argparse
from typing import Any

from tools import cli
from xseg import look
from xseg.segment import Segment, text

HELP = "ports with their counters and latencies"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs; has every counter")
    parser.add_argument("--all", action="store_true", help="every counter")


def ports(segment: Segment) -> list[dict[str, Any]]:
    held = look.in_flight(segment)
    shown = []
    for number, port in look.ports(segment):
        buckets = look.latency(port)
        everything = [sum(counts) for counts in zip(*buckets.values(), strict=True)]
        shown.append({"port": number, "role": text(port.role), "type": text(port.type),
                      "process": text(port.process), "pid": port.pid if segment.alive(number) else None,
                      "incarnation": port.incarnation, "in_flight": held[number], **look.counters(port),
                      "buffers": list(port.buffers_held), "latency_us": buckets,
                      "p50_us": look.percentile(everything, 0.5), "p99_us": look.percentile(everything, 0.99)})
    return shown


def run(args: argparse.Namespace) -> int:
    with Segment.of_home(args.home) as segment:
        shown = ports(segment)
    if args.json:
        cli.print_json({"ports": shown})
        return 0
    columns = ["port", "role", "pid", "in_flight", "received", "served", "errors", "sent", "recovered", "p50_us",
               "p99_us"]
    if args.all:
        columns += [name for name in (*look.COUNTERS, "incarnation", "buffers") if name not in columns]
    cli.print_table([[row[key] if row[key] is not None else "-" for key in columns] for row in shown],
                    [name.replace("_", " ") for name in columns])
    return 0
