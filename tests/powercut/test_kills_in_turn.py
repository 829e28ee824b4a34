# SPDX-License-Identifier: Apache-2.0
"""kill -9 of mapper and vlmc between any two turns: each request is done once, and what was flushed survives a cut."""
import asyncio
import copy
import errno
import random
from collections import Counter
from functools import partial

import pytest
from cut_disk import Disk
from cut_node import Node, TurnLoop
from cut_work import BLOCK

from peers.mapper.verbs import lineage
from peers.mapper.verbs import make as make_verbs
from peers.mapper.verbs.make import SOURCE_TRIES
from xseg._native import lib
from xseg.errors import XsegError

TURNS_MOST = 4000                   # of a life, before it is given up
MANY_TURNS = 200_000                # of one with many volumes
SIZE = 16 * BLOCK
JOURNAL_LIMIT = 4096


class Store:
    """Two disks, and lives of nodes on them."""

    def __init__(self, seed=1, journal_limit=JOURNAL_LIMIT):
        self.dice, self.journal_limit = random.Random(seed), journal_limit
        self.data, self.maps = Disk(self.dice), Disk(self.dice)

    def live(self, work):
        """One life: await work(node), then the power fails. What it returns."""
        loop, found = TurnLoop(), []
        loop.set_exception_handler(lambda _loop, _context: None)    # of what was under way at the end

        async def life():
            node = Node(self.data, self.maps, self.dice, self.journal_limit)

            async def all_of_it():
                await node.start()
                found.append(await work(node))

            node.cut_in(turns=TURNS_MOST)
            assert await node.live(all_of_it()), f"not done within {TURNS_MOST} turns"
            self.data.cut()
            self.maps.cut()

        try:
            loop.run_until_complete(life())
        finally:
            loop.close()
        return found[0]


async def turns(node, count):
    until = node.hub.loop.turns + count
    while node.hub.loop.turns < until:
        await asyncio.sleep(0)


async def write(node, handle, block, data):
    await node.call(lib.XOP_WRITE, volume=handle, offset=block * BLOCK, data=data)


async def read(node, name, block):
    handle = await node.open(name)
    data = (await node.call(lib.XOP_READ, volume=handle, offset=block * BLOCK, size=4, room=4)).data
    await node.close_volume(handle)
    return data


async def good(node, *names):
    for name in names:
        assert (await node.control("check", name=name))["problems"] == []


@pytest.mark.parametrize("later", [0, 1, 5, 20])
@pytest.mark.parametrize("after", range(1, 14))
def test_flushes_around_the_deaths_of_mapper_and_vlmc_are_kept(after, later):
    """vlmc's next life numbers its records when the last one of its last life is known to be there, or not."""
    store = Store(after)

    async def work(node):
        await node.control("create", name="v", size=SIZE, block_size=BLOCK)
        handle = await node.open("v")
        await write(node, handle, 1, b"one.")
        first = asyncio.ensure_future(node.call(lib.XOP_FLUSH, volume=handle))
        await turns(node, after)
        await write(node, handle, 2, b"two.")
        await node.kill_mapper()
        await turns(node, later)
        node.kill_vlmc()
        await write(node, handle, 3, b"thre")
        await node.call(lib.XOP_FLUSH, volume=handle)
        await first

    async def look(node):
        assert [await read(node, "v", block) for block in (1, 2, 3)] == [b"one.", b"two.", b"thre"]
        await good(node, "v")

    store.live(work)
    store.live(look)


@pytest.mark.parametrize("seed", range(12))
def test_a_sync_that_fails_when_its_vlmc_is_dead_is_done_again(seed):
    store = Store(seed)

    async def work(node):
        await node.control("create", name="v", size=SIZE, block_size=BLOCK)
        handle, disk = await node.open("v"), node.disks[0]
        await write(node, handle, 1, b"old.")
        await node.call(lib.XOP_FLUSH, volume=handle)
        await write(node, handle, 1, b"new.")
        disk.turn = lambda: None        # the SYNC waits
        flush = asyncio.ensure_future(node.call(lib.XOP_FLUSH, volume=handle))
        while not disk.waiting:
            await turns(node, 1)
        node.kill_vlmc()
        disk.sync = lambda covered: errno.EIO
        del disk.turn
        while disk.waiting or disk.done:
            await turns(node, 1)
        del disk.sync
        await flush

    async def look(node):
        assert await read(node, "v", 1) == b"new."

    store.live(work)
    store.live(look)


