# SPDX-License-Identifier: Apache-2.0
"""The supervisor's timer for schedules of snapshots (tools/schedules.py).

The first round comes `schedule_s` seconds after the start, and then one whenever the wall clock is in another hour than
at the last one, forwards or backwards; no period is shorter. One in which something failed is repeated after
`schedule_s`. An instance without a mapper has none.
"""
from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

from tools.schedules import Keeper
from xseg._native import lib
from xseg.aio import AsyncPort, Hub
from xseg.client import control_answer, packed
from xseg.errors import NotFound, NotRunning
from xseg.segment import Segment

LOOK_S = 5.0                    # between two looks at the clock, at most
ANSWER_S = 600.0                # that the mapper may take for one thing
HOUR_S = 3600
log = logging.getLogger("supervisor")


class Schedules:
    """Rounds from begin() on. `clock` tells seconds since 1970."""

    def __init__(self, segment: Segment, hub: Hub, retry_s: float, clock: Callable[[], float] = time.time) -> None:
        self.segment, self.hub, self.retry_s, self.clock = segment, hub, retry_s, clock
        self.keeper = Keeper(self.ask, clock, log.warning)
        self.port: AsyncPort | None = None
        self.task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        with contextlib.suppress(NotFound):
            self.segment.port_of("mapper")
            self.task = self.task or asyncio.get_running_loop().create_task(self.run())

    def close(self) -> None:
        """Rounds no more; what the mapper is asked for now it does all the same."""
        if self.task is not None:
            self.task.cancel()
            self.task = None
        if self.port is not None:
            self.port.close()
            self.port = None

    async def run(self) -> None:
        """Until it is cancelled."""
        await asyncio.sleep(self.retry_s)
        while True:
            hour = self.hour()
            failed = not await self.round()
            waited = 0.0
            while self.hour() == hour and not (failed and waited >= self.retry_s):
                await asyncio.sleep(min(LOOK_S, self.retry_s))
                waited += min(LOOK_S, self.retry_s)

    def hour(self) -> int:
        """That it is now."""
        return int(self.clock() // HOUR_S)

    async def round(self) -> bool:
        """One, with a port of its own, as a client. False: it is to be repeated."""
        try:
            self.port = AsyncPort(self.hub, role="schedule")
            return await self.keeper.round()
        except OSError as failure:
            log.warning("schedules of snapshots: %s", failure)
            return False
        finally:
            if self.port is not None:
                self.port.close()
                self.port = None

    async def ask(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """What the mapper answers."""
        if self.port is None:
            raise NotRunning("the supervisor is ending")
        reply = await self.port.call(self.segment.port_of("mapper"), lib.XOP_CONTROL, timeout=ANSWER_S, check=False,
                                     data=packed({"verb": verb, **arguments}), room=lib.XSEG_IO_MAX)
        return control_answer(verb, reply)
