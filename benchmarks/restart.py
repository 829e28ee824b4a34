# SPDX-License-Identifier: Apache-2.0
"""How long a killed mapper is missed, by how many volumes are open."""
from __future__ import annotations

import os
import signal
import statistics
import time
from typing import TYPE_CHECKING

from benchmarks.machine import Meter
from benchmarks.result import Claim, Plot, Result, Table, short
from benchmarks.rounds import disturbed, spread
from benchmarks.servers import Archipelago, Stage

if TYPE_CHECKING:
    from benchmarks.__main__ import Bench
    from xseg.client import Client, Volume

TITLE = "Restart of the mapper"
METHOD = """
Clones of one snapshot, each written to once, all of them open. The mapper's process is killed with
kill -9 and started anew by the supervisor. First answer: from the kill until a write into a block that
was not mapped before has been flushed, which takes a load and a commit. Mapped read: from the kill
until a read of a block that vlmc has in memory is answered. All known: until `vlmc check` has looked at
every open volume, which has them all read from the store."""

MIB = 1 << 20
BLOCK = 4 * MIB
SIZE = 256 * BLOCK
COUNTS = (1, 100, 1000)
QUICK_COUNTS = (1, 1000)
GOAL_MS = 300


def open_all(client: Client, count: int) -> list[Volume]:
    """So many open volumes, each with a journal."""
    client.control("create", name="base", size=SIZE)
    client.control("clone", name="base", pattern="v{}", count=count, first=0)
    volumes = [client.open(f"v{number}") for number in range(count)]
    for volume in volumes:
        volume.write(0, b"x" * 4096)
        volume.flush()
    return volumes


def miss(ours: Archipelago, client: Client, volumes: list[Volume], block: int) -> dict[str, float]:
    """Kills the mapper, and does things that take it, or do not. Block `block` was not written yet."""
    asked = volumes[-1]
    with Meter(ours.pids(), []) as meter:
        os.kill(ours.processes()["mapper"], signal.SIGKILL)
        began = time.perf_counter()
        asked.read(0, 4096)
        read = time.perf_counter()
        asked.write(block * BLOCK, b"y" * 4096)
        asked.flush()
        answered = time.perf_counter()
        for number in range(len(volumes)):
            client.control("check", name=f"v{number}")
        known = time.perf_counter()
    return {"read_ms": (read - began) * 1e3, "answer_ms": (answered - began) * 1e3, "known_ms": (known - began) * 1e3,
            "foreign": meter.foreign}


def run(bench: Bench, result: Result) -> None:
    counts = QUICK_COUNTS if bench.quick else COUNTS
    rounds = int(bench.choose(9, 3))
    found: dict[int, list[dict[str, float]]] = {}
    for count in counts:
        with Stage(bench.scratch, "r") as stage:
            ours = stage.instance(short="a")
            ours.start()
            with ours.client() as client:
                bench.say(f"opening {count} volumes")
                volumes = open_all(client, count)
                found[count] = [miss(ours, client, volumes, number + 1) for number in range(rounds)]
    result.raw["restarts"] = {str(count): samples for count, samples in found.items()}
    report(result, found)


def report(result: Result, found: dict[int, list[dict[str, float]]]) -> None:
    most = max(found)
    answers = [sample["answer_ms"] for sample in found[most]]
    result.claims.append(Claim(f"first answer with {most} open volumes, ms", GOAL_MS, statistics.median(answers),
                               min(answers), max(answers), at_least=False,
                               disturbed=all(map(disturbed, found[most]))))
    rows = []
    for count, samples in found.items():
        times = spread([sample["answer_ms"] for sample in samples])
        rows.append([f"{count:,}", *(short(statistics.median(sample[key] for sample in samples))
                              for key in ("read_ms", "answer_ms")), f"{short(times['p10'])}–{short(times['p90'])}",
                     short(statistics.median(sample["known_ms"] for sample in samples))])
    result.tables.append(Table("By volumes open", ["volumes", "mapped read ms", "first answer ms", "p10–p90",
                                                   "all known ms"], rows))
    result.plots.append(Plot("Restart of the mapper", "ms, median", [str(count) for count in found], {
        "first answer": [statistics.median(sample["answer_ms"] for sample in samples)
                         for samples in found.values()]}))
