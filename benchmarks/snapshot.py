# SPDX-License-Identifier: Apache-2.0
"""Snapshots and clones: do they cost the same whatever the size, the data, the depth?"""
from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from benchmarks import fio
from benchmarks.fio import KIB, MIB
from benchmarks.machine import Meter, timed
from benchmarks.opening import CONFIG, TIB, scatter
from benchmarks.result import Claim, Plot, Result, Table, claim, short
from benchmarks.rounds import Sample, Series, disturbed, in_turns, ratio, spread
from benchmarks.servers import Archipelago, Stage, execute

if TYPE_CHECKING:
    from benchmarks.__main__ import Bench
    from xseg.client import Client

TITLE = "Snapshot and clone"
METHOD = """
Times of the mapper's operations as a program sees them (xseg.client), each durable when it returns; maps
on files, and as data does not matter here, the data store of the first two parts is the peer `null`. A
sample is the median of a few operations in a row. Beside them `qemu-img create -b`, which syncs nothing.
The stall: a full volume on files under 4 KiB random writes at QD8, of which a snapshot is taken every
quarter of a second. Held back: for how long vlmc let no new write begin, which is the drain of those
under way and the record of what changed (its counter snapshots_held_ns). As the load sees it: the longest
time in which no write completed, and the longest that one took, from the beginning of the snapshot until
shortly after its end, beside stretches as long without one; load, pipeline and mapper share two cores."""

SIZE = 64 * TIB
SAME_GOAL, CLONES_GOAL, CLONES_WISH, HELD_GOAL_MS, STALL_GOAL_MS = 1.5, 20.0, 50.0, 1.0, 5.0
WINDOW_MS = 5
SNAPSHOT_EVERY_S = 0.25
NUMBERS = itertools.count()         # of names
SERVERS: list[int] = []             # processes of the instance that is measured: not foreign
AFTER_MS = 10                       # after the answer that still counts as around the snapshot


def operation(client: Client, name: str, what: str, repeat: int) -> Callable[[], Sample]:
    """Takes `repeat` snapshots of a volume, or clones of a snapshot; "us" is the median time."""
    def once() -> None:
        made = f"{name}-{what}-{next(NUMBERS)}"
        if what == "snapshot":
            client.control("snapshot", name=name, snapshot=made)
        else:
            client.control("clone", name=name, names=[made])

    def take() -> Sample:
        with Meter([], SERVERS) as meter:
            times = [timed(once) for _ in range(repeat)]
        return {"us": statistics.median(times) * 1e6, "foreign": meter.foreign}
    return take




def compare(result: Result, found: dict[str, dict[str, Series]], title: str, pairs: dict[str, Any], rounds: int,
            names: tuple[str, str]) -> None:
    """Measures operation -> (one, other) in turns and notes the ratio other / one."""
    rows = []
    for what, (one, other) in pairs.items():
        series = in_turns({names[0]: one, names[1]: other}, rounds)
        found[f"{title}: {what}"] = series
        result.keep(f"{title}: {what}", series)
        result.claims.append(claim(f"{what}, {names[1]} / {names[0]}", SAME_GOAL,
                                   ratio(series[names[1]], series[names[0]], "us"), at_least=False))
        rows.append([what, *(short(series[name].median("us")) for name in names)])
    result.tables.append(Table(title, ["us, median", *names], rows))


def by_data(bench: Bench, result: Result, client: Client, ours: Archipelago, found: dict) -> None:
    """An empty volume and one with a million mapped blocks, closed and open."""
    blocks, rounds = int(bench.choose(1 << 20, 1 << 15)), int(bench.choose(9, 3))
    bench.say(f"mapping {blocks:,} blocks of 64 TiB")
    for name in ("empty", "full"):
        client.control("create", name=name, size=SIZE)
    seconds = timed(lambda: scatter(ours, "full", SIZE, blocks))
    for name in ("empty", "full"):
        client.control("snapshot", name=name, snapshot=f"{name}-first")
    pairs = {"snapshot, closed": [operation(client, name, "snapshot", 5) for name in ("empty", "full")],
             "clone": [operation(client, f"{name}-first", "clone", 5) for name in ("empty", "full")]}
    names = ("empty", f"{blocks:,} blocks")
    compare(result, found, "64 TiB by data", pairs, rounds, names)
    with client.open("empty"), client.open("full"):
        pairs = {"snapshot, open": [operation(client, name, "snapshot", 5) for name in ("empty", "full")]}
        compare(result, found, "64 TiB by data, open", pairs, rounds, names)
    result.tables[-1].note = f"The blocks were mapped by first writes in {seconds:.0f} s."


