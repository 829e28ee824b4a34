# SPDX-License-Identifier: Apache-2.0
"""Ports in an asyncio loop: `await port.call(...)`, and coroutines that serve requests.

One Hub per event loop owns the doorbell of all its ports, as segment/xseg.h wants it of a thread that
serves several. The order of things is the one segment/xseg.h describes: a turn takes the "I sleep" word
back, takes in what came at each port, says "I sleep" again, and looks once more; if something
came in between, another turn follows at once, else the bell's FIFO becomes readable when
somebody rings. A tick each TICK_S covers a sender that died between clearing the word and
ringing. What is sent or answered during a turn of the event loop is rung for once, at its end.

All of it belongs to the event loop's thread.
"""
from __future__ import annotations

import asyncio
import errno
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from xseg._native import ffi, lib
from xseg.errors import NoBuffers, NoSlots, Stale, TimedOut
from xseg.limits import check_client
from xseg.request import Call, Reply, Request, take_reply
from xseg.segment import ANY, OPS, Segment

TICK_S = lib.XBELL_SLEEP_MS / 1000
BATCH = 256                     # requests taken in at one go
RECOVER_S = 0.002               # between two looks at what an earlier life has sent
WAITERS_MAX = 65536             # calls that wait for a slot or buffer of one port

Handler = Callable[[Request], Coroutine[Any, Any, None]]


class Hub:
    """The doorbell of an event loop, and the ports it wakes for."""

    def __init__(self, segment: Segment) -> None:
        """NoSlots: no doorbell is free."""
        self.segment = segment
        self.loop = asyncio.get_running_loop()
        bell = ffi.new("struct bell **")
        check_client(lib.bell_open(segment.c, ANY, bell), "no doorbell", segment)
        self.c = bell[0]
        self.ports: list[AsyncPort] = []
        self._turn_due = False
        self._flush_due = False
        self.closed = False             # a turn that was due may still come
        self.loop.add_reader(self.c.fd, self._turn)
        self._tick_handle = self.loop.call_later(TICK_S, self._tick)

    def close(self) -> None:
        """Closes its ports and gives the bell back."""
        self.closed = True
        for port in list(self.ports):
            port.close()
        self._tick_handle.cancel()
        self.loop.remove_reader(self.c.fd)
        lib.bell_close(self.c)

    def turn_soon(self) -> None:
        """Has the ports looked at in this turn of the event loop or the next."""
        if not self._turn_due:
            self._turn_due = True
            self.loop.call_soon(self._turn)

    def flush_soon(self) -> None:
        """Has those rung, at the end of this turn, who were sent to or answered."""
        if not self._flush_due:
            self._flush_due = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        for port in self.ports:
            lib.port_ring(port.c)
        if any(lib.port_pending(port.c) for port in self.ports):
            self.turn_soon()            # ports of one hub do not ring each other

    def _turn(self) -> None:
        self._turn_due = False
        if self.closed:
            return
        lib.bell_disarm(self.c)
        more = False
        for port in self.ports:
            more |= port._take_in()
        self._flush()
        lib.bell_arm(self.c)
        if more or any(lib.port_pending(port.c) for port in self.ports):
            self.turn_soon()

    def _tick(self) -> None:
        self._tick_handle = self.loop.call_later(TICK_S, self._tick)
        for port in self.ports:
            port._wake_waiters()
        self._turn()


