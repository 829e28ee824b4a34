# SPDX-License-Identifier: Apache-2.0
"""What operators ask of the supervisor: verbs over run/supervisor.sock, one operator at a time.

A connection carries one JSON object a line, {"verb": ..., "processes": [...]}, and its answer: {"said": [lines for
people]} or {"errno", "error"}; Instance.ask_supervisor() is the other side. What is no such line
(tools/instance/messages.py), or does not come in time, or from anybody but the supervisor's own user and root, is
answered by an error, and nothing is done.

    start     starts those of the processes that do not run; returns when they are ready
    stop      stops them, and does not start them again
    restart   both
    renew     the supervisor becomes its successor; the connection ends when it does so
    quit      the supervisor ends, processes go on; the connection ends with it
    end       ends the instance (tools/instance/ending.py), "force": true though writes are lost; then as quit
"""
from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from tools.instance.messages import Order, parse_order
from tools.supervisor.processes import Processes
from xseg import ours
from xseg.errors import Busy, Invalid, NotOurs
from xseg.peer import tell_failure

LINE_MAX = 65536                # bytes of an operator's request
LINE_S = 10.0                   # that it may take to come, or its answer to be taken
OPERATORS_MAX = 64              # connected at once
log = logging.getLogger("supervisor")


class Operators:
    """The socket and its verbs."""

    def __init__(self, processes: Processes, hand_over: Callable[[], Awaitable[None]],
                 end: Callable[[bool], Awaitable[list[str]]], ended: asyncio.Event, note: Callable[[], None]) -> None:
        self.processes = processes
        self.hand_over = hand_over                      # does not return
        self.end = end                                  # of the instance
        self.ended = ended
        self.note = note
        self.operating = asyncio.Lock()                 # by who starts or stops processes
        self.connected = 0                              # operators

    async def listen(self, folder: str) -> None:
        """Begins to serve at supervisor.sock in a folder. The path may be longer than sockets allow, so it goes by
        way of a descriptor."""
        path = os.path.join(folder, "supervisor.sock")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        made = socket.socket(socket.AF_UNIX)
        made.bind(f"/proc/self/fd/{descriptor}/supervisor.sock")
        os.close(descriptor)
        os.chmod(path, ours.FILE_MODE)
        self.server = await asyncio.start_unix_server(self._operator, sock=made, limit=LINE_MAX)

    def close(self) -> None:
        self.server.close()

    async def _operator(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection: a line, its answer."""
        order, self.connected = None, self.connected + 1
        try:
            with contextlib.suppress(ConnectionError, TimeoutError):
                order = await self._serve_line(reader, writer)
        finally:
            self.connected -= 1
        if order and order.verb in ("quit", "end"):
            self.ended.set()                # the connection ends with this process
        else:
            writer.close()

    async def _serve_line(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Order | None:
        """What was asked, and is answered by now."""
        try:
            if self.connected > OPERATORS_MAX:
                raise Busy(f"{OPERATORS_MAX} operators are connected already: try again")
            self._must_be_us(ours.peer_of(writer.get_extra_info("socket"))[1])
            order = await self._order(reader)
        except OSError as failure:
            await self._say(writer, {"errno": failure.errno, "error": str(failure)})
            return None
        if order is None:
            return None
        async with self.operating:
            await asyncio.sleep(0)          # so that the end of the connection is seen, if it has come
            if reader.at_eof():             # nobody waits for it any more, so it must not be done
                return None
            answer = await self._serve(order)
            await self._say(writer, answer)
            if order.verb == "renew" and "error" not in answer:
                await self.hand_over()
        return order if "error" not in answer else None

    def _must_be_us(self, uid: int) -> None:
        """NotOurs: it is neither this user nor root who asks."""
        if not ours.is_us(uid):
            raise NotOurs(f"the supervisor takes orders from {ours.who(os.geteuid())} and root, not from "
                          f"{ours.who(uid)}")

    async def _order(self, reader: asyncio.StreamReader) -> Order | None:
        """What an operator asks; None: nothing. Invalid."""
        try:
            async with asyncio.timeout(LINE_S):
                line = await reader.readline()
        except TimeoutError:
            raise Invalid(f"no whole line within {LINE_S:g} s") from None
        except ValueError:
            raise Invalid(f"a request has {LINE_MAX} bytes at most") from None
        return parse_order(line) if line else None

    async def _say(self, writer: asyncio.StreamWriter, answer: dict[str, Any]) -> None:
        writer.write(json.dumps(answer).encode() + b"\n")
        async with asyncio.timeout(LINE_S):
            await writer.drain()

    def _known(self, verb: str, processes: list[str]) -> list[str]:
        """These processes, if the configuration has all of them; some that it had may be stopped. Invalid."""
        instance = self.processes.instance
        gone = {*self.processes.watched, *instance.known()} if verb == "stop" else set()
        known = {*instance.config.processes, *gone}
        for process in processes:
            if process not in known:
                raise Invalid(f"there is no process {process}; there are: {', '.join(sorted(known))}")
        return processes

    async def _serve(self, order: Order) -> dict[str, Any]:
        verb, processes = order.verb, order.processes
        try:
            if verb in ("quit", "renew"):
                return {"said": []}
            if verb == "end":
                return {"said": await self.end(order.force)}
            if verb == "stop":
                said = await self.processes.stop(self._known(verb, processes))
            else:
                self.processes.renew()
                todo = self._known(verb, processes)
                said = await (self.processes.restart if verb == "restart" else self.processes.start)(todo)
        except OSError as failure:
            return {"errno": failure.errno or errno.EIO, "error": str(failure)}
        except Exception as failure:
            tell_failure(log, verb, failure)
            return {"errno": errno.EIO, "error": f"the supervisor failed: {type(failure).__name__} {failure}; its log "
                                                 "says where"}
        finally:
            self.processes.forget_stopped()
            self.note()
        return {"said": said}
