# SPDX-License-Identifier: Apache-2.0
"""Does what is stored grow with what is written, or with the number of snapshots?"""
from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.result import Claim, Plot, Result, Table, short
from benchmarks.servers import Stage

if TYPE_CHECKING:
    from benchmarks.__main__ import Bench
    from xseg.client import Client, Volume

TITLE = "Merging of layers"
METHOD = """
A full volume. Then, in each round, 4 KiB are written at a random place of every block, which is the first write to it
since the last snapshot, and a snapshot is taken; the seven newest are kept. Stored: bytes that data objects and maps
take on the file system beyond those of the full volume, by bytes written. Nothing of it depends on time but the last
columns: how long a write took in the rounds since the line before."""

CHUNK = 4096
BLOCK = 4 << 20
KEPT = 7
STORED_GOAL, FLAT_GOAL = 4.0, 2.0


def space(folder: str) -> int:
    """Bytes that all files below a folder take on the file system."""
    return sum(os.lstat(os.path.join(where, name)).st_blocks * 512
               for where, _folders, names in os.walk(folder) for name in names)


def stored(home: str) -> int:
    """Bytes that an instance's data objects and maps take."""
    return space(os.path.join(home, "data")) + space(os.path.join(home, "map"))


def one_round(volume: Volume, blocks: int, block: int, dice: random.Random) -> list[float]:
    """A write to each block; how long each took, in seconds."""
    times = []
    for number in range(blocks):
        offset = number * block + dice.randrange(block // CHUNK) * CHUNK
        began = time.perf_counter()
        volume.write(offset, dice.randbytes(CHUNK))
        times.append(time.perf_counter() - began)
    return times


def rounds(client: Client, name: str, blocks: int, block: int, seed: int) -> Iterator[list[float]]:
    """Writes and takes snapshots of a volume for ever; yields after each round what one_round() says."""
    dice, number = random.Random(seed), 0
    volume = client.open(name)
    try:
        while True:
            times = one_round(volume, blocks, block, dice)
            client.control("snapshot", name=name, snapshot=f"{name}-{number}")
            if number >= KEPT:
                client.control("remove", name=f"{name}-{number - KEPT}")
            number += 1
            yield times
    finally:
        volume.close()


class Shape(NamedTuple):
    """A volume that is written, and after how many snapshots it is looked at."""

    title: str
    blocks: int
    block: int                          # bytes
    last: int
    last_quick: int
    steps: int = 10                     # how often it is looked at


SHAPES = [Shape("blocks of 4 MiB", 64, BLOCK, 1000, 200),
          Shape("short blocks, many snapshots", 4, 1 << 18, 5000, 500),
          Shape("blocks of 16 MiB", 8, 16 << 20, 1000, 100)]


class Step(NamedTuple):
    """What was seen after so many snapshots."""

    snapshots: int
    ratio: float                        # bytes stored by bytes written
    median_us: float                    # of a write since the step before
    p99_us: float

    def row(self) -> list[str]:
        """Of the table."""
        return [str(self.snapshots), f"{self.ratio:.2f}", short(self.median_us), short(self.p99_us)]


def fill(client: Client, shape: Shape) -> None:
    """Makes the volume, full of what cannot be told from noise."""
    client.control("create", name="disk", size=shape.blocks * shape.block, block_size=shape.block)
    with client.open("disk") as volume:
        for offset in range(0, shape.blocks * shape.block, 1 << 18):
            volume.write(offset, random.Random(offset).randbytes(1 << 18))
        volume.flush()


def measure(bench: Bench, shape: Shape, last: int) -> list[Step]:
    """The steps of one shape, on an instance of its own."""
    steps: list[Step] = []
    with Stage(bench.scratch, "m") as stage:
        ours = stage.instance(short="a")
        ours.start()
        with ours.client() as client:
            fill(client, shape)
            before, times = stored(ours.home), []
            for number, taken in enumerate(rounds(client, "disk", shape.blocks, shape.block, 1), 1):
                times += taken
                if number % (last // shape.steps) == 0:
                    ratio = (stored(ours.home) - before) / (number * shape.blocks * CHUNK)
                    ordered, times = sorted(times), []
                    steps.append(Step(number, ratio, statistics.median(ordered) * 1e6,
                                      ordered[len(ordered) * 99 // 100] * 1e6))
                    bench.say(f"{shape.title}, {number} snapshots: {ratio:.2f} bytes stored per byte written")
                if number >= last:
                    return steps
    return steps


def run(bench: Bench, result: Result) -> None:
    for shape in SHAPES:
        last = int(bench.choose(shape.last, shape.last_quick))
        steps = measure(bench, shape, last)
        ratios = [step.ratio for step in steps]
        slower = [step.median_us / steps[0].median_us for step in steps]
        result.tables.append(Table(f"{shape.blocks} {shape.title}, by number of snapshots",
                                   ["snapshots", "stored / written", "write, us, median", "99th percentile"],
                                   [step.row() for step in steps]))
        result.plots.append(Plot(f"Bytes stored per byte written: {shape.title}", "stored / written",
                                 [step.snapshots for step in steps], {"archipelago": ratios}, kind="lines",
                                 x_label="snapshots", line_at=STORED_GOAL))
        result.claims.append(Claim(f"{shape.title}: bytes stored per byte written, at most", STORED_GOAL, max(ratios),
                                   min(ratios), max(ratios), at_least=False))
        result.claims.append(Claim(f"{shape.title}: median write, last rounds / first", FLAT_GOAL, slower[-1],
                                   min(slower), max(slower), at_least=False))