class AsyncPort:
    """A port whose requests and replies are handled by the event loop."""

    def __init__(self, hub: Hub, number: int = ANY, role: str = "client") -> None:
        """Binds port `number`, or a free dynamic one. Busy: a live process serves it."""
        self.hub = hub
        self.segment = hub.segment
        port = ffi.new("struct port **")
        check_client(lib.port_bind(hub.segment.c, number, role.encode(), hub.c, port), f"port of {role}", hub.segment)
        self.c = port[0]
        self.number: int = self.c.number
        self.handler: Handler | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self._calls: dict[int, asyncio.Future[None]] = {}     # by slot; a cancelled one was abandoned
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._batch = ffi.new("uint32_t[]", BATCH)
        self._paused = False
        self._kept: list[Any] = []                      # requests that came while paused, or before serve()
        hub.ports.append(self)
        hub.turn_soon()

    def close(self) -> None:
        """Gives the port back. Calls still under way raise Stale; requests stay in the inbox."""
        if self.c == ffi.NULL:
            return
        self.hub.ports.remove(self)
        for future in [*self._calls.values(), *self._waiters]:
            if not future.done():
                future.set_exception(Stale("the port was closed"))
        for c in self._kept:
            lib.port_requeue(self.c, c)
        lib.port_ring(self.c)
        lib.port_close(self.c)
        self.c = ffi.NULL

    def ready(self, value: bool = True) -> None:
        """Says in the segment that the peer's start has finished."""
        lib.export_ready(self.c, value)

    # --- incoming

    def serve(self, handler: Handler) -> None:
        """Has `handler` called, as a task, for each request that comes. It must answer it once."""
        self.handler = handler
        kept, self._kept = self._kept, []
        for c in kept:
            lib.xreq_again(self.c, c)   # the notes of an earlier life were put in order meanwhile
            self._request_came(c)
        self.hub.turn_soon()

    async def recovered(self) -> None:
        """Returns when everything that an earlier life of this port had sent has come back: only then is what
        lies on a store the last word of that life."""
        while not lib.export_recovered(self.c):
            await asyncio.sleep(RECOVER_S)

    def pause(self) -> None:
        """Hands no more requests to the handler; they wait for the port's next owner."""
        self._paused = True

    async def drained(self) -> None:
        """Returns when every request taken in has been answered."""
        while self.tasks:
            await asyncio.wait(self.tasks)

    def _take_in(self) -> bool:
        """Hands out one batch. True: there may be more."""
        count = lib.export_receive(self.c, self._batch, BATCH)
        base = self.c.reqs
        for i in range(count):
            number = self._batch[i]
            slot = (number & ~lib.EXPORT_REPLY) - 1
            if number & lib.EXPORT_REPLY:
                self._reply_came(slot, base + slot)
            else:
                self._request_came(base + slot)
        return bool(count == BATCH)

    def _request_came(self, c: Any) -> None:
        if self._paused or (self.handler is None and self.number < lib.XSEG_STATIC_PORTS):
            self._kept.append(c)        # a role's: it will be served, by this owner or the next
            return
        request = Request(self.c, c)
        if self.handler is None:
            request.reply(errno.EOPNOTSUPP)
            return
        task = self.hub.loop.create_task(self.handler(request))
        self.tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        self.hub.flush_soon()

    def _reply_came(self, slot: int, c: Any) -> None:
        future = self._calls.pop(slot, None)
        if future is None or future.done():
            self._put(c)
        else:
            future.set_result(None)

    # --- outgoing

    def _put(self, c: Any) -> None:
        lib.xreq_put(self.c, c)
        self._wake_waiters()

    def _wake_waiters(self) -> None:
        while self._waiters:
            future = self._waiters.popleft()
            if not future.done():
                future.set_result(None)
                return

    def _try_get(self, room: int) -> Any:
        """A fresh request with its buffer; NULL: none now."""
        c = lib.xreq_get(self.c)
        if c != ffi.NULL and room and lib.xbuf_get(self.c, c, room) < 0:
            lib.xreq_put(self.c, c)
            return ffi.NULL
        return c

    async def _get(self, room: int) -> Any:
        """A fresh request with its buffer, after a wait if all are under way."""
        first = not self._waiters
        while True:
            c = self._try_get(room) if first else ffi.NULL
            if c != ffi.NULL:
                return c
            if len(self._waiters) >= WAITERS_MAX:
                raise (NoBuffers if room else NoSlots)(f"{WAITERS_MAX} calls wait for port {self.number} already")
            future = self.hub.loop.create_future()
            self._waiters.append(future)
            await future
            first = True

    async def call(self, dst: int, op: int, *, timeout: float | None = None, check: bool = True,
                   parent: Request | None = None, **fields: Any) -> Reply:
        """Sends one request and waits for the answer, without limit if `timeout` (seconds) is None.

        Fields are those of request.Call. `parent` is the request this one helps to serve. Raises
        the answer's error unless `check` is false; TimedOut when there is none in time. A call
        that timed out or was cancelled gives its slot and buffer back when the answer comes.
        """
        call = Call(op, **fields)
        try:
            async with asyncio.timeout(timeout):
                c = await self._get(call.buffer_size())
                await self._answer(c, self._send(c, call, dst, parent))
        except TimeoutError:
            raise TimedOut(f"{self.segment.role_of(dst)} did not answer {OPS.get(op, op)} "
                           f"within {timeout:g} s") from None
        reply = take_reply(self.c, c, call.room)
        self._put(c)
        return reply.check() if check else reply

    def _send(self, c: Any, call: Call, dst: int, parent: Request | None) -> asyncio.Future[None]:
        try:
            call.put(self.c, c)
        except BaseException:
            self._put(c)
            raise
        if parent is not None:
            c.parent, c.flow = parent.c.index + 1, parent.c.flow
        future = self._calls[c.index] = self.hub.loop.create_future()
        lib.xreq_send(self.c, c, dst)
        self.hub.flush_soon()
        return future

    async def _answer(self, c: Any, future: asyncio.Future[None]) -> None:
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and self.c != ffi.NULL:
                self._put(c)            # the answer and the cancellation came together
            raise
