# SPDX-License-Identifier: Apache-2.0
"""Volumes on RADOS beside librbd, with librados alone as the limit."""
from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable
from typing import TYPE_CHECKING

from benchmarks.ceph import CONDITIONS, Ceph, Librbd, fill
from benchmarks.fio import KIB, MIB, Job
from benchmarks.result import Claim, Plot, Result, Table, cell, claim, range_of
from benchmarks.rounds import FEW, Sample, Series, disturbed, in_turns, ratio

if TYPE_CHECKING:
    from benchmarks.__main__ import Bench

TITLE = "RADOS beside librbd"
METHOD = f"""{CONDITIONS}
librbd: fio's rbd engine. NBD: fio's nbd engine on our endpoint. Segment: a native load generator that submits
to vlmc through the segment, as another peer would. librados: a C program with as many asynchronous reads or
writes under way on objects of 4 MiB, and nothing else; it is the limit of all. Every disk was written in full
before. CPU is user + system of all client processes with all their threads, by request, without what starting
and opening takes (a run of one request is taken off): fio with librbd in it; the C program; the processes of
our pipeline, and the generator or fio, which are shown apart. librbd with its cache acknowledges writes before
the cluster has them; it is shown, and no goal. Our client takes up to 64 KiB from a socket at once
(ms_tcp_prefetch_max_size); librbd and the C program are as Ceph sets them. Where the objects of a disk lie in
the OSD is chance (their names are hashed), and tells in sequential reads: each sample takes another of several
disks (librados alone: always the same objects)."""

LIBRBD, CACHED, NBD, SEGMENT, RAW = "librbd", "librbd, cache", "archipelago, NBD", "archipelago, segment", "librados"
NAMES = (LIBRBD, CACHED, NBD, SEGMENT, RAW)
QD32_GOAL_US, QD1_GOAL = 6.0, 0.9


def jobs(seconds: float) -> list[Job]:
    return [Job(rw, 4 * KIB, depth, seconds) for depth in (1, 32) for rw in ("randread", "randwrite")] + [
        Job("read", MIB, 8, seconds), Job("write", MIB, 8, seconds)]


def one_disk(ceph: Ceph, name: str, area: int) -> dict[str, Callable[[Job], Sample]]:
    """An image and a volume of that name, both full; contestant -> client."""
    with Librbd(ceph.uncached) as librbd:
        librbd.create(name, area)
    with ceph.ours.client() as client:
        client.control("create", name=name, size=area)
    clients = {LIBRBD: ceph.librbd(name, area), CACHED: ceph.librbd(name, area, cached=True),
               NBD: ceph.nbd(name, area), SEGMENT: ceph.through_segment(name, area)}
    for contestant in (LIBRBD, SEGMENT):
        fill(clients[contestant], area)
    return clients


def prepare(ceph: Ceph, disks: int, area: int) -> dict[str, Callable[[Job], Sample]]:
    """Contestant -> client, which takes another disk at each call; librados alone has but one set of objects."""
    clients = [one_disk(ceph, f"disk{n}", area) for n in range(disks)]
    raw = ceph.raw(area)
    fill(raw, area)

    def in_rotation(name: str) -> Callable[[Job], Sample]:
        turns = itertools.cycle([each[name] for each in clients])
        return lambda job: next(turns)(job)
    return {**{name: in_rotation(name) for name in NAMES if name != RAW}, RAW: raw}


def difference(ours: Series, theirs: Series, key: str, other_key: str, text: str, goal: float) -> Claim:
    """ours - theirs of neighbours, at most `goal`."""
    rounds = sorted(set(ours.samples) & set(theirs.samples))
    quiet = [n for n in rounds if not disturbed(ours.samples[n]) and not disturbed(theirs.samples[n])]
    used = quiet if len(quiet) >= min(FEW, len(rounds)) else rounds
    values = [ours.samples[n][key] - theirs.samples[n][other_key] for n in used]
    return Claim(text, goal, statistics.median(values), min(values), max(values), at_least=False,
                 disturbed=used is not quiet)


def claims(job: Job, series: dict[str, Series], result: Result) -> None:
    for name in (NBD, SEGMENT):
        result.claims.append(claim(f"{job.name}: IOPS, {name} / librbd", 1.0,
                                   ratio(series[name], series[LIBRBD], "iops")))
    if job.size >= MIB:
        return
    if job.depth == 1:
        result.claims.append(claim(f"{job.name}: CPU, {SEGMENT} with its generator / librbd", QD1_GOAL,
                                   ratio(series[SEGMENT], series[LIBRBD], "cpu_us"), at_least=False))
        return
    for key, what in (("pipeline_us", SEGMENT), ("cpu_us", f"{SEGMENT} with its generator")):
        result.claims.append(difference(series[SEGMENT], series[RAW], key, "cpu_us",
                                        f"{job.name}: us of CPU, {what} - librados", QD32_GOAL_US))


def table(job: Job, series: dict[str, Series]) -> Table:
    rate = ("mb_s", "MB/s") if job.size >= MIB else ("iops", "IOPS")
    keys = (rate[0], "p50_us", "p99_us", "cpu_us", "pipeline_us", "client_us", "osd_us")
    rows = [[name, *("–" if key == "pipeline_us" and name not in (NBD, SEGMENT) else cell(one, key) for key in keys),
             str(len(one.samples))] for name, one in series.items()]
    return Table(job.name, ["", rate[1], "p50 us", "p99 us", "CPU us", "pipeline's", "fio's, generator's", "OSD CPU us",
                            "samples"], rows)


def plots(found: dict[str, dict[str, Series]], result: Result) -> None:
    small = [job for job in found if "KiB" in job]
    for key, what in (("iops", "IOPS"), ("cpu_us", "us of client CPU a request")):
        result.plots.append(Plot(
            f"4 KiB: {what}", what, [job.replace("4 KiB ", "") for job in small],
            series={name: [found[job][name].median(key) for job in small] for name in NAMES},
            ranges={name: [range_of(found[job][name], key) for job in small] for name in NAMES}))


def run(bench: Bench, result: Result) -> None:
    area, rounds = int(bench.choose(256, 128)) * MIB, int(bench.choose(4, 2))
    found: dict[str, dict[str, Series]] = {}
    with Ceph(bench) as ceph:
        bench.say("filling disks")
        clients = prepare(ceph, rounds, area)
        for job in jobs(bench.choose(2.0, 0.7)):
            bench.say(job.name)
            found[job.name] = in_turns({name: ceph.sampler(name, client, job, name in (NBD, SEGMENT))
                                        for name, client in clients.items()}, rounds)
            claims(job, found[job.name], result)
            result.tables.append(table(job, found[job.name]))
            result.keep(job.name, found[job.name])
    plots(found, result)
