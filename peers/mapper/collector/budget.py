# SPDX-License-Identifier: Apache-2.0
"""What the collector may ask of the stores: so many operations and bytes a second, and a part of it while guests work.

It goes by debts: what was asked for is paid by waiting before the next. `busy()` says whether guests have had I/O since
it was last asked.
"""
from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from xseg.request import Reply

LOOK_S = 0.1                        # between two looks at what guests do
YIELD = 4                           # of the budget one such part is left while they work
DEBT_S = 0.05                       # that may gather before it is waited for

Send = Callable[..., Awaitable[Reply]]


class Budget:
    """Of one cycle. 0: no limit."""

    def __init__(self, ops_per_s: int = 0, bytes_per_s: int = 0, busy: Callable[[], bool] = lambda: False) -> None:
        self.ops_per_s, self.bytes_per_s, self.busy = ops_per_s, bytes_per_s, busy
        self.paid_until = self.looked = 0.0
        self.part = 1
        self.waited_s = 0.0

    def limited(self, send: Send) -> Send:
        """A sender that keeps to the budget."""
        async def asked(op: int, **fields: Any) -> Reply:
            await self.spend(max(fields.get("size", 0), fields.get("room", 0)))
            return await send(op, **fields)

        return asked

    async def spend(self, size: int) -> None:
        """One operation of so many bytes."""
        if not self.ops_per_s and not self.bytes_per_s:
            return
        now = asyncio.get_running_loop().time()
        if now - self.looked >= LOOK_S:
            self.looked, self.part = now, YIELD if self.busy() else 1
        cost = max(1 / self.ops_per_s if self.ops_per_s else 0, size / self.bytes_per_s if self.bytes_per_s else 0)
        self.paid_until = max(now, self.paid_until) + cost * self.part
        if self.paid_until - now > DEBT_S:
            self.waited_s += self.paid_until - now
            await asyncio.sleep(self.paid_until - now)
