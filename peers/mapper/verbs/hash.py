# SPDX-License-Identifier: Apache-2.0
"""Verbs of the mapper on content names: hash, hashes. See mapper/hashing.py."""
import errno

from peers.mapper.hashing import HashTree, digests_of
from peers.mapper.header import id_text
from peers.mapper.tree import FANOUT, View, view_of
from peers.mapper.verbs.arguments import Answer, Arguments
from peers.mapper.verbs.look import walked
from peers.mapper.volume import EPOCH_LAST, Volume
from peers.mapper.volumes import Volumes
from xseg.errors import error as fail

TRIES = 4                           # of a portion, while peers die
HASHES_LEAVES = 16                  # of one answer to hashes: 512 KiB


async def hash_snapshot(hand: Volumes, a: Arguments, room: int) -> Answer:
    """Gives a portion of a snapshot's blocks their content names. EROFS: it is none. EIO: data are missing."""
    async with hand.by_name(a["name"]) as volume:
        await hand.marks.refuse_unfinished(volume.header, a["name"])
        if volume.header.kind != "snapshot":
            raise fail(errno.EINVAL, f"'{volume.header.name}' is a volume, which may change while it is hashed: take a "
                                     "snapshot and hash that")
        if volume.handle:
            return await hash_portion(hand, volume, a["cursor"])
        await volume.read_header()
        await hand.take_lock(volume)
        try:
            await volume.load()
            return await hash_portion(hand, volume, a["cursor"])
        finally:
            await hand.drop_lock(volume)


async def hash_portion(hand: Volumes, volume: Volume, cursor: int) -> Answer:
    """The same under its lock, or while it is open here."""
    await volume.checkpoint()
    if volume.header.epoch >= EPOCH_LAST - 1:
        raise fail(errno.EOVERFLOW, f"'{volume.header.name}' has no epochs left")
    for _ in range(TRIES):
        first_page = volume.header.next_page + (hand.ids.next() >> 2)
        tree = HashTree(hand.store, view_of(volume.header, []), volume.header, cursor, first_page)
        try:
            if await tree.build():
                await adopt_tree(volume, tree)
                return {"blocks": tree.blocks, "hashed": tree.hashed, "cursor": tree.going_on,
                        "of": -(-volume.header.blocks // FANOUT)}
        except BaseException:
            await volume.delete_quietly(tree.made)
            raise
        await volume.delete_quietly(tree.made)
    raise fail(errno.EAGAIN, f"volume '{volume.header.name}': peers die too often while it is hashed: try again")


async def adopt_tree(volume: Volume, tree: HashTree) -> None:
    """Has the header name the new tree, if there is one."""
    if not tree.hashed:
        return
    tree.check_clock()
    epoch = volume.header.epoch + 1
    await volume.write_header(root=list(tree.root) if tree.root else None, level=tree.level, epoch=epoch,
                              writable_since=epoch + 1)


async def hashes(hand: Volumes, a: Arguments, room: int) -> Answer:
    """Digests of a volume's blocks, in portions. ENODATA: it has blocks without content names."""
    async def work(volume: Volume, view: View) -> Answer:
        digests, cursor = await digests_of(hand.store, view, a["cursor"], HASHES_LEAVES)
        return {"id": id_text(volume.id), "size": volume.header.size, "block_size": volume.header.block_size,
                "hashes": digests, "cursor": cursor}

    await hand.marks.refuse_unfinished(await hand.names.lookup(a["name"]), a["name"])
    return await walked(hand, a["name"], work)