def by_depth(bench: Bench, result: Result, client: Client, found: dict) -> None:
    """A clone of depth 1 and one at the end of a long line."""
    depth, rounds = int(bench.choose(1000, 50)), int(bench.choose(9, 3))
    bench.say(f"making a line of {depth} clones")
    client.control("create", name="level-0", size=SIZE)
    for level in range(1, depth + 1):
        with client.open(f"level-{level - 1}") as volume:
            volume.write(level * (64 << 20), b"x" * (4 * KIB))
            volume.flush()
        client.control("snapshot", name=f"level-{level - 1}", snapshot=f"after-{level - 1}")
        client.control("clone", name=f"after-{level - 1}", names=[f"level-{level}"])
    ends = ("level-1", f"level-{depth}")
    for name in ends:
        client.control("snapshot", name=name, snapshot=f"{name}-first")
    pairs = {"snapshot": [operation(client, name, "snapshot", 5) for name in ends],
             "clone": [operation(client, f"{name}-first", "clone", 5) for name in ends]}
    compare(result, found, "64 TiB by depth", pairs, rounds, ("depth 1", f"depth {depth:,}"))


def many_clones(bench: Bench, result: Result, client: Client, folder: str) -> None:
    """A thousand clones, by one request and one by one, beside qemu-img."""
    batch, theirs, rounds = int(bench.choose(1000, 100)), int(bench.choose(200, 20)), int(bench.choose(5, 2))
    base = os.path.join(folder, "base.raw")
    execute("qemu-img", "create", "-q", "-f", "raw", base, str(1 << 40))
    client.control("create", name="image", size=1 << 40)
    client.control("snapshot", name="image", snapshot="image-1")

    def one_request() -> None:
        client.control("clone", name="image-1", pattern=f"b{next(NUMBERS)}-{{}}", count=batch)

    def one_by_one() -> None:
        for _ in range(theirs):
            client.control("clone", name="image-1", names=[f"c{next(NUMBERS)}"])

    def qemu() -> None:
        for _ in range(theirs):
            execute("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw",
                    os.path.join(folder, f"q{next(NUMBERS)}.qcow2"))

    def sampled(work: Callable[[], None], count: int) -> Callable[[], Sample]:
        def take() -> Sample:
            with Meter([], SERVERS) as meter:
                seconds = timed(work)
            return {"us": seconds / count * 1e6, "foreign": meter.foreign}
        return take

    bench.say(f"{rounds} x {batch} clones")
    series = in_turns({"one request": sampled(one_request, batch), "one by one": sampled(one_by_one, theirs),
                       "qemu-img create -b": sampled(qemu, theirs)}, rounds)
    result.keep("clones", series)
    last = series["qemu-img create -b"]
    result.claims += [claim(f"{batch:,} clones a request: qemu-img / ours, time", CLONES_GOAL,
                            ratio(last, series["one request"], "us")),
                      claim("the same, against the wish", CLONES_WISH, ratio(last, series["one request"], "us")),
                      claim("clones one by one: qemu-img / ours, time", 1.0,
                            ratio(last, series["one by one"], "us"))]
    result.tables.append(Table("Making clones", ["", "us a clone", "1,000 clones, ms"], [
        [name, short(one.median("us")), short(one.median("us"))] for name, one in series.items()]))
    result.plots.append(Plot("1,000 clones", "ms", list(series), log_y=True,
                             series={"time": [one.median("us") for one in series.values()]}))


