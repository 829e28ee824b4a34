# SPDX-License-Identifier: Apache-2.0
"""What operators ask of the supervisor: verbs over run/supervisor.sock, one operator at a time.

A connection carries one JSON object a line, {"verb": ..., "processes": [...]}, and its answer: {"said": [lines for
people]} or {"errno", "error"}; Instance.ask_supervisor() is the other side.

    start     starts those of the processes that do not run; returns when they are ready
    stop      stops them, and does not start them again
    restart   both
    renew     the supervisor becomes its successor; the connection ends when it does so
    quit      the supervisor ends, processes go on; the connection ends with it
"""
from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import socket
from collections.abc import Callable
from typing import Any

from tools.supervisor_processes import Processes
from tools.supervisor_sockets import SOCKET_MODE

LINE_MAX = 65536                # bytes of an operator's request


class Operators:
    """The socket and its verbs."""

    def __init__(self, processes: Processes, must_be_calm: Callable[[], None], hand_over: Callable[[], None],
                 ended: asyncio.Event, note: Callable[[], None]) -> None:
        self.processes = processes
        self.must_be_calm = must_be_calm                # raises an OSError where hand_over() would lose something
        self.hand_over = hand_over                      # does not return
        self.ended = ended
        self.note = note
        self.operating = asyncio.Lock()                 # by who starts or stops processes

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
        os.chmod(path, SOCKET_MODE)
        self.server = await asyncio.start_unix_server(self._operator, sock=made, limit=LINE_MAX)

    def close(self) -> None:
        self.server.close()

    async def _operator(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection: a line, its answer."""
        verb = ""
        with contextlib.suppress(ConnectionError):
            if line := await reader.readline():
                asked = json.loads(line)
                verb = asked["verb"]
                async with self.operating:
                    answer = await self._serve(verb, asked["processes"])
                    writer.write(json.dumps(answer).encode() + b"\n")
                    await writer.drain()
                    if verb == "renew" and "error" not in answer:
                        self.hand_over()
        if verb == "quit":
            self.ended.set()                # the connection ends with this process
        else:
            writer.close()

    async def _serve(self, verb: str, processes: list[str]) -> dict[str, Any]:
        try:
            if verb == "quit":
                return {"said": []}
            if verb == "renew":
                self.must_be_calm()
                return {"said": []}
            if verb == "stop":
                said = await self.processes.stop(processes)
            else:
                self.processes.renew()
                said = await (self.processes.restart if verb == "restart" else self.processes.start)(processes)
        except OSError as failure:
            return {"errno": failure.errno or errno.EIO, "error": str(failure)}
        finally:
            self.processes.forget_stopped()
            self.note()
        return {"said": said}
