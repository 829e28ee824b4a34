# SPDX-License-Identifier: Apache-2.0
"""What the supervisor does for clients that died. They have ports, too, and nobody starts them again: the sweep binds
the port in the dead one's place, lets what it had under way come home, gives its buffers back, and frees the port.
What volumes it had open is the mapper's to close (peers/mapper/).
"""
from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from tools.supervisor.processes import refuse
from xseg._native import lib
from xseg.aio import AsyncPort, Hub
from xseg.errors import Busy
from xseg.segment import Segment, text

SWEEP_S = 0.5
FINISH_POLL_S = 0.02
log = logging.getLogger("supervisor")


class Clients:
    """Sweeps from begin() on. `note` is called for each one that has died."""

    def __init__(self, segment: Segment, hub: Hub, note: Callable[[], None]) -> None:
        self.segment = segment
        self.hub = hub
        self.note = note
        self.finishing: dict[int, AsyncPort] = {}       # by their ports' numbers
        self.swept = 0
        self.loop = asyncio.get_running_loop()

    def begin(self) -> None:
        self.next = self.loop.call_later(SWEEP_S, self._sweep)

    def close(self) -> None:
        """Sweeps no more."""
        self.next.cancel()

    async def finish(self, seconds: float) -> None:
        """Begins with no other, and finishes for those in hand within so many seconds. What is under way even then is
        left to the port's next owner."""
        self.next.cancel()
        end = self.loop.time() + seconds
        while self.finishing and self.loop.time() < end:
            await asyncio.sleep(FINISH_POLL_S)
            self._let_finished_go()
        for port in self.finishing.values():
            port.close()

    def _sweep(self) -> None:
        """Looks for clients that have died, and finishes for them."""
        self.next = self.loop.call_later(SWEEP_S, self._sweep)
        for number in range(lib.XSEG_STATIC_PORTS, self.segment.c.port_count):
            port = self.segment.c.ports[number]
            if number not in self.finishing and port.tag and not self.segment.alive(number):
                self._take_over(number, text(port.role), port.pid)
        self._let_finished_go()

    def _let_finished_go(self) -> None:
        for number, mine in list(self.finishing.items()):
            if not mine.c.recovering and not mine.c.orphans and not mine.c.asides:
                mine.close()
                del self.finishing[number]

    def _take_over(self, number: int, role: str, pid: int) -> None:
        with contextlib.suppress(Busy):     # a new client was first: it recovers the port itself
            port = self.finishing[number] = AsyncPort(self.hub, number, role)
            port.serve(refuse)
            self.swept += 1
            log.info("client %s:%d (pid %d) died; what it had under way: %d requests", role, number, pid,
                     port.c.orphans + port.c.asides)
            self.note()
