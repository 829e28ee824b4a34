# SPDX-License-Identifier: Apache-2.0
"""A volume is closed soon, however much of its map is to be folded, and read again as it was."""
import pytest
from cut_work import BLOCK
from test_kills_in_turn import MANY_TURNS, Store, good, read, write

from peers.mapper import volume
from xseg._native import lib

LEAVES = 40                         # that are written
FOLDED = 4                          # leaves that a closing may fold, here
LEAF = lib.XMAP_LEAF                # blocks


async def write_all_over(node):
    """Writes into every leaf, each of which is committed by itself. The handle."""
    node.cut_in(turns=MANY_TURNS)
    await node.control("create", name="v", size=LEAVES * LEAF * BLOCK, block_size=BLOCK)
    handle = await node.open("v")
    for leaf in range(LEAVES):
        await write(node, handle, leaf * LEAF, leaf.to_bytes(4, "little"))
        await node.call(lib.XOP_FLUSH, volume=handle)
    return handle


async def read_all_over(node):
    for leaf in range(LEAVES):
        assert await read(node, "v", leaf * LEAF) == leaf.to_bytes(4, "little")


@pytest.mark.parametrize("limit", [4096, 1 << 20])
def test_closing_does_not_wait_until_many_leaves_are_folded(monkeypatch, limit):
    """A few requests at the map store, whether a checkpoint is under way or only worth while."""
    monkeypatch.setattr(volume, "CLOSE_LEAVES", FOLDED)
    monkeypatch.setattr(volume, "CLOSE_CHECKPOINT", 4096)

    async def work(node):
        handle = await write_all_over(node)
        before = node.disks[1].served
        await node.close_volume(handle)
        assert node.disks[1].served - before < LEAVES
        assert (await node.control("info", name="v"))["journals"] > 0
        await good(node, "v")
        await read_all_over(node)

    Store(journal_limit=limit).live(work)


def test_closing_folds_what_is_done_soon(monkeypatch):
    monkeypatch.setattr(volume, "CLOSE_CHECKPOINT", 4096)

    async def work(node):
        await node.close_volume(await write_all_over(node))
        assert (await node.control("info", name="v"))["journals"] == 0
        await read_all_over(node)

    Store(journal_limit=1 << 20).live(work)