def stall(bench: Bench, result: Result, stage: Stage) -> None:
    """What writers see of snapshots."""
    import threading
    size, count = int(bench.choose(256, 64)) * MIB, int(bench.choose(20, 4))
    ours = stage.instance("stalled", short="w")
    ours.serve(size)
    fio.fill(fio.on_nbd(ours.uri()), size)
    SERVERS[:] = stage.pids()
    bench.say(f"{count} snapshots under load")
    taken: list[tuple[int, int]] = []
    held: list[float] = []          # ms

    def snapshots() -> None:
        with ours.client() as client:
            before = 0
            for number in range(count):
                time.sleep(SNAPSHOT_EVERY_S)
                began = time.monotonic_ns()
                client.control("snapshot", name=ours.volume, snapshot=f"s{number}")
                taken.append((began, time.monotonic_ns()))
                usage = client.control("info", name=ours.volume)["open"]
                if not usage:
                    break               # the load has ended, as snapshots took long
                held.append((usage["snapshots_held_ns"] - before) / 1e6)
                before = usage["snapshots_held_ns"]

    thread = threading.Thread(target=snapshots)
    with Meter([], SERVERS) as meter:
        thread.start()
        told = ours.load("volume", "--name", ours.volume, "--op", "write", "--depth", "8", "--seconds",
                         str((count + 2) * SNAPSHOT_EVERY_S), "--windows", str(WINDOW_MS))
        thread.join()
    around, apart = split(told, taken)
    noisy = disturbed({"foreign": meter.foreign})
    times = [(end - begin) / 1e6 for begin, end in taken]
    gaps = [gap / 1000 for gap, _ in around]
    result.raw["stall"] = {"around": around, "apart": apart, "held_ms": held, "snapshot_ms": times,
                           "foreign": meter.foreign}
    for what, values, goal in (("new writes are held back by a snapshot, ms", held, HELD_GOAL_MS),
                               ("no write completes around a snapshot, ms", gaps, STALL_GOAL_MS)):
        result.claims.append(Claim(what, goal, statistics.median(values), min(values), max(values), at_least=False,
                                   disturbed=noisy))
    rows = [["snapshot, ms", *_spread(times)], ["new writes are held back (the drain in it), ms", *_spread(held)]]
    for name, group in (("around a snapshot", around), ("without one", apart)):
        rows.append([f"{name}: no write completes, ms", *_spread([gap / 1000 for gap, _ in group])])
        rows.append([f"{name}: longest write, ms", *_spread([longest / 1000 for _, longest in group])])
    result.tables.append(Table(f"{count} snapshots under 4 KiB random writes, QD8, {told['iops']:,.0f} IOPS",
                               ["", "median", "p90", "most"], rows,
                               note="After a snapshot every block is written for the first time again, which makes "
                                    "objects: that is in the longest write."))


def split(told: dict, taken: list[tuple[int, int]]) -> tuple[list, list]:
    """(longest gap, longest write) in us of the windows around each snapshot, and of stretches without."""
    windows, start = told["windows"], told["start_ns"]
    near: set[int] = set()
    around = []
    for begin, end in taken:
        first = max(0, (begin - start) // (WINDOW_MS * 1_000_000))
        last = (end - start) // (WINDOW_MS * 1_000_000) + AFTER_MS // WINDOW_MS
        span = [n for n in range(first, last + 1) if n < len(windows)]
        if span:
            near.update(span)
            around.append((max(windows[n][2] for n in span), max(windows[n][1] for n in span)))
    width = max(1, len(near) // max(1, len(around)))
    far = [n for n in range(len(windows)) if n not in near]
    apart = [(max(windows[n][2] for n in far[at:at + width]), max(windows[n][1] for n in far[at:at + width]))
             for at in range(0, len(far) - width + 1, width)]
    return around, apart


def _spread(values: list[float]) -> list[str]:
    told = spread(values)
    return [short(told[key]) for key in ("median", "p90", "max")]


def run(bench: Bench, result: Result) -> None:
    found: dict[str, dict[str, Series]] = {}
    with Stage(bench.scratch, "p") as stage:
        ours = stage.instance(config=CONFIG, short="a")
        ours.start()
        SERVERS[:] = stage.pids()
        with ours.client() as client:
            by_data(bench, result, client, ours, found)
            by_depth(bench, result, client, found)
            many_clones(bench, result, client, stage.folder)
        stall(bench, result, stage)
    labels = list(found)
    result.plots.insert(0, Plot("Snapshot and clone: small and large", "us, median", [
        each.replace("64 TiB ", "").replace(", open:", ":") for each in labels], {
        "empty, or depth 1": [next(iter(found[each].values())).median("us") for each in labels],
        "full, or deep": [list(found[each].values())[1].median("us") for each in labels]}))
