# SPDX-License-Identifier: Apache-2.0
"""Comparing two maps: what is read for it, and what is told of layers, levels, journals and block sizes."""
import asyncio
import itertools
import random
import struct

import pytest

from peers.mapper.diff import Found, differing_leaves, nothing_like, portion
from peers.mapper.journal import Stretch
from peers.mapper.store import PAGE, MapStore
from peers.mapper.tree import Rebuild, View
from peers.mapper.verbs.diff import extents
from tests.fuzz.maps import Memory
from xseg._native import ffi, lib
from xseg.request import Object

SHIFT = 22
BLOCK, CHUNK = 1 << SHIFT, lib.XMAP_CHUNK
GIB = 1 << 30
EVERYTHING = 1 << 62
LEAF = lib.XMAP_LEAF
EPOCHS = itertools.count(1)


class Counted(Memory):
    """A store that counts the pages that are read."""

    def __init__(self):
        super().__init__()
        self.read = set()

    async def send(self, op, object=None, **fields):
        if op == lib.XOP_READ and Object(*object).kind == PAGE:
            self.read.add(Object(*object))
        return await super().send(op, object=object, **fields)


class Maps:
    """Trees on a store in memory."""

    def __init__(self):
        self.memory = Counted()
        self.pages = 1

    @property
    def store(self):
        """A store whose cache is empty."""
        return MapStore(self.memory.send, self.memory.send)

    async def fold(self, view, changes, epoch):
        """A view whose tree has the changes too: block -> layers, topmost first, and bitmaps."""
        tree = Rebuild(self.store, View(view.name, view.blocks, view.block_shift, view.root, view.level,
                                        (journal(changes, epoch, view.block_shift),)), 77, epoch, self.pages)
        await tree.run()
        self.pages = tree.next_page
        return View(view.name, view.blocks, view.block_shift, tree.root, tree.level, ())

    async def diff(self, before, after, start=0, end=EVERYTHING, most=4096):
        """All ranges in units of chunks, portion by portion, and how many pages were read for them."""
        store, found = self.store, []
        self.memory.read.clear()
        end = min(end, after.blocks << after.block_shift)
        while start < end:
            part = await portion(store, before, after, start, end, most)
            assert part.end > start
            found += part.ranges
            start = part.end
        return found, len(self.memory.read)


def layer(epoch, volume=77):
    return {"kind": lib.XOBJ_DATA, "epoch": epoch, "volume": volume}


def journal(changes, epoch, shift=SHIFT, number=1):
    """A stretch of one record."""
    out = ffi.new("uint8_t[]", 1024 + 4000 * len(changes))
    rec, info = ffi.new("struct record *"), ffi.new("struct record_info *")
    info.kind, info.volume, info.epoch, info.seq, info.block_shift = lib.RECORD_JOURNAL, 77, epoch, number, shift
    lib.record_begin(rec, out, len(out), info)
    for block in sorted(changes):
        layers, bitmaps = changes[block]
        entry, stack = ffi.new("struct xentry *"), ffi.NULL
        if layers:
            entry.volume, entry.epoch = layers[0]["volume"], layers[0]["epoch"]
        if len(layers) > 1:
            size = (1 << shift - 12) // 8
            memory = ffi.new("uint64_t[]", 4096)
            stack = ffi.cast("struct xstack *", memory)
            stack.layers, stack.bitmap_size = len(layers), size
            for place, one in enumerate(layers):
                stack.layer[place] = one
            ffi.buffer(stack + 1, size * len(bitmaps))[:] = b"".join(bits.to_bytes(size, "little") for bits in bitmaps)
        assert lib.record_add(rec, block, entry, stack) == 0
    data = bytes(ffi.buffer(out, lib.record_end(rec, lib.RECORD_ALIGN)))
    return Stretch(77, epoch, number, data, len(data))


def empty(size, shift=SHIFT, name="test"):
    return View(name, size >> shift, shift, None, 0, ())


def whole(blocks, epoch):
    return {block: ([layer(epoch)], []) for block in blocks}


def joined(ranges):
    """Ranges of which those that touch are one."""
    found = []
    for start, end in ranges:
        if found and found[-1][1] == start:
            found[-1] = found[-1][0], end
        else:
            found.append((start, end))
    return found


def run(work):
    asyncio.run(work(Maps()))


# --- what it costs

