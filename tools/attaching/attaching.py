# SPDX-License-Identifier: Apache-2.0
"""Attached volumes: entries, and what the peer that serves them (peers/vhost.py) is asked.

An attached volume has an entry, a file HOME/attached/ID of lines "KEY VALUE". The peer makes a socket for each when it
starts, and when it is told to look through the folder again; so an entry that was written and not told of, as the
command was killed, is served from the next start or attach on. Whoever changes entries holds HOME/attached/lock.

An attachment stands on a volume's id and never on its name. What people see is its present name, as far as the mapper
can be asked.
"""
from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tools.instance import config, locking
from xseg import ours
from xseg._native import lib
from xseg.client import Client
from xseg.errors import Busy, Exists, Invalid, NotFound, NotRunning, XsegError, error
from xseg.volume_name import by_id

ID = re.compile("[0-9a-f]{16}")
ODD = re.compile("[^A-Za-z0-9._-]")
NAME_SHOWN = 40                 # bytes of a name in its socket's, if that cannot be all of it
SOCKET_PATH_MAX = 107           # bytes that the system takes
BLOCK_SIZES = (512, 4096)
BUSY = "another `vlmc attach` or `vlmc detach` has been at work for a minute"
ENTRY_TEXTS = ("name", "role", "socket", "since")


@dataclass
class Entry:
    """An attached volume."""

    id: str
    name: str                           # it had when it was attached
    role: str                           # of the peer that serves it
    socket: str
    readonly: bool = False
    shared: bool = False
    queues: int = 1
    block_size: int = 512
    since: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%S%z"))

    def text(self) -> str:
        return "".join(f"{key} {int(value) if isinstance(value, bool) else value}\n"
                       for key, value in vars(self).items() if key != "id")

    @classmethod
    def parse(cls, volume: str, text: str) -> Entry | None:
        """None: it is no entry."""
        values = dict(line.partition(" ")[::2] for line in text.splitlines())
        numbers = {key: values.get(key, "") for key in ("readonly", "shared", "queues", "block_size")}
        if not all(values.get(key) for key in ENTRY_TEXTS) or not all(n.isascii() and n.isdigit()
                                                                      for n in numbers.values()):
            return None
        return cls(volume, values["name"], values["role"], values["socket"], numbers["readonly"] == "1",
                   numbers["shared"] == "1", int(numbers["queues"]), int(numbers["block_size"]), values["since"])

    def same_way(self, other: Entry) -> bool:
        """True if both are attached in the same way, whenever that was."""
        return all(getattr(self, key) == getattr(other, key)
                   for key in ("id", "role", "socket", "readonly", "shared", "queues", "block_size"))


@dataclass
class Session:
    """A front-end that is connected."""

    pid: int
    since: int                          # seconds since 1970
    survived: int                       # restarts of the process that serves it
    rings: int                          # that run


