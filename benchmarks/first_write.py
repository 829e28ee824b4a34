# SPDX-License-Identifier: Apache-2.0
"""First writes into fresh clones of a full image, beside qcow2 overlays."""
from __future__ import annotations

import itertools
import os
import statistics
from collections.abc import Callable
from typing import TYPE_CHECKING

from benchmarks import fio
from benchmarks.fio import KIB, MIB, Job
from benchmarks.machine import timed
from benchmarks.nbd import DIRECT_CONFIG
from benchmarks.result import Plot, Result, Table, cell, claim, range_of
from benchmarks.rounds import Ratio, Sample, Series, best_of, in_turns, ratio
from benchmarks.servers import Archipelago, QemuNbd, Stage, execute

if TYPE_CHECKING:
    from benchmarks.__main__ import Bench

TITLE = "First write into a clone"
METHOD = """
4 KiB random writes, each to another place, over a clone made for the sample, whose image is full. Beside
it a fresh qcow2 overlay over a full raw image, served by qemu-nbd, with extended_l2=on and 128 KiB
clusters, that is 4 KiB subclusters: the best qcow2 can do here. Moved: data bytes that the blocker wrote
and read for one write. Grown: space that the clone or overlay takes afterwards, by write. The flush is
the first one after the sample. Clones stay until the end: ext4 makes new files slowly just after others were
removed."""

OURS = "archipelago"
OVERLAY = "extended_l2=on,cluster_size=128k"
IOPS_GOAL = 2.0


def flush_s(uri: str) -> float:
    """Seconds that a flush takes: of a client that flushes, less one that finds nothing to flush."""
    def flush() -> None:
        execute("qemu-io", "-f", "raw", "-c", "flush", uri)
    return max(0.0, timed(flush) - timed(flush))


def on_clone(stage: Stage, ours: Archipelago, job: Job) -> Callable[[], Sample]:
    numbers = itertools.count()

    def take() -> Sample:
        name = f"clone-{job.depth}-{next(numbers)}"
        with ours.client() as client:
            client.control("clone", name="base", names=[name])
            before, space = ours.counters()["blockerb"], ours.space()
            sample = fio.measure(job, fio.on_nbd(ours.uri(name)), ours.size, ours.pids(), stage.pids())
            after = ours.counters()["blockerb"]
            sample["flush_ms"] = flush_s(ours.uri(name)) * 1000
            sample["grown"] = (ours.space() - space) / sample["requests"]
            sample["moved"] = sum(after[key] - before[key] for key in ("bytes_read", "bytes_written")) \
                / sample["requests"]
        return sample
    return take


class Overlay(QemuNbd):
    """A qcow2 overlay, made again for each sample."""

    def __init__(self, folder: str, base: str, aio: str, direct: bool) -> None:
        super().__init__(folder, "qcow2", aio, direct, os.path.join(folder, f"overlay-{aio}.qcow2"))
        self.base = base
        self.name = f"qcow2 overlay, {aio}"

    def renew(self) -> None:
        self.stop()
        if os.path.exists(self.path):
            os.unlink(self.path)
        execute("qemu-img", "create", "-q", "-f", "qcow2", "-o", OVERLAY, "-b", self.base, "-F", "raw", self.path)
        self.start()


def on_overlay(stage: Stage, overlay: Overlay, job: Job) -> Callable[[], Sample]:
    def take() -> Sample:
        overlay.renew()
        space = os.stat(overlay.path).st_blocks * 512
        sample = fio.measure(job, fio.on_nbd(overlay.uri()), overlay.size, overlay.pids(), stage.pids())
        sample["flush_ms"] = flush_s(overlay.uri()) * 1000
        sample["grown"] = (os.stat(overlay.path).st_blocks * 512 - space) / sample["requests"]
        overlay.stop()
        return sample
    return take


def prepare(stage: Stage, direct: bool, size: int) -> tuple[Archipelago, list[Overlay]]:
    """A full image in an instance, with a snapshot `base`, and the same as a raw file for overlays."""
    ours = stage.instance(OURS, DIRECT_CONFIG if direct else "", short="a")
    base = QemuNbd(stage.folder, "raw", "native" if direct else "threads", direct)
    stage.add(base)
    for server in (ours, base):
        server.serve(size)
        fio.fill(fio.on_nbd(server.uri()), size)
    base.stop()
    with ours.client() as client:
        client.control("snapshot", name=ours.volume, snapshot="base")
    overlays = [Overlay(stage.folder, base.path, aio, direct)
                for aio in (("native", "io_uring") if direct else ("threads", "io_uring"))]
    for overlay in overlays:
        overlay.size = size
        stage.add(overlay)
    return ours, overlays


def moved(series: dict[str, Series]) -> Ratio:
    """Data bytes moved for a write, by the bytes written."""
    values = [value / (4 * KIB) for value in series[OURS].values("moved")]
    return Ratio(statistics.median(values), min(values), max(values), len(values), False)


def run(bench: Bench, result: Result) -> None:
    rounds, size = int(bench.choose(5, 2)), int(bench.choose(512, 128)) * MIB
    jobs = [Job("randwrite", 4 * KIB, 1, 0, int(bench.choose(3000, 500))),
            Job("randwrite", 4 * KIB, 32, 0, int(bench.choose(16384, 2000)))]
    labels, shown = [], {}
    for direct in (False, True):
        mode = "direct" if direct else "cached"
        with Stage(bench.scratch, "f") as stage:
            ours, overlays = prepare(stage, direct, size)
            for job in jobs:
                bench.say(f"{mode}: {job.name}")
                series = in_turns({OURS: on_clone(stage, ours, job),
                                   **{o.name: on_overlay(stage, o, job) for o in overlays}}, rounds)
                best = best_of(series, [o.name for o in overlays], "iops")
                title = f"{mode}, QD{job.depth}"
                result.keep(title, series)
                result.claims.append(claim(f"{title}: IOPS / {best}", IOPS_GOAL,
                                           ratio(series[OURS], series[best], "iops")))
                result.claims.append(claim(f"{title}: data bytes moved for a 4 KiB write, of 4096", 1.0,
                                           moved(series), at_least=False))
                result.tables.append(Table(title, ["", "IOPS", "p50 us", "p99 us", "server CPU us", "moved bytes",
                                                   "grown bytes", "flush ms"], [
                    [name, *(cell(one, key) for key in ("iops", "p50_us", "p99_us", "server_us")),
                     cell(one, "moved") if name == OURS else "–", cell(one, "grown"), cell(one, "flush_ms")]
                    for name, one in series.items()]))
                labels.append(title)
                shown[title] = (series, best)
    names = (OURS, "best qcow2 overlay")
    result.plots.append(Plot(
        "First 4 KiB writes into a fresh clone", "IOPS", labels,
        series={names[0]: [shown[label][0][OURS].median("iops") for label in labels],
                names[1]: [shown[label][0][shown[label][1]].median("iops") for label in labels]},
        ranges={names[0]: [range_of(shown[label][0][OURS], "iops") for label in labels],
                names[1]: [range_of(shown[label][0][shown[label][1]], "iops") for label in labels]}))
