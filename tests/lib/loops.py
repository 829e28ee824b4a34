# SPDX-License-Identifier: Apache-2.0
"""Native peers in a loop of the test's own process: much faster to start than an instance.

What needs a process that can be killed uses the `host` fixture instead.
"""
from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from support import SMALL_SEGMENT

from tools.instance import config
from tools.instance.host import NativeLoop
from xseg._native import lib
from xseg.errors import NoBuffers, NoSlots
from xseg.port import Port
from xseg.request import Call, Object, Reply, take_reply
from xseg.segment import Segment, name_for

BATCH_S = 60.0


class Peers:
    """Roles served by one native loop, and a port to send them requests from."""

    def __init__(self, roles: list[tuple[str, str, dict[str, Any]]], **parameters: Any) -> None:
        """roles: (role, peer type, options). XsegError: one cannot start, and why."""
        self.home = tempfile.mkdtemp(prefix="ar-", dir="/tmp")
        name = name_for(self.home)
        self.segment = Segment.create(name, self.home, **{**SMALL_SEGMENT, **parameters})
        Segment.unlink(name)
        reader = config._Reader(self.home)
        made = [reader.role(role, {"type": peer_type, **options}) for role, peer_type, options in roles]
        for role in made:
            self.segment.declare(role.name, role.type, "test")
        self.loop = None
        try:
            self.loop = NativeLoop(self.segment, made)
            self.loop.thread.start()
            self.port = Port(self.segment)
        except BaseException:
            shutil.rmtree(self.home)
            raise
        self.number = self.segment.port_of(made[0].name)

    def close(self) -> None:
        self.port.close()
        self.loop.stop(5)
        assert not self.loop.thread.is_alive(), "the loop did not stop"
        assert self.loop.status == 0, "requests were left over"
        self.segment.close()
        shutil.rmtree(self.home)

    def call(self, op: int, object: Any = None, **fields: Any) -> Reply:
        """One request to the first role."""
        return self.port.call(self.number, op, object=object, **fields)

    def fails(self, code: int, op: int, object: Any = None, **fields: Any) -> Reply:
        """The same, of which an error is expected."""
        reply = self.call(op, object, check=False, **fields)
        assert reply.error == code, f"{os.strerror(code)} expected, not: {os.strerror(reply.error)}"
        return reply

    def read(self, object: Any, offset: int = 0, size: int = 4096) -> bytes:
        return self.call(lib.XOP_READ, object, offset=offset, size=size, room=max(size, 1)).data

    def write(self, object: Any, data: bytes, offset: int = 0, flags: int = 0) -> None:
        reply = self.call(lib.XOP_WRITE, object, data=data, offset=offset, flags=flags)
        assert reply.done == len(data)

    def info(self, object: Any) -> Reply:
        return self.call(lib.XOP_INFO, object)

    def copy(self, source: Any, object: Any, size: int) -> Reply:
        return self.call(lib.XOP_COPY, object, data=Object(*source).pack(), size=size)

    def sync(self, volume: int = 0, kind: int = 0) -> Reply:
        return self.call(lib.XOP_SYNC, (kind, volume))

    def names(self, kind: int, room: int = 4096) -> Iterator[Object]:
        """All objects of a kind, by as many LISTs as it takes."""
        from xseg.request import objects
        cursor = 0
        while True:
            reply = self.call(lib.XOP_LIST, (kind,), arg=cursor, room=room)
            yield from objects(reply.data)
            if (cursor := reply.arg) == 0:
                return

    def batch(self, calls: list[Call]) -> list[Reply]:
        """Sends all of them, as many at a time as there are slots; their answers in the same order."""
        replies: list[Reply | None] = [None] * len(calls)
        position: dict[int, int] = {}
        waiting, end = deque(enumerate(calls)), time.monotonic() + BATCH_S
        while waiting or position:
            sent = []
            while waiting:
                i, call = waiting[0]
                try:
                    request = self.port.get(call.buffer_size())
                except (NoSlots, NoBuffers):
                    break               # when answers have come
                waiting.popleft()
                call.put(self.port.c, request.c)
                position[request.c.index] = i
                sent.append(request)
            self.port.send(self.number, sent)
            for request in self.port.receive(1.0):
                i = position.pop(request.c.index)
                replies[i] = take_reply(self.port.c, request.c, calls[i].room)
                self.port.put(request)
            assert time.monotonic() < end, f"{len(position)} requests were not answered"
        return replies


@contextmanager
def peers(*roles: tuple[str, str, dict[str, Any]], **parameters: Any) -> Iterator[Peers]:
    made = Peers(list(roles), **parameters)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def store(**options: Any) -> Iterator[str]:
    """An empty folder for a blocker-file."""
    path = tempfile.mkdtemp(prefix="ar-store-", dir="/tmp")
    yield path
    shutil.rmtree(path)
