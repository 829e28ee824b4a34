# SPDX-License-Identifier: Apache-2.0
"""Random work of several nodes on one store, while a collector is always at work on it, too.

    python tests/powercut/collect_work.py [--seed N] [--histories N] [--verbose]

Users make, write, snapshot, clone, roll back and remove volumes on any node; nodes, mappers and the collector stand
still at any request, for far longer than `grace_s` of the collector; nodes are killed and others take their place. All
that is there must read as what was written to it, at any time. When all is quiet again, two cycles leave just what the
maps say, found by another walk than the collector's.

One seed gives one history, turn by turn the same.
"""
from __future__ import annotations

import argparse
import asyncio
import errno
import logging
import random
import sys
import time
from collections.abc import Callable
from typing import Any

from cut_node import TurnLoop
from many_nodes import Clock, Cluster, SharedNode

from peers.mapper import header as header_module
from peers.mapper import names as names_module
from peers.mapper.collector import COLLECTOR, Cycle
from peers.mapper.header import Header, unpack_header
from peers.mapper.journal import load_stretches
from peers.mapper.making import state_of
from peers.mapper.names import pointer
from peers.mapper.store import DATA, HEADER, JOURNAL, LOCK, NAME, PAGE, MapStore, named
from peers.mapper.tree import all_leaves, index_of, leaf_items, page_name, tree_pages, view_of
from xseg._native import lib
from xseg.aio import AsyncPort
from xseg.errors import Damaged, XsegError
from xseg.request import Object
from xseg.volume_name import by_id

BLOCK = 65536
CHUNK = 16384                       # what one write fills
BLOCKS = 4                          # of a volume
LEAF_BYTES = BLOCK * lib.XMAP_LEAF
VOLUMES_MAX = 9
FEW = 3                             # volumes that there should be
NODES = (1, 2, 2, 3)
USERS = 4
ACTIONS = (10, 35)                  # of one user
PAUSES = ((0.0, 0.0), (0.02, 0.0), (0.05, 0.0), (0.0, 0.05), (0.0, 0.2), (0.01, 0.05))    # of mappers, the collector
PAUSE_MOST = 500                   # turns
GRACE_MS = (1, 5, 20)
MEMORY = (1 << 10, 1 << 13, 1 << 20)
KILLS = 0.03                        # of the actions kill a node
COLLECTOR_CACHE = 1 << 20
Values = set[bytes]


class Image:
    """A volume as its users know it: what each chunk may hold."""

    def __init__(self, name: str, chunks: dict[int, Values], readonly: bool, large: bool) -> None:
        self.name, self.chunks, self.readonly, self.large = name, chunks, readonly, large
        self.lock = asyncio.Lock()
        self.node: SharedNode | None = None     # that has it open ...
        self.handle = 0
        self.going = False                      # it is being removed, or is not known to be there
        self.unflushed: dict[int, Values] = {}  # what chunks may fall back to
        self.taken: list[Image] = []            # snapshots that are being taken of it

    @property
    def size(self) -> int:
        return BLOCKS * BLOCK + (LEAF_BYTES if self.large else 0)

    def places(self) -> list[int]:
        """Offsets of its chunks: blocks at the beginning, or at both sides of a leaf's end."""
        first = LEAF_BYTES - 2 * BLOCK if self.large else 0
        return list(range(first, first + BLOCKS * BLOCK, CHUNK))

    def copy(self, name: str, readonly: bool) -> Image:
        return Image(name, {at: set(values) for at, values in self.chunks.items()}, readonly, self.large)

    def forget_node(self) -> None:
        """Its node has died: what was not flushed may be there or not."""
        if self.node is not None and self.node.dead:
            self.node, self.handle = None, 0
            for at, before in self.unflushed.items():
                self.chunks[at] |= before
            self.unflushed.clear()

    def same(self, at: int, found: bytes) -> None:
        values = self.chunks.get(at, {bytes(CHUNK)})
        assert found in values, f"{self.name} at {at}: {found[:16]!r}, not one of {[value[:16] for value in values]}"
        if self.unflushed.get(at) is None:
            self.chunks[at] = {found}


