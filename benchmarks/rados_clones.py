# SPDX-License-Identifier: Apache-2.0
"""Snapshots, clones, first writes and depth on RADOS, beside librbd."""
from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from benchmarks.ceph import CONDITIONS, Ceph, Librbd, fill
from benchmarks.fio import KIB, MIB, Job
from benchmarks.machine import Meter, timed
from benchmarks.result import Claim, Plot, Result, Table, cell, claim, range_of, short
from benchmarks.rounds import Sample, Series, in_turns, ratio
from benchmarks.servers import BIN, execute
from xseg.errors import Busy

if TYPE_CHECKING:
    from benchmarks.__main__ import Bench
    from xseg.client import Client

TITLE = "Clones on RADOS beside librbd"
METHOD = f"""{CONDITIONS}
Snapshots and clones: time until the call returns, of programs that stay: ours by xseg.client, librbd by its
Python binding, both of an open image that is full; a sample is the median of some in a row. The monitor makes
a new map every 50 ms at most; Ceph's default is 1 s, shown as well. Many clones: ours by `vlmc clone --count`,
librbd's by calls in one process. First writes: 4 KiB, one to each object of a fresh clone of the full image, one
after the other, by fio's nbd and rbd engines; and with a flush after each, which makes our map durable, too
(what librbd has written is so by itself). Depth: 4 KiB random reads, QD1, of a clone of a snapshot of a clone...
of the full image, in which no level was written to; librbd's with its default features, and without object-map."""

OURS, LIBRBD, SLOW = "archipelago", "librbd", "librbd, Ceph's propose interval"
NBD, SEGMENT, PLAIN = "archipelago, NBD", "archipelago, segment", "librbd, no object-map"
BASE, FIRST = "base", "first"       # the full image or volume, and its snapshot
BLOCK = 4 * MIB                     # of both
DEPTHS = (1, 8, 16, 24)
CLONES_GOAL, WRITES_GOAL, FLAT_GOAL, SNAPSHOT_GOAL = 20.0, 10.0, 0.95, 1.0
PROPOSE_S = 0.05                    # as tools.cluster sets it
NUMBERS = itertools.count()         # of names
CLOSE_TRIES, CLOSE_WAIT_S = 100, 0.05


def remove(client: Client, name: str) -> None:
    """Removes a volume as soon as its last connection is gone."""
    for _ in range(CLOSE_TRIES):
        try:
            client.control("remove", name=name)
            return
        except Busy:
            time.sleep(CLOSE_WAIT_S)
    raise RuntimeError(f"{name} stays open")


class Pair:
    """The same full disk as a volume of ours and as an image of librbd, with a snapshot each."""

    def __init__(self, ceph: Ceph, librbd: Librbd, client: Client, area: int) -> None:
        self.ceph, self.librbd, self.client, self.area = ceph, librbd, client, area
        librbd.create(BASE, area)
        client.control("create", name=BASE, size=area)
        fill(ceph.librbd(BASE, area), area)
        fill(ceph.through_segment(BASE, area), area)
        librbd.snapshot(BASE, FIRST)
        client.control("snapshot", name=BASE, snapshot=FIRST)

    def sampled(self, work: Callable[[], None], count: int = 1) -> Callable[[], Sample]:
        """Samples of the time of `work`, ms by each of the `count` things it makes."""
        def take() -> Sample:
            with Meter([], self.ceph.pids()) as meter:
                seconds = timed(work)
            return {"ms": seconds * 1000 / count, "foreign": meter.foreign}
        return take


def propose(ceph: Ceph, seconds: float) -> None:
    """Sets how often the monitor makes a new map."""
    ceph.cluster.ceph("tell", "mon.a", "config", "set", "paxos_propose_interval", seconds)


def epoch(ceph: Ceph) -> int:
    return ceph.cluster.ceph("osd", "dump")["epoch"]