def test_the_same_difference_costs_the_same_in_a_large_volume():
    """1,000 blocks among 1 GiB, or 64 TiB, of blocks that are the same."""
    async def pages_for(size, shift=16):
        maps = Maps()
        blocks = size >> shift
        filled = random.Random(1).sample(range(min(blocks, 1 << 24)), 4000)
        before = await maps.fold(empty(size, shift), whole(filled, 1), 1)
        after = await maps.fold(before, whole(range(1000, 2000), 2), 2)
        found, pages = await maps.diff(before, after)
        assert joined(found) == [(1000 << shift, 2000 << shift)]
        return pages, after.level

    async def work(_maps):
        small, level = await pages_for(GIB)
        large, large_level = await pages_for(64 << 40)
        assert 2 <= small and large <= small + 2 * (large_level - level)

    run(work)


def test_what_is_the_same_is_not_read():
    async def work(maps):
        before = await maps.fold(empty(64 << 40), whole(range(0, 1 << 24, 1000), 1), 1)
        assert await maps.diff(before, before) == ([], 0)
        after = await maps.fold(before, whole([5], 2), 2)
        found, pages = await maps.diff(before, after)
        assert found == [(5 * BLOCK, 6 * BLOCK)] and pages == 2 * (after.level + 1)

    run(work)


def test_a_journal_that_both_have_costs_nothing():
    async def work(maps):
        tree = await maps.fold(empty(64 << 40), whole(range(0, 1 << 20, 1000), 1), 1)
        shared, more = journal(whole(range(0, 50_000, 3), 2), 2), journal(whole([70_000], 3), 3, number=2)
        before = View("a", tree.blocks, SHIFT, tree.root, tree.level, (shared,))
        after = View("b", tree.blocks, SHIFT, tree.root, tree.level, (shared, more))
        found, pages = await maps.diff(before, after)
        assert found == [(70_000 * BLOCK, 70_001 * BLOCK)] and pages <= tree.level + 1

    run(work)


def test_journals_that_are_replayed_in_another_order_are_compared():
    async def work(maps):
        one, two = journal(whole([1, 2], 2), 2), journal(whole([2, 3], 3), 3, number=2)
        before, after = (View("test", 4096, SHIFT, None, 0, order) for order in ((one, two), (two, one)))
        assert (await maps.diff(before, after))[0] == [(2 * BLOCK, 3 * BLOCK)]

    run(work)


# --- layers

def bitmaps_of(layers):
    """How many bitmaps a stack has."""
    return 0 if layers < 2 else 1 + (layers - 2).bit_length()


