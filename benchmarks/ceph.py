# SPDX-License-Identifier: Apache-2.0
"""A private Ceph cluster with an instance of Archipelago and librbd on it, and what takes samples of them."""
from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from benchmarks import fio
from benchmarks.fio import MIB, Job
from benchmarks.machine import Meter
from benchmarks.rounds import Sample
from benchmarks.servers import LOAD_GRACE_S, TOOL_LOAD, Stage, execute
from tools.cluster import Cluster, instance_config

if TYPE_CHECKING:
    from benchmarks.__main__ import Bench

POOL, MAPS = "volumes", "maps"
OSD_MEMORY = 4 << 30                # bytes; all that is read fits
DIST_PACKAGES = "/usr/lib/python3/dist-packages"    # of the system's python, which has librbd's binding
CPUCLOCK_SCHED = 2                  # the kernel's name for a clock of CPU time
PAUSE_S = 0.2                       # before a sample: the OSD goes on for a while after one
BASELINES = 2                       # runs of one request, the cheapest of which is taken off samples
CONDITIONS = """
One monitor, one OSD (bluestore on a file), one copy, librbd's images and our data in one pool. All of it runs
on this machine, so the OSD is what limits: CPU tells more than IOPS. Durability is the same: each write is
acknowledged when the OSD has committed it (librbd with `rbd cache = false`)."""


@dataclass
class Usage:
    """CPU seconds so far of the clients that ended, our pipeline and the OSD."""

    client: float
    pipeline: float
    osd: float

    def less(self, other: Usage) -> Usage:
        return Usage(max(0.0, self.client - other.client), max(0.0, self.pipeline - other.pipeline),
                     max(0.0, self.osd - other.osd))


def cpu_of(pid: int) -> float:
    """CPU seconds of a process with all its threads, to the nanosecond; /proc has hundredths."""
    return time.clock_gettime((~pid << 3) | CPUCLOCK_SCHED)