class History:
    """One store and its users."""

    def __init__(self, seed: int, **faults: Any) -> None:
        self.dice = random.Random(seed)
        self.images: dict[str, Image] = {}
        self.maybe: dict[str, Image] = {}       # what may have been made
        self.made = self.cycles = self.refusals = self.freed = 0
        self.over = False
        self.faults = faults

    def run(self) -> None:
        loop = TurnLoop()
        loop.set_exception_handler(lambda _loop, _context: None)
        before, late = header_module.time, names_module.LATE_MS
        header_module.time, names_module.LATE_MS = Clock(loop), 0
        try:
            loop.run_until_complete(self.live(loop))
        finally:
            header_module.time, names_module.LATE_MS = before, late
            loop.close()

    async def live(self, loop: TurnLoop) -> None:
        pauses, self.collector_pauses = self.dice.choice(PAUSES)
        self.cluster = Cluster(self.dice, loop, self.dice.choice(NODES), pauses, PAUSE_MOST)
        self.grace_ms = self.dice.choice(GRACE_MS)
        await self.cluster.drive(self.work())

    async def work(self) -> None:
        for _ in range(self.cluster.count):
            await self.cluster.add()
        collector = asyncio.ensure_future(self.collect_forever())
        users = [asyncio.ensure_future(self.user()) for _ in range(USERS)]
        left = {collector, *users}
        while left - {collector}:
            done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            assert collector in left
        self.over = True
        self.cluster.quiet()
        await collector
        await self.end()

    # --- users

    async def user(self) -> None:
        for _ in range(self.dice.randrange(*ACTIONS)):
            if self.dice.random() < KILLS:
                await self.kill_one()
            if self.dice.random() < self.cluster.pauses:
                self.cluster.pause_one()
            few = len(self.images) < FEW
            step = self.dice.choices(list(STEPS), [weight * (few and name in MAKING) or weight * (not few)
                                                   for name, weight in STEPS.items()])[0]
            await getattr(self, step)()
            if self.over:
                return
        if self.collecting is not None:
            await asyncio.wait([self.collecting], timeout=0.2)

    collecting: asyncio.Task[Any] | None = None

    async def kill_one(self) -> None:
        node = self.alive()
        if node is None:
            return
        await node.kill()
        await self.cluster.add()

    async def on(self, node: SharedNode, work: Any) -> Any:
        """Has a node do something. None: it was killed meanwhile."""
        task = node.begin(work)
        await asyncio.wait([task])
        if task.cancelled() or (node.dead and task.exception() is not None):
            task.cancelled() or task.exception()
            return None
        return task.result() or True

    def alive(self) -> SharedNode | None:
        ready = [node for node in self.cluster.nodes if hasattr(node.mapper, "hand") and node.mapper.recovered.is_set()]
        return self.dice.choice(ready) if ready else None

    def fresh(self) -> str:
        self.made += 1
        return f"v{self.made}"

    def choose(self, wanted: Callable[[Image], bool] = lambda image: True) -> Image | None:
        found = [image for _name, image in sorted(self.images.items())
                 if not image.going and not image.lock.locked() and wanted(image)]
        return self.dice.choice(found) if found else None

    async def at(self, image: Image) -> SharedNode | None:
        """A node that has it open, or opens it. None: it is killed. Its lock is held."""
        image.forget_node()
        if image.node is not None:
            return image.node
        node = self.alive()
        if node is None:
            return None
        try:
            handle = await self.on(node, node.open(image.name))
        except XsegError as failure:
            if failure.errno != errno.EBUSY:        # another node is taking a snapshot of it
                raise
            return None
        if handle is None:
            return None
        image.node, image.handle = node, handle
        return node

    async def close(self, image: Image) -> None:
        """Closes it, if it is open."""
        image.forget_node()
        if image.node is not None:
            node, handle = image.node, image.handle
            if await self.on(node, node.close_volume(handle)) is None:
                image.forget_node()
                return
            image.node, image.handle = None, 0
            image.unflushed.clear()

    async def write(self) -> None:
        image = self.choose(lambda image: not image.readonly)
        if image is not None:
            places = image.places()
            await self.write_to(image, self.dice.choice((places[:4], places[4:8], places, places[3:5])))

    async def write_to(self, image: Image, places: list[int]) -> None:
        """Writes all of these chunks."""
        async with image.lock:
            node = await self.at(image)
            for at in places:
                if node is None or node.dead:
                    break
                self.made += 1
                value = (b"%015d," % self.made) * (CHUNK // 16)
                before = image.chunks.setdefault(at, {bytes(CHUNK)})
                image.unflushed.setdefault(at, set()).update(before)
                image.chunks[at] = {value}
                for taken in image.taken:
                    taken.chunks.setdefault(at, {bytes(CHUNK)}).add(value)
                await self.on(node, node.call(lib.XOP_WRITE, volume=image.handle, offset=at, size=CHUNK, data=value))
            if node is not None and not node.dead and self.dice.random() < 0.6 \
                    and await self.on(node, node.call(lib.XOP_FLUSH, volume=image.handle)):
                image.unflushed.clear()
            image.forget_node()

    async def read(self) -> None:
        image = self.choose()
        if image is not None:
            async with image.lock:
                await self.look(image)

    async def look(self, image: Image) -> bool:
        """All of it is as it may be. False: its node was killed."""
        node = await self.at(image)
        if node is None:
            return False
        for at in image.places():
            reply = await self.on(node, node.call(lib.XOP_READ, volume=image.handle, offset=at, size=CHUNK, room=CHUNK))
            if reply is None:
                image.forget_node()
                return False
            image.same(at, bytes(reply.data))
        return True

    async def shut(self) -> None:
        image = self.choose(lambda image: image.handle != 0)
        if image is not None:
            async with image.lock:
                await self.close(image)

    async def verb(self, node: SharedNode, verb: str, made: dict[str, Image], may_fail: tuple[int, ...] = (),
                   **arguments: Any) -> bool:
        """An operation that makes these. False: it failed as it may, and they are not there; or nobody knows."""
        try:
            done = await self.on(node, node.control(verb, token=self.dice.getrandbits(60) | 1, **arguments))
        except XsegError as failure:
            if failure.errno not in (*may_fail, errno.EEXIST):     # the latter: it stood still for longer than grace_s
                raise
            return False
        if done is None:
            self.maybe |= made
            return False
        self.images |= made
        return True

    async def create(self) -> None:
        node = self.alive()
        if node is None or len(self.images) >= VOLUMES_MAX:
            await self.remove()
            return
        image = Image(self.fresh(), {}, False, self.dice.random() < 0.3)
        await self.verb(node, "create", {image.name: image}, name=image.name, size=image.size, block_size=BLOCK)

    async def snapshot(self) -> None:
        """Of a volume that others may write to, open, close and remove meanwhile."""
        image = self.choose(lambda image: not image.readonly)
        if image is not None and len(self.images) < VOLUMES_MAX:
            await self.snapshot_of(image)

    async def snapshot_of(self, image: Image) -> None:
        """One."""
        image.forget_node()
        node = image.node or self.alive()
        if node is None:
            return
        taken = image.copy(self.fresh(), True)
        for at, before in image.unflushed.items():
            taken.chunks[at] |= before          # as a kill may leave it
        image.taken.append(taken)
        await self.verb(node, "snapshot", {taken.name: taken}, (errno.ENOENT, errno.EBUSY, errno.ESTALE),
                        name=image.name, snapshot=taken.name)
        image.taken.remove(taken)

    async def churn(self) -> None:
        """What a volume has is its snapshot's alone soon after that was taken."""
        image = self.choose(lambda image: not image.readonly)
        if image is None or len(self.images) >= VOLUMES_MAX:
            return
        for step in (self.shut_one, self.snapshot_of, self.renew, self.shut_one):
            if not image.going:
                await step(image)

    async def renew(self, image: Image) -> None:
        """Writes two whole blocks."""
        await self.write_to(image, image.places()[:8])

    async def shut_one(self, image: Image) -> None:
        async with image.lock:
            await self.close(image)

    async def clone(self) -> None:
        """Of a snapshot that others may remove meanwhile."""
        image = self.choose(lambda image: image.readonly)
        node = self.alive()
        if image is None or node is None or len(self.images) >= VOLUMES_MAX:
            return
        made = {name: image.copy(name, False) for name in [self.fresh() for _ in range(self.dice.choice((1, 1, 3)))]}
        if not await self.verb(node, "clone", made, (errno.ENOENT,), name=image.name, names=list(made)):
            assert image.going or node.dead or self.cluster.pauses, f"{image.name} could not be cloned"

    async def hash(self) -> None:
        """Of a snapshot that others read, clone, hash and remove meanwhile."""
        image, node = self.choose(lambda image: image.readonly), self.alive()
        if image is None or node is None:
            return
        try:
            await self.on(node, node.control("hash", name=image.name))
        except XsegError as failure:        # removed, hashed or held elsewhere, or it stood still for long
            if failure.errno not in (errno.ENOENT, errno.EBUSY, errno.ESTALE):
                assert image.going, f"{image.name}: {failure}"

    async def remove(self) -> None:
        image = self.dice.random() < 0.6 and self.choose(lambda image: image.readonly) or self.choose()
        if image is None:
            return
        async with image.lock:
            await self.close(image)
            node = self.alive()
            if node is None or image.going:
                return
            image.going = True
            del self.images[image.name]
            if not await self.verb(node, "remove", {}, (errno.EBUSY,), name=image.name):
                self.maybe[image.name] = image      # or a snapshot of it is being taken

    # --- the collector

    async def collect_forever(self) -> None:
        while not self.over:
            node = self.alive()
            if node is None:
                await asyncio.sleep(0)
                continue
            self.collecting = node.begin(self.collect(node))
            await asyncio.wait([self.collecting])
            if self.collecting.cancelled() or node.dead:
                continue
            try:
                self.freed += self.collecting.result()
                self.cycles += 1
            except Damaged:             # who was killed may have left that for now; at the end it must not be so
                raise
            except XsegError as failure:
                if failure.errno not in (errno.EAGAIN, errno.EBUSY):
                    raise
                self.refusals += 1
            await asyncio.sleep(0.001)

    async def collect(self, node: SharedNode) -> int:
        """One cycle, by a process of that node. How many objects went."""
        port = AsyncPort(node.hub)

        def sender(role: str) -> Any:
            return self.cluster.gated(lambda op, **fields: port.call(node.segment.port_of(role), op, **fields),
                                      self.collector_pauses)

        token = node.mapper.hand.token

        async def remove(found: Header) -> None:
            await node.control("remove", name=by_id(f"{found.id:016x}"), token=self.dice.getrandbits(60) | 1)

        store = MapStore(sender("blockerm"), sender("blockerb"), COLLECTOR_CACHE)
        number, other = await store.acquire(COLLECTOR, token, "collector")
        if not number:
            raise XsegError(errno.EBUSY, other)
        cycle = Cycle(store, grace_s=self.grace_ms / 1000, memory=self.dice.choice(MEMORY), remove=remove,
                      now=header_module.now_ms,
                      maker=lambda mark: state_of(mark, node.segment, *node.known_as))
        try:
            account = await cycle.run()
        finally:
            await store.release(COLLECTOR, token)
        port.close()
        return sum(kind["freed_objects"] for kind in account["kinds"].values())

    # --- the end

    async def end(self) -> None:
        """All that should be there is, and reads right; nothing else is, after two cycles."""
        node = self.cluster.nodes[0]
        names = await node.names()
        for name, image in sorted(self.maybe.items()):
            if name in names:
                image.going, image.node, image.handle = False, None, 0
                self.images[name] = image
        assert names == set(self.images), f"these should (not) be there: {sorted(names ^ set(self.images))}"
        for image in self.images.values():
            await self.look(image)
            await self.close(image)
        await self.remove_half_made(node)
        for _ in range(2):
            await asyncio.sleep((self.grace_ms + 2) / 1000 * 10)
            self.freed += await self.collect(node)
        await self.only_live(node)
        for image in self.images.values():
            await self.look(image)

    async def remove_half_made(self, node: SharedNode) -> None:
        """As an operator does it who knows that the other node is gone for good: no collector can know."""
        for name in [name for name in self.cluster.maps.objects if name.kind == HEADER]:
            header = unpack_header(bytes(self.cluster.maps.objects[name].now), name.volume)
            if header.kind != "removed" and header.making and header.name not in self.images:
                await node.control("remove", name=by_id(f"{header.id:016x}"), force=True,
                                   token=self.dice.getrandbits(60) | 1)

    async def only_live(self, node: SharedNode) -> None:
        """The stores hold what headers reach and nothing else."""
        store = MapStore(node.mapper.hand.store.blockerm, node.mapper.hand.store.blockerb, COLLECTOR_CACHE)
        live: set[Object] = set()
        maps = self.cluster.maps.objects
        folded = set()
        for name in [name for name in maps if name.kind == HEADER]:
            header = unpack_header(bytes(maps[name].now), name.volume)
            assert header.kind != "removed", f"'{header.name}' is a tombstone still"
            live |= {name, pointer(header.name)} | await self.reached(store, header)
            if header.readonly:
                folded.add(header.id)       # pages of a fold that was cut short stay as long as the snapshot
        assert {name for name in self.cluster.data.objects if name.kind == DATA} <= live, "garbage of data"
        for name in maps:
            if name.kind in (PAGE, JOURNAL, NAME, LOCK) and not (name.kind == PAGE and name.volume in folded):
                assert name in live, f"{name} is garbage"
        assert not self.cluster.maps.locks, "a lock is left"

    async def reached(self, store: MapStore, header: Header) -> set[Object]:
        """By one header, block by block."""
        stretches = await load_stretches(store, header)
        view = view_of(header, stretches)
        found = {named(JOURNAL, *one[:3]) for one in header.listed}
        if view.root:
            found |= {page_name(ref) async for ref, _level, _at in tree_pages(store, view, view.root, view.level, 0)}
        index = await index_of(view)
        async for leaf in all_leaves(store, view, 0, index=index):
            for item in await leaf_items(store, view, leaf, index):
                found.update(item.names)
        return found


STEPS = {"write": 30, "read": 6, "shut": 12, "snapshot": 10, "clone": 12, "remove": 24, "create": 3,
         "churn": 12, "hash": 8}
MAKING = ("create", "write", "snapshot", "clone", "churn")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=time.time_ns() % (1 << 32))
    parser.add_argument("--histories", type=int, default=1)
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO if args.verbose else logging.CRITICAL)
    began, failed, cycles, freed, refusals = time.monotonic(), 0, 0, 0, 0
    for seed in range(args.seed, args.seed + args.histories):
        history = History(seed)
        try:
            history.run()
        except Exception as failure:
            failed += 1
            print(f"seed {seed}: {type(failure).__name__} {str(failure)[:300]}", flush=True)
            if args.histories == 1:
                raise
        cycles, freed, refusals = cycles + history.cycles, freed + history.freed, refusals + history.refusals
    print(f"{args.histories} histories, {cycles} cycles, {freed} objects freed, {refusals} refusals, {failed} failed, "
          f"in {time.monotonic() - began:.1f} s")
    sys.exit(bool(failed))


if __name__ == "__main__":
    import os
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    main()
