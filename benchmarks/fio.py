# SPDX-License-Identifier: Apache-2.0
"""Runs fio, on an NBD server or straight on a file, and tells what it and the servers used."""
from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.machine import Meter
from benchmarks.rounds import Sample

GRACE_S = 60                    # beyond its run time, until fio is given up
KIB, MIB = 1 << 10, 1 << 20


@dataclass(frozen=True)
class Job:
    """A pattern of requests. `requests` ends it early (0: time does)."""

    rw: str                         # read, write, randread, randwrite
    size: int                       # bytes a request
    depth: int
    seconds: float
    requests: int = 0

    @property
    def name(self) -> str:
        kind = {"randread": "random read", "randwrite": "random write"}.get(self.rw, f"sequential {self.rw}")
        size = f"{self.size // MIB} MiB" if self.size >= MIB else f"{self.size // KIB} KiB"
        return f"{size} {kind}, QD{self.depth}"

    @property
    def writes(self) -> bool:
        return self.rw.endswith("write")


def _command(job: Job, target: list[str], area: int) -> list[str]:
    words = ["fio", "--name=bench", "--output-format=json", *target, f"--rw={job.rw}", f"--bs={job.size}",
             f"--iodepth={job.depth}", f"--size={area}", "--randrepeat=0", "--fadvise_hint=random"]
    if job.requests:
        words.append(f"--number_ios={job.requests}")
    else:
        words += ["--time_based", f"--runtime={max(1, round(job.seconds * 1000))}ms"]
    return words


def _percentile(side: dict, percent: str) -> float:
    return side["clat_ns"].get("percentile", {}).get(percent, 0) / 1000


def _run(command: list[str], seconds: float, env: Mapping[str, str] | None = None) -> dict:
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + GRACE_S,
                          env={**os.environ, **(env or {})})
    start = done.stdout.find("{")
    if done.returncode != 0 or start < 0:
        raise RuntimeError(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}\n{done.stderr}")
    return json.loads(done.stdout[start:])["jobs"][0]


def rates(job: Job, target: list[str], area: int, env: Mapping[str, str] | None = None,
          more: Sequence[str] = ()) -> Sample:
    """One run, `more` being further options of fio: requests, iops, mb_s, p50_us, p99_us."""
    side = _run([*_command(job, target, area), *more], job.seconds, env)["write" if job.writes else "read"]
    return {"requests": max(1, side["total_ios"]), "iops": side["iops"], "mb_s": side["bw_bytes"] / 1e6,
            "p50_us": _percentile(side, "50.000000"), "p99_us": _percentile(side, "99.000000")}


def measure(job: Job, target: list[str], area: int, servers: Iterable[int], ours: Iterable[int]) -> Sample:
    """One run. iops; mb_s; p50_us, p99_us; server_us, client_us: CPU by request; foreign: CPUs of others."""
    meter = Meter(servers, ours)
    meter.start()
    told = _run(_command(job, target, area), job.seconds)
    meter.stop()
    side = told["write" if job.writes else "read"]
    requests = max(1, side["total_ios"])
    seconds = side["runtime"] / 1000
    client_s = (told["usr_cpu"] + told["sys_cpu"]) / 100 * told["job_runtime"] / 1000
    return {"iops": side["iops"], "mb_s": side["bw_bytes"] / 1e6, "requests": requests, "seconds": seconds,
            "p50_us": _percentile(side, "50.000000"), "p99_us": _percentile(side, "99.000000"),
            "server_us": meter.server_s * 1e6 / requests, "client_us": client_s * 1e6 / requests,
            "foreign": meter.foreign}


def on_nbd(uri: str) -> list[str]:
    return ["--ioengine=nbd", f"--uri={uri}"]


def on_rbd(pool: str, image: str) -> list[str]:
    """The image of a cluster that CEPH_CONF in `env` names."""
    return ["--ioengine=rbd", "--clientname=admin", f"--pool={pool}", f"--rbdname={image}"]


def on_file(path: str, direct: bool) -> list[str]:
    return ["--ioengine=io_uring", f"--filename={path}", f"--direct={int(direct)}"]


def fill(target: list[str], area: int) -> None:
    """Writes the whole area once by 4 KiB requests, in order, and flushes."""
    job = Job("write", 4 * KIB, 32, 0, requests=area // (4 * KIB))
    _run([*_command(job, target, area), "--end_fsync=1"], GRACE_S)


def warm(files: list[str]) -> None:
    """Brings files back into the page cache by 4 KiB reads, those of which parts have fallen out."""
    for path in files:
        if resident(path) < 0.98:
            _run(["fio", "--name=warm", "--output-format=json", "--ioengine=io_uring", f"--filename={path}",
                  "--rw=read", "--bs=4k", "--iodepth=64", "--fadvise_hint=random", "--readonly"], GRACE_S)


def resident(path: str) -> float:
    """Which part of a file's bytes the page cache holds."""
    told = subprocess.run(["fincore", "--bytes", "--noheadings", "--raw", "--output", "RES,SIZE", path],
                          capture_output=True, text=True, check=True).stdout.split()
    return int(told[0]) / max(1, int(told[1]))
