# SPDX-License-Identifier: Apache-2.0
"""Reads from a volume with a long history, beside a chain of qcow2 overlays."""
from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

from benchmarks import fio
from benchmarks.fio import KIB, MIB, Job
from benchmarks.result import Plot, Result, Table, cell, claim, range_of
from benchmarks.rounds import in_turns, ratio
from benchmarks.servers import Archipelago, QemuNbd, Stage, execute

if TYPE_CHECKING:
    from benchmarks.__main__ import Bench
    from xseg.client import Client

TITLE = "Reads at depth"
METHOD = """
4 KiB random reads by one NBD client, all in the page cache. Flat: a full volume. Clone: a clone of a
snapshot of a clone of ... of such a volume, with a few 4 KiB writes at every level. Snapshots: a full
volume that had as many snapshots taken of it, with random 4 KiB writes between. Beside them qemu-nbd on
a full qcow2 image, and on a chain of as many overlays over it with the same few writes a level."""

FLAT, CLONE, SNAPSHOTS = "flat", "clone", "snapshots"
QCOW_FLAT, QCOW_CHAIN = "qcow2, flat", "qcow2, chain"
GOAL = 0.95
WRITES_A_LEVEL = 8
WRITES_A_SNAPSHOT = 100


class Chain(QemuNbd):
    """qemu-nbd on a qcow2 file that is there already, with whatever it is based on."""

    def __init__(self, folder: str, name: str, path: str, size: int) -> None:
        super().__init__(folder, "qcow2", "io_uring", False, path)
        self.name, self.size = name, size

    def command(self) -> list[str]:
        return ["qemu-nbd", "-t", "-e", "8", "-k", self.socket, "-f", "qcow2", "--cache=writeback",
                "--aio=io_uring", self.path]