class Attaching:
    """Those of one instance."""

    def __init__(self, home: str) -> None:
        self.home = home
        ours.check_home(home)
        self.peers = {role.name: role.options for role in config.read_in_force(home).roles.values()
                      if role.type == "vhost"}

    def options(self, role: str | None) -> tuple[str, dict[str, Any]]:
        """A role of the type, and its options. Invalid: there is none."""
        if not self.peers:
            raise Invalid('this pipeline has no peer of the type vhost: put [peers.vhost] with type = "vhost" into '
                          f"{os.path.join(self.home, config.FILE)}, then `archipelago restart`")
        if role is None:
            role = next(iter(self.peers))
        if role not in self.peers:
            raise Invalid(f"{role} is no role of the type vhost; there are: {', '.join(self.peers)}")
        return role, self.peers[role]

    @property
    def folders(self) -> list[str]:
        return sorted({options["attached"] for options in self.peers.values()})

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the entries. Busy."""
        for folder in self.folders:
            if not os.path.isdir(folder):
                ours.make_folder(folder)
        with contextlib.ExitStack() as stack:
            for folder in self.folders:
                stack.enter_context(locking.locked(os.path.join(folder, "lock"), BUSY))
            yield

    def path(self, entry: Entry) -> str:
        return os.path.join(self.peers[entry.role]["attached"], entry.id)

    def entries(self) -> list[Entry]:
        """All, by name. What is no entry is left out. NotOurs."""
        found = []
        for folder in self.folders:
            with contextlib.suppress(FileNotFoundError):
                for name in filter(ID.fullmatch, sorted(os.listdir(folder))):
                    if entry := Entry.parse(name, ours.read(os.path.join(folder, name), "replace")):
                        found.append(entry)
        return sorted((entry for entry in found if entry.role in self.peers), key=lambda entry: entry.name)

    # --- attaching

    def new_entry(self, name: str, info: dict[str, Any], role: str | None, path: str | None, queues: int | None,
                  **how: Any) -> Entry:
        """The entry of a volume to be attached. Invalid."""
        role, options = self.options(role)
        if queues is not None and not 1 <= queues <= options["queues"]:
            raise Invalid(f"{queues} queues: from 1 to {options['queues']}, as option queues of {role} says")
        if path is None:
            path = socket_path(self.home, name, info["id"])
        path = os.path.abspath(path)
        if len(os.fsencode(path)) > SOCKET_PATH_MAX:
            raise Invalid(f"the socket's path {path} has {len(os.fsencode(path))} bytes, the system takes "
                          f"{SOCKET_PATH_MAX}: choose a shorter one by --socket")
        if not path.isprintable():
            raise Invalid(f"the socket's path {path!r} has characters that cannot be printed")
        return Entry(info["id"], name, role, path, queues=queues or 1, **how)

    def attach(self, client: Client, wanted: list[Entry]) -> None:
        """Makes the sockets of volumes, all or none. Those that are attached in the same way already stay so. Exists:
        one is attached in another way, or its socket is another's."""
        with self.locked():
            known = self.entries()
            new = [entry for entry in wanted if not self._is_known(entry, known)]
            made: list[Entry] = []
            try:
                for entry in new:
                    if os.path.lexists(entry.socket) and not stat.S_ISSOCK(os.lstat(entry.socket).st_mode):
                        raise Exists(f"{entry.socket} is there already, and is no socket")
                    made.append(entry)
                    ours.replace(self.path(entry), entry.text())
                for role in sorted({entry.role for entry in wanted}):
                    client.call(role, lib.XOP_OPEN)
                for entry in new:
                    if not is_socket(entry.socket):
                        raise XsegError(errno.EIO, f"there is no socket at {entry.socket}; see log/ of the instance")
            except BaseException as failure:
                self._take_back(client, made)
                if isinstance(failure, XsegError) and failure.errno in (errno.EADDRINUSE, errno.EEXIST):
                    raise error(failure.errno, f"{made[-1].socket if made else 'a socket'}: another server listens "
                                "there, or it is no socket of ours: choose another one by --socket") from None
                raise

    def _is_known(self, entry: Entry, known: list[Entry]) -> bool:
        for other in known:
            if other.id == entry.id:
                if not other.same_way(entry):
                    raise Exists(f"{entry.name} is attached already, at {other.socket}, in another way: `vlmc detach` "
                                 "it first")
                return True
            if other.socket == entry.socket:
                raise Exists(f"the socket {entry.socket} is that of {other.name} ({other.id}): detach that first, or "
                             "choose another by --socket")
        return False

    def _take_back(self, client: Client, made: list[Entry]) -> None:
        for entry in made:
            with contextlib.suppress(OSError):
                client.call(entry.role, lib.XOP_CLOSE, data=entry.id.encode(), check=False, flags=lib.XREQ_FORCE)
            ours.forget(self.path(entry))

    # --- looking and detaching

    def find(self, what: str, client: Client | None) -> Entry:
        """The entry of a volume by its present name, its id or its socket. NotFound."""
        known = self.entries()
        volume = what if ID.fullmatch(what) else ""
        if client is not None and not volume:
            with contextlib.suppress(OSError):
                volume = client.control("info", name=what)["id"]
        found = ([entry for entry in known if entry.id == volume] or [entry for entry in known if entry.socket == what]
                 or [entry for entry in known if entry.name == what])
        if not found:
            raise NotFound(f"{what} is not attached; `vlmc attached` lists what is")
        return found[0]

    def detach(self, what: str, force: bool) -> Entry:
        """Takes a volume's socket away. Busy: a front-end is connected, and force is false."""
        with contextlib.ExitStack() as stack:
            client = None
            with contextlib.suppress(NotRunning):
                client = stack.enter_context(Client(self.home, "vlmc"))
            stack.enter_context(self.locked())
            entry = self.find(what, client)
            if client is not None:
                reply = client.call(entry.role, lib.XOP_CLOSE, data=entry.id.encode(), check=False,
                                    flags=lib.XREQ_FORCE if force else 0)
                if reply.error == errno.EBUSY:
                    raise Busy(f"{entry.name}: a front-end is connected to {entry.socket} (see `vlmc attached`): end "
                               "it first, or use --force")
                if reply.error and reply.error != errno.ENOENT:
                    raise error(reply.error, f"{entry.name}: {os.strerror(reply.error)}")
            ours.forget(self.path(entry))
            if is_socket(entry.socket):
                ours.forget(entry.socket)
        return entry

    def shown(self) -> list[dict[str, Any]]:
        """For --json and tables: each by the volume's present name, with its sessions."""
        rows = []
        with contextlib.ExitStack() as stack:
            client = None
            with contextlib.suppress(NotRunning):
                client = stack.enter_context(Client(self.home, "vlmc"))
            running = self._sessions(client) if client else {}
            for entry in self.entries():
                sessions = running.get(entry.id, [])
                state = "running" if any(s.rings for s in sessions) else "connected" if sessions \
                    else "ready" if entry.id in running else "stopped"
                rows.append({**vars(entry), "name": present_name(client, entry), "state": state,
                             "front_ends": [{**vars(s), "program": program(s.pid)} for s in sessions]})
        return sorted(rows, key=lambda row: str(row["name"]))

    def _sessions(self, client: Client) -> dict[str, list[Session]]:
        """Of each volume that has a socket."""
        found: dict[str, list[Session]] = {}
        for role in self.peers:
            cursor, more = 0, True
            while more and client.segment.alive(client.segment.port_of(role)):
                reply = client.call(role, lib.XOP_INFO, room=lib.XSEG_IO_MAX, arg=cursor)
                cursor, more = reply.arg, bool(reply.flags & lib.XREQ_MORE)
                for line in reply.data.decode().splitlines():
                    kind, volume, *numbers = line.split()
                    if kind == "D" and numbers[0] == "1":
                        found.setdefault(volume, [])
                    elif kind == "S":
                        found.setdefault(volume, []).append(Session(*map(int, numbers)))
        return found


def socket_path(home: str, name: str, volume: str) -> str:
    """Where a volume's socket is if nobody says: by its name, as far as that makes a path."""
    folder = os.path.join(home, "run", "vhost")
    path = os.path.join(folder, name + ".sock")
    if ODD.search(name) or len(os.fsencode(path)) > SOCKET_PATH_MAX:
        path = os.path.join(folder, f"{ODD.sub('_', name)[:NAME_SHOWN]}-{volume}.sock")
    return path


def is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return False


def present_name(client: Client | None, entry: Entry) -> str:
    """What its volume is called now; what it was called if that cannot be told."""
    if client is None or not client.segment.alive(client.segment.port_of("mapper")):
        return entry.name
    try:
        return str(client.control("info", name=by_id(entry.id))["name"])
    except OSError:
        return entry.name


def program(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return "-"
