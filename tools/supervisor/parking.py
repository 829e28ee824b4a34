# SPDX-License-Identifier: Apache-2.0
"""Descriptors that outlive the processes which use them: run/park.sock.

An endpoint that shares memory and sockets with its clients (native/endpoint/park.h says what it sends) gives the
supervisor a copy of each descriptor, under a name. When its process is killed its successor gets all of them, so that a
guest does not learn of it. What the dead process had sent lies in its socket until it was read: it is read before the
successor is answered. An endpoint whose supervisor was replaced sends everything anew, and nothing of it is lost unless
both die at the same time.
"""
from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import socket
from collections.abc import Iterable

from xseg import ours

PACKET_MAX = 128
BACKLOG = 64
PACKETS_MAX = 4096              # that are read of one connection before others have their turn
SEND_S = 30.0                   # for a successor to take what is kept
HELD_MAX = 65536                # descriptors of one role
log = logging.getLogger("supervisor")


def raise_limit() -> None:
    """This process may have as many descriptors as any may: an endpoint parks a dozen for each of its clients."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Parking:
    """What is kept, by role and name."""

    def __init__(self) -> None:
        self.held: dict[str, dict[str, int]] = {}
        self.roles: dict[socket.socket, str] = {}       # of each connection; "": it has not said
        self.tasks: set[asyncio.Task[None]] = set()
        self.server: socket.socket | None = None

    def listen(self, folder: str) -> None:
        """Begins to serve at park.sock in a folder, by way of a descriptor, as the path may be long."""
        self.loop = asyncio.get_running_loop()
        path = os.path.join(folder, "park.sock")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self.server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self.server.bind(f"/proc/self/fd/{descriptor}/park.sock")
        os.close(descriptor)
        os.chmod(path, ours.FILE_MODE)
        self.server.listen(BACKLOG)
        self.loop.add_reader(self.server, self._accept)

    def close(self) -> None:
        if self.server:
            self.loop.remove_reader(self.server)
            self.server.close()
        for made in list(self.roles):
            self._end(made)
        self.forget(list(self.held))

    def forget(self, roles: Iterable[str]) -> None:
        """Closes all that is kept for these roles: they will not be served again."""
        for role in roles:
            for fd in self.held.pop(role, {}).values():
                os.close(fd)

    def _accept(self) -> None:
        assert self.server
        with contextlib.suppress(BlockingIOError):
            made = self.server.accept()[0]
            made.setblocking(False)
            if not ours.is_us(ours.peer_of(made)[1]):
                made.close()
                return
            self.roles[made] = ""
            self.loop.add_reader(made, self._read, made)

    def _end(self, made: socket.socket) -> None:
        self.loop.remove_reader(made)
        self.roles.pop(made, None)
        made.close()

    def _read(self, made: socket.socket, all_of_it: bool = False) -> None:
        """Takes packets that have come; what a dead process had sent, all of it."""
        n = 0
        while all_of_it or n < PACKETS_MAX:
            n += 1
            try:
                data, fds, _flags, _from = socket.recv_fds(made, PACKET_MAX, 1, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return
            except OSError:
                data, fds = b"", []
            if not data:
                self._end(made)
                return
            verb, _, what = data.decode(errors="replace").partition(" ")
            if not self._serve(made, verb, what, fds):
                return

    def _serve(self, made: socket.socket, verb: str, what: str, fds: list[int]) -> bool:
        """Does what a packet says. False: nothing more of this connection is read now."""
        kept = self.held.setdefault(self.roles.get(made, ""), {})
        if verb == "keep" and fds and (what in kept or len(kept) < HELD_MAX):
            if what in kept:
                os.close(kept[what])
            kept[what] = fds.pop(0)
        elif verb == "drop":
            names = [name for name in kept if name.startswith(what[:-1])] if what.endswith("*") else [what]
            for name in names:
                if name in kept:
                    os.close(kept.pop(name))
        elif verb in ("hello", "fresh") and not self.roles.get(made):
            for other in [other for other, role in self.roles.items() if role == what]:
                self._read(other, True)
            self.roles[made] = what
            raise_limit()
            if verb == "fresh":
                self.forget([what])
            else:
                self.loop.remove_reader(made)
                task = self.loop.create_task(self._give(made, what))
                self.tasks.add(task)
                task.add_done_callback(self.tasks.discard)
        for fd in fds:
            os.close(fd)
        return verb != "hello"

    async def _give(self, made: socket.socket, role: str) -> None:
        """Sends a successor all that is kept for its role."""
        kept = [(name, os.dup(fd)) for name, fd in self.held.get(role, {}).items()]

        def send() -> None:
            made.settimeout(SEND_S)
            for name, fd in kept:
                socket.send_fds(made, [name.encode()], [fd])
            made.send(b".")
            made.setblocking(False)

        try:
            await asyncio.to_thread(send)
        except OSError as failure:
            log.warning("%s: what is kept for it could not be given back: %s", role, failure)
            self._end(made)
            return
        finally:
            for _name, fd in kept:
                os.close(fd)
        self.loop.add_reader(made, self._read, made)
