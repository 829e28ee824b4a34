# SPDX-License-Identifier: Apache-2.0
"""A segment whose file somebody has removed from /dev/shm, as cleaners do that take it for old. Its memory lives on
with the processes that have joined it, and each of them has it open: so it can still be joined, through /proc, until
the last of them has ended.
"""
from __future__ import annotations

import contextlib
import errno
import glob
import os
import re
import socket
import stat

from xseg import ours

ELSEWHERE = ("the instance of {} runs elsewhere: its supervisor answers, but its segment is not in this /dev/shm. Is "
             "it in another container? Use it there")
PID = re.compile(r"(?:\"pid\": )?(\d{1,7})\b")      # how a pid file begins; what supervisor.json says of itself


def members(home: str) -> list[int]:
    """Pids that the run folder of a home speaks of: the instance's processes, or who has such a pid by now."""
    found = []
    for path in [*glob.glob(os.path.join(glob.escape(home), "run", "*.pid")),
                 os.path.join(home, "run", "supervisor.json")]:
        with contextlib.suppress(OSError, ValueError):
            if said := PID.search(ours.read(path)):
                found.append(int(said[1]))
    return found


def open_removed(home: str, name: str) -> int:
    """A descriptor of the segment of that name, which has no file any more; -1: nobody has it open."""
    removed = f"/dev/shm{name} (deleted)"
    for pid in members(home):
        with contextlib.suppress(OSError):
            for fd in os.listdir(f"/proc/{pid}/fd"):
                path = f"/proc/{pid}/fd/{fd}"
                if os.readlink(path) == removed:
                    return _open(path)
    return -1


def supervisor_answers(home: str) -> bool:
    """True if the supervisor of a home runs: where the segment cannot be found, the instance runs elsewhere."""
    try:
        folder = os.open(os.path.join(home, "run"), os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.setblocking(False)
            return made.connect_ex(f"/proc/self/fd/{folder}/supervisor.sock") in (0, errno.EAGAIN)
    finally:
        os.close(folder)


def _open(path: str) -> int:
    """It, if it is ours. OSError."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    st = os.fstat(fd)
    if stat.S_ISREG(st.st_mode) and ours.is_us(st.st_uid) and not st.st_mode & ours.OTHERS_WRITE:
        return fd
    os.close(fd)
    raise PermissionError(path)