def snapshots(bench: Bench, result: Result, pair: Pair) -> dict[str, Series]:
    """Of open images. Each of librbd's asks the monitor for a number; none of ours does."""
    repeat, rounds, epochs = int(bench.choose(5, 3)), int(bench.choose(5, 2)), []

    def median_of(work: Callable[[str], None]) -> Callable[[], Sample]:
        def take() -> Sample:
            with Meter([], pair.ceph.pids()) as meter:
                times = [timed(lambda: work(f"s{next(NUMBERS)}")) for _ in range(repeat)]
            return {"ms": statistics.median(times) * 1000, "foreign": meter.foreign}
        return take

    def ours() -> Sample:
        before = epoch(pair.ceph)
        sample = median_of(lambda name: pair.client.control("snapshot", name=BASE, snapshot=name))()
        epochs.append((epoch(pair.ceph) - before) / repeat)
        return sample

    with pair.librbd.image(BASE) as image, pair.client.open(BASE):
        def slow() -> Sample:
            propose(pair.ceph, 1)
            try:
                return median_of(image.create_snap)()
            finally:
                propose(pair.ceph, PROPOSE_S)

        series = in_turns({OURS: ours, LIBRBD: median_of(image.create_snap), SLOW: slow}, rounds)
    result.claims += [
        Claim("maps that the monitor makes for one snapshot of ours", 0.0, statistics.median(epochs), min(epochs),
              max(epochs), at_least=False),
        claim("snapshot: time, librbd / archipelago", SNAPSHOT_GOAL, ratio(series[LIBRBD], series[OURS], "ms"))]
    return series


def clones(bench: Bench, result: Result, pair: Pair) -> tuple[dict[str, Series], dict[str, Series]]:
    """One, and many."""
    batch, theirs, rounds = int(bench.choose(1000, 200)), int(bench.choose(100, 20)), int(bench.choose(3, 2))
    vlmc = (os.path.join(BIN, "vlmc"), "--home", pair.ceph.ours.home)

    def librbd(count: int) -> None:
        for _ in range(count):
            pair.librbd.clone(BASE, FIRST, f"c{next(NUMBERS)}")

    def ours(count: int) -> None:
        for _ in range(count):
            pair.client.control("clone", name=FIRST, names=[f"c{next(NUMBERS)}"])

    def command() -> None:
        execute(*vlmc, "clone", FIRST, f"c{next(NUMBERS)}-{{}}", "--count", str(batch))

    few = 5
    one = in_turns({OURS: pair.sampled(lambda: ours(few), few), LIBRBD: pair.sampled(lambda: librbd(few), few)}, rounds)
    many = in_turns({OURS: pair.sampled(command, batch),
                     LIBRBD: pair.sampled(lambda: librbd(theirs), theirs)}, rounds)
    result.claims += [
        claim("one clone: time, librbd / archipelago", 1.0, ratio(one[LIBRBD], one[OURS], "ms")),
        claim(f"{batch:,} clones by one command: clones a second, archipelago / librbd", CLONES_GOAL,
              ratio(many[LIBRBD], many[OURS], "ms"))]
    return one, many


def metadata(bench: Bench, result: Result, pair: Pair) -> None:
    """Snapshots and clones, in one table and one plot."""
    bench.say("snapshots")
    taken = snapshots(bench, result, pair)
    bench.say("clones")
    one, many = clones(bench, result, pair)
    shown = {"a snapshot": taken, "a clone": one, "a clone of many": many}
    rows = []
    for what, series in shown.items():
        result.keep(what, series)
        rows.append([what, *(cell(series.get(name), "ms") for name in (OURS, LIBRBD, SLOW))])
    rate = {name: 1000 / many[name].median("ms") for name in (OURS, LIBRBD)}
    result.tables.append(Table("ms", ["", OURS, LIBRBD, SLOW], rows,
                               note=f"Of many clones, {short(rate[OURS])} a second beside {short(rate[LIBRBD])}."))
    result.plots.append(Plot("Snapshots and clones", "ms", list(shown), log_y=True, series={
        name: [series[name].median("ms") for series in shown.values()] for name in (OURS, LIBRBD)}))


# --- first writes ------------------------------------------------------------------------------------

def first_writes(bench: Bench, result: Result, pair: Pair) -> None:
    """One 4 KiB write to each block of a fresh clone."""
    rounds, count = int(bench.choose(4, 2)), pair.area // BLOCK
    job, found = Job("write", 4 * KIB, 1, 0, requests=count), {}

    def on_fresh(ours: bool, more: tuple[str, ...]) -> Sample:
        name = f"f{next(NUMBERS)}"
        if ours:
            pair.client.control("clone", name=FIRST, names=[name])
        else:
            pair.librbd.clone(BASE, FIRST, name)
        client = (pair.ceph.nbd if ours else pair.ceph.librbd)(name, pair.area, more=more)
        with Meter([], pair.ceph.pids()) as meter:
            sample = client(job)
        remove(pair.client, name) if ours else pair.librbd.remove(name)
        return {**sample, "foreign": meter.foreign}

    for title, flush in (("first writes", ()), ("first writes, each flushed", ("--fsync=1",))):
        bench.say(title)
        more = (f"--rw=write:{BLOCK - 4 * KIB}", *flush)
        series = in_turns({NBD: lambda more=more: on_fresh(True, more),
                           LIBRBD: lambda more=more: on_fresh(False, more)}, rounds)
        result.keep(title, series)
        result.claims.append(claim(f"{title}: IOPS, {NBD} / librbd", WRITES_GOAL,
                                   ratio(series[NBD], series[LIBRBD], "iops")))
        found[title] = series
    rows = [[f"{name}, {title}", *(cell(one, key) for key in ("iops", "p50_us", "p99_us"))]
            for title, series in found.items() for name, one in series.items()]
    result.tables.append(Table(f"4 KiB first writes to {count} objects of a fresh clone, QD1",
                               ["", "IOPS", "p50 us", "p99 us"], rows,
                               note="Times are those of the writes, without the flush."))
    result.plots.append(Plot("4 KiB first writes into a clone, QD1", "IOPS", list(found), log_y=True, series={
        name: [series[name].median("iops") for series in found.values()] for name in (NBD, LIBRBD)}, ranges={
        name: [range_of(series[name], "iops") for series in found.values()] for name in (NBD, LIBRBD)}))


