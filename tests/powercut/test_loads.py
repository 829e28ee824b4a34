# SPDX-License-Identifier: Apache-2.0
"""What is asked of one volume does not wait until leaves of another are loaded. Turns are counted, not time."""
import asyncio

import pytest
from cut_work import BLOCK
from test_closing import LEAVES, write_all_over
from test_kills_in_turn import Store

from xseg._native import lib

LEAF = lib.XMAP_LEAF                # blocks
ARGUMENTS = {"info": {}, "rename": {"to": "new"}, "snapshot": {"snapshot": "s"}, "resize": {"size": 2 * BLOCK}}
SEEDS = 6                           # of what a disk does first


def turns_taken(verb, seed, leaves):
    """Turns until a verb on one volume is answered while so many leaves of another, all in pages, are asked for."""
    async def write(node):
        await node.control("create", name="other", size=BLOCK, block_size=BLOCK)
        await node.close_volume(await write_all_over(node))

    async def load(node):
        node.cut_in(turns=1 << 20)
        handle, loop = await node.open("v"), node.hub.loop
        asked = {"volume": handle, "size": 4, "room": 4}
        reads = [asyncio.ensure_future(node.call(lib.XOP_READ, offset=leaf * LEAF * BLOCK, **asked))
                 for leaf in range(leaves)]
        loaded = node.disks[1].served
        while leaves and node.disks[1].served == loaded:
            await asyncio.sleep(0)
        began = loop.turns
        await node.control(verb, name="other", **ARGUMENTS[verb])
        taken = loop.turns - began
        await asyncio.gather(*reads)
        await node.close_volume(handle)
        return taken, loop.turns - began

    store = Store(seed)
    store.live(write)
    return store.live(load)


@pytest.mark.parametrize("verb", ARGUMENTS)
def test_another_volume_does_not_wait_behind_loads_of_leaves(verb):
    alone = sum(turns_taken(verb, seed, 0)[0] for seed in range(SEEDS))
    beside, until_loaded = map(sum, zip(*(turns_taken(verb, seed, LEAVES) for seed in range(SEEDS)), strict=True))
    print(f"{alone} turns alone, {beside} beside loads, which took {until_loaded}")
    assert beside <= alone + alone // 4 + 5 * SEEDS
