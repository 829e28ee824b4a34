# SPDX-License-Identifier: Apache-2.0
"""A port for programs without an event loop: clients, tests, tools.

A Port belongs to one thread. `call` sends one request and waits for its answer; `send` and
`receive` move many at a time. A request whose answer did not come in time is abandoned: its
slot and buffer come back by themselves when the answer does.
"""
from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from xseg._native import ffi, lib
from xseg.errors import NoBuffers, NoSlots, TimedOut
from xseg.limits import check_client
from xseg.request import Call, Reply, Request, take_reply
from xseg.segment import ANY, OPS, Segment

if TYPE_CHECKING:
    import numpy

BATCH = 256                     # requests taken in at one go
TIMEOUT_S = 30.0                # of a call, unless it says otherwise
POLL_MS = 100                   # longest single wait


class Port:
    """A port bound by this thread, with a doorbell of its own."""

    def __init__(self, segment: Segment, role: str = "client", number: int = ANY) -> None:
        """Binds port `number`, or a free dynamic one under the name `role`.

        Busy: a live process serves it. NoSlots: no dynamic port or no bell is free.
        """
        self.segment = segment
        bell, port = ffi.new("struct bell **"), ffi.new("struct port **")
        check_client(lib.bell_open(segment.c, ANY, bell), "no doorbell", segment)
        self._bell = bell[0]
        rc = lib.port_bind(segment.c, number, role.encode(), self._bell, port)
        if rc < 0:
            lib.bell_close(self._bell)
            check_client(rc, f"port {role if number == ANY else number}", segment)
        self.c = port[0]
        self.number: int = self.c.number
        self._abandoned: set[int] = set()
        self._batch = ffi.new("uint32_t[]", BATCH)
        self._came: list[Request] = []          # taken in while waiting for something else

    def close(self) -> None:
        """Gives the port back. What is still under way is dropped by the port's next owner."""
        if self.c != ffi.NULL:
            lib.port_close(self.c)
            lib.bell_close(self._bell)
            self.c = ffi.NULL

    def __enter__(self) -> Port:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # --- many at a time

    def get(self, room: int = 0) -> Request:
        """A fresh request with a buffer of at least `room` bytes. NoSlots, NoBuffers: none now."""
        c = lib.xreq_get(self.c)
        if c == ffi.NULL:
            raise NoSlots(f"all {self.c.count} requests of this port are under way")
        if room and lib.xbuf_get(self.c, c, room) < 0:
            lib.xreq_put(self.c, c)
            raise NoBuffers(f"no buffer of {room} bytes is free for this port")
        return Request(self.c, c)

    @property
    def requests(self) -> numpy.ndarray:
        """This port's own copies of all requests as a structured array, indexed by slot number: to fill in or
        look at a batch that it has in hand."""
        import numpy

        from xseg.dtypes import dtype_of
        dtype, count = dtype_of("struct xreq"), self.segment.c.slot_count
        return numpy.frombuffer(ffi.buffer(self.c.reqs, dtype.itemsize * count), dtype, count)

    def put(self, request: Request) -> None:
        """Gives back a request of one's own that is not under way."""
        lib.xreq_put(self.c, request.c)

    def send(self, dst: int, requests: Sequence[Request]) -> None:
        """Sends requests of one's own to a port, and rings once."""
        for request in requests:
            lib.xreq_send(self.c, request.c, dst)
        lib.port_ring(self.c)

    def ring(self) -> None:
        """Wakes those that were sent to or answered."""
        lib.port_ring(self.c)

    def _drain(self) -> list[Request]:
        came, base = [], self.c.reqs
        while True:
            count = lib.export_receive(self.c, self._batch, BATCH)
            for i in range(count):
                number = self._batch[i]
                slot = (number & ~lib.EXPORT_REPLY) - 1
                if number & lib.EXPORT_REPLY and slot in self._abandoned:
                    self._abandoned.discard(slot)
                    lib.xreq_put(self.c, base + slot)
                else:
                    came.append(Request(self.c, base + slot))
            if count < BATCH:
                return came

    def receive(self, timeout: float = 0.0) -> list[Request]:
        """What has come in, requests and replies, after a wait of `timeout` seconds at most."""
        end = time.monotonic() + timeout
        came, self._came = self._came, []
        while True:
            came += self._drain()
            left = end - time.monotonic()
            if came or left <= 0:
                return came
            lib.port_wait(self.c, min(POLL_MS, int(left * 1000) + 1), 0)

    def is_reply(self, request: Request) -> bool:
        return bool(request.c.src == self.number)

    # --- one at a time

    def _obtain(self, room: int, end: float) -> Request:
        """A request with a buffer, waiting until `end` for one to come free."""
        while True:
            try:
                return self.get(room)
            except (NoSlots, NoBuffers):
                if time.monotonic() >= end:
                    raise
                lib.port_wait(self.c, POLL_MS, 0)
                self._came += self._drain()

    def _await(self, request: Request, end: float, patience: float, comes_back: Callable[[], bool]) -> bool:
        """Waits for the answer to `request`; False: it did not come until `end`, or nobody has served the port
        it was sent to for `patience` seconds and nobody comes back to it."""
        nobody_since = None
        while True:
            for came in self._drain():
                if came.c == request.c:
                    return True
                self._came.append(came)
            now = time.monotonic()
            if now >= end:
                return False
            if lib.port_wait(self.c, min(POLL_MS, int((end - now) * 1000) + 1), 0) == 0:
                continue
            nobody_since = None if self.segment.alive(request.c.dst) else nobody_since or now
            if nobody_since and now - nobody_since > patience:
                if not comes_back():
                    return False
                nobody_since = now

    def call(self, dst: int, op: int, *, timeout: float = TIMEOUT_S, patience: float = math.inf,
             comes_back: Callable[[], bool] = lambda: False, check: bool = True, **fields: Any) -> Reply:
        """Sends one request and waits for the answer.

        Fields are those of request.Call: volume, offset, size, flags, arg, object, data, room.
        Raises the answer's error unless `check` is false. TimedOut: no answer in `timeout` seconds, or
        no process served `dst` for `patience` seconds, after which comes_back() says whether to wait as long again.
        """
        call = Call(op, **fields)
        end = time.monotonic() + timeout
        request = self._obtain(call.buffer_size(), end)
        call.put(self.c, request.c)
        self.send(dst, [request])
        if not self._await(request, end, patience, comes_back):
            self._abandoned.add(request.c.index)
            raise TimedOut(f"{self.segment.role_of(dst)} did not answer {OPS.get(op, op)} within {timeout:g} s")
        reply = take_reply(self.c, request.c, call.room)
        self.put(request)
        return reply.check() if check else reply
