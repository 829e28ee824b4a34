# SPDX-License-Identifier: Apache-2.0
"""The verb flatten: everything that a volume has comes to lie in objects of its own. See mapper/verbs/.

Each request does one portion, so that whoever asks can stop between any two and see how far it is. Nothing is kept of
it but the map: a block that is the volume's own is passed over, whoever made it so. What is older than `since`, where
the volume's own objects began when the first portion was done, is left behind, so that a snapshot which is taken
meanwhile does not make it begin again.

vlmc moves the bytes (XOP_OWN), a bit at a time, so that neither a guest's write nor a snapshot waits for long.
"""
import errno
from collections.abc import AsyncIterator

from peers.mapper.header import ENTRIES_PER_PAGE_SHIFT
from peers.mapper.store import gather_bounded
from peers.mapper.tree import Item, View, all_leaves, index_of, leaf_items, own
from peers.mapper.verbs.arguments import Answer, Arguments
from peers.mapper.verbs.look import walked
from peers.mapper.volume import Volume
from peers.mapper.volumes import Volumes
from xseg._native import lib
from xseg.errors import error as fail

PORTION_BYTES = 16 << 20            # of blocks that one request makes the volume's own, at most
PORTION_LEAVES = 256                # that it looks at, at most
PIECE = 256 << 10                   # bytes of one XOP_OWN: a snapshot waits for those that are under way
BLOCKS_AT_ONCE = 4


async def flatten(hand: Volumes, a: Arguments, room: int) -> Answer:
    """One portion, from block `cursor` on, of a volume that whoever asks has open. EINVAL: nobody has. EROFS."""
    header = await hand.names.lookup(a["name"])
    volume = hand.by_id.get(header.id)
    if header.readonly:
        raise fail(errno.EROFS, f"'{header.name}' is a snapshot, which never changes: `vlmc clone` it")
    if volume is None:
        raise fail(errno.EINVAL, f"volume '{header.name}' must be open to be flattened")
    await hand.known(volume)
    if not volume.handle:
        raise fail(errno.EINVAL, f"volume '{header.name}' must be open to be flattened")
    since = a["since"] or volume.writable_since
    found: list[int] = []

    async def look(_volume: Volume, view: View) -> Answer:
        found[:] = []
        most = max(1, PORTION_BYTES >> view.block_shift)
        return {"cursor": await shared_blocks(hand, view, volume.id, since, a["cursor"], most, found)}

    answer = await walked(hand, a["name"], look)
    await gather_bounded(lambda block: make_own(hand, volume, block), found, BLOCKS_AT_ONCE)
    if answer["cursor"] == 0:
        await finish(hand, volume)
    return answer | {"since": since, "blocks": len(found)}


async def shared_blocks(hand: Volumes, view: View, volume: int, since: int, cursor: int, most: int,
                        found: list[int]) -> int:
    """Finds blocks that lie, in part at least, in objects which are not the volume's own, or older. The block to go on
    with; 0: that was all."""
    leaves = 0
    index = await index_of(view)
    async for leaf in all_leaves(hand.store, view, cursor >> ENTRIES_PER_PAGE_SHIFT, index=index):
        if leaves == PORTION_LEAVES:
            return leaf << ENTRIES_PER_PAGE_SHIFT
        leaves += 1
        for item in await leaf_items(hand.store, view, leaf, index):
            if item.block < cursor or not is_shared(item, volume, since):
                continue
            if len(found) == most:
                return item.block
            found.append(item.block)
    return 0


def is_shared(item: Item, volume: int, since: int) -> bool:
    """True if some layer is another volume's, older than `since`, or named by its content."""
    return not all(layer[0] == "data" and own((layer[1], layer[2], 0), volume, since) for layer in item.layers)


async def make_own(hand: Volumes, volume: Volume, block: int) -> None:
    """Has vlmc make one block the volume's own, a piece after the other."""
    async for offset, size in pieces(volume, block):
        await hand.vlmc(lib.XOP_OWN, volume, offset=offset, size=size)


async def pieces(volume: Volume, block: int) -> AsyncIterator[tuple[int, int]]:
    """Of a block, as far as the volume has it when each comes. ESTALE: it was closed."""
    shift = volume.header.block_shift
    for offset in range(block << shift, (block + 1) << shift, PIECE):
        if not volume.handle:
            raise fail(errno.ESTALE, f"volume '{volume.header.name}' was closed while it was being flattened")
        size = min(PIECE, (block + 1 << shift) - offset, volume.shared.size - offset)
        if size <= 0:
            return
        yield offset, size


async def finish(hand: Volumes, volume: Volume) -> None:
    """Makes it durable, and folds journals into pages, so that none of others' pages and journals is left. The volume
    comes from nothing any more."""
    await hand.vlmc(lib.XOP_FLUSH, volume)
    await volume.checkpoint()
    if volume.header.parent:
        await volume.note(parent=0)