def places(size: int, count: int, seed: int) -> list[int]:
    """Offsets of `count` 4 KiB writes."""
    return [random.Random(f"{seed} {n}").randrange(size // (4 * KIB)) * 4 * KIB for n in range(count)]


def write_places(client: Client, name: str, offsets: list[int], seed: int) -> None:
    with client.open(name) as volume:
        for offset in offsets:
            volume.write(offset, bytes([seed % 255 + 1]) * (4 * KIB))
        volume.flush()


def deep_clone(client: Client, size: int, depth: int) -> None:
    """The volume `clone`, `depth` levels above the volume `flat`."""
    below = FLAT
    for level in range(1, depth + 1):
        name = CLONE if level == depth else f"level-{level}"
        client.control("snapshot", name=below, snapshot=f"snap-{level}")
        client.control("clone", name=f"snap-{level}", names=[name])
        write_places(client, name, places(size, WRITES_A_LEVEL, level), level)
        below = name


def many_snapshots(client: Client, size: int, count: int) -> None:
    """`count` snapshots of the volume `snapshots`, with writes between."""
    with client.open(SNAPSHOTS) as volume:
        for number in range(count):
            for offset in places(size, WRITES_A_SNAPSHOT, number):
                volume.write(offset, bytes([number % 255 + 1]) * (4 * KIB))
            client.control("snapshot", name=SNAPSHOTS, snapshot=f"taken-{number}")
        volume.flush()


def qcow_chain(folder: str, size: int, depth: int) -> tuple[str, str]:
    """Paths of a full image and of the top of a chain of overlays over a copy of it."""
    flat, below = os.path.join(folder, "flat.qcow2"), os.path.join(folder, "base.qcow2")
    for path in (flat, below):
        execute("qemu-img", "create", "-q", "-f", "qcow2", path, str(size))
        execute("qemu-io", "-f", "qcow2", "-c", f"write -q -P 7 0 {size}", path)
    for level in range(1, depth + 1):
        path = os.path.join(folder, f"level-{level}.qcow2")
        execute("qemu-img", "create", "-q", "-f", "qcow2", "-b", below, "-F", "qcow2", path)
        writes = [word for offset in places(size, WRITES_A_LEVEL, level)
                  for word in ("-c", f"write -q -P {level % 255 + 1} {offset} 4k")]
        execute("qemu-io", "-f", "qcow2", *writes, path)
        below = path
    return flat, below


def prepare(stage: Stage, ours: Archipelago, size: int, depth: int) -> list[Chain]:
    """Makes the volumes, and the qcow2 images with a server each."""
    ours.size = size
    ours.start()
    with ours.client() as client:
        for name in (FLAT, SNAPSHOTS):
            client.control("create", name=name, size=size)
            fio.fill(fio.on_nbd(ours.uri(name)), size)
        deep_clone(client, size, depth)
        many_snapshots(client, size, depth)
    flat, top = qcow_chain(stage.folder, size, depth)
    chains = [Chain(stage.folder, QCOW_FLAT, flat, size), Chain(stage.folder, QCOW_CHAIN, top, size)]
    for chain in chains:
        stage.add(chain)
        chain.start()
    return chains


def warm(stage: Stage, ours: Archipelago, chains: list[Chain]) -> None:
    """Reads everything once, in order, by 4 KiB requests."""
    job = Job("read", 4 * KIB, 32, 0, ours.size // (4 * KIB))
    for uri in [*(ours.uri(name) for name in (FLAT, CLONE, SNAPSHOTS)), *(chain.uri() for chain in chains)]:
        fio.measure(job, fio.on_nbd(uri), ours.size, [], [])


def run(bench: Bench, result: Result) -> None:
    size, depth = int(bench.choose(256, 64)) * MIB, int(bench.choose(100, 20))
    rounds, seconds = int(bench.choose(5, 2)), bench.choose(1.0, 0.3)
    jobs = [Job("randread", 4 * KIB, queue, seconds) for queue in (1, 32)]
    found = {}
    with Stage(bench.scratch, "d") as stage:
        ours = stage.instance(short="a")
        bench.say(f"making volumes and images of depth {depth}")
        chains = prepare(stage, ours, size, depth)
        warm(stage, ours, chains)
        for job in jobs:
            bench.say(job.name)
            found[job.name] = in_turns(
                {**{name: stage.sampler(ours, job, ours.uri(name)) for name in (FLAT, CLONE, SNAPSHOTS)},
                 **{chain.name: stage.sampler(chain, job) for chain in chains}}, rounds)
    for job in jobs:
        report(job, found[job.name], depth, result)
    for key, what in (("iops", "IOPS"), ("server_us", "us of server CPU a request")):
        names = (FLAT, CLONE, SNAPSHOTS, QCOW_FLAT, QCOW_CHAIN)
        result.plots.append(Plot(
            f"4 KiB random reads, depth {depth}: {what}", what, [f"QD{job.depth}" for job in jobs],
            series={name: [found[job.name][name].median(key) for job in jobs] for name in names},
            ranges={name: [range_of(found[job.name][name], key) for job in jobs] for name in names}))


def report(job: Job, series: dict, depth: int, result: Result) -> None:
    result.keep(job.name, series)
    for name in (CLONE, SNAPSHOTS):
        result.claims.append(claim(f"QD{job.depth}: IOPS, {depth} {name} / flat" if name == SNAPSHOTS else
                                   f"QD{job.depth}: IOPS, clone at depth {depth} / flat", GOAL,
                                   ratio(series[name], series[FLAT], "iops")))
    chain = ratio(series[QCOW_CHAIN], series[QCOW_FLAT], "iops")
    result.tables.append(Table(
        f"{job.name}, depth {depth}", ["", "IOPS", "p50 us", "p99 us", "server CPU us"],
        [[name, *(cell(one, key) for key in ("iops", "p50_us", "p99_us", "server_us"))]
         for name, one in series.items()],
        note=f"The qcow2 chain keeps {chain} of the flat image's IOPS."))