# --- depth ----------------------------------------------------------------------------------------------

def chains(pair: Pair, depth: int) -> None:
    """Volumes deep-N of ours, images deep-N and plain-N of librbd."""
    below = {"ours": (BASE, FIRST), "deep": (BASE, FIRST), "plain": (BASE, FIRST)}
    for level in range(1, depth + 1):
        name = f"deep-{level}"
        pair.client.control("clone", name=below["ours"][1], names=[name])
        pair.client.control("snapshot", name=name, snapshot=f"{name}-s")
        below["ours"] = (name, f"{name}-s")
        for kind in ("deep", "plain"):
            made = f"{kind}-{level}"
            pair.librbd.clone(*below[kind], made, layering_only=kind == "plain")
            pair.librbd.snapshot(made, "s")
            below[kind] = (made, "s")


def depths(bench: Bench, result: Result, pair: Pair) -> None:
    """Reads of clones of clones."""
    rounds, job = int(bench.choose(5, 2)), Job("randread", 4 * KIB, 1, bench.choose(1.0, 0.4))
    ceph, area, contestants = pair.ceph, pair.area, {}
    bench.say(f"making chains of {DEPTHS[-1]} clones")
    chains(pair, DEPTHS[-1])
    for depth in DEPTHS:
        deep = f"deep-{depth}"
        clients = {NBD: ceph.nbd(deep, area), SEGMENT: ceph.through_segment(deep, area),
                   LIBRBD: ceph.librbd(deep, area), PLAIN: ceph.librbd(f"plain-{depth}", area)}
        for name, client in clients.items():
            label = f"{name}, depth {depth}"
            contestants[label] = ceph.sampler(label, client, job, name in (NBD, SEGMENT))
    bench.say("reads at all depths")
    series = in_turns(contestants, rounds)
    result.keep("depths", series)
    found = {depth: {name: series[f"{name}, depth {depth}"] for name in (NBD, SEGMENT, LIBRBD, PLAIN)}
             for depth in DEPTHS}
    first, last = found[DEPTHS[0]], found[DEPTHS[-1]]
    for name in (NBD, SEGMENT):
        result.claims.append(claim(f"reads: IOPS, {name}, depth {DEPTHS[-1]} / depth {DEPTHS[0]}", FLAT_GOAL,
                                   ratio(last[name], first[name], "iops")))
    names = (NBD, SEGMENT, LIBRBD, PLAIN)
    rows = [[name, *(f"{cell(found[depth][name], 'p50_us')} ({cell(found[depth][name], 'cpu_us')})"
                     for depth in DEPTHS)] for name in names]
    result.tables.append(Table("4 KiB random reads, QD1: p50 us (us of client CPU)",
                               ["", *(f"depth {depth}" for depth in DEPTHS)], rows,
                               note=f"From depth {DEPTHS[0]} to {DEPTHS[-1]}, IOPS become " + "; ".join(
                                   f"{name}: {ratio(last[name], first[name], 'iops')}" for name in names) + "."))
    result.plots.append(Plot("4 KiB random reads, QD1, by depth of the clone", "IOPS", list(DEPTHS), kind="lines",
                             x_label="depth", series={
                                 name: [found[depth][name].median("iops") for depth in DEPTHS] for name in names}))


def run(bench: Bench, result: Result) -> None:
    area = int(bench.choose(256, 128)) * MIB
    with Ceph(bench) as ceph, Librbd(ceph.uncached) as librbd, ceph.ours.client() as client:
        bench.say("filling disks")
        pair = Pair(ceph, librbd, client, area)
        metadata(bench, result, pair)
        first_writes(bench, result, pair)
        depths(bench, result, pair)
