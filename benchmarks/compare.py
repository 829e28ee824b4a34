# SPDX-License-Identifier: Apache-2.0
"""This tree beside an older revision of it, row by row: what a change has gained or lost."""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from benchmarks import fio
from benchmarks.fio import MIB
from benchmarks.nbd import DIRECT_CONFIG, jobs
from benchmarks.result import Result, Table, cell, claim
from benchmarks.rounds import in_turns, ratio
from benchmarks.servers import ROOT, Revision, Stage, execute, fill_all

if TYPE_CHECKING:
    from benchmarks.__main__ import Bench

TITLE = "This tree beside another revision"
METHOD = """
The other revision is built in a worktree of its own, with this one's Python packages. An instance of each serves a
volume that was filled before; fio's nbd engine, one connection, loads them in turns, the one that begins changing every
time. "Direct": O_DIRECT below both. A ratio above 1 is a gain in IOPS, below 1 in CPU."""

NOW = "this tree"
IOPS_GOAL, CPU_GOAL = 0.97, 1.03
BUILD_TIMEOUT_S = 600


def commit_of(revision: str) -> str:
    """Its short name. RuntimeError: there is none."""
    if not shutil.which("git"):
        raise RuntimeError(f"COMPARE={revision} needs git: apt install git")
    done = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "--verify", "--quiet", revision + "^{commit}"],
                          capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"COMPARE={revision} is no revision of this repository: see git log")
    return done.stdout.strip()


@contextmanager
def built(commit: str, scratch: str) -> Iterator[str]:
    """A worktree of it, built; removed afterwards."""
    root = os.path.join(scratch, "tree")
    execute("git", "-C", ROOT, "worktree", "add", "--quiet", "--detach", root, commit)
    try:
        execute(sys.executable, "setup.py", "-q", "build_ext", "--inplace", root=root, timeout=BUILD_TIMEOUT_S)
        yield root
    finally:
        execute("git", "-C", ROOT, "worktree", "remove", "--force", root)


def run(bench: Bench, result: Result) -> None:
    commit = commit_of(bench.revision)
    with built(commit, bench.scratch) as root:
        for mode, config in (("cached", ""), ("direct", DIRECT_CONFIG)):
            one_mode(bench, result, mode, config, {NOW: ROOT, commit: root})


def one_mode(bench: Bench, result: Result, mode: str, config: str, trees: dict[str, str]) -> None:
    now, then = trees
    rows = []
    with Stage(bench.scratch, "c") as stage:
        servers = [stage.add(Revision(stage.folder, name, config, f"c{n}", root))
                   for n, (name, root) in enumerate(trees.items())]
        fill_all(servers, int(bench.choose(256, 64)) * MIB)
        for job in jobs(bench.choose(1.0, 0.5)):
            if mode == "cached":
                fio.warm([path for server in servers for path in server.files()])
            series = in_turns({server.name: stage.sampler(server, job) for server in servers},
                              int(bench.choose(6, 3)))
            row = f"{mode}, {job.name}"
            speed, cpu = (ratio(series[now], series[then], key) for key in ("iops", "server_us"))
            bench.say(f"{row}: IOPS {speed}, server CPU {cpu}")
            result.keep(row, series)
            result.claims += [claim(f"{row}: IOPS / {then}", IOPS_GOAL, speed),
                              claim(f"{row}: server CPU / {then}", CPU_GOAL, cpu, at_least=False)]
            rows.append([job.name, *(cell(series[name], key) for key in ("iops", "p50_us", "p99_us", "server_us")
                                     for name in trees)])
    result.tables.append(Table(mode, ["", *(f"{what}: {name}" for what in ("IOPS", "p50 us", "p99 us", "CPU us")
                                            for name in trees)], rows))
