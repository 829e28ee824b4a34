# SPDX-License-Identifier: Apache-2.0
"""Content names for the blocks of a snapshot: each becomes the content of its bytes, a portion of leaves at a time.

A portion has the data blocker hash what its blocks hold, which stores and claims the contents, and writes its leaves
anew with them. Then the snapshot's header names the new tree: the same bytes under other names. Whatever dies between
two portions, the snapshot is what it was, and the next attempt finds the leaves that are done. Clones that were made
before keep the old names; those made after share the contents with everybody who has the same bytes.

What the old names stood for goes when nothing reaches it. A vlmc that has the snapshot open and meets an object that is
gone asks for the leaf once more (native/map/map.h).

The pages are (snapshot, its epoch, number), and the header that names them has the next epoch: so they are nobody's
garbage while they are written, and those of an attempt that was cut short are from then on. They are nobody's alone, as
clones share them.
"""
import errno
import time

from peers.mapper.contents import CLAIM_S, NOTHING, write_content_leaf
from peers.mapper.header import Header
from peers.mapper.journal import Index
from peers.mapper.store import DATA, MapStore, gather_bounded, named
from peers.mapper.tree import FANOUT, Item, Rebuild, Ref, View, all_leaves, index_of, leaf_items
from peers.mapper.walk import describe, layer_runs
from xseg._native import lib
from xseg.errors import NotFound
from xseg.errors import error as fail

BLOCKS_AT_ONCE = 8                  # hashed at one time
PORTION_BYTES = 1 << 30             # hashed, after which a portion ends with the leaf
PORTION_S = 10.0                    # the same in time
COPY_BYTES = 1 << 20                # of a block with a stack, moved at one time


def is_named(item: Item) -> bool:
    """True for a block that is one content."""
    return len(item.layers) == 1 and item.layers[0][0] == "content"


class HashTree(Rebuild):
    """Hashes a portion of a snapshot without journals, from leaf `start` on, and writes its tree anew. After build():
    root, level, hashed (blocks), going_on (the leaf to go on with, 0: that was all)."""

    def __init__(self, store: MapStore, view: View, header: Header, start: int, first_page: int) -> None:
        """first_page: that no attempt has used: nothing keeps another node's from the same snapshot."""
        super().__init__(store, view, header.id, header.epoch, first_page)
        self.header, self.start = header, start
        self.blocks = self.hashed = self.going_on = 0
        self.began = time.monotonic()

    async def build(self) -> bool:
        """Hashes and writes, durably. False: a peer died meanwhile, and may have met an error that its successor does
        not hear of, so all of it is to be done again."""
        lives = self.store.lives()
        await self.run()
        if self.made:
            await self.store.sync(self.volume)
        return lives == self.store.lives()

    async def leaves(self) -> dict[int, Ref | None]:
        """Hashes leaves until the portion is full. Those in which nothing was to be done stay."""
        written: dict[int, Ref | None] = {}
        async for leaf in all_leaves(self.store, self.view, self.start, index=self.index):
            if self.is_full():
                self.going_on = leaf
                break
            items = await leaf_items(self.store, self.view, leaf, self.index)
            self.blocks += len(items)
            if any(not is_named(item) for item in items):
                written[leaf] = await self.leaf_of(leaf, items)
        return written

    def is_full(self) -> bool:
        """The portion has done enough."""
        return self.hashed << self.view.block_shift >= PORTION_BYTES or (
            self.hashed > 0 and time.monotonic() - self.began > PORTION_S)

    async def leaf_of(self, leaf: int, items: list[Item]) -> Ref | None:
        """A leaf of contents; None if all of it is zeros."""
        digests = bytearray(NOTHING * FANOUT)
        for item, digest in zip(items, await gather_bounded(self.digest, items, BLOCKS_AT_ONCE), strict=True):
            at = item.block % FANOUT * len(NOTHING)
            digests[at:at + len(NOTHING)] = digest
        return await write_content_leaf(self, leaf * FANOUT, bytes(digests))

    async def digest(self, item: Item) -> bytes:
        """The content name of a block. EIO: an object is missing."""
        layer = item.layers[0]
        if layer[0] == "content" and len(item.layers) == 1:
            return layer[1]
        size = min(1 << self.view.block_shift, self.header.size - (item.block << self.view.block_shift))
        self.hashed += 1
        try:
            if len(item.layers) == 1:
                return await self.store.hash(item.names[0], size)
            return await self.composed(item, size)
        except NotFound:
            raise fail(errno.EIO, f"volume '{self.view.name}': block {item.block}: {describe(layer)}, or one below, is "
                                  "missing") from None

    async def composed(self, item: Item, size: int) -> bytes:
        """The same for a block with a stack, which is put together in an object that nobody else has."""
        whole = named(DATA, self.volume, self.epoch, item.block)
        try:
            for layer, first, end in layer_runs(item, self.view.block_shift):
                for at in range(first * lib.XMAP_CHUNK, min(end * lib.XMAP_CHUNK, size), COPY_BYTES):
                    length = min(COPY_BYTES, end * lib.XMAP_CHUNK - at)
                    await self.store.move(item.names[layer], whole, at, length)
            return await self.store.hash(whole, size)
        finally:
            await self.store.delete(whole)

    def check_clock(self) -> None:
        """To be called last before the header names the new tree. ETIMEDOUT: claims may have run out."""
        if time.monotonic() - self.began > CLAIM_S / 2:
            raise fail(errno.ETIMEDOUT, f"volume '{self.view.name}': hashing took so long that what was claimed first "
                                        "may be gone: try again")


async def digests_of(store: MapStore, view: View, start: int, most: int) -> tuple[bytes, int]:
    """Digests of all blocks from leaf `start` on, `most` leaves at most, and the leaf to go on with; 0: that was all.
    ENODATA: a block has no content name."""
    index: Index = await index_of(view)
    leaves = range(start, min(start + most, -(-view.blocks // FANOUT)))
    out = bytearray(NOTHING * (min(view.blocks, leaves.stop * FANOUT) - start * FANOUT))
    async for leaf in all_leaves(store, view, start, index=index):
        if leaf >= leaves.stop:
            break
        for item in await leaf_items(store, view, leaf, index):
            if not is_named(item):
                raise fail(errno.ENODATA, f"block {item.block} of '{view.name}' has no content name: `vlmc hash` of a "
                                          "snapshot gives all of its blocks one")
            at = (item.block - start * FANOUT) * len(NOTHING)
            out[at:at + len(NOTHING)] = item.layers[0][1]       # type: ignore[assignment]
    return bytes(out), leaves.stop if leaves.stop * FANOUT < view.blocks else 0
