# SPDX-License-Identifier: Apache-2.0
"""Does what is stored grow with what is written, or with the number of snapshots?"""
from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from benchmarks.result import Claim, Plot, Result, Table, short
from benchmarks.servers import Stage

if TYPE_CHECKING:
    from benchmarks.__main__ import Bench
    from xseg.client import Client, Volume

TITLE = "Merging of layers"
METHOD = """
A full volume with blocks of 4 MiB. Then, in each round, 4 KiB are written at a random place of every block, which is
the first write to it since the last snapshot, and a snapshot is taken; the seven newest are kept. Stored: bytes that
data objects and maps take on the file system beyond those of the full volume, by bytes written. Nothing of it depends
on time but the last column, the median time of a write in the hundred rounds before."""

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


def run(bench: Bench, result: Result) -> None:
    blocks, last = 64, int(bench.choose(1000, 200))
    rows, ratios, medians = [], [], []
    with Stage(bench.scratch, "m") as stage:
        ours = stage.instance(short="a")
        ours.start()
        with ours.client() as client:
            client.control("create", name="disk", size=blocks * BLOCK)
            with client.open("disk") as volume:
                for offset in range(0, blocks * BLOCK, 1 << 20):
                    volume.write(offset, random.Random(offset).randbytes(1 << 20))
                volume.flush()
            before, times = stored(ours.home), []
            for number, taken in enumerate(rounds(client, "disk", blocks, BLOCK, 1), 1):
                times += taken
                if number % 100 == 0:
                    ratios.append((stored(ours.home) - before) / (number * blocks * CHUNK))
                    medians.append(statistics.median(times) * 1e6)
                    rows.append([str(number), f"{ratios[-1]:.2f}", short(medians[-1])])
                    times = []
                    bench.say(f"{number} snapshots: {ratios[-1]:.2f} bytes stored per byte written")
                if number >= last:
                    break
    result.tables.append(Table("By number of snapshots", ["snapshots", "stored / written", "write, us, median"], rows))
    result.plots.append(Plot("Bytes stored per byte written", "stored / written", [int(row[0]) for row in rows],
                             {"archipelago": ratios}, kind="lines", x_label="snapshots", line_at=STORED_GOAL))
    result.claims.append(Claim("bytes stored per byte written, at most", STORED_GOAL, max(ratios), min(ratios),
                               max(ratios), at_least=False))
    slower = [median / medians[0] for median in medians]
    result.claims.append(Claim("median write, last rounds / first", FLAT_GOAL, slower[-1], min(slower), max(slower),
                               at_least=False))
