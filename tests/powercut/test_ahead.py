# SPDX-License-Identifier: Apache-2.0
"""Stacks at their bound are merged in the background, so that first writes copy nothing."""
import asyncio

import pytest
from cut_work import BLOCK
from test_kills_in_turn import MANY_TURNS, Store, good, turns

from xseg._native import lib

CHUNK = 4096
BLOCKS = 3
ROUNDS = 12                         # more than a stack has layers, here
QUIET = 30                          # turns


async def quiet(node):
    """Returns when nothing goes on behind the scenes."""
    served = -1
    while served != node.disks[0].served:
        served = node.disks[0].served
        await turns(node, QUIET)


def served_for_vlmc(node):
    """What the data disk does for vlmc from now on: a list of operations."""
    disk, served = node.disks[0], []
    serve = disk.serve

    def noted(request, covered):
        if request.c.src == node.vlmc_port:
            served.append(request.c.op)
        return serve(request, covered)

    disk.serve = noted
    return served


async def full(node):
    """A volume all of which is written. Its handle."""
    node.cut_in(turns=MANY_TURNS)
    await node.control("create", name="v", size=BLOCKS * BLOCK, block_size=BLOCK)
    handle = await node.open("v")
    for block in range(BLOCKS):
        await node.call(lib.XOP_WRITE, volume=handle, offset=block * BLOCK, data=filled(block, 0) * (BLOCK // CHUNK))
    return handle


def filled(block, number):
    return bytes([block + 1, number]) * (CHUNK // 2)


async def one(node, handle, block, number):
    """A chunk of a block: the first write to it after the last snapshot."""
    await node.call(lib.XOP_WRITE, volume=handle, offset=block * BLOCK + number * CHUNK, data=filled(block, number))


async def one_each(node, handle, number):
    """The same of each block at the same time."""
    await asyncio.gather(*(one(node, handle, block, number) for block in range(BLOCKS)))


async def as_written(node, handle, rounds):
    for block in range(BLOCKS):
        data = (await node.call(lib.XOP_READ, volume=handle, offset=block * BLOCK, size=BLOCK, room=BLOCK)).data
        chunks = [data[at:at + CHUNK] for at in range(0, BLOCK, CHUNK)]
        assert chunks == [filled(block, number if 0 < number <= rounds else 0) for number in range(len(chunks))]


def test_a_first_write_copies_nothing():
    async def work(node):
        handle, served = await full(node), served_for_vlmc(node)
        for number in range(1, ROUNDS + 1):
            await node.control("snapshot", name="v", snapshot=f"s{number}")
            await quiet(node)
            for block in range(BLOCKS):
                served.clear()
                await one(node, handle, block, number)
                assert served == [lib.XOP_WRITE]
                await quiet(node)
        assert node.segment.c.volumes[handle - 1].merges >= BLOCKS * ROUNDS // 4
        await quiet(node)
        await as_written(node, handle, ROUNDS)
        await node.close_volume(handle)
        await good(node, "v")
        again = await node.open("v")
        await as_written(node, again, ROUNDS)
        await node.close_volume(again)

    Store().live(work)


@pytest.mark.parametrize("after", range(1, 25, 2))
@pytest.mark.parametrize("what", ["vlmc", "snapshot", "close", "flush"])
def test_a_merge_in_the_background_may_be_met_anywhere(what, after):
    """So many turns after the first writes that fill up stacks, vlmc is killed, or something waits for writes."""
    async def work(node):
        handle = await full(node)
        for number in range(1, ROUNDS + 1):
            await node.control("snapshot", name="v", snapshot=f"s{number}")
            await one_each(node, handle, number)
            await turns(node, after)
            if what == "vlmc":
                node.kill_vlmc()
            elif what == "close":
                await node.close_volume(handle)
                handle = await node.open("v")
            elif what == "flush":
                await node.call(lib.XOP_FLUSH, volume=handle)
        await as_written(node, handle, ROUNDS)
        await node.close_volume(handle)
        await good(node, "v")

    async def look(node):
        node.cut_in(turns=MANY_TURNS)
        handle = await node.open("v")
        await as_written(node, handle, ROUNDS)
        await node.close_volume(handle)
        await good(node, "v")

    store = Store(after)
    store.live(work)
    store.live(look)
