# SPDX-License-Identifier: Apache-2.0
"""A node in one thread, turn by turn: the real vlmc and mapper over disks, until its power fails.

Nothing here depends on time or on threads: the event loop's clock counts turns, vlmc's loop is turned by
hand, ids come from the dice. So a seed decides all that happens, and a failure comes back with it.
"""
from __future__ import annotations

import asyncio
import os
import random
import shutil
import tempfile
from collections.abc import Coroutine
from typing import Any

import msgpack
from cut_disk import Disk, DiskPeer

from peers.mapper import Mapper
from peers.mapper.scrub import Scrub
from peers.mapper.store import MapStore
from xseg._native import ffi, lib
from xseg.aio import AsyncPort, Hub
from xseg.contents import NOTHING, digest_of
from xseg.errors import check, error
from xseg.request import Object, Reply
from xseg.segment import Segment

TURN_S = 0.0001                     # of the event loop's clock
UNWIND_TURNS = 400                  # until all that was under way when the power failed must have ended
CONTROL_ROOM = 65536
NEVER = 1 << 60
CHECK_CACHE = 1 << 20
MARKS_BYTES = 1 << 16
VOLUMES = 64                        # places in the segment that are ever used
SEGMENT = {"static_slots": 200, "dynamic_slots": 128, "clients": 32, "volumes": 64,
           "buffers": [400, 96, 8], "frames": 16, "stacks": [96, 64, 64], "contents": 96}
ROLES = {"vlmc": "vlmc", "mapper": "mapper", "blockerb": "test", "blockerm": "test"}


class TurnLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock counts turns."""

    turns = 0

    def time(self) -> float:
        return self.turns * TURN_S


class SeededIds:
    """Ids that the dice give out."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice

    def next(self) -> int:
        """A fresh 64-bit id."""
        return self.dice.getrandbits(62) | 1


