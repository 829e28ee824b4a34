# SPDX-License-Identifier: Apache-2.0
"""The sockets that peers listen at (Peer.listens): the supervisor makes them and processes inherit them, so that they
stay when a process dies: who connects meanwhile waits in their backlog.
"""
from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import socket
import stat

from tools.config import Config
from tools.messages import parse_sockets

BACKLOG = 128
SOCKET_MODE = 0o660
PIDFD_GETFD = 438               # the system call's number, on all architectures
log = logging.getLogger("supervisor")


def listening_socket(kind: str, address: str) -> socket.socket:
    """A socket that listens at a path ("unix") or at host:port ("tcp"). A dead server's is replaced, and nothing
    else that is there: EEXIST."""
    if kind == "tcp":
        host, _, port = address.rpartition(":")
        family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
        return socket.create_server((host.strip("[]"), int(port)), family=family, backlog=BACKLOG)
    made = socket.socket(socket.AF_UNIX)
    try:
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            if not stat.S_ISSOCK(os.lstat(address).st_mode):
                raise FileExistsError(errno.EEXIST, "there is something that is no socket")
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(address)
            raise OSError(errno.EADDRINUSE, "another server listens there")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(address)
        made.bind(address)
        os.chmod(address, SOCKET_MODE)
        made.listen(BACKLOG)
    except OSError:
        made.close()
        raise
    return made


def inherited_by(pid: int, pidfd: int) -> dict[str, socket.socket]:
    """The listening sockets that a process was started with: "ROLE.OPTION" -> a descriptor of our own."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            words = dict(word.partition(b"=")[::2] for word in file.read().split(b"\0"))
    except OSError:
        return {}
    found = {}
    for name, fd in parse_sockets(words.get(b"ARCHIPELAGO_SOCKETS", b"").decode(errors="replace")).items():
        mine = ctypes.CDLL(None).syscall(PIDFD_GETFD, pidfd, fd, 0)
        if mine >= 0:                       # else we may not: it is made anew when the process dies
            found[name] = socket.socket(fileno=mine)
    return found


class Sockets:
    """Those of an instance."""

    def __init__(self) -> None:
        self.made: dict[str, tuple[str, socket.socket]] = {}        # "ROLE.OPTION" -> its address, the socket

    def of(self, config: Config, process: str) -> dict[str, int]:
        """The sockets that the peers of a process listen at. One that cannot be had is left to the peer,
        which says what is wrong."""
        found = {}
        for role in config.processes[process]:
            options = config.roles[role].options
            for option, kind in config.roles[role].cls.listens.items():
                name, address = f"{role}.{option}", options.get(option)
                if name in self.made and self.made[name][0] != address:
                    self.close(name)                    # the file says another by now
                if address and name not in self.made:
                    try:
                        self.made[name] = address, listening_socket(kind, address)
                    except (OSError, ValueError) as failure:
                        log.info("%s: %s: %s", name, address, failure)
                if name in self.made:
                    found[name] = self.made[name][1].fileno()
        return found

    def adopt(self, config: Config, pid: int, pidfd: int) -> None:
        """Takes over those of a process that somebody else has started."""
        for name, made in inherited_by(pid, pidfd).items():
            role, _, option = name.partition(".")
            if role in config.roles:
                self.made[name] = (config.roles[role].options.get(option), made)

    def close(self, name: str) -> None:
        address, made = self.made.pop(name)
        if made.family == socket.AF_UNIX:
            with contextlib.suppress(OSError):
                os.unlink(address)
        made.close()

    def close_all(self) -> None:
        for name in list(self.made):
            self.close(name)
