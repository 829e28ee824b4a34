# SPDX-License-Identifier: Apache-2.0
"""What one hop costs: a request to a peer that does nothing, and back."""
from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from benchmarks.machine import Meter
from benchmarks.result import Plot, Result, Table, cell, range_of
from benchmarks.rounds import Sample, Series, in_turns
from benchmarks.servers import TOOL_LOAD, execute

if TYPE_CHECKING:
    from benchmarks.__main__ import Bench

TITLE = "One hop"
METHOD = """
A client keeps 1 or 32 requests under way to a peer that answers at once. Through the segment: both
peers in one process and one loop, or each in a process of its own that sleeps when it has nothing to
do. Beside them, 64-byte messages through a pipe and a unix socket, where both sides take and give all
there is by one system call. CPU is that of both sides. Three hops: two peers between that make a child
of each request and pass it on."""

DEPTHS = (1, 32)
WAYS = {
    "one process": ["hop"],
    "two processes": ["hop", "--separate"],
    "two processes, client spins 50 us": ["hop", "--separate", "--spin", "50"],
    "pipe": ["pipe"],
    "unix socket": ["socket"],
    "3 hops, one process": ["hop", "--hops", "3"],
    "3 hops, four processes": ["hop", "--hops", "3", "--separate"],
}


def sampler(words: list[str], depth: int, seconds: float) -> Callable[[], Sample]:
    def take() -> Sample:
        with Meter([], []) as meter:
            told = json.loads(execute(TOOL_LOAD, *words, "--depth", str(depth), "--seconds", str(seconds)))
        return {key: told[key] for key in ("iops", "cpu_us", "p50_us", "p99_us")} | {"foreign": meter.foreign}
    return take


def table(depth: int, series: dict[str, Series]) -> Table:
    rows = [[way, cell(one, "iops"), cell(one, "p50_us"), cell(one, "p99_us"), cell(one, "cpu_us")]
            for way, one in series.items()]
    return Table(f"{depth} under way", ["", "requests/s", "p50 us", "p99 us", "CPU us a request"], rows)


def run(bench: Bench, result: Result) -> None:
    seconds, rounds = bench.choose(0.7, 0.2), int(bench.choose(5, 3))
    found = {}
    for depth in DEPTHS:
        contestants = {way: sampler(words, depth, seconds) for way, words in WAYS.items()}
        found[depth] = series = in_turns(contestants, rounds)
        result.keep(f"depth {depth}", series)
        result.tables.append(table(depth, series))
    labels = [f"{depth} under way" for depth in DEPTHS]
    for key, what in (("iops", "requests a second"), ("cpu_us", "us of CPU a request"), ("p50_us", "us, median")):
        result.plots.append(Plot(
            what, what, labels, log_y=True,
            series={way: [found[d][way].median(key) for d in DEPTHS] for way in WAYS},
            ranges={way: [range_of(found[d][way], key) for d in DEPTHS] for way in WAYS}))
