# SPDX-License-Identifier: Apache-2.0
"""What a flush does when the map has changed, and how long it takes."""
from __future__ import annotations

import itertools
import os
import random
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from benchmarks import fio
from benchmarks.fio import KIB, MIB
from benchmarks.machine import Meter
from benchmarks.result import Claim, Plot, Result, Table, cell, claim, range_of
from benchmarks.rounds import Sample, Series, in_turns, ratio
from benchmarks.servers import Archipelago, Stage

if TYPE_CHECKING:
    from benchmarks.__main__ import Bench

TITLE = "Flush"
METHOD = """
A client writes 4 KiB to a random place, flushes, and so on, one request at a time. "Clone": of a full
image, so that the map changes before every flush. "Written before": the volume's own blocks, so that
nothing in the map changes. Beside them a full file, written and fdatasync'ed by a program; and two
files, of which the second gets a record appended, after the first is synced: the least that a
first write can do durably here. Requests are counted by the counters of the peers' ports."""

CLONE, OLD, ONE, TWO = "clone, map changes", "written before", "file, fdatasync", "file, then journal"
RECORD = 512                        # bytes of a journal record with one entry


def on_volume(ours: Archipelago, pids: list[int], requests: int, fresh: bool) -> Callable[[], Sample]:
    numbers = itertools.count(1)

    def take() -> Sample:
        number = next(numbers)
        with ours.client() as client:
            if fresh:
                client.control("clone", name="base", names=[f"clone-{number}"])
        before = ours.counters()
        with Meter(ours.pids(), pids) as meter:
            told = ours.load("volume", "--name", f"clone-{number}" if fresh else ours.volume, "--op", "write",
                             "--requests", str(2 * requests), "--flush-every", "1", "--seed", str(number))
        after = ours.counters()
        flushes = told["flushes"]
        grown = {role: after[role]["received"] - before[role]["received"] for role in after}
        return {"flush_us": told["flush_p50_us"], "flush_p99_us": told["flush_p99_us"], "write_us": told["p50_us"],
                "server_us": meter.server_s * 1e6 / flushes, "foreign": meter.foreign,
                "syncs": (grown["blockerb"] - requests) / flushes, "appends": grown["blockerm"] / flushes,
                "asked": grown["mapper"] / flushes}
    return take


def on_file(folder: str, size: int, requests: int, journal: bool) -> Callable[[], Sample]:
    """The same done by a program on a file of its own, that is full; with a journal or without."""
    path, aside = os.path.join(folder, f"file-{int(journal)}"), os.path.join(folder, "journal")
    with open(path, "wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))
        os.fsync(file.fileno())

    def take() -> Sample:
        times, data = [], os.urandom(4 * KIB)
        file, log = os.open(path, os.O_RDWR), os.open(aside, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
        with Meter([os.getpid()], []) as meter:
            for _ in range(requests):
                os.pwrite(file, data, random.randrange(size // len(data)) * len(data))
                began = time.perf_counter()
                os.fdatasync(file)
                if journal:
                    os.write(log, data[:RECORD])
                    os.fdatasync(log)
                times.append((time.perf_counter() - began) * 1e6)
        os.close(file)
        os.close(log)
        return {"flush_us": statistics.median(times), "flush_p99_us": sorted(times)[int(len(times) * 0.99)],
                "server_us": meter.server_s * 1e6 / requests, "foreign": meter.foreign}
    return take


def counted(text: str, series: Series, key: str, goal: float) -> Claim:
    values = series.values(key)
    return Claim(text, goal, statistics.median(values), min(values), max(values), at_least=False)


def run(bench: Bench, result: Result) -> None:
    size, requests = int(bench.choose(256, 64)) * MIB, int(bench.choose(2000, 200))
    with Stage(bench.scratch, "u") as stage:
        ours = stage.instance(short="a")
        ours.serve(size)
        fio.fill(fio.on_nbd(ours.uri()), size)
        with ours.client() as client:
            client.control("snapshot", name=ours.volume, snapshot="base")
        # the second volume's blocks become its own here, so that nothing of it is shared any more
        with ours.client() as client:
            client.control("create", name="own", size=size)
        fio.fill(fio.on_nbd(ours.uri("own")), size)
        ours.volume = "own"
        pids = stage.pids()
        series = in_turns({CLONE: on_volume(ours, pids, requests, True), OLD: on_volume(ours, pids, requests, False),
                           ONE: on_file(stage.folder, size, requests, False),
                           TWO: on_file(stage.folder, size, requests, True)}, int(bench.choose(5, 2)))
    result.keep("flush", series)
    result.claims += [
        counted("data syncs a flush", series[CLONE], "syncs", 1.05),
        counted("journal appends a flush (all requests to the map store)", series[CLONE], "appends", 1.05),
        counted("requests to the mapper a flush", series[CLONE], "asked", 0.1),
        counted("journal appends a flush where the map did not change", series[OLD], "appends", 0.05),
        claim(f"time of a flush, {CLONE} / {TWO}", 1.5, ratio(series[CLONE], series[TWO], "flush_us"), False),
        claim(f"time of a flush, {OLD} / {ONE}", 1.3, ratio(series[OLD], series[ONE], "flush_us"), False)]
    keys = ("flush_us", "flush_p99_us", "write_us", "server_us", "syncs", "asked", "appends")
    result.tables.append(Table(
        "One write, one flush", ["", "flush p50 us", "p99 us", "write p50 us", "CPU us", "data syncs",
                                 "requests to the mapper", "requests to the map store"],
        [[name, *(cell(one, key) if one.values(key) else "–" for key in keys)] for name, one in series.items()],
        note="CPU is for a write and a flush. Counts are for a flush."))
    result.plots.append(Plot("Flush after one 4 KiB write", "us, median", list(series),
                             series={"flush": [one.median("flush_us") for one in series.values()]},
                             ranges={"flush": [range_of(one, "flush_us") for one in series.values()]}))