class Ceph(Stage):
    """The cluster and an instance; all gone at the end."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench.scratch, "c")
        self.cluster = Cluster(os.path.join(self.folder, "ceph"))
        self.callback(self.cluster.destroy)
        self.cluster.up((POOL, MAPS))
        self.cluster.ceph("tell", "osd.0", "config", "set", "osd_memory_target", OSD_MEMORY)
        self.uncached = os.path.join(self.folder, "uncached.conf")
        with open(self.cluster.conf, encoding="utf-8") as file, open(self.uncached, "w", encoding="utf-8") as made:
            made.write(file.read().replace("[client]\n", "[client]\nrbd cache = false\n"))
        self.ours = self.instance(config=instance_config(self.cluster.conf, POOL, MAPS), short="a")
        self.ours.start()
        self._baselines: dict[tuple[str, bool], Usage] = {}

    def pids(self) -> list[int]:
        return [*super().pids(), *map(self.cluster.pid, self.cluster.daemons())]

    def usage(self) -> Usage:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return Usage(children.ru_utime + children.ru_stime, sum(map(cpu_of, self.ours.pids())),
                     cpu_of(self.cluster.pid("osd.0")))

    # --- clients: each runs a job and tells rates

    def librbd(self, image: str, area: int, cached: bool = False, more: Sequence[str] = ()) -> Callable[[Job], Sample]:
        conf = self.cluster.conf if cached else self.uncached
        return lambda job: fio.rates(job, fio.on_rbd(POOL, image), area, {"CEPH_CONF": conf}, more)

    def nbd(self, volume: str, area: int, more: Sequence[str] = ()) -> Callable[[Job], Sample]:
        return lambda job: fio.rates(job, fio.on_nbd(self.ours.uri(volume)), area, more=more)

    def through_segment(self, volume: str, area: int, more: Sequence[str] = ()) -> Callable[[Job], Sample]:
        return lambda job: told(job, self.ours.load("volume", "--name", volume, *load_words(job, area), *more))

    def raw(self, area: int) -> Callable[[Job], Sample]:
        """librados alone, from C, on objects of 4 MiB in a namespace of its own."""
        def run(job: Job) -> Sample:
            words = ("rados", "--conf", self.cluster.conf, "--name", POOL, *load_words(job, area))
            return told(job, json.loads(execute(TOOL_LOAD, *words, timeout=LOAD_GRACE_S)))
        return run

    # --- samples

    def sampler(self, name: str, client: Callable[[Job], Sample], job: Job,
                pipeline: bool) -> Callable[[], Sample]:
        """Takes a sample: rates, and CPU by request without what starting, opening and closing take.

        `name` is of the client and its disk; `pipeline` tells whether it uses ours.
        """
        def take() -> Sample:
            baseline = self._baseline(name, client, job)
            time.sleep(PAUSE_S)
            before = self.usage()
            with Meter(self.pids(), []) as meter:
                sample = client(job)
            used = self.usage().less(before).less(baseline)
            each = 1e6 / sample["requests"]
            passed = used.pipeline * each if pipeline else 0.0
            return {**sample, "client_us": used.client * each, "pipeline_us": passed,
                    "cpu_us": used.client * each + passed, "osd_us": used.osd * each, "foreign": meter.foreign}
        return take

    def _baseline(self, name: str, client: Callable[[Job], Sample], job: Job) -> Usage:
        """What a run of one request takes."""
        key = (name, job.writes)
        if key not in self._baselines:
            runs = []
            for _ in range(BASELINES):
                before = self.usage()
                client(replace(job, depth=1, requests=1))
                runs.append(self.usage().less(before))
            self._baselines[key] = min(runs, key=lambda used: used.client + used.pipeline)
        return self._baselines[key]


def load_words(job: Job, area: int) -> list[str]:
    """A job as build/tool_load takes it."""
    words = ["--op", "write" if job.writes else "read", "--size", str(job.size), "--depth", str(job.depth),
             "--range", str(area)]
    if not job.rw.startswith("rand"):
        words.append("--sequential")
    return [*words, *(["--requests", str(job.requests)] if job.requests else ["--seconds", str(job.seconds)])]


def told(job: Job, answer: dict[str, float]) -> Sample:
    """What build/tool_load says, named as fio.rates() names it."""
    return {"requests": max(1, answer["done"]), "iops": answer["iops"], "mb_s": answer["iops"] * job.size / 1e6,
            "p50_us": answer["p50_us"], "p99_us": answer["p99_us"]}


def fill(client: Callable[[Job], Sample], area: int) -> None:
    """Writes all of a disk, and reads it once so that the OSD has it in memory."""
    client(Job("write", MIB, 8, 0, requests=area // MIB))
    client(Job("read", MIB, 8, 0, requests=area // MIB))


class Librbd:
    """librbd in this process, without its cache, by the binding of the system's Python."""

    def __init__(self, conf: str) -> None:
        if DIST_PACKAGES not in sys.path:
            sys.path.append(DIST_PACKAGES)
        import rados
        import rbd
        self.rbd = rbd
        self.cluster = rados.Rados(conffile=conf)

    def __enter__(self) -> Librbd:
        self.cluster.connect()
        self.pool = self.cluster.open_ioctx(POOL)
        return self

    def __exit__(self, *exc: object) -> None:
        self.pool.close()
        self.cluster.shutdown()

    def create(self, name: str, size: int) -> None:
        """An image with the features that are the default."""
        self.rbd.RBD().create(self.pool, name, size)

    def image(self, name: str) -> Any:
        return self.rbd.Image(self.pool, name)

    def snapshot(self, name: str, snapshot: str) -> None:
        """One that may be cloned."""
        with self.image(name) as image:
            image.create_snap(snapshot)
            image.protect_snap(snapshot)

    def clone(self, name: str, snapshot: str, clone: str, layering_only: bool = False) -> None:
        more = {"features": self.rbd.RBD_FEATURE_LAYERING} if layering_only else {}
        self.rbd.RBD().clone(self.pool, name, snapshot, self.pool, clone, **more)

    def remove(self, name: str) -> None:
        self.rbd.RBD().remove(self.pool, name)
