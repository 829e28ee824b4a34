# SPDX-License-Identifier: Apache-2.0
"""The same peers cut into processes in different ways."""
from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks import fio
from benchmarks.fio import KIB, MIB, Job
from benchmarks.result import Plot, Result, Table, cell, claim, range_of
from benchmarks.rounds import in_turns, ratio
from benchmarks.servers import Stage, fill_all

if TYPE_CHECKING:
    from benchmarks.__main__ import Bench

TITLE = "Layouts"
METHOD = """
One NBD client with one connection (fio) on a filled volume in the page cache. Colocated, the default:
nbd, vlmc and the data blocker in one process, the mapper and the map blocker in another. Separate: a
process a peer. The spin option is that of the NBD peer, 50 us. The default is to be at least as good as
the other."""

LAYOUTS = {
    "colocated": 'layout = "colocated"\n',
    "separate": 'layout = "separate"\n',
    "colocated, spin": 'layout = "colocated"\n[peers.nbd]\nspin_us = 50\n',
    "separate, spin": 'layout = "separate"\n[peers.nbd]\nspin_us = 50\n',
}


def run(bench: Bench, result: Result) -> None:
    seconds, rounds = bench.choose(1.0, 0.3), int(bench.choose(5, 2))
    jobs = [Job(rw, 4 * KIB, depth, seconds) for depth in (1, 32) for rw in ("randread", "randwrite")]
    found = {}
    with Stage(bench.scratch, "l") as stage:
        servers = [stage.instance(name, config, short=f"l{n}") for n, (name, config) in enumerate(LAYOUTS.items())]
        fill_all(servers, int(bench.choose(512, 64)) * MIB)
        for job in jobs:
            bench.say(job.name)
            fio.warm([path for server in servers for path in server.files()])
            found[job.name] = in_turns({server.name: stage.sampler(server, job) for server in servers}, rounds)
    for job in jobs:
        series = found[job.name]
        result.keep(job.name, series)
        result.claims.append(claim(f"{job.name}: IOPS, colocated / separate", 1.0,
                                   ratio(series["colocated"], series["separate"], "iops")))
        result.claims.append(claim(f"{job.name}: server CPU, colocated / separate", 1.0,
                                   ratio(series["colocated"], series["separate"], "server_us"), at_least=False))
        result.tables.append(Table(job.name, ["layout", "IOPS", "p50 us", "p99 us", "server CPU us"], [
            [name, *(cell(one, key) for key in ("iops", "p50_us", "p99_us", "server_us"))]
            for name, one in series.items()]))
    for key, what in (("iops", "IOPS"), ("server_us", "us of server CPU a request")):
        result.plots.append(Plot(
            f"{what}, 4 KiB", what, [job.name.removeprefix("4 KiB ") for job in jobs],
            series={name: [found[job.name][name].median(key) for job in jobs] for name in LAYOUTS},
            ranges={name: [range_of(found[job.name][name], key) for job in jobs] for name in LAYOUTS}))
