# SPDX-License-Identifier: Apache-2.0
"""Time to open a volume and memory that its map takes, by size and by what is in it."""
from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

from benchmarks.machine import Meter
from benchmarks.result import Claim, Plot, Result, Table, short
from benchmarks.rounds import disturbed, spread
from benchmarks.servers import Archipelago, Stage

if TYPE_CHECKING:
    from benchmarks.__main__ import Bench
    from xseg.client import Client

TITLE = "Opening"
METHOD = """
Volumes of 1 GiB to 1 PiB with blocks written all over them, alone or, if many, in runs of 1,024
(the data store is the peer `null`, which swallows data: maps are what is measured), all closed.
Opening: until the answer of OPEN. First read: one 4 KiB read of a mapped block after it, which
loads a leaf page. Memory: growth of the mapper's process while a volume is open and a thousand
places all over it are read; it may be the cache of map pages (32 MiB of them by default) and an eighth
more for keeping it. The order changes with every round."""

GIB, TIB = 1 << 30, 1 << 40
BLOCK = 4 << 20
CONFIG = '[peers.blockerb]\ntype = "null"\n'
RUN, SINGLE_MAX = 1024, 4096        # blocks of a run; up to so many blocks lie alone
SIZES = ((GIB, 256), (TIB, 1024), (TIB, 1 << 18), (64 * TIB, 1024), (64 * TIB, 1 << 20), (1024 * TIB, 1024),
         (1024 * TIB, 1 << 20))
QUICK_SIZES = ((GIB, 256), (64 * TIB, 1024), (64 * TIB, 1 << 17), (1024 * TIB, 1 << 17))
READS = 1000
TIME_GOAL = 1.5
MEMORY_GOAL_MIB = 36
LOAD_DEPTH = "128"


def label(size: int, blocks: int) -> str:
    name = f"{size // TIB} TiB" if size >= TIB else f"{size // GIB} GiB"
    return f"{name}, {blocks:,}"


def spacing(size: int, blocks: int) -> tuple[int, int]:
    """Blocks in a run, and bytes from one run's beginning to the next's."""
    run = RUN if blocks > SINGLE_MAX else 1
    return run, size // (blocks // run) // BLOCK * BLOCK


def place(size: int, blocks: int, number: int) -> int:
    """Offset of a mapped block."""
    run, jump = spacing(size, blocks)
    return number // run * jump + number % run * BLOCK


def scatter(ours: Archipelago, name: str, size: int, blocks: int) -> None:
    """Maps `blocks` blocks all over the volume: alone if they are few, else in runs."""
    run, jump = spacing(size, blocks)
    ours.load("volume", "--name", name, "--op", "write", "--requests", str(blocks), "--sequential",
              "--stride", str(BLOCK), "--run", str(run), "--jump", str(jump), "--depth", LOAD_DEPTH)


def resident_mib(pid: int) -> float:
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) / 1024


def look(ours: Archipelago, client: Client, name: str, size: int, blocks: int) -> dict[str, float]:
    mapper = ours.processes()["mapper"]
    before = resident_mib(mapper)
    with Meter(ours.pids(), []) as meter:
        began = time.perf_counter()
        volume = client.open(name)
        opened = time.perf_counter()
        volume.read(place(size, blocks, blocks // 2), 4096)
        read = time.perf_counter()
        for n in range(READS):
            volume.read(place(size, blocks, blocks * n // READS), 4096)
        done = time.perf_counter()
        grown = resident_mib(mapper) - before
        volume.close()
    return {"open_us": (opened - began) * 1e6, "first_us": (read - opened) * 1e6, "all_ms": (done - read) * 1e3,
            "grown_mib": grown, "resident_mib": before + grown, "foreign": meter.foreign}


def run(bench: Bench, result: Result) -> None:
    sizes = QUICK_SIZES if bench.quick else SIZES
    rounds = int(bench.choose(9, 4))
    found: dict[str, list[dict[str, float]]] = {label(*each): [] for each in sizes}
    with Stage(bench.scratch, "o") as stage:
        ours = stage.instance(config=CONFIG, short="a")
        ours.start()
        with ours.client() as client:
            for n, (size, blocks) in enumerate(sizes):
                bench.say(f"writing {label(size, blocks)} blocks")
                client.control("create", name=f"v{n}", size=size)
                scatter(ours, f"v{n}", size, blocks)
            ours.restart("mapper")
            for number in range(rounds):
                order = list(enumerate(sizes))
                for n, (size, blocks) in order if number % 2 == 0 else reversed(order):
                    found[label(size, blocks)].append(look(ours, client, f"v{n}", size, blocks))
    result.raw["volumes"] = found
    report(result, found)


def median(samples: list[dict[str, float]], key: str) -> float:
    """Of the undisturbed ones where there are any. The first round finds nothing cached and is left out."""
    quiet = [sample for sample in samples[1:] if not disturbed(sample)] or samples[1:]
    return statistics.median(sample[key] for sample in quiet)


def report(result: Result, found: dict[str, list[dict[str, float]]]) -> None:
    names = list(found)
    small, large = names[0], names[-1]
    pairs = [b["open_us"] / a["open_us"] for a, b in zip(found[small][1:], found[large][1:], strict=True)]
    noisy = all(map(disturbed, found[large]))
    result.claims.append(Claim(f"time to open, {large} / {small} blocks", TIME_GOAL, statistics.median(pairs),
                               min(pairs), max(pairs), at_least=False, disturbed=noisy))
    top = max(sample["resident_mib"] for samples in found.values() for sample in samples)
    least = min(sample["resident_mib"] for sample in found[small])
    result.claims.append(Claim("mapper's memory at most, above that with the smallest volume, MiB", MEMORY_GOAL_MIB,
                               top - least, top - least, top - least, at_least=False))
    rows = []
    for name, samples in found.items():
        times = spread([sample["open_us"] for sample in samples[1:]])
        rows.append([name, short(samples[0]["open_us"]), short(median(samples, "open_us")),
                     f"{short(times['p10'])}–{short(times['p90'])}", short(median(samples, "first_us")),
                     short(median(samples, "all_ms")), short(max(sample["resident_mib"] for sample in samples))])
    result.tables.append(Table("By size and blocks mapped", [
        "volume, blocks", "first open us", "open us", "p10–p90", "first read us", f"{READS} reads ms",
        "mapper resident MiB, most"], rows))
    result.plots.append(Plot("Opening", "us, median", names, {
        "open": [median(found[name], "open_us") for name in names],
        "first read": [median(found[name], "first_us") for name in names]}))
