# SPDX-License-Identifier: Apache-2.0
"""Random work on volumes, power cuts in the midst of it, and what must be true afterwards.

    python tests/powercut/cut_work.py [--seed N] [--histories N] [--cuts N] [--minutes N] [--verbose]

A history is one store and many lives of a node on it. In each life everything is first compared with the
oracle and checked, then rounds of work follow, some of it at the same time, until the power fails: anywhere,
in the comparing, too. One seed gives one history, cut by cut the same.
"""
from __future__ import annotations

import argparse
import asyncio
import logging
import random
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from cut_disk import Disk
from cut_node import Node, TurnLoop
from cut_oracle import CHUNK, SECTOR, Image, Op, Snap

from xseg._native import lib
from xseg.errors import NotFound

BLOCK = 65536
LEAF_BYTES = BLOCK * lib.XMAP_LEAF
READ_MOST = 1 << 18
VOLUMES_MAX = 10
ADOPTED_MAX = 12 * BLOCK
CUTS = 12                           # in one history
EARLY = 0.15                        # of the cuts come while what the last one left is looked at
TURNS_MAX = 1000                    # until a cut that is counted in turns
REQUESTS_MAX = 150                  # ... in requests at the map store
ROUNDS_MAX = 40
KILLS = (0, 1, 1, 3)                # in one life
KINDS = ("write",) * 6 + ("fua", "zero", "no_hole", "discard", "own")
UNITS = (1, 1, 512, 4096, 4096, BLOCK)
JOURNAL_LIMITS = (4096, 4096, 8192, 1 << 20)
SCRUBS = 0.15                       # of the looks scrub the whole store, too
DEEP = 6                            # snapshots in a row

Settle = Callable[[set[str]], Any]  # gets the names that are there after a cut