@pytest.mark.parametrize("layers", [2, 3, 5, 32])
def test_it_is_exact_to_a_chunk_where_layers_tell(layers):
    """What lies in the layer that was put on top differs, and nothing else."""
    async def work(maps):
        dice = random.Random(layers)
        chunks = BLOCK // CHUNK
        stack = [layer(epoch) for epoch in range(layers, 0, -1)]
        tops = dice.getrandbits(chunks) & dice.getrandbits(chunks)
        # The bitmaps of the stack below are the numbers that count its layers from the last, all of them 0 here.
        before = await maps.fold(empty(GIB), {7: (stack[1:], [0] * bitmaps_of(layers - 1))}, 1)
        bitmaps = [tops] + [0] * (bitmaps_of(layers) - 1)
        after = await maps.fold(before, {7: (stack, bitmaps)}, 2)
        found, _pages = await maps.diff(before, after)
        told = {chunk for start, end in found for chunk in range(start // CHUNK, end // CHUNK)}
        assert told == {7 * chunks + bit for bit in range(chunks) if tops >> bit & 1}

    run(work)


def test_stacks_that_number_their_layers_otherwise_are_compared_by_objects():
    async def work(maps):
        chunks = BLOCK // CHUNK
        dice, a, b, c = random.Random(4), layer(3), layer(2), layer(1)
        in_a, low = dice.getrandbits(chunks), dice.getrandbits(chunks)
        before = await maps.fold(empty(GIB), {0: ([a, b, c], [in_a, low])}, 1)      # 1: b, 0: c
        after = await maps.fold(empty(GIB), {0: ([layer(9), a, b, c], [0, low & ~in_a, in_a])}, 2)   # 2: a, 1: b, 0: c
        assert (await maps.diff(before, after))[0] == []
        other = await maps.fold(empty(GIB), {0: ([layer(9), a, b, c], [2, low & ~in_a, in_a])}, 3)
        assert (await maps.diff(before, other))[0] == [(CHUNK, 2 * CHUNK)]

    run(work)


def test_contents_of_one_name_are_the_same():
    async def work(maps):
        def content(digest):
            return View("test", 4096, SHIFT, None, 0, (contents(3, digest),))
        assert (await maps.diff(content(b"a" * 32), content(b"a" * 32)))[0] == []
        assert (await maps.diff(content(b"a" * 32), content(b"b" * 32)))[0] == [(3 * BLOCK, 4 * BLOCK)]

    run(work)


def contents(block, digest):
    """A journal of one block that is a content. Each call makes one of another epoch, so that it is not shared."""
    epoch = next(EPOCHS)
    entry = struct.pack("<QBBHIII32s", block, 1, 0, 0, 0, lib.XOBJ_CONTENT, 0, digest)
    out, rec, info = ffi.new("uint8_t[]", 4096), ffi.new("struct record *"), ffi.new("struct record_info *")
    info.kind, info.volume, info.epoch, info.seq, info.block_shift = lib.RECORD_JOURNAL, 77, epoch, 1, SHIFT
    lib.record_begin(rec, out, len(out), info)
    assert lib.record_add_encoded(rec, entry, len(entry)) == 0
    data = bytes(ffi.buffer(out, lib.record_end(rec, lib.RECORD_ALIGN)))
    return Stretch(77, epoch, 1, data, len(data))


# --- levels, ends, sizes of blocks

def test_trees_of_other_heights_are_compared():
    async def work(maps):
        small = await maps.fold(empty(1000 * BLOCK), whole([1, 999], 1), 1)
        grown = View("grown", 1 << 25, SHIFT, small.root, small.level, ())
        large = await maps.fold(grown, whole([2, 1 << 24], 2), 2)
        assert large.level > small.level
        assert (await maps.diff(small, large))[0] == [(2 * BLOCK, 3 * BLOCK), (BLOCK << 24, BLOCK + (BLOCK << 24))]
        assert (await maps.diff(large, small))[0] == [(2 * BLOCK, 3 * BLOCK)]
        assert joined((await maps.diff(nothing_like(large), large))[0]) == [
            (BLOCK, 3 * BLOCK), (999 * BLOCK, 1000 * BLOCK), (BLOCK << 24, BLOCK + (BLOCK << 24))]

    run(work)


def test_only_what_is_asked_for_is_told():
    async def work(maps):
        view = await maps.fold(empty(64 << 40), whole([0, 1, 2, 5000, 1 << 20], 1), 1)
        zeros = nothing_like(view)
        assert (await maps.diff(zeros, view, BLOCK + CHUNK, 2 * BLOCK + 100))[0] == [(BLOCK + CHUNK, 2 * BLOCK + 100)]
        assert (await maps.diff(zeros, view, 3 * BLOCK, 5000 * BLOCK))[0] == []
        assert [leaf async for leaf in differing_leaves(maps.store, zeros, view, 1, 4)] == [4]

    run(work)


def test_portions_end_where_there_is_no_more_room_and_where_they_took_long():
    async def work(maps):
        blocks = range(0, 70 * LEAF, 2)
        view = await maps.fold(empty(64 << 40), whole(blocks, 1), 1)
        first = await portion(maps.store, nothing_like(view), view, 0, 1 << 50, 10)
        assert len(first.ranges) == 10 and first.end == 20 * BLOCK
        long = await portion(maps.store, nothing_like(view), view, 0, 1 << 50, 1 << 20)
        assert len(long.ranges) == 64 * LEAF / 2 and long.end == 64 * LEAF * BLOCK
        for most, end in (1, 100), (1000, 3 * LEAF):
            found, _pages = await maps.diff(nothing_like(view), view, end=end * BLOCK, most=most)
            assert found == [(block * BLOCK, (block + 1) * BLOCK) for block in range(0, end, 2)]

    run(work)


def test_blocks_of_other_sizes_differ_where_either_is_not_zeros():
    async def work(maps):
        large = await maps.fold(empty(GIB), whole([1, 3], 1), 1)
        small = await maps.fold(empty(GIB, 16), whole([0, 64, 65, 300], 1), 1)
        wanted = [(0, 1 << 16), (BLOCK, 2 * BLOCK), (3 * BLOCK, 4 * BLOCK), (300 << 16, 301 << 16)]
        for most in (1, 2, 100):
            assert joined((await maps.diff(large, small, most=most))[0]) == sorted(wanted)
            assert joined((await maps.diff(small, large, most=most))[0]) == sorted(wanted)

    run(work)


def test_runs_for_endpoints_have_no_gaps():
    found = Found([(4096, 8192), (12288, 20480)], 40960)
    assert list(extents(found, 0)) == [(4096, 0), (4096, 1), (4096, 0), (8192, 1), (20480, 0)]
    assert list(extents(found, 5000)) == [(3192, 1), (4096, 0), (8192, 1), (20480, 0)]
    assert list(extents(found, 30000)) == [(10960, 0)]
