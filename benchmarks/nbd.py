# SPDX-License-Identifier: Apache-2.0
"""An NBD client with one connection, beside qemu-nbd, qemu-storage-daemon and nbdkit."""
from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks import fio
from benchmarks.fio import KIB, MIB, Job
from benchmarks.result import Plot, Result, Table, cell, claim, range_of
from benchmarks.rounds import Series, best_of, in_turns, ratio
from benchmarks.servers import Nbdkit, QemuNbd, Server, Stage, Storage, fill_all

if TYPE_CHECKING:
    from benchmarks.__main__ import Bench

TITLE = "NBD beside other servers"
METHOD = """
fio's nbd engine, one connection over a unix socket, on a disk that was filled before by 4 KiB writes
over the same socket; nothing is flushed during a sample. "Cached": all of it is in the page cache.
"Direct": O_DIRECT below every server, so the disk is the limit; fio straight on a file is "the disk".
The best other is the one with the most IOPS in that row; CPU is compared with that one's. Those far
behind the best of the others leave after two rounds. "Spin" is the option spin_us = 50 of our NBD peer, "simple
replies" its option structured_replies = false: fio takes two system calls less for each read."""

OURS, SPIN, SIMPLE, DISK = "archipelago", "archipelago, spin", "archipelago, simple replies", "the disk"
SPIN_CONFIG, SIMPLE_CONFIG = "[peers.nbd]\nspin_us = 50\n", "[peers.nbd]\nstructured_replies = false\n"
DIRECT_CONFIG = '[peers.blockerb]\ntype = "blocker-file"\npath = "data"\ndirect = true\n'
GOALS = {("randread", 1): 1.1, ("randwrite", 1): 1.1, ("randread", 32): 1.5, ("randwrite", 32): 1.2,
         ("read", 8): 1.3}      # IOPS by those of the best other, by kind and depth; others 1.0
CPU_GOALS = {("randread", 32): 0.6, ("randwrite", 32): 0.6, ("read", 8): 0.8}
DISK_GOALS = {("randread", 32): 0.9, ("randwrite", 32): 0.8, ("read", 8): 0.97, ("write", 8): 0.95}


def jobs(seconds: float) -> list[Job]:
    return [Job(rw, 4 * KIB, depth, seconds) for depth in (1, 32) for rw in ("randread", "randwrite")] + [
        Job("read", MIB, 8, seconds), Job("write", MIB, 8, seconds)]


def cached_servers(stage: Stage) -> list[Server]:
    return [stage.instance(OURS, short="a"), stage.instance(SPIN, SPIN_CONFIG, short="s"),
            stage.instance(SIMPLE, SIMPLE_CONFIG, short="r"),
            *map(stage.add, [*(QemuNbd(stage.folder, form, aio, False) for form in ("raw", "qcow2")
                               for aio in ("threads", "io_uring")),
                             Storage(stage.folder, "raw", "io_uring", False), Nbdkit(stage.folder)])]


def direct_servers(stage: Stage) -> list[Server]:
    return [stage.instance(OURS, DIRECT_CONFIG, short="a"),
            *map(stage.add, [QemuNbd(stage.folder, "raw", "native", True),
                             QemuNbd(stage.folder, "raw", "io_uring", True),
                             QemuNbd(stage.folder, "qcow2", "native", True),
                             Storage(stage.folder, "raw", "native", True)])]


def table(job: Job, series: dict[str, Series]) -> Table:
    rate = ("mb_s", "MB/s") if job.size >= MIB else ("iops", "IOPS")
    rows = [[name, cell(one, rate[0]), cell(one, "p50_us"), cell(one, "p99_us"), cell(one, "server_us"),
             cell(one, "client_us"), str(len(one.samples))] for name, one in series.items()]
    return Table("", ["", rate[1], "p50 us", "p99 us", "server CPU us", "client CPU us", "samples"], rows)


