# SPDX-License-Identifier: Apache-2.0
"""CPU time of processes, what others used meanwhile, and what machine this is."""
from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
DISTURBED = 0.25                # CPUs used by others; beyond it a sample is taken again
KERNEL_THREADS = 2              # pid of kthreadd, their parent
COMMAND_TIMEOUT_S = 20


@dataclass(frozen=True)
class _Times:
    """A process as /proc/PID/stat shows it: CPU seconds with those of children it waited for."""

    parent: int
    start: int
    seconds: float


def _times(pid: int) -> _Times | None:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return _Times(int(fields[1]), int(fields[19]), sum(map(int, fields[11:15])) * TICK_S)


def _all_times() -> dict[int, _Times]:
    found = {int(name): _times(int(name)) for name in os.listdir("/proc") if name.isdigit()}
    return {pid: times for pid, times in found.items() if times}


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU of these processes so far, with children that they waited for; 0 for one that is gone."""
    return sum(times.seconds for times in map(_times, pids) if times)


def family(pids: Iterable[int]) -> set[int]:
    """These processes and all their descendants."""
    return _family(set(pids), _all_times())


def _family(roots: set[int], times: dict[int, _Times]) -> set[int]:
    grown = set(roots)
    while more := {pid for pid, t in times.items() if t.parent in grown} - grown:
        grown |= more
    return grown


def _foreign(times: dict[int, _Times], ours: set[int]) -> float:
    """CPU seconds of all processes but ours and kernel threads. That of one that ends goes to its parent."""
    return sum(t.seconds for pid, t in times.items() if pid not in ours and t.parent != KERNEL_THREADS)


class Meter:
    """Measures between start() and stop(): CPU of some processes and of all that are not ours."""

    def __init__(self, servers: Iterable[int], ours: Iterable[int]) -> None:
        """`servers` are measured; `ours` (with them, this process and all descendants) are not foreign."""
        self._servers = set(servers)
        self._ours = self._servers | set(ours) | {os.getpid()}

    def start(self) -> None:
        self._servers = family(self._servers)
        self._before = _all_times()
        self._cpu = cpu_seconds(self._servers)
        self._began = time.monotonic()

    def stop(self) -> None:
        self.seconds = time.monotonic() - self._began
        self.server_s = cpu_seconds(self._servers) - self._cpu
        after = _all_times()
        ours = _family(self._ours, self._before | after)
        self.foreign = max(0.0, _foreign(after, ours) - _foreign(self._before, ours)) / self.seconds

    def __enter__(self) -> Meter:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


def timed(work: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _first_line(*command: str) -> str:
    if not shutil.which(command[0]):
        return "not installed"
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S)
    return (done.stdout or done.stderr).strip().splitlines()[0]


def _cpu_model() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        models = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _file_system(folder: str) -> str:
    done = subprocess.run(["findmnt", "-no", "FSTYPE", "-T", folder], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def describe(folder: str) -> dict[str, str]:
    """The machine and the versions of what is measured, for the record; `folder` holds the files."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    revision = subprocess.run(["git", "-C", os.path.dirname(__file__), "describe", "--always", "--dirty"],
                              capture_output=True, text=True).stdout.strip()
    return {
        "cpu": f"{os.cpu_count()} x {_cpu_model()}", "memory": f"{memory:.0f} GiB",
        "kernel": platform.release(), "file system": _file_system(folder),
        "revision": revision or "unknown", "python": platform.python_version(),
        "qemu": _first_line("qemu-nbd", "--version"), "nbdkit": _first_line("nbdkit", "--version"),
        "fio": _first_line("fio", "--version"),
    }
