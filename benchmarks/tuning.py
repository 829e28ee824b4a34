# SPDX-License-Identifier: Apache-2.0
"""Each mechanism that the loop finds the use of while it runs: forced on, forced off, and as it finds out."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from benchmarks import fio
from benchmarks.fio import KIB, MIB, Job
from benchmarks.nbd import DIRECT_CONFIG
from benchmarks.result import Plot, Result, Table, cell, claim, range_of
from benchmarks.rounds import Sample, Series, best_of, in_turns, ratio
from benchmarks.servers import Stage, fill_all

if TYPE_CHECKING:
    from benchmarks.__main__ import Bench

TITLE = "Mechanisms on, off, and as found out"
METHOD = """
native/loop/tune.h tells how a loop finds out, while it runs, which of its mechanisms gain something. Here each is
forced on, forced off, and left to that, while all others are left to it: fio's nbd engine, one connection, on a volume
that was filled before, in the page cache but where O_DIRECT is said. What is found out is to give 0.97 of the
better of the two, whatever the machine."""

ON, OFF, FOUND = "on", "off", "found out"
GOAL = 0.97


def config_of(mechanism: str, choice: str) -> str:
    if choice == FOUND:
        return ""
    if mechanism == "spin":
        return f"[peers.nbd]\nspin_us = {50 if choice == ON else 0}\n"
    return f'[tuning]\n{mechanism} = "{choice}"\n'


def rows(seconds: float) -> dict[str, list[Job]]:
    """Mechanism -> the loads in which it matters."""
    def small(depth: int) -> list[Job]:
        return [Job(rw, 4 * KIB, depth, seconds) for rw in ("randread", "randwrite")]

    large = [Job(rw, MIB, 8, seconds) for rw in ("read", "write")]
    return {"naps": [*small(32), *large], "spin": [*small(1), *small(32)], "alone": small(1), "hold": small(32)[:1],
            "reads": large[:1], "writes": large[1:]}


def race(bench: Bench, mechanism: str, jobs: list[Job], rounds: int) -> Iterator[tuple[Job, dict[str, Series]]]:
    with Stage(bench.scratch, "t") as stage:
        direct = DIRECT_CONFIG if mechanism == "hold" else ""
        servers = [stage.instance(name, config_of(mechanism, name) + direct, short=f"t{n}")
                   for n, name in enumerate((ON, OFF, FOUND))]
        fill_all(servers, int(bench.choose(256, 64)) * MIB)
        for job in jobs:
            if not direct:
                fio.warm([path for server in servers for path in server.files()])
            takers: dict[str, Callable[[], Sample]] = {server.name: stage.sampler(server, job) for server in servers}
            yield job, in_turns(takers, rounds)


def run(bench: Bench, result: Result) -> None:
    found: dict[str, dict[str, Series]] = {}
    for mechanism, jobs in rows(bench.choose(1.5, 0.8)).items():
        for job, series in race(bench, mechanism, jobs, int(bench.choose(5, 2))):
            row = f"{mechanism}: {job.name}" + (", O_DIRECT" if mechanism == "hold" else "")
            found[row] = series
            best = best_of(series, (ON, OFF), "iops")
            told = ratio(series[FOUND], series[best], "iops")
            bench.say(f"{row}: " + ", ".join(f"{name} {cell(one, 'iops')}" for name, one in series.items())
                      + f", {FOUND} / {best} {told}")
            result.keep(row, series)
            result.claims.append(claim(f"{row}: IOPS, {FOUND} / {best}", GOAL, told))
    result.tables.append(Table(
        "IOPS, and us of server CPU a request", ["", *(f"{name}: {what}" for name in (ON, OFF, FOUND)
                                                      for what in ("IOPS", "CPU us"))],
        [[row, *(cell(series[name], key) for name in (ON, OFF, FOUND) for key in ("iops", "server_us"))]
         for row, series in found.items()]))
    small = [row for row in found if "KiB" in row]
    result.plots.append(Plot("IOPS", "IOPS", [row.replace(": 4 KiB random", "\n").replace(", O_", "\nO_")
                                              for row in small],
                             series={name: [found[row][name].median("iops") for row in small]
                                     for name in (ON, OFF, FOUND)},
                             ranges={name: [range_of(found[row][name], "iops") for row in small]
                                     for name in (ON, OFF, FOUND)}))