class History:
    """One store, its volumes as the oracle knows them, and the dice."""

    def __init__(self, seed: int, kills: tuple[int, ...] = (0,)) -> None:
        """`kills`: how many kill -9 of mapper or vlmc there may be in a life, beside the cut."""
        self.kills = kills
        self.dice = random.Random(seed)
        self.data, self.maps = Disk(self.dice), Disk(self.dice)
        self.images: dict[str, Image] = {}
        self.unsure: list[Settle] = []  # what was under way at a cut
        self.half_made: list[str] = []  # names of what a cut may have left so
        self.made = self.cuts = self.changes = 0

    def run(self, cuts: int) -> None:
        """So many cuts, and a last look."""
        while self.cuts < cuts:
            self.life(False)
        self.life(True)

    def life(self, last: bool) -> None:
        """From the power's return to its next failure. `last`: only a look, with no cut."""
        loop = TurnLoop()
        loop.set_exception_handler(lambda _loop, _context: None)    # of what was under way at a cut
        try:
            loop.run_until_complete(self.live(last))
        finally:
            loop.close()

    async def live(self, last: bool) -> None:
        self.node = Node(self.data, self.maps, self.dice, self.dice.choice(JOURNAL_LIMITS))
        ended = await self.node.live(self.work(last))
        self.data.cut()
        self.maps.cut()
        self.cuts += 1
        for image in self.images.values():
            image.after_cut()
        assert ended or not last

    async def work(self, last: bool) -> None:
        early = not last and self.dice.random() < EARLY
        if early:
            self.cut_soon()
        await self.node.start()
        await self.look()
        if not early and not last:
            self.cut_soon()
        for _ in range(0 if last else self.dice.randrange(1, ROUNDS_MAX)):
            await self.round()

    def cut_soon(self) -> None:
        """The power will fail."""
        soon = self.dice.choice((1, 1, 4))
        if self.dice.random() < 0.4:
            self.node.cut_in(requests=self.dice.randrange(1, REQUESTS_MAX // soon))
        else:
            self.node.cut_in(turns=self.dice.randrange(1, TURNS_MAX // soon))
        for _ in range(self.dice.choice(self.kills)):
            self.node.kill_in(self.dice.randrange(1, TURNS_MAX // 2), self.dice.choice(("mapper", "vlmc")))

    # --- after a cut

    async def look(self) -> None:
        """Names, sizes, bytes and maps are what they may be."""
        names = await self.node.names()
        for settle in self.unsure:
            settle(names)
        self.unsure.clear()
        while self.half_made:
            with suppress(NotFound):
                await self.node.control("remove", name=self.half_made[-1], force=True)
            self.half_made.pop()
        assert names == set(self.images), f"these should (not) be there: {sorted(names ^ set(self.images))}"
        await asyncio.gather(*(self.look_at(self.images[name]) for name in sorted(self.images)))
        if self.dice.random() < SCRUBS:
            await self.scrub()
        for name in sorted(self.images):
            if self.dice.random() < 0.5:
                await self.close(self.images[name])

    async def look_at(self, image: Image) -> None:
        """One volume."""
        when = self.dice.choice(("before", "after", "not now"))
        if when == "before":
            await self.check(image)
        await self.handle(image)
        size = self.node.size(image.handle)
        if image.rolled is not None:
            await self.settle_rollback(image, image.rolled, size)
        if image.sizes:
            assert size in image.sizes, f"{image.name} has {size} bytes, not one of {image.sizes}"
            image.resize(size)
            image.sizes = ()
        assert size == image.size, f"{image.name} has {size} bytes, not {image.size}"
        at = 0
        while at < size:
            reply = await self.node.call(lib.XOP_BLOCK_STATUS, volume=image.handle, offset=at,
                                         size=min(size - at, 1 << 30), room=4096)
            for length, flags in struct.iter_unpack("=II", reply.data):
                if flags:
                    image.settle_zeros(at, length)
                else:
                    await self.look_at_bytes(image, at, length)
                at += length
        if when == "after":
            await self.check(image)

    async def settle_rollback(self, image: Image, snap: Image, size: int) -> None:
        """A cut came while it was rolled back: it is what it was, or the snapshot, and nothing between."""
        image.rolled, sector = None, None
        if snap.size == image.size:
            if (sector := image.first_difference(snap)) is None:
                return
            reply = await self.node.call(lib.XOP_READ, volume=image.handle, offset=sector * SECTOR, size=SECTOR,
                                         room=SECTOR)
        if size == snap.size and (sector is None or reply.data == snap.now(sector)):
            image.become(snap)

    async def look_at_bytes(self, image: Image, offset: int, length: int) -> None:
        for at in range(offset, offset + length, READ_MOST):
            size = min(READ_MOST, offset + length - at)
            reply = await self.node.call(lib.XOP_READ, volume=image.handle, offset=at, size=size, room=size)
            image.settle(at, reply.data)

    async def check(self, image: Image) -> None:
        """The mapper finds nothing wrong."""
        answer = await self.node.control("check", name=image.name)
        assert answer["problems"] == [], f"{image.name}: {answer['problems']}"

    async def scrub(self) -> None:
        """Nothing is wrong with the store, whatever goes on meanwhile."""
        found = await self.node.scrub()
        problems = found["problems"] + [problem for volume in found["volumes"] for problem in volume["problems"]]
        assert problems == [], problems

    # --- choosing

    def fresh(self) -> str:
        self.made += 1
        return f"v{self.made}"

    @contextmanager
    def chosen(self, writable: bool = False, alone: bool = False, named: str | None = None) -> Iterator[Image | None]:
        """A volume that nobody has for himself meanwhile; `alone`: that nobody else works on at all."""
        found = [image for name, image in sorted(self.images.items())
                 if not image.alone and not (writable and image.readonly) and not (alone and image.users)
                 and named in (None, name)]
        if not found:
            yield None
            return
        image = self.dice.choice(found)
        image.users, image.alone = image.users + 1, alone
        yield image
        image.users, image.alone = image.users - 1, False

    async def handle(self, image: Image) -> int:
        async with image.opening:
            if not image.handle:
                image.handle = await self.node.open(image.name)
        return image.handle

    def add(self, name: str, image: Image) -> None:
        image.name = name
        self.images[name] = image

    async def unsure_of(self, settle: Settle, verb: str, **arguments: Any) -> None:
        """A control operation; if the power fails meanwhile, `settle` gets the names that are there then."""
        self.unsure.append(settle)
        await self.node.control(verb, token=self.dice.getrandbits(60) | 1, **arguments)
        self.unsure.remove(settle)

    def size(self) -> int:
        if self.dice.random() < 0.15:
            return LEAF_BYTES + SECTOR * self.dice.randrange(-200, 200)
        return SECTOR * self.dice.choice((self.dice.randrange(1, 300), self.dice.randrange(1, 800)))

    def start_of(self, size: int) -> int:
        if size > LEAF_BYTES - 2 * BLOCK and self.dice.random() < 0.6:
            return min(size - 1, LEAF_BYTES + self.dice.randrange(-2 * BLOCK, BLOCK))
        return self.dice.randrange(min(size, self.dice.choice((BLOCK, 3 * BLOCK))))

    # --- rounds

    async def round(self) -> None:
        """Some operations at the same time."""
        if all(image.readonly for image in self.images.values()):
            await self.create()
            return
        steps = self.dice.choices(list(STEPS), list(STEPS.values()), k=self.dice.choice((1, 1, 2, 3, 5)))
        await asyncio.gather(*(getattr(self, step)() for step in steps))

    async def bytes(self) -> None:
        """Changes to one volume, all at once, with a flush somewhere among them."""
        with self.chosen(writable=True) as image:
            if image is None:
                return
            await self.handle(image)
            at, unit, works = self.start_of(image.size), self.dice.choice(UNITS), []
            at = at // unit * unit
            for _ in range(self.dice.choice((1, 1, 2, 6, 15))):
                length = self.dice.choice((unit, self.dice.randrange(1, 9000), self.dice.randrange(1, 2 * BLOCK)))
                length = min(max(unit, length // unit * unit), image.size - at)
                if length <= 0:
                    break
                works.append(self.change(image, self.dice.choice(KINDS), at, length))
                at = (at + length + self.dice.choice((0, 0, unit)) + SECTOR - 1) // SECTOR * SECTOR
            self.dice.shuffle(works)
            if self.dice.random() < 0.3:
                works.insert(self.dice.randrange(len(works) + 1), self.flush_one(image))
            await asyncio.gather(*works)

    async def change(self, image: Image, kind: str, offset: int, length: int) -> None:
        """One change to an open volume, if none of its sectors is being changed."""
        sectors = range(offset // SECTOR, (offset + length - 1) // SECTOR + 1)
        if not image.busy.isdisjoint(sectors):
            return
        image.busy.update(sectors)
        op, fields = Op(), {"volume": image.handle, "offset": offset, "size": length}
        self.changes += 1
        if kind == "own":
            await self.node.call(lib.XOP_OWN, **fields)
        elif kind == "discard":
            image.discard(offset, length, op)
            await self.node.call(lib.XOP_DISCARD, **fields)
        elif kind in ("zero", "no_hole"):
            image.write(offset, bytes(length), op)
            await self.node.call(lib.XOP_WRITE_ZEROES, flags=lib.XREQ_NO_HOLE * (kind == "no_hole"), **fields)
        else:
            tag = b"%07d," % self.changes
            data = (tag * (length // len(tag) + 1))[:length]
            image.write(offset, data, op)
            await self.node.call(lib.XOP_WRITE, data=data, flags=lib.XREQ_FUA * (kind == "fua"), **fields)
        op.acked = Image.tick()
        if kind == "fua":
            image.flushed(Image.tick(), [s for s in sectors if s in image.open_sectors])
        image.busy.difference_update(sectors)

    async def read(self) -> None:
        with self.chosen() as image:
            if image is None:
                return
            await self.handle(image)
            offset = self.start_of(image.size) // SECTOR * SECTOR
            length = min(image.size - offset, SECTOR * self.dice.randrange(1, 200))
            sectors = set(range(offset // SECTOR, (offset + length) // SECTOR))
            if image.busy.isdisjoint(sectors):
                image.busy |= sectors
                reply = await self.node.call(lib.XOP_READ, volume=image.handle, offset=offset, size=length, room=length)
                image.same(offset, reply.data)
                image.busy -= sectors

    async def flush(self) -> None:
        with self.chosen(writable=True) as image:
            if image is not None and image.handle:
                await self.flush_one(image)

    async def flush_one(self, image: Image) -> None:
        since = Image.tick()
        await self.node.call(lib.XOP_FLUSH, volume=image.handle)
        image.flushed(since)

    async def reopen(self) -> None:
        with self.chosen(alone=True) as image:
            if image is not None:
                await self.close(image)

    async def close(self, image: Image) -> None:
        """Closing makes all of it durable."""
        if image.handle:
            handle, image.handle, since = image.handle, 0, Image.tick()
            await self.node.close_volume(handle)
            image.flushed(since)

    async def create(self) -> None:
        if len(self.images) >= VOLUMES_MAX:
            await self.remove()
            return
        name, size = self.fresh(), self.size()
        await self.unsure_of(lambda names: name in names and self.add(name, Image(size)),
                             "create", name=name, size=size, block_size=BLOCK)
        self.add(name, Image(size))

    async def snapshot(self) -> None:
        with self.chosen(writable=True) as image:
            if image is not None and len(self.images) < VOLUMES_MAX and not image.renaming:
                await self.snapshot_of(image)

    async def snapshot_of(self, image: Image) -> Image:
        made, snap = self.fresh(), Snap(image)
        with image.being_taken(snap), image.by_name():
            await self.unsure_of(lambda names: made in names and self.add(made, snap.image()),
                                 "snapshot", name=image.name, snapshot=made)
        taken = snap.image()
        self.add(made, taken)
        await self.resolve(taken)
        return taken

    async def resolve(self, image: Image) -> None:
        """Looks at what may be one thing or another before anybody else gets a new volume."""
        image.alone = True
        for sector in [s for s, versions in image.sectors.items() if len(versions) > 1]:
            await self.handle(image)
            await self.look_at_bytes(image, sector * SECTOR, SECTOR)
        image.alone = False

    async def clone(self) -> None:
        """Of a snapshot, or of a live volume, which gets one."""
        with self.chosen() as image:
            if image is None or len(self.images) >= VOLUMES_MAX or image.renaming:
                return
            made, size = self.fresh(), image.size + self.dice.choice((0, 0, 512, BLOCK))
            if image.readonly:
                with image.by_name():
                    await self.unsure_of(lambda names: made in names and self.add(made, image.copy(size)),
                                         "clone", name=image.name, names=[made], size=size)
                self.add(made, image.copy(size))
            else:
                await self.clone_live(image, made, size)

    async def clone_live(self, image: Image, made: str, size: int) -> None:
        """The snapshot has a name that the mapper chooses."""
        snap, before = Snap(image), set(self.images)

        def settle(names: set[str]) -> None:
            for auto in [name for name in names if name.startswith(f"{image.name}@clone-{token:x}")]:
                self.add(auto, snap.image())
            if made in names:
                self.add(made, snap.image().copy(size))

        assert made not in before
        self.unsure.append(settle)
        token = self.dice.getrandbits(60) | 1
        with image.being_taken(snap), image.by_name():
            answer = await self.node.control("clone", name=image.name, names=[made], size=size, token=token)
        self.unsure.remove(settle)
        taken = snap.image()
        clone = taken.copy(size)
        self.add(answer["snapshot"], taken)
        self.add(made, clone)
        clone.alone = True
        await self.resolve(taken)
        await self.resolve(clone)

    async def rename(self) -> None:
        with self.chosen() as image:
            if image is None or image.renaming or image.named:
                return
            async with image.opening:       # which needs its name
                if not image.named:
                    await self.rename_one(image)

    async def rename_one(self, image: Image) -> None:
        name, to = image.name, self.fresh()

        def settle(names: set[str]) -> None:
            assert (name in names) + (to in names) == 1, f"{name} was being renamed to {to}: both or none is there"
            if to in names:
                self.add(to, self.images.pop(name))

        image.renaming = True
        await self.unsure_of(settle, "rename", name=name, to=to)
        self.add(to, self.images.pop(name))
        image.renaming = False

    async def flatten(self) -> None:
        """Beside whatever else is done to it; what it holds stays."""
        with self.chosen(writable=True) as image:
            if image is None or image.renaming:
                return
            await self.handle(image)
            cursor = since = 0
            with image.by_name():
                while True:
                    answer = await self.node.control("flatten", name=image.name, cursor=cursor, since=since)
                    cursor, since = answer["cursor"], answer["since"]
                    if cursor == 0:
                        return

    async def rollback(self) -> None:
        with self.chosen(writable=True, alone=True) as image:
            snaps = [snap for _name, snap in sorted(self.images.items())
                     if image is not None and snap.of is image and not snap.alone and not snap.renaming]
            if image is None or not snaps:
                return
            snap = self.dice.choice(snaps)
            snap.users += 1
            with snap.by_name():
                await self.close(image)
                await self.roll_back(image, snap)
            snap.users -= 1

    async def roll_back(self, image: Image, snap: Image) -> None:
        """One that is closed. What it was is kept or not."""
        kept = self.fresh() if len(self.images) < VOLUMES_MAX and self.dice.random() < 0.7 else None

        def keep() -> None:
            if kept:
                self.add(kept, image.copy(image.size, readonly=True))
                self.images[kept].of = image

        def settle(names: set[str]) -> None:
            if kept is None or kept in names:
                keep()
                image.rolled = snap

        await self.unsure_of(settle, "rollback", name=image.name, snapshot=snap.name, keep=kept, discard=not kept)
        keep()
        image.become(snap)

    def snapshots(self) -> list[Image]:
        """Those that may be worked on."""
        return [image for _name, image in sorted(self.images.items())
                if image.readonly and not image.alone and not image.renaming]

    async def adopt(self) -> None:
        """A volume from the hashes of a small snapshot's blocks, which are put first."""
        snaps = [image for image in self.snapshots() if image.size <= ADOPTED_MAX]
        if not snaps or len(self.images) >= VOLUMES_MAX:
            return
        image, made, digests = self.dice.choice(snaps), self.fresh(), b""
        image.users += 1
        await self.handle(image)
        for at in range(0, image.size, BLOCK):
            size = min(BLOCK, image.size - at)
            reply = await self.node.call(lib.XOP_READ, volume=image.handle, offset=at, size=size, room=size)
            digests += await self.node.put(reply.data)

        def settle(names: set[str]) -> None:
            if made in names:
                self.add(made, image.copy(image.size))
            else:
                self.half_made.append(made)

        await self.unsure_of(settle, "adopt", name=made, size=image.size, block_size=BLOCK, hashes=digests)
        self.add(made, image.copy(image.size))
        image.users -= 1

    async def hash(self) -> None:
        """Content names for a snapshot. Its bytes stay what they are, however far that came."""
        snaps = self.snapshots()
        if not snaps:
            return
        image, cursor = self.dice.choice(snaps), -1
        image.users += 1
        with image.by_name():
            while cursor:
                cursor = (await self.node.control("hash", name=image.name, cursor=max(cursor, 0)))["cursor"]
        image.users -= 1

    async def remove(self, named: str | None = None) -> None:
        with self.chosen(alone=True, named=named) as image:
            if image is None:
                return
            await self.close(image)
            await self.unsure_of(lambda names: image.name in names or self.images.pop(image.name),
                                 "remove", name=image.name)
            del self.images[image.name]

    async def resize(self) -> None:
        size = self.size()
        with self.chosen(writable=True, alone=True) as image:
            if image is None:
                return
            if size < image.size:   # the rest of the last block is zeroed before the size changes
                end = min(image.size, -(-size // BLOCK) * BLOCK)
                for sector in [s for s in image.sectors if size <= s * SECTOR < end]:
                    image.put(sector, bytes(SECTOR), Op())
            image.sizes = (image.size, size)
            await self.node.control("resize", name=image.name, size=size)
            image.sizes = ()
            image.resize(size)

    async def deepen(self) -> None:
        """Layers on the same blocks, more than a stack takes."""
        snaps = []
        with self.chosen(writable=True) as image:
            if image is None:
                return
            await self.handle(image)
            for _ in range(self.dice.randrange(2, DEEP)):
                if not image.renaming:
                    snaps.append(await self.snapshot_of(image))
                offset = self.dice.randrange(min(image.size, BLOCK))
                await self.change(image, self.dice.choice(KINDS), offset,
                                  min(image.size - offset, self.dice.randrange(1, 3 * CHUNK)))
                if self.dice.random() < 0.5:
                    await self.flush_one(image)
        for snap in snaps:
            if len(self.images) > VOLUMES_MAX // 2:
                await self.remove(snap.name)


STEPS = {"bytes": 40, "read": 6, "flush": 6, "reopen": 3, "snapshot": 7, "clone": 5, "create": 2, "resize": 4,
         "rename": 2, "remove": 5, "deepen": 8, "scrub": 1, "rollback": 5,
         "flatten": 3, "hash": 3, "adopt": 3}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=time.time_ns() % (1 << 32))
    parser.add_argument("--histories", type=int, default=1)
    parser.add_argument("--cuts", type=int, default=CUTS)
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--kills", action="store_true", help="kill mapper and vlmc, too")
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO if args.verbose else logging.CRITICAL)
    began, cuts, failed = time.monotonic(), 0, 0
    for seed in range(args.seed, args.seed + args.histories):
        if time.monotonic() - began > args.minutes * 60:
            break
        history = History(seed, KILLS if args.kills else (0,))
        try:
            history.run(args.cuts)
        except Exception as failure:
            failed += 1
            print(f"seed {seed}, cut {history.cuts}: {type(failure).__name__} {str(failure)[:300]}", flush=True)
            if args.histories == 1:
                raise
        cuts += history.cuts
    print(f"{cuts} cuts in {time.monotonic() - began:.1f} s, {failed} histories failed", flush=True)
    sys.exit(bool(failed))


if __name__ == "__main__":
    import os
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    main()
