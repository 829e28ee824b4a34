# SPDX-License-Identifier: Apache-2.0
"""Something fails inside the mapper, at a call that the dice choose: no memory for a new journal, a request to the map
store that fails, or that seems to and has taken effect. What was acknowledged stays, and what failed can be done again.

ARCHIPELAGO_CUT_SEED=N begins elsewhere; a failure names its seed.
"""
import errno
import functools
import os
import random
from contextlib import contextmanager

import pytest
from cut_disk import Disk
from cut_node import Node, TurnLoop

from peers.mapper import store, volume
from xseg._native import lib
from xseg.errors import XsegError, error

FIRST_SEED = int(os.environ.get("ARCHIPELAGO_CUT_SEED", "1"))
HISTORIES = 30
LIVES = 4
STEPS = 40
BLOCK = 65536
BLOCKS = 24
CALLS_MAX = 25                      # until the chosen one
JOURNAL_LIMITS = (4096, 8192, 1 << 20)


class Faults:
    """One call in some fails: before it does anything, or after it has done all."""

    def __init__(self, dice):
        self.dice, self.left, self.met = dice, 0, 0

    def soon(self):
        self.left = self.dice.randrange(1, CALLS_MAX)

    def due(self):
        self.left -= 1
        self.met += self.left == 0
        return self.left == 0

    def failure(self):
        return self.dice.choice((MemoryError(), error(errno.ENOSPC), error(errno.EIO)))

    def around_call(self, work):
        @functools.wraps(work)
        def wrapped(*args, **more):
            if self.due():
                raise MemoryError
            return work(*args, **more)
        return wrapped

    def around_request(self, work):
        @functools.wraps(work)
        async def wrapped(*args, **more):
            due = self.due()
            if due and self.dice.random() < 0.5:
                raise self.failure()
            answer = await work(*args, **more)
            if due:
                raise self.failure()
            return answer
        return wrapped

    @contextmanager
    def injected(self):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(volume, "fresh", self.around_call(volume.fresh))
            for name in ("write", "replace", "create", "sync", "delete"):
                patch.setattr(store.MapStore, name, self.around_request(getattr(store.MapStore, name)))
            yield


class History:
    """A volume, its snapshots, and what each may hold: block -> numbers."""

    def __init__(self, seed):
        self.dice = random.Random(seed)
        self.data, self.maps = Disk(self.dice), Disk(self.dice)
        self.now = {block: {0} for block in range(BLOCKS)}
        self.snapshots, self.number = {}, 0
        self.faults = Faults(self.dice)

    def run(self):
        for life in range(LIVES):
            loop = TurnLoop()
            loop.set_exception_handler(lambda _loop, _context: None)
            try:
                loop.run_until_complete(self.life(life))
            finally:
                loop.close()
        return self.faults.met

    async def life(self, life):
        self.node = Node(self.data, self.maps, self.dice, self.dice.choice(JOURNAL_LIMITS))
        await self.node.live(self.work(life))
        if self.dice.random() < 0.5:
            self.data.cut()
            self.maps.cut()

    async def work(self, life):
        await self.node.start()
        if life == 0:
            await self.node.control("create", name="v", size=BLOCKS * BLOCK, block_size=BLOCK)
        await self.look()
        self.handle = await self.node.open("v")
        with self.faults.injected():
            for _ in range(STEPS):
                if self.faults.left <= 0:
                    self.faults.soon()
                await self.step()
        self.faults.left = 0
        while not await self.tried(self.node.call(lib.XOP_FLUSH, volume=self.handle)):
            pass
        self.now = {block: {max(numbers)} for block, numbers in self.now.items()}
        await self.node.close_volume(self.handle)
        await self.look()

    async def tried(self, work):
        """True if it succeeded."""
        try:
            await work
        except XsegError:
            return False
        return True

    async def step(self):
        kind = self.dice.random()
        if kind < 0.6:
            await self.write()
        elif kind < 0.8:
            before = dict(self.now)
            if await self.tried(self.node.call(lib.XOP_FLUSH, volume=self.handle)):
                self.now |= {block: {max(numbers)} for block, numbers in before.items()}
        elif kind < 0.95:
            await self.snapshot()
        else:
            await self.tried(self.node.close_volume(self.handle))   # a close that fails counts, too
            self.handle = 0
            while not self.handle:
                self.handle = await self.opened()

    async def opened(self):
        try:
            return await self.node.open("v")
        except XsegError:
            return 0

    async def write(self):
        self.number += 1
        block = self.dice.randrange(BLOCKS)
        self.now[block] = self.now[block] | {self.number}
        data = self.number.to_bytes(8, "little") * 64
        await self.node.call(lib.XOP_WRITE, volume=self.handle, offset=block * BLOCK, size=512, data=data)

    async def snapshot(self):
        name = f"s{self.number}-{len(self.snapshots)}"
        if await self.tried(self.node.control("snapshot", name="v", snapshot=name)):
            self.snapshots[name] = {block: {max(numbers)} for block, numbers in self.now.items()}

    async def look(self):
        """Each volume holds what it may, and its map is good."""
        names = await self.node.names()
        assert set(self.snapshots) <= names
        for name, may in [("v", self.now), *self.snapshots.items()]:
            handle = await self.node.open(name)
            for block, numbers in may.items():
                reply = await self.node.call(lib.XOP_READ, volume=handle, offset=block * BLOCK, size=512, room=512)
                found = int.from_bytes(reply.data[:8], "little")
                assert found in numbers and reply.data == found.to_bytes(8, "little") * 64, f"{name}: block {block}"
                may[block] = {found}
            await self.node.close_volume(handle)
            assert (await self.node.control("check", name=name))["problems"] == []


def test_what_fails_inside_the_mapper_loses_nothing_that_was_acknowledged():
    met = 0
    for seed in range(FIRST_SEED, FIRST_SEED + HISTORIES):
        try:
            met += History(seed).run()
        except BaseException:
            print(f"ARCHIPELAGO_CUT_SEED={seed}")
            raise
    assert met > 2 * HISTORIES
    print(f"{met} failures")