def race(stage: Stage, servers: list[Server], job: Job, rounds: int, disk: Server | None) -> dict[str, Series]:
    """All servers on one job."""
    contestants = {server.name: stage.sampler(server, job) for server in servers}
    if disk:
        path = disk.files()[0]
        contestants[DISK] = lambda: fio.measure(job, fio.on_file(path, True), disk.size, [], stage.pids())
    else:
        fio.warm([path for server in servers for path in server.files()])
    return in_turns(contestants, rounds, keep=(OURS, SPIN, SIMPLE, DISK), best_of="iops")


def cached_claims(job: Job, series: dict[str, Series], result: Result) -> None:
    best = best_of(series, [name for name in series if name not in (OURS, SPIN, SIMPLE)], "iops")
    goal = GOALS.get((job.rw, job.depth), 1.0)
    result.claims.append(claim(f"cached, {job.name}: IOPS / {best}", goal, ratio(series[OURS], series[best], "iops")))
    if job.depth == 1:
        result.claims.append(claim(f"cached, {job.name}, spin: IOPS / {best}", 1.0,
                                   ratio(series[SPIN], series[best], "iops")))
    elif job.rw == "randread":
        result.claims.append(claim(f"cached, {job.name}, simple replies: IOPS / {best}", goal,
                                   ratio(series[SIMPLE], series[best], "iops")))
    if cpu_goal := CPU_GOALS.get((job.rw, job.depth)):
        result.claims.append(claim(f"cached, {job.name}: server CPU / {best}", cpu_goal,
                                   ratio(series[OURS], series[best], "server_us"), at_least=False))


def direct_claims(job: Job, series: dict[str, Series], result: Result) -> None:
    best = best_of(series, [name for name in series if name not in (OURS, DISK)], "iops")
    result.claims.append(claim(f"direct, {job.name}: IOPS / {best}", 1.0, ratio(series[OURS], series[best], "iops")))
    if disk_goal := DISK_GOALS.get((job.rw, job.depth)):
        result.claims.append(claim(f"direct, {job.name}: IOPS / the disk", disk_goal,
                                   ratio(series[OURS], series[DISK], "iops")))


def plots(mode: str, found: dict[str, dict[str, Series]], result: Result) -> None:
    """IOPS by the best other's, and CPU, of all random jobs."""
    names = [name for name in next(iter(found.values()))]
    small = [job for job in found if "KiB" in job]
    for key, what in (("iops", "IOPS"), ("server_us", "us of server CPU a request")):
        shown = [name for name in names if name != DISK or key == "iops"]
        result.plots.append(Plot(
            f"{mode}: {what}, 4 KiB", what, [job.replace("4 KiB ", "") for job in small],
            series={name: [found[job][name].median(key) for job in small] for name in shown},
            ranges={name: [range_of(found[job][name], key) for job in small] for name in shown}))


def one_mode(bench: Bench, result: Result, direct: bool) -> None:
    mode, found = "direct" if direct else "cached", {}
    size = int(bench.choose(512, 128)) * MIB
    rounds = int(bench.choose(3 if direct else 5, 2))
    with Stage(bench.scratch, "n") as stage:
        servers = direct_servers(stage) if direct else cached_servers(stage)
        bench.say(f"{mode}: filling {len(servers)} disks")
        fill_all(servers, size)
        for job in jobs(bench.choose(1.0, 0.5)):
            bench.say(f"{mode}: {job.name}")
            found[job.name] = race(stage, servers, job, rounds, servers[1] if direct else None)
            (direct_claims if direct else cached_claims)(job, found[job.name], result)
            shown = table(job, found[job.name])
            shown.title = f"{mode}, {job.name}"
            result.tables.append(shown)
            result.keep(shown.title, found[job.name])
    plots(mode, found, result)


def run(bench: Bench, result: Result) -> None:
    one_mode(bench, result, direct=False)
    one_mode(bench, result, direct=True)
