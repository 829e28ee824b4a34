# SPDX-License-Identifier: Apache-2.0
"""Maps made from lists of digests: each block is a content that the data blocker has, or zeros.

A list is raw digests of 32 bytes, one a block, in order. Such a map has pages and no journal; nothing of its bytes
is read or written, so it takes as long as its list. Each content is claimed before a page names it, and what was
claimed counts as used for CLAIM_S, so the header that makes the pages part of a volume is written in half of that.
"""
import errno
import time
from collections.abc import AsyncIterator

from peers.mapper.header import ENTRIES_PER_PAGE_SHIFT, Header
from peers.mapper.store import MapStore, gather_bounded
from peers.mapper.tree import FANOUT, Rebuild, Ref, view_of
from xseg._native import ffi, lib
from xseg.errors import error as fail
from xseg.request import DIGEST_SIZE

CLAIM_S = 86400                     # for so long a content counts as used after it was claimed
NOTHING = bytes.fromhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")     # digest of zeros
ENTRY_BYTES = 56                    # of a leaf's entry of one content
LIST_BYTES = lib.XSEG_IO_MAX        # of one content that holds a list; only the last may be shorter
AT_ONCE = 16                        # pages under way
TOLD_MAX = 8                        # unknown digests that a sentence names

Lists = AsyncIterator[bytes]        # a list in portions of whole leaves


async def portions(store: MapStore, inline: bytes, contents: list[bytes], blocks: int) -> Lists:
    """The list of a map of so many blocks, as it was given or as it lies in contents of LIST_BYTES each. ENOENT."""
    left = blocks * DIGEST_SIZE
    for at in range(0, len(inline), LIST_BYTES):
        yield inline[at:at + LIST_BYTES]
    for digest in contents:
        if not await store.claim(digest):
            raise fail(errno.ENOENT, f"the store has no content {digest.hex()}, of which the list of hashes was to be "
                                     "read: put it first")
        yield await store.read_content(digest, min(left, LIST_BYTES))
        left -= LIST_BYTES


class ContentTree(Rebuild):
    """Writes the pages of a map that is made from a list. After build(): root, level, next_page, made."""

    def __init__(self, store: MapStore, header: Header, lists: Lists) -> None:
        super().__init__(store, view_of(header, []), header.id, header.epoch, header.next_page)
        self.lists = lists
        self.began = time.monotonic()
        self.unknown: list[bytes] = []  # the first of them
        self.unknown_count = 0

    async def build(self) -> bool:
        """Writes the pages, durably. ENOENT: contents are unknown, and which. False: a peer died meanwhile, and may
        have met an error that its successor does not hear of, so all of it is to be done again."""
        lives = self.store.lives()
        await self.run()
        await self.store.sync(self.volume)
        return lives == self.store.lives()

    def check_clock(self) -> None:
        """To be called last before the write that makes a volume of it. ETIMEDOUT: claims may have run out."""
        if time.monotonic() - self.began > CLAIM_S / 2:
            raise fail(errno.ETIMEDOUT, "it took so long that what was claimed first may be gone: try again")

    async def leaves(self) -> dict[int, Ref | None]:
        """Claims what the list names and writes the leaves, a portion at a time."""
        written: dict[int, Ref | None] = {}
        first = 0
        async for digests in self.lists:
            await self.claim(digests)
            if not self.unknown:
                starts = range(0, len(digests), FANOUT * DIGEST_SIZE)
                parts = [(first + at // DIGEST_SIZE, digests[at:at + FANOUT * DIGEST_SIZE]) for at in starts]
                refs = await gather_bounded(self.content_leaf, parts, AT_ONCE)
                written |= {block >> ENTRIES_PER_PAGE_SHIFT: ref for (block, _), ref in zip(parts, refs, strict=True)}
            first += len(digests) // DIGEST_SIZE
        self.refuse_unknown()
        return written

    async def claim(self, digests: bytes) -> None:
        """Claims all contents of a portion; notes what there is none of."""
        wanted = {digests[at:at + DIGEST_SIZE] for at in range(0, len(digests), DIGEST_SIZE)} - {NOTHING}
        ordered = sorted(wanted)
        known = await gather_bounded(self.store.claim, ordered)
        lacking = [digest for digest, there in zip(ordered, known, strict=True) if not there]
        self.unknown += lacking[:TOLD_MAX - len(self.unknown)]
        self.unknown_count += len(lacking)

    def refuse_unknown(self) -> None:
        """ENOENT: there are some."""
        if self.unknown:
            more = self.unknown_count - len(self.unknown)
            raise fail(errno.ENOENT, f"the store has no content {', '.join(digest.hex() for digest in self.unknown)}"
                                     + (f" and {more} more" if more > 0 else "") + ": put them first")

    async def content_leaf(self, part: tuple[int, bytes]) -> Ref | None:
        """Writes one leaf."""
        return await write_content_leaf(self, *part)


async def write_content_leaf(tree: Rebuild, first: int, digests: bytes) -> Ref | None:
    """Writes a leaf of the blocks from `first` on; None for one of zeros."""
    ref = tree.identity()
    out = bytearray(lib.RECORD_HEADER + FANOUT * ENTRY_BYTES)
    record, info = ffi.new("struct record *"), ffi.new("struct record_info *")
    info.kind, info.block_shift, info.first = lib.RECORD_LEAF, tree.view.block_shift, first
    info.volume, info.epoch, info.seq = ref
    lib.record_begin(record, ffi.from_buffer(out), len(out), info)
    if lib.record_add_contents(record, first, digests, len(digests) // DIGEST_SIZE):
        raise fail(errno.EOVERFLOW, f"volume '{tree.view.name}': a leaf page has no room")
    length = lib.record_end(record, 1)
    if length == lib.RECORD_HEADER:
        return None
    await tree.write(ref, bytes(memoryview(out)[:length]))
    return ref
