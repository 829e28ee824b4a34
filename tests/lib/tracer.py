# SPDX-License-Identifier: Apache-2.0
"""Kills a worker at a chosen instruction of our native code, by single-stepping it (x86-64)."""
import ctypes
import os
import platform
import signal
import subprocess
import sys

import pytest

PTRACE_PEEKUSER, PTRACE_CONT, PTRACE_SINGLESTEP = 3, 7, 9
RIP_OFFSET = 16 * 8
STEPS_MAX = 500_000

needs_tracer = pytest.mark.skipif(platform.machine() != "x86_64", reason="single-stepping is written for x86-64")
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.restype = ctypes.c_long
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def _trace(request, pid, address=None):
    ctypes.set_errno(0)
    value = libc.ptrace(request, pid, address, None)
    if value == -1 and ctypes.get_errno():
        raise OSError(ctypes.get_errno(), f"ptrace {request}")
    return value


def _native_code(pid):
    """Address ranges of the extension's code in a process."""
    ranges = []
    with open(f"/proc/{pid}/maps", encoding="utf-8") as maps:
        for line in maps:
            if "_native" in line and " r-x" in line:
                low, high = line.split()[0].split("-")
                ranges.append((int(low, 16), int(high, 16)))
    return ranges


class Worker:
    """A traced worker.py, stopped before the calls that matter."""

    def __init__(self, action, segment, role, count):
        script = os.path.join(os.path.dirname(__file__), "worker.py")
        self.process = subprocess.Popen([sys.executable, "-P", script, action, segment, role, str(count)])
        self.pid = self.process.pid
        self._wait()

    def _wait(self):
        _, status = os.waitpid(self.pid, 0)
        assert os.WIFSTOPPED(status), f"the worker ended: {status:#x}"
        return os.WSTOPSIG(status)

    def run_native(self, count):
        """Steps until `count` of our instructions were executed. False: the worker was done before."""
        code, done = _native_code(self.pid), 0
        for _ in range(STEPS_MAX):
            if done == count:
                return True
            _trace(PTRACE_SINGLESTEP, self.pid)
            if self._wait() == signal.SIGSTOP:
                self.done = done
                return False
            rip = _trace(PTRACE_PEEKUSER, self.pid, RIP_OFFSET)
            done += any(low <= rip < high for low, high in code)
        raise AssertionError("the worker does not come to an end")

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.process.returncode = -signal.SIGKILL


def instructions(*worker_arguments, before=lambda: None):
    """How many of our instructions a worker executes between its two stops."""
    worker = Worker(*worker_arguments)
    before()
    assert not worker.run_native(STEPS_MAX)
    worker.kill()
    return worker.done
