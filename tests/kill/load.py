# SPDX-License-Identifier: Apache-2.0
"""Load on a volume over NBD while peers are killed, and the killer."""
from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable

from support import Instance, wait_until

SIZE = 48 << 20
BLOCK = 1 << 18
FIO_GRACE_S = 120.0             # that fio may take beyond its run time, to verify
READY_S = 60.0
GAP_S = 0.3                     # between a recovery and the next kill, at most
kills: Counter[str] = Counter() # of all tests of this session, by process; conftest.py shows them


def fio(uri: str, seconds: float, seed: int) -> subprocess.Popen:
    """fio writes, flushes and reads back at queue depth 32 in the first half of the volume, and checks all it
    wrote at the end; it trims and writes in the other half."""
    return subprocess.Popen(
        ["fio", "--ioengine=nbd", f"--uri={uri}", "--time_based", f"--runtime={seconds:g}", f"--randseed={seed}",
         "--output-format=json", f"--size={SIZE // 2}",
         "--name=load", "--rw=randwrite", "--bs=4k", "--iodepth=32", "--fsync=100", "--verify=crc32c",
         "--verify_fatal=1", "--verify_state_save=0", "--verify_backlog=512",
         "--name=trims", f"--offset={SIZE // 2}", "--rw=randtrimwrite", "--bs=16k", "--iodepth=8"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/tmp")


def finish_fio(process: subprocess.Popen) -> dict:
    """Waits for fio; what it did. An AssertionError shows what it complains of."""
    out, err = process.communicate(timeout=FIO_GRACE_S)
    assert process.returncode == 0, f"fio: exit status {process.returncode}\n{err}\n{out[-2000:]}"
    jobs = {job["jobname"]: job for job in json.loads(out[out.index("{"):])["jobs"]}
    assert not err.strip() and not any(job["error"] for job in jobs.values()), err
    return {"writes": jobs["load"]["write"]["total_ios"], "reads": jobs["load"]["read"]["total_ios"],
            "trims": jobs["trims"]["trim"]["total_ios"]}


class Killer:
    """Kills processes of an instance at random moments."""

    def __init__(self, instance: Instance, seed: int) -> None:
        self.instance = instance
        self.dice = random.Random(seed)
        self.kills: Counter[str] = Counter()        # by process

    def pid(self, process: str) -> int:
        try:
            with open(os.path.join(self.instance.home, "run", process + ".pid"), encoding="ascii") as file:
                return int(file.read().split()[0])
        except (FileNotFoundError, IndexError):
            return 0

    def ready(self, roles: list[str]) -> bool:
        segment = self.instance.client.segment
        numbers = [segment.port_of(role) for role in roles]
        return all(segment.c.ports[number].ready and segment.alive(number) for number in numbers)

    def kill(self, process: str) -> None:
        if pid := self.pid(process):
            try:
                os.kill(pid, signal.SIGKILL)
                self.kills[process] += 1
            except ProcessLookupError:
                pass                            # it is being started

    def report(self) -> int:
        """Adds its kills to those of the session; how many they were."""
        kills.update(self.kills)
        print(f"{self.kills.total()} kills: {dict(self.kills)}")
        return self.kills.total()

    def run(self, processes: list[str], goes_on: Callable[[], bool]) -> None:
        """Kills one or more processes again and again; mostly after they have recovered, sometimes meanwhile."""
        everything = [role for process in processes for role in process.split("+")]
        while goes_on():
            together = min(len(processes), self.dice.choice((1, 1, 2, len(processes))))
            for process in self.dice.sample(processes, together):
                self.kill(process)
            if self.dice.random() < 0.75:
                wait_until(lambda: self.ready(everything) or not goes_on(), f"{everything} have recovered", READY_S)
            time.sleep(self.dice.choice((0, 0, self.dice.random() * GAP_S)))
        wait_until(lambda: self.ready(everything), f"{everything} have recovered", READY_S)
