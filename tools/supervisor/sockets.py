# SPDX-License-Identifier: Apache-2.0
"""The sockets that peers listen at (Peer.listens): the supervisor makes them and processes inherit them, so that they
stay when a process dies: who connects meanwhile waits in their backlog. And the folders of stores (Peer.keeps), whose
descriptors tell of errors of the disk that came while a process was dead.
"""
from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import socket
import stat
from typing import Any, NamedTuple

from tools.instance.config import Config
from tools.instance.messages import parse_sockets
from xseg import ours

BACKLOG = 128
PIDFD_GETFD = 438               # the system call's number, on all architectures
log = logging.getLogger("supervisor")


class Access(NamedTuple):
    """Who may connect to a unix socket."""

    mode: int = 0o660
    owner: int | None = None            # uid; None: who makes it
    group: int | None = None

    @classmethod
    def of(cls, options: dict[str, Any], option: str) -> Access:
        """As the options of a peer say beside the one that names the socket."""
        return cls(options.get(option + "_mode", cls().mode), options.get(option + "_owner"),
                   options.get(option + "_group"))

    def give(self, path: str) -> None:
        os.chown(path, -1 if self.owner is None else self.owner, -1 if self.group is None else self.group,
                 follow_symlinks=False)
        os.chmod(path, self.mode)


def listening_socket(kind: str, address: str, access: Access) -> socket.socket:
    """A socket that listens at a path ("unix") or at host:port ("tcp"). A dead server's is replaced, and nothing
    else that is there: EEXIST."""
    if kind == "tcp":
        host, _, port = address.rpartition(":")
        family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
        return socket.create_server((host.strip("[]"), int(port)), family=family, backlog=BACKLOG)
    made = socket.socket(socket.AF_UNIX)
    try:
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            found = os.lstat(address)
            if not stat.S_ISSOCK(found.st_mode):
                raise FileExistsError(errno.EEXIST, "there is something that is no socket")
            if not ours.is_us(found.st_uid) and found.st_uid != access.owner:
                raise FileExistsError(errno.EEXIST, f"there is a socket of {ours.who(found.st_uid)}")
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(address)
            raise OSError(errno.EADDRINUSE, "another server listens there")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(address)
        made.bind(address)
        access.give(address)                # nobody can connect yet
        made.listen(BACKLOG)
    except OSError:
        made.close()
        raise
    return made


class Folder:
    """A folder that is open."""

    family = None

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def fileno(self) -> int:
        return self.fd

    def close(self) -> None:
        os.close(self.fd)


def is_at(folder: Folder, path: str) -> bool:
    """True if that folder is what the path leads to."""
    try:
        return os.path.samestat(os.fstat(folder.fd), os.stat(path))
    except OSError:
        return False


def inherited_by(pid: int, pidfd: int) -> dict[str, int]:
    """The sockets and folders that a process was started with: "ROLE.OPTION" -> a descriptor of our own."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            words = dict(word.partition(b"=")[::2] for word in file.read().split(b"\0"))
    except OSError:
        return {}
    found = {}
    for name, fd in parse_sockets(words.get(b"ARCHIPELAGO_SOCKETS", b"").decode(errors="replace")).items():
        mine = ctypes.CDLL(None).syscall(PIDFD_GETFD, pidfd, fd, 0)
        if mine >= 0:                       # else we may not: it is made anew when the process dies
            found[name] = mine
    return found


class Sockets:
    """Those of an instance."""

    def __init__(self) -> None:
        self.made: dict[str, tuple[str, socket.socket | Folder]] = {}       # "ROLE.OPTION" -> its address, and that

    def of(self, config: Config, process: str) -> dict[str, int]:
        """The sockets that the peers of a process listen at, and the folders of their stores. One that cannot be
        had is left to the peer, which says what is wrong."""
        found = {}
        for role in config.processes[process]:
            options = config.roles[role].options
            for option in config.roles[role].cls.keeps:
                if folder := self.folder(f"{role}.{option}", options.get(option)):
                    found[f"{role}.{option}"] = folder.fileno()
            for option, kind in config.roles[role].cls.listens.items():
                name, address = f"{role}.{option}", options.get(option)
                if name in self.made and self.made[name][0] != address:
                    self.close(name)                    # the file says another by now
                if name in self.made and address and kind == "unix":
                    with contextlib.suppress(OSError):
                        Access.of(options, option).give(address)
                if address and name not in self.made:
                    try:
                        self.made[name] = address, listening_socket(kind, address, Access.of(options, option))
                    except (OSError, ValueError) as failure:
                        log.info("%s: %s: %s", name, address, failure)
                if name in self.made:
                    found[name] = self.made[name][1].fileno()
        return found

    def folder(self, name: str, path: str | None) -> Folder | None:
        """The folder at that path, open since it was first asked for."""
        kept = self.made[name][1] if name in self.made else None
        if kept and path and isinstance(kept, Folder) and is_at(kept, path):
            return kept
        if kept:
            self.close(name)
        if not path:
            return None
        try:
            made = Folder(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError as failure:
            log.info("%s: %s: %s", name, path, failure)
            return None
        self.made[name] = path, made
        return made

    def adopt(self, config: Config, pid: int, pidfd: int) -> None:
        """Takes over those of a process that somebody else has started."""
        for name, fd in inherited_by(pid, pidfd).items():
            self._keep(config, name, fd)

    def _keep(self, config: Config, name: str, fd: int) -> None:
        role, _, option = name.partition(".")
        address = config.roles[role].options.get(option) if role in config.roles else None
        if address and name not in self.made:
            made = Folder(fd) if option in config.roles[role].cls.keeps else socket.socket(fileno=fd)
            self.made[name] = address, made
        else:
            os.close(fd)

    def hand_on(self) -> dict[str, str]:
        """Has all outlive execve(); the environment that tells the successor of them."""
        for _, made in self.made.values():
            os.set_inheritable(made.fileno(), True)
        words = (f"{name}={made.fileno()}" for name, (_, made) in self.made.items())
        return {**os.environ, "ARCHIPELAGO_SOCKETS": " ".join(words)}

    def inherit(self, config: Config) -> None:
        """What a predecessor has handed on."""
        for name, fd in parse_sockets(os.environ.get("ARCHIPELAGO_SOCKETS", "")).items():
            os.set_inheritable(fd, False)
            self._keep(config, name, fd)

    def close_those_of(self, config: Config, process: str) -> None:
        """Who connects to the peers of a process is refused from now on."""
        for name, (_, made) in list(self.made.items()):
            if name.partition(".")[0] in config.processes.get(process, []) and isinstance(made, socket.socket):
                self.close(name)

    def close(self, name: str) -> None:
        address, made = self.made.pop(name)
        if made.family == socket.AF_UNIX:
            with contextlib.suppress(OSError):
                os.unlink(address)
        made.close()

    def close_all(self) -> None:
        for name in list(self.made):
            self.close(name)
