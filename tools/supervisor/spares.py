# SPDX-License-Identifier: Apache-2.0
"""Processes that stand by, so that one that dies has its successor at once.

Most of what a process's start takes is the interpreter and its modules. A spare has all that behind it and waits at
a pipe (--gate of tools/instance/host.py); it has no pid file, has not touched the segment, and belongs to nobody's
pipeline. Taking it is writing the pid file, then a byte. It ends by itself with the supervisor.

A spare is what its process would have been when it was made: its code, and the sockets it has inherited. So the
supervisor drops it whenever an operator starts or stops the process, and it is not taken when the sockets are others
by now.
"""
from __future__ import annotations

import contextlib
import os
import subprocess
from dataclasses import dataclass

from tools.instance.instance import Instance


@dataclass
class Spare:
    child: subprocess.Popen[bytes]
    gate: int                       # our side of its pipe
    sockets: dict[str, int]         # what it has inherited: "ROLE.OPTION" -> inode


def inodes(sockets: dict[str, int]) -> dict[str, int]:
    return {name: os.fstat(fd).st_ino for name, fd in sockets.items()}


class Spares:
    """At most one for each process."""

    def __init__(self) -> None:
        self.made: dict[str, Spare] = {}

    def prepare(self, instance: Instance, process: str, sockets: dict[str, int]) -> None:
        """Makes one, in place of what there was. Waits for nothing. OSError."""
        self.drop(process)
        theirs, ours = os.pipe()
        try:
            self.made[process] = Spare(instance.spawn(process, sockets, theirs), ours, inodes(sockets))
        except OSError:
            os.close(ours)
            raise
        finally:
            os.close(theirs)

    def take(self, instance: Instance, process: str, sockets: dict[str, int]) -> subprocess.Popen[bytes] | None:
        """Has it begin, as that process. None: there is none that would do."""
        spare = self.made.get(process)
        if spare is None or spare.child.poll() is not None or spare.sockets != inodes(sockets):
            self.drop(process)
            return None
        del self.made[process]
        instance.admit(process, spare.child)
        with contextlib.suppress(BrokenPipeError):      # it has died just now: so has the process
            os.write(spare.gate, b".")
        os.close(spare.gate)
        return spare.child

    def drop(self, process: str) -> None:
        """Ends it, if there is one."""
        if spare := self.made.pop(process, None):
            os.close(spare.gate)
            spare.child.kill()
            spare.child.wait()

    def close(self) -> None:
        for process in list(self.made):
            self.drop(process)
