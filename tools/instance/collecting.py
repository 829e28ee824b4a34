# SPDX-License-Identifier: Apache-2.0
"""Runs a cycle of the collector (peers/mapper/collector/) over the stores of an instance, and reads what is told of
the last one. `archipelago collect` is this as a command; the supervisor starts that when a cycle is due.

One of an instance is at work at a time, by a lock on run/collector.lock, which dies with it; one of all instances
that share the stores, by the lock of "volume" 1 on the map store. That one dies with the instance's blocker: so after a
kill of this process another instance waits until this one's next cycle has ended, or the instance.
"""
from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import random
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgpack

from peers.mapper.collector import COLLECTOR, Cycle, last_state, put_state
from peers.mapper.collector.budget import Budget
from peers.mapper.header import Header, id_text, now_ms
from peers.mapper.making import state_of
from peers.mapper.store import MapStore
from tools.instance.config import Config
from xseg import look, ours
from xseg._native import lib
from xseg.aio import AsyncPort, Hub
from xseg.client import control_answer
from xseg.errors import Busy, Stale
from xseg.segment import Segment
from xseg.volume_name import by_id

CACHE_BYTES = 8 << 20               # of pages and journals
CONTROL_ROOM = 65536
ENDPOINTS = ("nbd", "vhost-user-blk")       # types whose requests are guests'
LOCK_FILE = os.path.join("run", "collector.lock")
LAST_FILE = os.path.join("run", "collector.json")       # the account of this instance's last cycle


@contextmanager
def alone(home: str) -> Iterator[None]:
    """No other process of this instance collects meanwhile. EBUSY."""
    with ours.appending(os.path.join(home, LOCK_FILE)) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy("the collector of this instance is at work already") from None
        yield


class Guests:
    """Whether guests have I/O: whether their endpoints have served anything since it was last asked."""

    def __init__(self, segment: Segment) -> None:
        self.segment, self.served = segment, -1

    def __call__(self) -> bool:
        before, self.served = self.served, 0
        for role in [role for kind in ENDPOINTS for role in look.roles_of_type(self.segment, kind)]:
            port = self.segment.c.ports[self.segment.port_of(role)]
            self.served += port.sent
        return before not in (-1, self.served)


class Collecting:
    """Work on the stores of an instance, within `budget`."""

    def __init__(self, segment: Segment, home: str, budget: Budget) -> None:
        self.segment, self.home = segment, home
        self.token = segment.c.header.created_ns | 1
        self.port = AsyncPort(Hub(segment), role="collector")
        self.store = MapStore(budget.limited(self.sender("blockerm")), budget.limited(self.sender("blockerb")),
                              CACHE_BYTES)
        self.number = 0

    def sender(self, role: str) -> Callable[..., Awaitable[Any]]:
        """Sends to a role."""
        number = self.segment.port_of(role)
        return lambda op, **fields: self.port.call(number, op, **fields)

    def maker(self, mark: str) -> str:
        """Whether what has this mark is still being made."""
        return state_of(mark, self.segment, self.token, self.home)

    async def take_lock(self) -> None:
        """EBUSY: another instance collects here."""
        self.number, other = await self.store.acquire(
            COLLECTOR, self.token, f"host {socket.gethostname()}, pid {os.getpid()}, home {self.home}")
        if not self.number:
            raise Busy(f"the collector of another instance is at work on this store: {other}")

    async def still_ours(self) -> None:
        """ESTALE: another instance has had the lock since, as a blocker of this one died."""
        before = self.number
        await self.take_lock()
        if before != self.number:
            raise Stale("another instance has collected on this store meanwhile")

    async def remove(self, header: Header) -> None:
        """Has the mapper remove a volume that is half-made."""
        request = msgpack.packb({"verb": "remove", "name": by_id(id_text(header.id)), "force": True,
                                 "token": random.getrandbits(63) | 1})
        reply = await self.port.call(self.segment.port_of("mapper"), lib.XOP_CONTROL, data=request, room=CONTROL_ROOM,
                                     check=False)
        control_answer("remove", reply)

    async def cycle(self, config: Config, dry_run: bool, stage: Callable[[str], None]) -> dict[str, Any]:
        """A whole one; its account. What went wrong is noted on the store, too."""
        await self.take_lock()
        try:
            options = config.collector
            made = Cycle(self.store, grace_s=options["grace_s"], claim_s=options["claim_s"],
                         memory=options["memory"], dry_run=dry_run, maker=self.maker, remove=self.remove,
                         still_ours=self.still_ours, stage=stage)
            account = await made.run()
            if not dry_run:
                await put_state(self.store, account)
            return account
        except OSError as failure:
            if not dry_run and failure.errno != errno.ESTALE:
                await put_state(self.store, {"refused": str(failure), "ended": now_ms()})
            raise
        finally:
            await self.store.release(COLLECTOR, self.token)


def collect(home: str, config: Config, now: bool = False, dry_run: bool = False,
            stage: Callable[[str], None] = lambda what: None) -> dict[str, Any]:
    """One cycle. `now`: as fast as it can. EBUSY: another is at it."""
    async def work(segment: Segment) -> dict[str, Any]:
        options = config.collector
        budget = Budget() if now else Budget(options["ops_per_s"], options["bytes_per_s"], Guests(segment))
        collecting = Collecting(segment, home, budget)
        try:
            return await collecting.cycle(config, dry_run, stage)
        finally:
            collecting.port.hub.close()

    with Segment.of_home(home) as segment, alone(home):
        try:
            account = asyncio.run(work(segment))
        except OSError as failure:
            ours.replace(os.path.join(home, LAST_FILE), json.dumps({"ended": now_ms(), "refused": str(failure)}))
            raise
        if not dry_run:
            ours.replace(os.path.join(home, LAST_FILE), json.dumps(account))
        return account


def is_due(home: str, config: Config) -> bool:
    """True if the last cycle on the stores, by whatever instance, was long enough ago."""
    ago_ms: int = now_ms() - last(home).get("ended", 0)
    return ago_ms < 0 or ago_ms >= config.collector["every_s"] * 1000


def last(home: str) -> dict[str, Any]:
    """The account of the last cycle on the instance's stores, by whatever instance; empty: there was none."""
    async def work(segment: Segment) -> dict[str, Any]:
        collecting = Collecting(segment, home, Budget())
        try:
            return await last_state(collecting.store)
        finally:
            collecting.port.hub.close()

    with Segment.of_home(home) as segment:
        return asyncio.run(work(segment))
