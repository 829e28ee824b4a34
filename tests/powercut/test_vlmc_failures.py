# SPDX-License-Identifier: Apache-2.0
"""The n-th request that vlmc sends fails, for every n in turn: to a blocker before it has done anything, in the
midst or when all is done, to the mapper before.

What was acknowledged is read back. What failed may have changed its own sectors, each of them wholly or not at
all, and what is read then stays so. A snapshot that failed is not there. After a SYNC that lost data all flushes fail
until the volume is opened anew. At the end everything can be closed, nothing is held any more, maps are good, and a
power cut takes nothing that was flushed.

ARCHIPELAGO_CUT_SEED=N begins elsewhere; a failure names its seed and n.
"""
import asyncio
import errno
import os
import random
import time

import pytest
from cut_disk import Disk
from cut_node import VOLUMES, Node, TurnLoop
from cut_oracle import SECTOR, ZERO, Image, Op, Snap, since_acked
from cut_work import BLOCK, KINDS, READ_MOST, UNITS

from xseg._native import lib
from xseg.errors import XsegError
from xseg.segment import OPS

FIRST_SEED = int(os.environ.get("ARCHIPELAGO_CUT_SEED", "1"))
HISTORIES = 3
SOAK_MINUTES = float(os.environ.get("ARCHIPELAGO_SOAK_MINUTES", "1"))
STEPS = 8
SIZE = 3 * BLOCK + 3 * SECTOR
JOURNAL_LIMIT = 8192
TURNS_MAX = 60000                   # of a life: more is a hang
TRIES = 8                           # until something that failed works again: longer than any spell
SPELLS = (1, 1, 1, 3)               # requests that fail in a row
LOSING = (errno.EIO, errno.ENOSPC)  # of a SYNC: what it was about may be gone
CODES = (*LOSING, errno.ENOMEM, errno.EAGAIN)
# How often each step is taken.
WEIGHTS = {"bytes": 10, "flush": 3, "snapshot": 3, "clone": 2, "deepen": 3, "resize": 2, "reopen": 2, "read": 2}


class Faults:
    """The n-th request of vlmc and perhaps some more fail."""

    def __init__(self, nth, dice):
        self.dice, self.first, self.seen = dice, nth, 0
        self.end = nth + dice.choice(SPELLS)
        self.active = True
        self.met = []

    def due(self, request):
        """0, or the errno with which a request fails."""
        self.seen += self.active
        if not self.active or not self.first <= self.seen < self.end:
            return 0
        code = self.dice.choice(CODES)
        self.met.append(f"{OPS[request.c.op]}: {errno.errorcode[code]}")
        return code


