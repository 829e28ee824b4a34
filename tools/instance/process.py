# SPDX-License-Identifier: Apache-2.0
"""Processes of this machine, known by pid and start time, so that a pid that was used again is not taken for one."""
from __future__ import annotations

import contextlib
import os
import select
import signal

KILL_TIMEOUT_S = 5.0
FILES_WANTED = 4096             # that a process has open: folders of two stores, objects, connections


def start_time(pid: int) -> int:
    """Start time of a process in clock ticks after boot; 0: there is none, or all its threads have ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    ended = fields[0] == "X" or (fields[0] == "Z" and int(fields[17]) <= 1)
    return 0 if ended else int(fields[19])


def runs(pid: int, started: int, *words: str) -> bool:
    """True if the process of that start time runs, and is a program that was started with these words: what a file
    says of a pid is believed no further."""
    if pid <= 0 or not started or start_time(pid) != started:
        return False
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            said = file.read().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return said == [b""] or all(word.encode() in said for word in words)     # nothing: its first thread has ended


def send_signal(pid: int, started: int, number: int) -> None:
    """Sends a signal to the process of that start time, and never to another that got its pid meanwhile."""
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            if start_time(pid) == started:
                signal.pidfd_send_signal(pidfd, number)
        finally:
            os.close(pidfd)


def wait_for_end(pid: int) -> None:
    """Returns when a process has ended, or KILL_TIMEOUT_S have passed."""
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        select.select([pidfd], [], [], KILL_TIMEOUT_S)
        os.close(pidfd)
