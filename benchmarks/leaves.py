# SPDX-License-Identifier: Apache-2.0
"""What a volume costs that is written all over, so that each write meets a leaf of the map that is not in memory."""
from __future__ import annotations

import statistics
import threading
import time
from typing import TYPE_CHECKING

from benchmarks.machine import Meter
from benchmarks.opening import CONFIG, TIB
from benchmarks.result import Claim, Plot, Result, Table, short
from benchmarks.rounds import disturbed
from benchmarks.servers import Archipelago, Stage

if TYPE_CHECKING:
    from benchmarks.__main__ import Bench

TITLE = "Writes all over a volume"
METHOD = """
A volume of 1 PiB, whose map has 262,144 leaves (the data store is the peer `null`: maps are what is
measured), gets 4 KiB writes at random places, 32 under way: nearly each loads a leaf, and after as many as
the segment has room for each has another committed. Four equal parts follow one another, so that what
grows shows. Meanwhile `info` of another volume is asked for again and again. In the end the volume is
closed and opened again."""

SIZE = 1024 * TIB
DEPTH = "32"
PARTS = 4
PAUSE_S = 0.01                      # between two questions
FLAT_GOAL, INFO_GOAL_MS = 0.8, 100


class Asking:
    """Another volume's `info`, again and again, in a thread: how long it took, in ms."""

    def __init__(self, ours: Archipelago) -> None:
        self.ours, self.took = ours, []
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.ask)

    def ask(self) -> None:
        with self.ours.client() as client:
            while not self.ended.wait(PAUSE_S):
                began = time.perf_counter()
                client.control("info", name="other")
                self.took.append((time.perf_counter() - began) * 1e3)

    def __enter__(self) -> Asking:
        self.thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.ended.set()
        self.thread.join()


def write_part(ours: Archipelago, number: int, leaves: int) -> float:
    """Writes to places of the dice's choice, nearly each in another leaf. Writes a second."""
    began = time.perf_counter()
    ours.load("volume", "--name", "v", "--op", "write", "--requests", str(leaves), "--seed", str(number + 1),
              "--depth", DEPTH)
    return leaves / (time.perf_counter() - began)


def run(bench: Bench, result: Result) -> None:
    leaves = int(bench.choose(32768, 4096))
    with Stage(bench.scratch, "l") as stage:
        ours = stage.instance(config=CONFIG, short="a")
        ours.start()
        with ours.client() as client:
            client.control("create", name="v", size=SIZE)
            client.control("create", name="other", size=TIB)
            volume = client.open("v")
            with Meter(ours.pids(), []) as meter, Asking(ours) as asking:
                rates = [write_part(ours, number, leaves) for number in range(PARTS)]
            began = time.perf_counter()
            volume.close()
            closed = time.perf_counter()
            client.open("v").close()
            opened = time.perf_counter()
    sample = {"foreign": meter.foreign}
    result.raw |= {"rates": rates, "info_ms": asking.took, **sample}
    report(result, rates, asking.took, (closed - began) * 1e3, (opened - closed) * 1e3, disturbed(sample))


def report(result: Result, rates: list[float], took: list[float], close_ms: float, open_ms: float,
           noisy: bool) -> None:
    flat = rates[-1] / rates[0]
    result.claims.append(Claim("rate of the last part / the first", FLAT_GOAL, flat, flat, flat, disturbed=noisy))
    result.claims.append(Claim("another volume's info at most, ms", INFO_GOAL_MS, max(took), min(took), max(took),
                               at_least=False, disturbed=noisy))
    result.tables.append(Table("In all", ["writes/s by part", "info ms, median", "info ms, most", "close ms",
                                          "open and close again ms"],
                               [[", ".join(short(rate) for rate in rates), short(statistics.median(took)),
                                 short(max(took)), short(close_ms), short(open_ms)]]))
    result.plots.append(Plot("Writes all over a volume", "writes/s", [str(n + 1) for n in range(PARTS)],
                             {"writes": rates}))