def failing_blocker(node, faults, disk):
    """Has a blocker fail what is due: of data, or of the map, where vlmc appends."""
    serve = disk.serve

    def tear(request, covered):
        """Does some, or all, of what it then says has failed. What that changed: the next SYNC is about it, too."""
        how, op, change = faults.dice.choice(("nothing", "part", "all")), request.c.op, None
        if op == lib.XOP_READ:
            request.data[:request.c.size] = b"?" * request.c.size
        elif how == "all" or (how == "part" and op == lib.XOP_SYNC):
            _code, change = serve(request, covered)
        elif how == "part" and request.c.size > 2 * SECTOR:
            whole, edge = request.c.size, request.c.offset % SECTOR
            request.c.size = SECTOR * faults.dice.randrange(1, (edge + whole) // SECTOR) - edge
            _code, change = serve(request, covered)
            request.c.size = whole
        return change

    def fail(request, covered):
        code = faults.due(request) if request.c.src == node.vlmc_port else 0
        if not code:
            return serve(request, covered)
        change = tear(request, covered)
        if request.c.op == lib.XOP_SYNC and code in LOSING:
            lose(node, request.object.volume, code)
        return code, change

    disk.serve = fail


def lose(node, identity, code):
    """As a blocker does it before it answers such a SYNC."""
    for place in range(VOLUMES):
        shared = node.segment.c.volumes[place]
        if shared.id == identity and not shared.lost:
            shared.lost = code


def failing_mapper(node, faults):
    """The same for the mapper; what it does not do has no effect."""
    async def handle(request):
        code = faults.due(request) if request.c.src == node.vlmc_port else 0
        if code:
            request.reply(code)
        else:
            await node.mapper.handle(request)

    node.mapper.port.serve(handle)


class History:
    """A script that a seed gives, with the n-th request failing."""

    def __init__(self, seed, nth):
        self.dice = random.Random(seed)
        self.script = random.Random(seed)
        self.data, self.maps = Disk(self.dice), Disk(self.dice)
        self.faults = Faults(nth, random.Random(seed << 20 | nth))
        self.images, self.made, self.changes, self.turns = {}, 0, 0, 0

    def run(self):
        """True if there was a request that failed."""
        self.life(self.work)
        self.data.cut()
        self.maps.cut()
        for image in self.images.values():
            image.after_cut()
        self.life(self.look)
        return bool(self.faults.met)

    def life(self, work):
        loop = TurnLoop()
        loop.set_exception_handler(lambda _loop, _context: None)
        try:
            loop.run_until_complete(self.live(work))
        finally:
            loop.close()

    async def live(self, work):
        self.node = Node(self.data, self.maps, self.dice, JOURNAL_LIMIT)
        self.node.cut_in(turns=TURNS_MAX)
        assert await self.node.live(work()), f"this does not end: {self.doing}"

    # --- the script

    async def work(self):
        self.doing = "start"
        await self.node.start()
        for disk in self.node.disks:
            failing_blocker(self.node, self.faults, disk)
        failing_mapper(self.node, self.faults)
        await self.create()
        for step in self.script.choices(list(WEIGHTS), list(WEIGHTS.values()), k=STEPS):
            self.doing = step
            image = self.script.choice([i for i in self.images.values() if not i.readonly])
            await self.opened(image)
            await getattr(self, step)(image)
        self.faults.active = False
        self.doing = "last look"
        for image in self.images.values():
            await self.compare(image)
            while image.handle:         # again, if it was opened to look at what was lost
                await self.close(image)
        await self.idle()
        await self.look_on()

    async def look(self):
        """After a power cut."""
        self.doing = "look"
        await self.node.start()
        await self.look_on()

    async def look_on(self):
        assert await self.node.names() == set(self.images)
        for image in self.images.values():
            assert (await self.node.control("check", name=image.name))["problems"] == []
            await self.opened(image)
            await self.settle(image)
            await self.close(image)
            assert (await self.node.control("check", name=image.name))["problems"] == []
        found = await self.node.scrub()
        assert found["problems"] == [] and not any(volume["problems"] for volume in found["volumes"])
        await self.idle()

    async def idle(self):
        """Nothing is held by anybody when all is closed."""
        for _ in range(200):            # of what goes on behind the scenes
            if not self.held():
                return
            await asyncio.sleep(0.001)
        raise AssertionError(f"held at the end: {self.held()}")

    def held(self):
        segment = self.node.segment
        under_way = [OPS.get(slot["op"], slot["op"]) for slot in segment.requests[segment.requests["state"] != 0]]
        frames = [n for n in range(segment.c.frame_count) if segment.c.frames[n].volume_id]
        volumes = [n for n in range(VOLUMES) if segment.c.volumes[n].state != lib.XVOL_FREE]
        return [*under_way, *(f"frame {n}" for n in frames), *(f"volume {n}" for n in volumes)]

    # --- what may fail

    async def tried(self, work):
        """The answer, or None if it failed as it was to."""
        met = len(self.faults.met)
        try:
            return await work
        except XsegError as failure:
            assert met or self.faults.met, f"{self.doing} failed, and nothing was made to fail: {failure}"
            return None

    async def sure(self, work):
        """The same, as often as it may fail."""
        for _ in range(TRIES):
            if (answer := await self.tried(work())) is not None:
                return answer
        raise AssertionError(f"{self.doing} goes on failing after {self.faults.met}")

    def shared(self, image):
        return self.node.segment.c.volumes[image.handle - 1]

    async def opened(self, image):
        if not image.handle:
            image.handle = await self.sure(lambda: self.node.open(image.name))
            assert self.node.size(image.handle) == image.size

    async def flush(self, image):
        lost, since = self.shared(image).lost, Image.tick()
        done = await self.tried(self.node.call(lib.XOP_FLUSH, volume=image.handle))
        if done is not None:
            assert not lost and not self.shared(image).lost, "a flush says that what was lost is there"
            image.flushed(since)
        return done

    async def close(self, image):
        """Until it is closed. A close that fails counts, so it is opened again; users of one that has lost data are
        told first."""
        for _ in range(TRIES):
            await self.opened(image)
            if self.shared(image).lost:
                assert await self.flush(image) is None
            since, lost = Image.tick(), self.shared(image).lost
            if await self.tried(self.closing(image)):
                if lost:
                    await self.reread(image)
                else:
                    image.flushed(since)
                return
        raise AssertionError(f"it cannot be closed after {self.faults.met}")

    async def closing(self, image):
        handle, image.handle = image.handle, 0
        await self.node.close_volume(handle)
        return True

    async def reread(self, image):
        """What its last life has lost is known when it is opened again."""
        await self.opened(image)
        assert not self.shared(image).lost
        await self.settle(image)

    # --- steps

    async def create(self):
        name = self.fresh()
        await self.node.control("create", name=name, size=SIZE, block_size=BLOCK)
        self.add(name, Image(SIZE))

    def fresh(self):
        self.made += 1
        return f"v{self.made}"

    def add(self, name, image):
        image.name, self.images[name] = name, image

    async def bytes(self, image):
        """Changes to ranges that have no sector in common, at the same time, perhaps with a flush among them."""
        unit, works = self.script.choice(UNITS), []
        at = self.script.randrange(image.size) // unit * unit
        for _ in range(self.script.choice((1, 2, 4, 8))):
            length = self.script.choice((unit, self.script.randrange(1, 9000), self.script.randrange(1, 2 * BLOCK)))
            length = min(max(unit, length // unit * unit), image.size - at)
            if length <= 0:
                break
            works.append(self.change(image, self.script.choice(KINDS), at, length))
            at = (at + length + self.script.choice((0, 0, unit)) + SECTOR - 1) // SECTOR * SECTOR
        flushes = [self.flush(image)] if self.script.random() < 0.3 else []
        ranges = await asyncio.gather(*works, *flushes)
        for failed in ranges[:len(works)]:
            await self.adopt(image, failed)
        await self.compare(image)

    async def change(self, image, kind, offset, length):
        """Sectors that it may have changed, as it failed: none if it did not."""
        sectors = range(offset // SECTOR, (offset + length - 1) // SECTOR + 1)
        op, fields = Op(), {"volume": image.handle, "offset": offset, "size": length}
        self.changes += 1
        if kind == "discard":
            image.discard(offset, length, op)
            work = self.node.call(lib.XOP_DISCARD, **fields)
        elif kind in ("zero", "no_hole"):
            image.write(offset, bytes(length), op)
            work = self.node.call(lib.XOP_WRITE_ZEROES, flags=lib.XREQ_NO_HOLE * (kind == "no_hole"), **fields)
        else:
            tag = b"%07d," % self.changes
            data = (tag * (length // len(tag) + 1))[:length]
            image.write(offset, data, op)
            work = self.node.call(lib.XOP_WRITE, data=data, flags=lib.XREQ_FUA * (kind == "fua"), **fields)
        if await self.tried(work) is None:
            return sectors
        op.acked = Image.tick()
        if kind == "fua":
            assert not self.shared(image).lost
            image.flushed(Image.tick(), [s for s in sectors if s in image.open_sectors])
        return range(0)

    async def bytes_of(self, image, offset, length):
        return (await self.sure(lambda: self.node.call(lib.XOP_READ, volume=image.handle, offset=offset, size=length,
                                                       room=length))).data

    async def adopt(self, image, sectors):
        """After a change that failed: each sector is as before or as it was to be, and stays as it is read now."""
        if not sectors:
            return
        start = sectors[0] * SECTOR
        data = await self.bytes_of(image, start, min(len(sectors) * SECTOR, image.size - start))
        for place, sector in enumerate(sectors):
            found, versions = data[place * SECTOR:(place + 1) * SECTOR], image.sectors.get(sector, [])
            assert found in [value for value, _op in since_acked(versions)] or (not versions and found == ZERO), \
                f"{image.name}: sector {sector} is {found[:8]!r}, neither old nor new"
            if versions:
                image.put(sector, found, Op())

    async def compare(self, image):
        await self.opened(image)
        for at in range(0, image.size, READ_MOST):
            image.same(at, await self.bytes_of(image, at, min(READ_MOST, image.size - at)))

    async def settle(self, image):
        for at in range(0, image.size, READ_MOST):
            image.settle(at, await self.bytes_of(image, at, min(READ_MOST, image.size - at)))

    async def read(self, image):
        await self.tried(self.node.call(lib.XOP_READ, volume=image.handle, offset=0, size=image.size, room=image.size))
        await self.compare(image)

    async def reopen(self, image):
        await self.close(image)
        await self.compare(image)

    async def snapshot(self, image):
        name, snap = self.fresh(), Snap(image)
        if await self.tried(self.node.control("snapshot", name=image.name, snapshot=name)) is not None:
            await self.taken(name, image, snap)
        assert await self.node.names() == set(self.images)

    async def taken(self, name, image, snap):
        """A snapshot holds what the volume has now, durably."""
        assert not self.shared(image).lost
        image.flushed(Image.tick())
        made = Image(image.size, readonly=True)
        made.sectors = {s: [(image.now(s), Op(-1))] for s in image.sectors}
        self.add(name, made)

    async def clone(self, image):
        name = self.fresh()
        answer = await self.tried(self.node.control("clone", name=image.name, names=[name], size=image.size))
        if answer is not None:
            await self.taken(answer["snapshot"], image, None)
            self.add(name, self.images[answer["snapshot"]].copy(image.size))
            await self.compare(self.images[name])
        assert await self.node.names() == set(self.images)

    async def deepen(self, image):
        """Layers on one block, more than a stack takes."""
        for _ in range(5):
            await self.snapshot(image)
            offset = self.script.randrange(min(image.size, BLOCK))
            length = min(image.size - offset, self.script.randrange(1, 9000))
            await self.adopt(image, await self.change(image, self.script.choice(KINDS), offset, length))
        await self.compare(image)

    async def resize(self, image):
        size = SECTOR * self.script.randrange(1, 2 * SIZE // SECTOR)
        end = min(image.size, -(-size // BLOCK) * BLOCK)
        tail = range(size // SECTOR, end // SECTOR)
        for sector in [s for s in tail if s in image.sectors]:
            image.put(sector, bytes(SECTOR), Op())
        if await self.tried(self.node.control("resize", name=image.name, size=size)) is not None:
            image.resize(size)
        else:
            await self.adopt(image, tail)
        assert self.node.size(image.handle) == image.size


def sweep(seed, nth=1):
    """A history with each of its requests failing in turn. How many those are."""
    while True:
        history = History(seed, nth)
        try:
            if not history.run():
                return nth - 1
        except BaseException:
            print(f"ARCHIPELAGO_CUT_SEED={seed}, request {nth} ({', '.join(history.faults.met)}), in {history.doing}")
            raise
        nth += 1


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + HISTORIES))
def test_each_request_of_vlmc_may_fail(seed):
    failures = sweep(seed)
    print(f"{failures} requests failed in turn")
    assert failures > 2 * STEPS


class AfterAll(Faults):
    """The n-th request, a write, is done and then said to have failed."""

    def __init__(self, nth):
        super().__init__(nth, random.Random(0))
        self.end = nth + 1
        self.dice = self

    def choice(self, ways):
        return ways[-1]


class ReadThenFlushed(History):
    """A durable block is written once more, which fails; the new bytes are read and flushed, and the power fails."""

    def __init__(self, kind):
        super().__init__(1, 1)
        self.kind = kind

    async def work(self):
        self.doing = "start"
        await self.node.start()
        await self.create()
        image = self.images["v1"]
        await self.opened(image)
        await self.change(image, "write", 0, BLOCK)
        await self.node.call(lib.XOP_FLUSH, volume=image.handle)
        self.faults = AfterAll(1)
        for disk in self.node.disks:
            failing_blocker(self.node, self.faults, disk)
        failed = await self.change(image, self.kind, 0, BLOCK)
        assert len(self.faults.met) == 1 and failed
        await self.adopt(image, failed)
        await self.node.call(lib.XOP_FLUSH, volume=image.handle)
        for sector in failed:
            image.sectors[sector] = [(image.now(sector), Op(-1))]


@pytest.mark.parametrize("kind", ["write", "no_hole", "discard"])
def test_what_a_failed_write_has_changed_is_kept_by_the_next_flush(kind):
    assert ReadThenFlushed(kind).run()


class NoMemory(Faults):
    """The first SYNC is not done, for want of memory."""

    def __init__(self):
        super().__init__(1, random.Random(0))
        self.dice = self

    def due(self, request):
        if request.c.op != lib.XOP_SYNC or self.met:
            return 0
        self.met.append("sync")
        return errno.ENOMEM

    def choice(self, ways):
        return ways[0]


class SyncedTwice(History):
    """A durable block is written; the SYNC after that is not done, and nothing is said to be lost. A flush that comes
    then succeeds, and the power fails. `blocks`: 1: in place, where the map does not change; 2: a new one as well."""

    def __init__(self, seed, blocks):
        super().__init__(seed, 1)
        self.blocks = blocks

    async def work(self):
        self.doing = "start"
        await self.node.start()
        await self.create()
        image = self.images["v1"]
        await self.opened(image)
        await self.change(image, "write", 0, BLOCK)
        assert await self.flush(image)
        self.faults = NoMemory()
        failing_blocker(self.node, self.faults, self.node.disks[0])
        await self.change(image, "write", 0, self.blocks * BLOCK)
        await self.flush(image)         # fails, unless vlmc has begun a commit by itself
        assert self.faults.met
        assert await self.flush(image)


@pytest.mark.parametrize("blocks", [1, 2])
def test_what_a_sync_did_not_do_the_next_one_does(blocks):
    for seed in range(12):              # of what a disk keeps that nobody has synced
        assert SyncedTwice(seed, blocks).run(), seed


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_each_request_of_vlmc_may_fail_for_long():
    end = time.monotonic() + SOAK_MINUTES * 60
    while time.monotonic() < end:
        sweep(random.SystemRandom().randrange(1 << 32))
