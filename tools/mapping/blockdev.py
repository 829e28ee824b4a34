# SPDX-License-Identifier: Apache-2.0
"""Block devices of this machine: their partitions, who uses them, flushing. All of it needs root.

A device is named by its path, "/dev/loop0"; partitions are devices of their own, "/dev/loop0p1".
"""
from __future__ import annotations

import contextlib
import errno
import glob
import os
import re
import stat
import subprocess
import time
from collections.abc import Callable, Iterator

from xseg.errors import error

COMMAND_TIMEOUT_S = 60
PROBE_S = 1.0                   # how long short-lived openers, such as udev's probes, are waited for
POLL_S = 0.02
SHOWN_MAX = 4                   # holders that a sentence names


def run(*command: str) -> str:
    """A tool's output. XsegError with its own words when it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S,
                              stdin=subprocess.DEVNULL, env={**os.environ, "LC_ALL": "C"})
    except subprocess.TimeoutExpired:
        raise error(errno.ETIMEDOUT, f"{command[0]} did not end within {COMMAND_TIMEOUT_S} s") from None
    if done.returncode:
        raise error(errno.EIO, f"{command[0]}: {done.stderr.strip() or f'exit status {done.returncode}'}")
    return done.stdout.strip()


def wait_for(true: Callable[[], bool], seconds: float) -> bool:
    """Whether a condition comes true within `seconds`."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(POLL_S)
    return True


def partitions(device: str) -> list[str]:
    """The partitions of a device that the kernel knows, in order."""
    name = os.path.basename(device)
    found = [os.path.dirname(path) for path in glob.glob(f"/sys/block/{name}/{name}*/partition")]
    return ["/dev/" + os.path.basename(part) for part in sorted(found, key=lambda part: (len(part), part))]


def find_partitions(device: str) -> list[str]:
    """As partitions(), after a look at the table: partx reads it where the kernel was built without."""
    if not partitions(device):
        with contextlib.suppress(OSError):
            run("partx", "--add", device)           # fails when there is no table
    return partitions(device)


def mount_table(path: str = "/proc/self/mountinfo") -> list[tuple[str, str, str]]:
    """Everything mounted in a mount namespace: (device's major:minor, mount point, source)."""
    found = []
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            words = line.split(" ")
            found.append((words[2], _unescape(words[4]), _unescape(words[words.index("-") + 2])))
    return found


def _unescape(word: str) -> str:
    """A word of /proc/*/mountinfo, where \\040 stands for a space."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), word)


def mounts(devices: list[str]) -> list[str]:
    """Where a device of these is mounted, in this or another mount namespace."""
    numbers = {_number(device) for device in devices if os.path.exists(device)}
    tables = ["/proc/self/mountinfo", *glob.glob("/proc/[0-9]*/mountinfo")]
    return list(dict.fromkeys(point for path in tables for number, point, source in mount_table(path)
                              if number in numbers or source in devices))


def mounts_below(folder: str) -> list[str]:
    """Mount points in or at a folder."""
    inside = os.path.realpath(folder)
    return [point for _, point, _ in mount_table() if point == inside or point.startswith(inside + "/")]


def _number(device: str) -> str:
    made = os.stat(device).st_rdev
    return f"{os.major(made)}:{os.minor(made)}"


def openers(devices: list[str]) -> list[str]:
    """Processes that have a device of these open, each as "pid 12 (dd)". This process is left out."""
    numbers = {os.stat(device).st_rdev for device in devices if os.path.exists(device)}
    return [f"pid {pid} ({_command(pid)})" for pid in sorted(_pids())
            if pid != os.getpid() and any(number in numbers for number in _open_devices(pid))]


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _open_devices(pid: int) -> Iterator[int]:
    """Numbers of the block devices a process has open."""
    try:
        with os.scandir(f"/proc/{pid}/fd") as entries:
            paths = [entry.path for entry in entries]
    except OSError:
        return
    for path in paths:
        with contextlib.suppress(OSError):
            status = os.stat(path)
            if stat.S_ISBLK(status.st_mode):
                yield status.st_rdev


def _command(pid: int) -> str:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
        return file.read().strip()
    return "gone"


def claimed(device: str) -> bool:
    """Whether the kernel uses it or a partition of it: mounted, swapped on, or part of another device."""
    try:
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as failure:
        return failure.errno == errno.EBUSY
    return False


def users(device: str) -> str:
    """Who uses a device or its partitions, as the end of a sentence; "" if nobody does."""
    devices = [device, *partitions(device)]
    if places := mounts(devices):
        return "it is mounted at " + _list(places)
    if claimed(device):
        return "the kernel uses it: as swap, or as part of another device"
    wait_for(lambda: not openers(devices), PROBE_S)
    if who := openers(devices):
        return "it is open by " + _list(who)
    return ""


def _list(words: list[str]) -> str:
    more = len(words) - SHOWN_MAX
    return ", ".join(words[:SHOWN_MAX]) + (f" and {more} more" if more > 0 else "")


def flush(device: str) -> None:
    """Writes back what the kernel has cached of a device, and flushes the device. OSError if it cannot."""
    for path in [*partitions(device), device]:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(file)
        finally:
            os.close(file)
