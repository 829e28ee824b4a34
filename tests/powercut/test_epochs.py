# SPDX-License-Identifier: Apache-2.0
"""A volume's epochs last: what changes nothing takes none, and when they are used up its data can still be had."""
import asyncio

import pytest
from cut_work import BLOCK
from test_kills_in_turn import Store, good, read, write

from peers.mapper.frames import read_header, replace_header
from peers.mapper.store import MapStore
from peers.mapper.volume import EPOCH_MAX, EPOCHS_LEFT
from xseg._native import lib

SIZE = 16 * BLOCK
OPENINGS = 5


async def left(node, name="v"):
    return (await node.control("info", name=name))["epochs_left"]


async def create(node):
    await node.control("create", name="v", size=SIZE, block_size=BLOCK)
    await change(node, b"old.")


async def change(node, data, block=1):
    handle = await node.open("v")
    await write(node, handle, block, data)
    await node.close_volume(handle)


async def set_header(node, **fields):
    """Changes the header of v on the store."""
    def sender(role):
        return lambda op, **more: node.client.call(node.segment.port_of(role), op, **more)

    store = MapStore(sender("blockerm"), sender("blockerb"))
    header = await read_header(store, int((await node.control("info", name="v"))["id"], 16))
    for key, value in fields.items():
        setattr(header, key, value)
    header.generation += 1
    await replace_header(store, header, header.generation - 1)


def test_openings_that_change_nothing_take_no_epoch():
    async def work(node):
        await create(node)
        before = await left(node)
        for _ in range(OPENINGS):
            assert await read(node, "v", 1) == b"old."
        assert await left(node) == before

    Store().live(work)


def test_an_opening_that_changes_something_takes_one():
    async def work(node):
        await create(node)
        before = await left(node)
        for number in range(OPENINGS):
            await change(node, b"new.", number)
        assert await left(node) == before - OPENINGS
        await good(node, "v")

    Store().live(work)


def test_a_snapshot_of_an_open_volume_takes_one():
    async def work(node):
        await create(node)
        before = await left(node)
        handle = await node.open("v")
        await node.control("snapshot", name="v", snapshot="s")
        await node.close_volume(handle)
        assert await left(node) == before - 2       # and the opening

    Store().live(work)


def test_a_restart_of_the_mapper_takes_no_epoch():
    async def work(node):
        await create(node)
        handle = await node.open("v")
        before = await left(node)
        for _ in range(OPENINGS):
            await node.kill_mapper()
            assert await left(node) == before
        await node.close_volume(handle)

    Store().live(work)


@pytest.mark.parametrize("dies", ["power", "vlmc"])
def test_a_life_that_was_cut_short_uses_up_what_it_may_have_used(dies):
    store = Store()

    async def work(node):
        await create(node)
        found.append(await left(node))
        handle = await node.open("v")
        if dies == "vlmc":
            node.kill_vlmc()
            await node.close_volume(handle)

    async def again(node):
        assert await read(node, "v", 1) == b"old."
        await change(node, b"new.")
        taken = found[0] - await left(node)
        assert taken == 2 if dies == "vlmc" else taken > lib.MAP_EPOCH_STRIDE
        await good(node, "v")

    found = []
    store.live(work)
    store.live(again)


def test_a_volume_of_an_earlier_version_is_taken_for_one_that_was_cut_short():
    async def work(node):
        await create(node)
        await set_header(node, settled=False)
        before = await left(node)
        await change(node, b"new.")
        assert before - await left(node) == lib.MAP_EPOCH_STRIDE
        assert await read(node, "v", 1) == b"new."

    Store().live(work)


@pytest.mark.parametrize("far", [EPOCHS_LEFT - 1, 300, 1, 0])
def test_what_has_no_epochs_left_is_refused_and_can_be_snapshotted_and_cloned(far):
    async def work(node):
        await create(node)
        await set_header(node, epoch=EPOCH_MAX - far)
        assert await left(node) == far
        with pytest.raises(OSError, match="used up.*vlmc clone"):
            await node.control("open", name="v")
        for snapshot in ("s1", "s2"):
            await node.control("snapshot", name="v", snapshot=snapshot)
        await node.control("clone", name="v", names=["c"])
        await node.control("remove", name="v", token=3)
        for name in ("s1", "s2", "c"):
            assert await read(node, name, 1) == b"old."
        await good(node, "s1", "s2", "c")

    Store().live(work)


def test_snapshots_of_an_open_volume_end_before_its_epochs_do():
    async def work(node):
        await create(node)
        handle = await node.open("v")
        node.segment.c.volumes[handle - 1].epoch = EPOCH_MAX - 1000
        with pytest.raises(OSError, match="used up"):
            await node.control("snapshot", name="v", snapshot="s")
        await asyncio.sleep(0)

    Store().live(work)