class Node:
    """One life of a node, until its power fails: see cut_in()."""

    def __init__(self, data: Disk, maps: Disk, dice: random.Random, journal_limit: int) -> None:
        self.dice = dice
        self.turns_left = self.requests_left = NEVER
        self.run_folder = tempfile.mkdtemp(prefix="ar-", dir="/tmp")
        name = f"/archipelago-cut-{os.getpid()}"
        self.segment = Segment.create(name, self.run_folder, **SEGMENT)
        Segment.unlink(name)
        for role, peer_type in ROLES.items():
            self.segment.declare(role, peer_type, "test")
        self.vlmc_port, self.mapper_port = self.segment.port_of("vlmc"), self.segment.port_of("mapper")
        self.hub = Hub(self.segment)
        self.disks = [DiskPeer(disk, self.hub, self.segment.port_of(role), role)
                      for disk, role in ((data, "blockerb"), (maps, "blockerm"))]
        self.native = self.make_vlmc()
        self.journal_limit = journal_limit
        self.mapper_tasks: set[asyncio.Task] = set()
        self.hub.loop.set_task_factory(self.make_task)
        self.mapper = self.make_mapper()
        self.client = AsyncPort(self.hub)
        self.stands = False                 # while the mapper dies, which takes no time
        self.kills: dict[int, str] = {}     # turn -> who dies then

    def make_vlmc(self) -> Any:
        """A loop with vlmc in it, for loop_turn()."""
        loop, peer = ffi.new("struct loop **"), ffi.new("struct peer **")
        targets = [ffi.new("char[]", target) for target in (b"blockerb", b"mapper", b"blockerm")]
        words = [ffi.new("char[]", word) for word in (b"layers", b"4")]     # so that stacks are merged often
        options = ffi.new("struct option[]", [{"name": words[0], "value": words[1]}])
        check(lib.loop_new(self.segment.c, 0, loop), "loop")
        check(lib.loop_add(loop[0], b"vlmc", b"vlmc", targets, 3, options, 1, peer), "vlmc")
        return loop[0]

    def make_mapper(self) -> Mapper:
        """A mapper that is to be started."""
        return Mapper(AsyncPort(self.hub, self.mapper_port, "mapper"), self.run_folder, "mapper",
                      {"cache": 1 << 20, "journal_limit": self.journal_limit})

    def make_task(self, loop: asyncio.AbstractEventLoop, work: Any, **more: Any) -> asyncio.Task:
        """Makes a task, and notes whether it is the mapper's: its coroutine is, or one of its tasks made it."""
        task = asyncio.Task(work, loop=loop, **more)
        try:
            parent = asyncio.current_task(loop)
        except RuntimeError:
            parent = None
        if parent in self.mapper_tasks or work.__qualname__.startswith("Mapper."):
            self.mapper_tasks.add(task)
            task.add_done_callback(self.mapper_tasks.discard)
        return task

    async def start(self) -> None:
        """Has the mapper start. It may be killed meanwhile; then another starts."""
        task = self.start_mapper()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()

    def start_mapper(self) -> asyncio.Task:
        """The mapper's start, as a task of its own; what it begins is the mapper's."""
        task = asyncio.ensure_future(self.live_mapper())
        self.mapper_tasks.add(task)
        task.add_done_callback(self.mapper_tasks.discard)
        return task

    async def live_mapper(self) -> None:
        """As tools/instance/host.py does it."""
        mapper = self.mapper
        await mapper.start()
        mapper.hand.ids = SeededIds(self.dice)
        mapper.port.serve(mapper.handle)

    # --- kill -9 of a part

    async def kill_mapper(self) -> None:
        """The mapper is gone between two turns, whatever it had in hand; another takes its place."""
        async def dead(*_words: Any, **_fields: Any) -> None:
            raise asyncio.CancelledError

        port, table = self.mapper.port, ffi.buffer(self.segment.c.volumes, VOLUMES * ffi.sizeof("struct xvolume"))
        port.call, before, self.stands = dead, bytes(table), True
        for _ in range(UNWIND_TURNS):
            if not self.mapper_tasks:
                break
            for task in list(self.mapper_tasks):
                task.cancel()
            await asyncio.sleep(0)
        assert not self.mapper_tasks, f"these do not end: {self.mapper_tasks}"
        self.stands = False
        table[:] = before               # what a cancelled coroutine does at its end, a killed one does not
        port.close()
        self.mapper = self.make_mapper()
        self.start_mapper()

    def kill_vlmc(self) -> None:
        """The same for vlmc."""
        lib.loop_free(self.native)
        self.native = self.make_vlmc()

    # --- turns

    def turn(self) -> None:
        """Everybody's turn."""
        if self.stands:
            return
        lib.loop_turn(self.native)
        for disk in self.disks:
            disk.turn()
        self.hub.turn_soon()
        self.hub.loop.turns += 1

    def cut_in(self, turns: int = NEVER, requests: int = NEVER) -> None:
        """Has the power fail after so many more turns, or requests at the map store."""
        self.turns_left, self.requests_left = turns, self.disks[1].served + requests

    def kill_in(self, turns: int, role: str) -> None:
        """Has the mapper or vlmc be killed after so many more turns."""
        self.kills[self.hub.loop.turns + turns] = role

    def is_cut(self) -> bool:
        """True once the power has failed."""
        self.turns_left -= 1
        return self.turns_left < 0 or self.disks[1].served > self.requests_left

    async def live(self, work: Coroutine[Any, Any, None]) -> bool:
        """Runs `work` until it ends (True) or the power fails (False). What it raises."""
        task = asyncio.ensure_future(work)
        while not task.done():
            if self.is_cut():
                await self.unwind()
                return False
            self.turn()
            victim = self.kills.pop(self.hub.loop.turns, "")
            if victim == "mapper":
                await self.kill_mapper()
            elif victim:
                self.kill_vlmc()
            await asyncio.sleep(0)
        await self.unwind()             # after a failure, too: no task is left to the garbage collector
        task.result()
        return True

    async def unwind(self) -> None:
        """Ends all coroutines without another request being served."""
        for _ in range(UNWIND_TURNS):
            left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            if not left:
                break
            for task in left:
                task.cancel()
            await asyncio.sleep(0)
        assert not left, f"these do not end: {left}"
        self.close()

    def close(self) -> None:
        """Gives everything back, answered or not."""
        self.hub.close()
        lib.loop_free(self.native)
        self.segment.close()
        shutil.rmtree(self.run_folder)

    # --- requests

    async def call(self, op: int, **fields: Any) -> Reply:
        """A request to vlmc. Its error is raised."""
        return await self.client.call(self.vlmc_port, op, **fields)

    async def put(self, data: bytes) -> bytes:
        """Stores a content; its digest."""
        digest = digest_of(data)
        if digest != NOTHING:
            await self.client.call(self.segment.port_of("blockerb"), lib.XOP_PUT, data=data,
                                   object=Object(lib.XOBJ_CONTENT, digest=digest))
        return digest

    async def control(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """An operation of the mapper. Its error is raised, with the mapper's sentence."""
        reply = await self.client.call(self.mapper_port, lib.XOP_CONTROL, room=CONTROL_ROOM, check=False,
                                       data=msgpack.packb({"verb": verb, **arguments}))
        result = msgpack.unpackb(reply.data) if reply.data else {}
        if reply.error:
            raise error(reply.error, f"{verb} {arguments}: {result.get('error', '')}")
        return result

    async def scrub(self) -> dict[str, Any]:
        """What `archipelago check` finds."""
        def sender(role: str) -> Any:
            return lambda op, **fields: self.client.call(self.segment.port_of(role), op, **fields)

        store = MapStore(sender("blockerm"), sender("blockerb"), CHECK_CACHE)
        return await Scrub(store, self.committed, marks_bytes=MARKS_BYTES).run()

    def committed(self, volume: int) -> int:
        """Number of the last durable record of an open volume."""
        for place in range(VOLUMES):
            shared = self.segment.c.volumes[place]
            if shared.state == lib.XVOL_OPEN and shared.id == volume:
                return shared.commit_seq
        return 0

    async def open(self, name: str) -> int:
        """Opens a volume: its handle."""
        return (await self.client.call(self.mapper_port, lib.XOP_OPEN, data=name.encode(), room=4096)).done

    async def close_volume(self, handle: int) -> None:
        """Closes a volume."""
        await self.client.call(self.mapper_port, lib.XOP_CLOSE, volume=handle)

    async def names(self) -> set[str]:
        """Names of all volumes and snapshots."""
        found, cursor = set(), 0
        while True:
            reply = await self.client.call(self.mapper_port, lib.XOP_NAMES, room=4096, arg=cursor)
            found |= {name.decode() for name in reply.data.split(b"\0") if name}
            if (cursor := reply.arg) == 0:
                return found

    def size(self, handle: int) -> int:
        """Bytes of an open volume."""
        return self.segment.c.volumes[handle - 1].size
