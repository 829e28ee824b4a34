# SPDX-License-Identifier: Apache-2.0
"""Where two maps differ, by comparing roots, pages and entries.

A page that both maps have is not read, nor is anything below it, and of the journals only those that one of them has
say which leaves may differ. So the cost follows the difference, whatever the size of the volumes. Which parts of a
block differ is told by native/map/diff.h. Maps with blocks of different sizes have no objects in common: of these,
whatever is not zeros in one of them differs.

An answer covers a portion: LEAVES_MAX leaves that differ, and as many ranges as have room.
"""
import errno
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

from peers.mapper.header import ENTRIES_PER_PAGE_SHIFT
from peers.mapper.journal import Stretch
from peers.mapper.store import MapStore
from peers.mapper.tree import Ref, View, both, children, leaf_page, merge, read_page
from xseg._native import ffi, lib
from xseg.errors import error as fail

LEAVES_MAX = 64                     # compared in one portion
LEAF_BYTES_MAX = lib.RECORD_HEADER + lib.XMAP_LEAF * lib.RECORD_ENTRY_MAX
NO_PAGE: Ref = (0, 0, 0)
uncleared = ffi.new_allocator(should_clear_after_alloc=False)

Range = tuple[int, int]             # offset and end, in bytes


@dataclass(frozen=True, slots=True)
class Found:
    """A portion of what differs: `ranges` are all there are in [start, end)."""

    ranges: list[Range]             # ascending, apart from each other
    end: int                        # bytes


def nothing_like(view: View) -> View:
    """The map of a volume that is all zeros."""
    return replace(view, root=None, level=0, stretches=())


# --- which leaves ---------------------------------------------------------------------------------------

def below(view: View, ref: Ref | None, level: int, data: bytes | None) -> dict[int, Ref]:
    """Children of a page. Above its root a map has pages with one child, that do not exist."""
    if level > view.level:
        return {0: ref} if ref else {}
    return children(data) if data is not None else {}


async def differing_pages(store: MapStore, sides: tuple[View, View], refs: tuple[Ref | None, Ref | None], level: int,
                          index: int, first: int, last: int) -> AsyncIterator[int]:
    """Numbers of the leaves from `first` to `last` whose pages are not the same, ascending, below two pages that stand
    at one place of two maps."""
    shift = ENTRIES_PER_PAGE_SHIFT * level
    if refs[0] == refs[1] or (index + 1) << shift <= first or index << shift > last:
        return
    if level == 0:
        yield index
        return
    found = []
    for view, ref in zip(sides, refs, strict=True):
        data = await read_page(store, view, ref, level, index) if ref and level <= view.level else None
        found.append(below(view, ref, level, data))
    for child in sorted(found[0].keys() | found[1].keys()):
        pair = found[0].get(child), found[1].get(child)
        async for leaf in differing_pages(store, sides, pair, level - 1, child, first, last):
            yield leaf


def identity(stretch: Stretch) -> tuple[int, int, int, int]:
    """Stretches of the same identity have the same records."""
    return stretch.volume, stretch.epoch, stretch.number, stretch.end


def leaves_of(stretch: Stretch) -> list[int]:
    """Those that a journal has entries of."""
    index = stretch.leaves.of(stretch.data, stretch.end)
    found = ffi.new("uint64_t[]", lib.journal_leaves_count(index) + 1)
    lib.journal_leaves_list(index, found)
    return list(found[0:lib.journal_leaves_count(index)])


def journal_leaves(before: View, after: View) -> set[int]:
    """Those that the journals which only one of the maps has speak of."""
    there = [{identity(stretch): stretch for stretch in view.stretches} for view in (before, after)]
    shared = [[key for key in mine if key in other] for mine, other in (there, there[::-1])]
    common = set(shared[0]) if shared[0] == shared[1] else set()      # what is replayed in another order is not shared
    return {leaf for mine in there for key, stretch in mine.items() if key not in common
            for leaf in leaves_of(stretch)}


