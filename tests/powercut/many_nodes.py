# SPDX-License-Identifier: Apache-2.0
"""Several nodes over one store, turn by turn in one thread, that are stopped and killed at any moment.

Each is a Node of cut_node.py with the real vlmc and mapper. A node that is *paused* gets no turns: nothing it has sent
is served and nothing it is to be told arrives, until it goes on as if nothing had been. A *gate* pauses the mapper
alone, before or after any request of its. A node that is killed is gone with all it had sent, and its locks are free.
The clock is that of the turns: TURNS_PER_MS of them make a millisecond, for ids and tombstones, too.
"""
from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Callable, Coroutine
from typing import Any

from cut_disk import Disk
from cut_node import Node, TurnLoop

from peers.mapper import header

TURNS_PER_MS = 10
BEGAN_MS = 1_600_000_000_000        # of the clock
UNWIND_TURNS = 400
OWNER: contextvars.ContextVar[Any] = contextvars.ContextVar("node", default=None)


class Clock:
    """In the place of the module `time` of those who ask for milliseconds since 1970."""

    def __init__(self, loop: TurnLoop) -> None:
        self.loop = loop

    def time_ns(self) -> int:
        return (BEGAN_MS + self.loop.turns // TURNS_PER_MS) * 1_000_000


class Ids:
    """Ids with the clock in them, from the dice."""

    def __init__(self, dice: random.Random) -> None:
        self.dice, self.last = dice, 0

    def next(self) -> int:
        self.last = max(self.last + 1, header.now_ms() << 22 | self.dice.getrandbits(20))
        return self.last


class SharedNode(Node):
    """One of several nodes. It belongs to the tasks that run in its context."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        cluster.made += 1
        self.known_as = cluster.made, f"/home-{cluster.made}"      # token and home in marks: the same in each run
        self.tasks: dict[asyncio.Task[Any], None] = {}     # in their order
        self.paused_until = 0               # turns
        self.context = contextvars.copy_context()
        self.context.run(OWNER.set, self)
        self.context.run(super().__init__, cluster.data, cluster.maps, cluster.dice, cluster.journal_limit)
        self.dead = False

    def make_task(self, loop: asyncio.AbstractEventLoop, work: Any, **more: Any) -> asyncio.Task[Any]:
        """Notes whose a task is."""
        task = asyncio.Task(work, loop=loop, **more)
        if (owner := (more.get("context") or contextvars.copy_context()).get(OWNER)) is not None:
            owner.tasks[task] = None
            task.add_done_callback(lambda task: owner.tasks.pop(task, None))
        return task

    def begin(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Has the node do something; it ends with the node."""
        return self.cluster.loop.create_task(work, context=self.context)

    async def boot(self) -> None:
        """Its mapper serves when this returns."""
        await self.begin(self.live_mapper())
        hand = self.mapper.hand
        hand.ids = self.cluster.ids
        hand.marks.token, hand.marks.home = self.known_as
        hand.store.blockerm = self.cluster.gated(hand.store.blockerm, self.cluster.pauses)
        hand.store.blockerb = self.cluster.gated(hand.store.blockerb, self.cluster.pauses)

    def step(self) -> None:
        """Its turn, unless it is paused."""
        if self.paused_until <= self.cluster.loop.turns:
            self.context.run(self.turn)
            self.cluster.loop.turns -= 1        # which turn() counts for itself

    async def kill(self) -> None:
        """Nothing that it has sent and that was not served comes to anything; who waits for it is told Killed."""
        self.dead = True
        self.cluster.nodes.remove(self)
        mine = asyncio.current_task()
        for _ in range(UNWIND_TURNS):
            left = [task for task in self.tasks if task is not mine]
            if not left:
                break
            for task in left:
                task.cancel()
            await asyncio.sleep(0)
        assert not left, f"these do not end: {left}"
        token = self.mapper.hand.token if hasattr(self.mapper, "hand") else 0
        for disk in (self.cluster.data, self.cluster.maps):
            disk.locks = {name: lock for name, lock in disk.locks.items() if lock[0] != token}
        self.close()


class Cluster:
    """Nodes over two disks."""

    def __init__(self, dice: random.Random, loop: TurnLoop, count: int, pauses: float, pause_most: int) -> None:
        """`pauses`: how likely it is, at each request of a mapper, that it stands still, for `pause_most` turns at
        most."""
        self.dice, self.loop, self.count = dice, loop, count
        self.pauses, self.pause_most = pauses, pause_most
        self.journal_limit = dice.choice((4096, 4096, 8192, 1 << 20))
        self.data, self.maps = Disk(dice), Disk(dice)
        self.ids = Ids(dice)
        self.nodes: list[SharedNode] = []
        self.made = 0                       # nodes, in all
        self.calm = False

    async def add(self) -> SharedNode:
        """Starts another node."""
        node = SharedNode(self)
        self.nodes.append(node)
        await node.boot()
        return node

    def gated(self, send: Callable[..., Any], pauses: float) -> Callable[..., Any]:
        """A sender that may stand still before a request, and after it."""
        async def asked(op: int, **fields: Any) -> Any:
            await self.gate(pauses)
            reply = await send(op, **fields)
            await self.gate(pauses)
            return reply

        return asked

    async def gate(self, pauses: float) -> None:
        """Stands still, perhaps."""
        if not self.calm and self.dice.random() < pauses:
            end = self.loop.turns + self.dice.randrange(1, self.pause_most)
            while self.loop.turns < end and not self.calm:
                await asyncio.sleep(0)

    def pause_one(self) -> None:
        """A whole node stands still."""
        if self.nodes:
            self.dice.choice(self.nodes).paused_until = self.loop.turns + self.dice.randrange(1, self.pause_most)

    def quiet(self) -> None:
        """Nobody stands still any more."""
        self.calm = True
        for node in self.nodes:
            node.paused_until = 0

    async def drive(self, work: Coroutine[Any, Any, None]) -> None:
        """Gives everybody turns until `work` ends, then ends all nodes. What it raises."""
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                for node in list(self.nodes):
                    node.step()
                self.loop.turns += 1
                await asyncio.sleep(0)
        finally:
            for node in list(self.nodes):
                await node.kill()
            left = [other for other in asyncio.all_tasks() if other is not asyncio.current_task()]
            for other in left:
                other.cancel()
            await asyncio.gather(*left, return_exceptions=True)
        task.result()