def test_epochs_rise_no_further_than_the_next_life_skips_however_often_vlmc_dies():
    """Each first write to a block that fails raises the epoch, which no record has made durable yet."""
    async def work(node):
        await node.control("create", name="v", size=SIZE, block_size=BLOCK)
        handle = await node.open("v")
        shared = node.segment.c.volumes[handle - 1]
        opened, node.disks[0].serve = shared.epoch, lambda request, covered: (errno.EIO, None)
        for _ in range(2):
            for _ in range(4):
                writes = (write(node, handle, 1, b"lost") for _ in range(lib.MAP_EPOCH_STRIDE // 3))
                failed = await asyncio.gather(*writes, return_exceptions=True)
                assert {failure.errno for failure in failed} == {errno.EIO}
            node.kill_vlmc()
        assert opened < shared.epoch < opened + lib.MAP_EPOCH_STRIDE

    Store().live(work)


async def remove(node, after=None):
    """With the mapper killed so many turns after it was asked. What is left then is right."""
    task = asyncio.ensure_future(node.control("remove", name="v", token=7))
    if after is not None:
        await turns(node, after)
        await node.kill_mapper()
    await task
    assert await node.names() == {"s"}
    assert [await read(node, "s", block) for block in (0, 1, 2)] == [b"old.", b"old.", bytes(4)]
    await good(node, "s")


async def make(node):
    """A volume and its snapshot, which share pages and objects."""
    await node.control("create", name="v", size=SIZE, block_size=BLOCK)
    handle = await node.open("v")
    for block in range(JOURNAL_LIMIT // 512 + 1, -1, -1):
        await write(node, handle, block % 2, b"old.")
        await node.control("snapshot", name="v", snapshot=f"s{block}" if block else "s")
    for block in range(JOURNAL_LIMIT // 512 + 1, 0, -1):
        await node.control("remove", name=f"s{block}")
    for block in (1, 2):
        await write(node, handle, block, b"new.")
    await node.call(lib.XOP_FLUSH, volume=handle)
    await node.close_volume(handle)


def kinds(store):
    """How many objects there are of each kind. The header of what is gone may stay: it is left to the collector."""
    return Counter(name.kind for disk in (store.data, store.maps) for name in disk.objects
                   if name.kind != lib.XOBJ_HEADER)


@pytest.mark.parametrize("after", range(4, 90, 2))
def test_a_remove_whose_mapper_dies_takes_all_that_only_the_volume_has_and_nothing_else(after):
    store = Store(after)
    store.live(make)
    undisturbed = copy.deepcopy(store)
    undisturbed.live(remove)
    store.live(partial(remove, after=after))
    assert kinds(store) == kinds(undisturbed)


async def roll_back(node, discard, after=None):
    """With the mapper killed so many turns after it was asked."""
    more = {"discard": True} if discard else {"keep": "k"}
    task = asyncio.ensure_future(node.control("rollback", name="v", snapshot="s", token=7, **more))
    if after is not None:
        await turns(node, after)
        await node.kill_mapper()
    await task
    assert await node.names() == ({"v", "s"} if discard else {"v", "s", "k"})
    for name in {"v", "s"}:
        assert [await read(node, name, block) for block in (0, 1, 2)] == [b"old.", b"old.", bytes(4)]
    if not discard:
        assert [await read(node, "k", block) for block in (0, 1, 2)] == [b"old.", b"new.", b"new."]
    await good(node, *await node.names())


@pytest.mark.parametrize("discard", [False, True])
@pytest.mark.parametrize("after", range(2, 80, 5))
def test_a_rollback_whose_mapper_dies_is_done_once_and_loses_neither_state(after, discard):
    store = Store(after)
    store.live(make)
    store.live(partial(roll_back, discard=discard, after=after))


@pytest.mark.parametrize("discard", [False, True])
def test_a_rollback_that_the_power_cuts_off_anywhere_leaves_the_volume_wholly_one_or_the_other(discard):
    states = {(b"old.", b"old.", bytes(4)): "rolled", (b"old.", b"new.", b"new."): "old"}
    made, seen = Store(3), set()
    made.live(make)

    async def cut_off(node, requests):
        more = {"discard": True} if discard else {"keep": "k"}
        before = node.disks[1].served
        task = asyncio.ensure_future(node.control("rollback", name="v", snapshot="s", token=7, **more))
        while not task.done() and node.disks[1].served - before < requests:
            await turns(node, 1)
        return task.done()

    async def look(node):
        names = await node.names()
        found = {name: states[tuple([await read(node, name, block) for block in (0, 1, 2)])] for name in names}
        await good(node, *names)
        assert found["s"] == "rolled" and found.get("k", "old") == "old"
        assert discard or found["v"] == "old" or "k" in found
        return found["v"]

    for requests in range(1, 200):
        store = copy.deepcopy(made)
        done = store.live(partial(cut_off, requests=requests))
        seen.add(store.live(look))
        if done:
            break
    assert done and seen == {"old", "rolled"}


@pytest.mark.parametrize("folds", [1, SOURCE_TRIES])
@pytest.mark.parametrize("discard", [False, True])
def test_a_rollback_goes_on_when_the_map_of_its_snapshot_changes_and_not_for_ever(monkeypatch, discard, folds):
    left = folds

    async def fold_first(hand, source):
        nonlocal left
        if left:
            left -= 1
            now = await make_verbs.fold_snapshot(hand, source)
            assert now.root != source.root or folds > 1
        if folds > 1:
            raise make_verbs.Moved
        await make_verbs.confirm(hand, source)

    async def work(node):
        if folds == 1:
            await roll_back(node, discard)
            return
        with pytest.raises(XsegError) as failure:
            await roll_back(node, discard)
        assert failure.value.errno == errno.EAGAIN
        assert [await read(node, "v", block) for block in (0, 1, 2)] == [b"old.", b"new.", b"new."]
        await good(node, *await node.names())

    monkeypatch.setattr(lineage, "confirm", fold_first)
    store = Store(5)
    store.live(make)
    store.live(work)
    assert left == 0


def requests_until_served(count):
    """How many requests the map store gets from the death of a mapper that has so many volumes open until its
    successor has made a write of the last of them durable."""
    async def work(node):
        handles = []
        node.cut_in(turns=MANY_TURNS)
        for number in range(count):
            await node.control("create", name=f"v{number}", size=SIZE, block_size=BLOCK)
            handles.append(await node.open(f"v{number}"))
        before = node.disks[1].served
        await node.kill_mapper()
        await write(node, handles[-1], 3, b"late")
        await node.call(lib.XOP_FLUSH, volume=handles[-1])
        served = node.disks[1].served - before
        for handle in handles:
            await node.close_volume(handle)
        assert await read(node, f"v{count - 1}", 3) == b"late"
        await good(node, *(f"v{number}" for number in range(count)))
        return served

    return Store().live(work)


def test_a_restarted_mapper_serves_who_asks_before_it_has_read_what_else_is_open():
    assert requests_until_served(60) <= requests_until_served(10) + 10