async def differing_leaves(store: MapStore, before: View, after: View, first: int, last: int) -> AsyncIterator[int]:
    """Numbers of the leaves from `first` to `last` that may differ, ascending. NotFound: a view was overtaken."""
    level = max(before.level, after.level)
    pages = differing_pages(store, (before, after), (before.root, after.root), level, 0, first, last)
    journal = sorted(leaf for leaf in journal_leaves(before, after) if first <= leaf <= last)
    async for leaf in both(pages, journal):
        yield leaf


# --- what of them ---------------------------------------------------------------------------------------

class Leaves:
    """Leaves of two maps side by side."""

    def __init__(self, store: MapStore, before: View, after: View, most: int) -> None:
        self.store, self.sides = store, (before, after)
        self.records: list[Any] = [uncleared("uint8_t[]", LEAF_BYTES_MAX) for _ in self.sides]
        self.ranges = uncleared("struct map_range[]", most)
        self.c = ffi.new("struct map_diff *", {"ranges": self.ranges, "room": most, "block_shift": after.block_shift})

    async def compare(self, leaf: int, start: int, end: int) -> bool:
        """Adds what differs in [start, end) of a leaf. False: there is no room for all of it; `c.at` is where it ends.
        EBADMSG."""
        first, pages = leaf << ENTRIES_PER_PAGE_SHIFT, []
        for view in self.sides:
            pages.append(await leaf_page(self.store, view, leaf))
        for view, page, out in zip(self.sides, pages, self.records, strict=True):   # with no await in between
            merge(view, page, first, lib.XMAP_LEAF, NO_PAGE, out, LEAF_BYTES_MAX, indexed=True)
        self.c.before, self.c.after = self.records
        self.c.at, self.c.end = start, end
        code = lib.map_diff(self.c)
        if code not in (0, -errno.ENOSPC):
            raise fail(-code, f"the maps of '{self.sides[0].name}' and '{self.sides[1].name}' cannot be compared at "
                              f"block {first}")
        return bool(code == 0)

    def found(self) -> list[Range]:
        """All so far."""
        return [(self.ranges[n].offset, self.ranges[n].offset + self.ranges[n].length) for n in range(self.c.count)]


async def alike(store: MapStore, before: View, after: View, start: int, end: int, most: int) -> Found:
    """portion() of maps with blocks of the same size."""
    shift = after.block_shift + ENTRIES_PER_PAGE_SHIFT
    leaves, compared = Leaves(store, before, after, most), 0
    async for leaf in differing_leaves(store, before, after, start >> shift, (end - 1) >> shift):
        at = max(start, leaf << shift)
        if compared >= LEAVES_MAX:
            return Found(leaves.found(), at)
        compared += 1
        if not await leaves.compare(leaf, at, min(end, (leaf + 1) << shift)):
            return Found(leaves.found(), leaves.c.at)
    return Found(leaves.found(), end)


def united(ranges: list[Range], end: int) -> list[Range]:
    """What lies before `end` in any of them."""
    found: list[Range] = []
    for start, stop in sorted(ranges):
        stop = min(stop, end)
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], stop)
        elif start < stop:
            found.append((start, stop))
    return found


async def portion(store: MapStore, before: View, after: View, start: int, end: int, most: int) -> Found:
    """What differs in bytes [start, end), `start` a multiple of XMAP_CHUNK, in the first portion of it; `most` ranges
    at most. EBADMSG. NotFound: a view was overtaken."""
    assert start % lib.XMAP_CHUNK == 0 and start < end and most > 0
    if before.block_shift == after.block_shift:
        return await alike(store, before, after, start, end, most)
    sides = [await alike(store, nothing_like(view), view, start, end, most) for view in (before, after)]
    upto = min(side.end for side in sides)
    return Found(united([found for side in sides for found in side.ranges], upto), upto)
