# SPDX-License-Identifier: Apache-2.0
"""The page tree of a map: finding leaves, merging them with the journal, writing changed ones anew.

A page of level 0 (leaf) covers 1024 blocks, one of level n 1024 pages of level n - 1. A page is an
object (volume, epoch, number) that holds one record of native/map/map.h and is never changed once a header
refers to it. A View is what a volume looked like at one instant: a root and the journal stretches to
replay over it. Views are immutable, so whoever holds one may work on while the volume changes.

Pages are kept in the store's cache, which is bounded in bytes: nothing here grows with a volume's size.
"""
import asyncio
import errno
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from peers.mapper.header import ENTRIES_PER_PAGE_SHIFT, Header, depth_for, id_text
from peers.mapper.journal import Index, Stretch, spans
from peers.mapper.store import PAGE, MapStore, gather_bounded, named, record_header
from xseg._native import ffi, lib
from xseg.errors import error as fail
from xseg.request import Object

FANOUT = 1 << ENTRIES_PER_PAGE_SHIFT
CHILD = struct.Struct("<QQIIQ")
PAGES_AT_ONCE = 16                  # under way in a checkpoint
INLINE_INDEX = 256 << 10            # journal bytes up to which an index is not worth a thread

Ref = tuple[int, int, int]          # volume, epoch, number of a page
Layer = tuple[Literal["data"], int, int] | tuple[Literal["content"], bytes]      # volume and epoch; digest


@dataclass(frozen=True, slots=True)
class View:
    """A map at one instant."""

    name: str
    blocks: int
    block_shift: int
    root: Ref | None
    level: int
    stretches: tuple[Stretch, ...]


def view_of(header: Header, stretches: list[Stretch]) -> View:
    """The view that a header and its stretches give."""
    root: Ref | None = None
    if header.root:
        volume, epoch, number = header.root
        root = volume, epoch, number
    return View(header.name, header.blocks, header.block_shift, root, header.level, tuple(stretches))


def page_name(ref: Ref) -> Object:
    """The object's name."""
    return named(PAGE, *ref)


def damaged(name: str, ref: Ref, reason: str) -> OSError:
    """EBADMSG that names volume and page."""
    volume, epoch, number = ref
    return fail(errno.EBADMSG, f"volume '{name}': map page {number} (epoch {epoch}) of volume "
                               f"{id_text(volume)} is damaged: {reason}")


# --- reading ----------------------------------------------------------------------------------------

def check_page(view: View, ref: Ref, level: int, data: bytes) -> None:
    """EBADMSG for what is no intact page of that name and level."""
    info = ffi.new("struct record_info *")
    if lib.record_check(ffi.from_buffer(data), len(data), info):
        raise damaged(view.name, ref, ffi.string(info.reason).decode())
    wanted = lib.RECORD_LEAF if level == 0 else lib.RECORD_INNER
    if (info.kind, info.level, info.volume, info.epoch, info.seq) != (wanted, level, *ref):
        raise damaged(view.name, ref, "it is another page's content")
    if info.block_shift != view.block_shift:
        raise damaged(view.name, ref, "its block size is not the volume's")
    if not lib.record_intact(ffi.from_buffer(data)):
        raise damaged(view.name, ref, f"its list of {'pages' if level else 'blocks'} is damaged")


async def read_page(store: MapStore, view: View, ref: Ref, level: int, index: int) -> bytes:
    """A checked page, which is number `index` of its level. EBADMSG. NotFound when there is no such object."""
    name = page_name(ref)
    data: bytes | None = store.cache.get(name)
    if data is None:
        data = await store.read_record(name)
        check_page(view, ref, level, data)
        store.cache.put(name, data, len(data))
    if record_header(data).first != index << ENTRIES_PER_PAGE_SHIFT * (level + 1):
        raise damaged(view.name, ref, "it belongs to another place of the map")
    return data


def children(data: bytes) -> dict[int, Ref]:
    """Children of a checked inner page: number of the child at its level -> page."""
    payload = memoryview(data)[lib.RECORD_HEADER:]
    payload = payload[:len(payload) // CHILD.size * CHILD.size]
    return {child: (volume, epoch, number)
            for child, volume, epoch, _zero, number in CHILD.iter_unpack(payload)}


def find_child(data: bytes, wanted: int) -> Ref | None:
    """One child of a checked inner page, by bisection."""
    low, high = 0, (len(data) - lib.RECORD_HEADER) // CHILD.size
    while low < high:
        middle = (low + high) // 2
        child, volume, epoch, _zero, number = CHILD.unpack_from(data, lib.RECORD_HEADER + middle * CHILD.size)
        if child == wanted:
            return volume, epoch, number
        if child < wanted:
            low = middle + 1
        else:
            high = middle
    return None


async def find_page(store: MapStore, view: View, level: int, index: int) -> Ref | None:
    """The page that is number `index` of its level, or None where the tree has none. EBADMSG, NotFound."""
    if view.root is None or level > view.level or index >> ENTRIES_PER_PAGE_SHIFT * (view.level - level):
        return None
    ref = view.root
    for above in range(view.level, level, -1):
        data = await read_page(store, view, ref, above, index >> ENTRIES_PER_PAGE_SHIFT * (above - level))
        below = find_child(data, index >> ENTRIES_PER_PAGE_SHIFT * (above - 1 - level))
        if below is None:
            return None
        ref = below
    return ref


async def leaf_page(store: MapStore, view: View, leaf: int) -> bytes | None:
    """The leaf's page as the tree has it, without the journal."""
    ref = await find_page(store, view, 0, leaf)
    return await read_page(store, view, ref, 0, leaf) if ref else None


def merge(view: View, page: bytes | None, first: int, count: int, identity: Ref,
          out: Any, capacity: int, indexed: bool = False) -> tuple[int, int]:
    """Entries of blocks [first, first + count), all of one leaf, as a leaf record at `out`, a cffi
    pointer to `capacity` bytes. Returns its bytes and the first block that found no room. EBADMSG.

    `indexed`: the stretches are not walked, and records appended to them since the view was made count too.
    """
    info, next_block = ffi.new("struct record_info *"), ffi.new("uint64_t *")
    info.kind, info.block_shift, info.first = lib.RECORD_LEAF, view.block_shift, first
    info.volume, info.epoch, info.seq = identity
    leaf = ffi.NULL if page is None else ffi.from_buffer(page)
    length = lib.map_merge(leaf, spans(view.stretches, indexed), len(view.stretches), first, count, info, out, capacity,
                           next_block)
    if length == -errno.EBADMSG:
        raise fail(errno.EBADMSG, f"volume '{view.name}': the map page of block {first} has damaged entries")
    if length < 0:
        raise fail(-length, f"volume '{view.name}': cannot merge the map of block {first}")
    return length, next_block[0]


async def load_range(store: MapStore, view: View, first: int, count: int, out: Any,
                     capacity: int) -> tuple[int, int]:
    """MAP_LOAD: merge() of what the tree and journal have. NotFound: the view has been overtaken."""
    page = await leaf_page(store, view, first >> ENTRIES_PER_PAGE_SHIFT)
    merged = merge(view, page, first, count, (view.root or (0, 0, 0)), out, capacity, indexed=True)
    for stretch in view.stretches:
        store.cache.grown(stretch.name, stretch.size)
    return merged


async def merged_leaf(store: MapStore, view: View, leaf: int, identity: Ref, index: Index) -> bytes:
    """A whole leaf, up to the end of the view, as a record's bytes. `index` is of the view's stretches."""
    first = leaf << ENTRIES_PER_PAGE_SHIFT
    count = min(FANOUT, view.blocks - first)
    if count <= 0:
        raise fail(errno.EBADMSG, f"volume '{view.name}': its map has blocks from {first} on, but it ends with "
                                  f"{view.blocks}")
    page = await leaf_page(store, view, leaf)
    view = replace(view, stretches=index.of_leaf(leaf, view.block_shift))
    capacity = lib.RECORD_HEADER + lib.RECORD_ENTRY_MAX + len(page or b"") + sum(s.end for s in view.stretches)
    out = bytearray(capacity)
    length, _next = merge(view, page, first, count, identity, ffi.from_buffer(out), capacity)
    return bytes(memoryview(out)[:length])


async def index_of(view: View) -> Index:
    """An index of the view's stretches; a long one is made by a thread."""
    if sum(stretch.end for stretch in view.stretches) > INLINE_INDEX:
        return await asyncio.to_thread(Index, view.stretches)
    return Index(view.stretches)


# --- walking ----------------------------------------------------------------------------------------

async def tree_pages(store: MapStore, view: View, ref: Ref, level: int, index: int, start: int = 0,
                     enter: Any = None, damage: Any = None) -> AsyncIterator[tuple[Ref, int, int]]:
    """A page and all pages below it: (page, level, number at its level), parents first, ascending.

    Pages that end before leaf `start` are skipped, and so is a page that `enter(ref)` says no to, with all below it.
    When an inner page cannot be read, `damage(error)` is called and its children are skipped; without `damage` the
    error is raised.
    """
    if (index + 1) << ENTRIES_PER_PAGE_SHIFT * level <= start or (enter and not enter(ref)):
        return
    yield ref, level, index
    if level == 0:
        return
    try:
        below = children(await read_page(store, view, ref, level, index))
    except OSError as failure:
        if damage is None:
            raise
        damage(damaged(view.name, ref, "it is missing") if failure.errno == errno.ENOENT else failure)
        return
    for child, page in below.items():
        async for found in tree_pages(store, view, page, level - 1, child, start, enter, damage):
            yield found


async def all_leaves(store: MapStore, view: View, start: int = 0, damage: Any = None,
                     index: Index | None = None, enter: Any = None) -> AsyncIterator[int]:
    """Numbers of the leaves that hold something, ascending, from leaf `start` on: those that the tree has and those
    that the journal touches. Where `enter(ref)` says no to a page, the tree's leaves below that page are left out."""
    async def leaves() -> AsyncIterator[int]:
        if view.root:
            async for _ref, level, leaf in tree_pages(store, view, view.root, view.level, 0, start, enter, damage):
                if level == 0:
                    yield leaf

    journal = [leaf for leaf in (index or await index_of(view)).leaves if leaf >= start]
    async for leaf in both(leaves(), journal):
        yield leaf


async def both(leaves: AsyncIterator[int], others: list[int]) -> AsyncIterator[int]:
    """Numbers that one or both have, ascending, as both are."""
    place = 0
    async for leaf in leaves:
        while place < len(others) and others[place] < leaf:
            yield others[place]
            place += 1
        if place < len(others) and others[place] == leaf:
            place += 1
        yield leaf
    for leaf in others[place:]:
        yield leaf


@dataclass(slots=True)
class Item:
    """One entry."""

    block: int
    layers: list[Layer]             # topmost first
    names: list[Object]             # of the layers' objects
    bitmaps: list[bytes]
    form: int                       # of the bitmaps: see native/map/map.h


def items_of(record: bytes | memoryview) -> list[Item]:
    """Entries of a checked leaf or journal record. ValueError when they are damaged."""
    at, item, base = ffi.new("uint64_t *"), ffi.new("struct map_item *"), ffi.from_buffer(record)
    found = []
    while (result := lib.record_next(base, at, item)) == 1:
        layers: list[Layer] = []
        names = []
        for place in range(item.layers):
            layer = item.layer[place]
            names.append(Object.read(layer))
            layers.append(("data", layer.volume, layer.epoch) if layer.kind == lib.XOBJ_DATA
                          else ("content", bytes(layer.digest)))
        size = item.bitmap_size
        bitmaps = [bytes(ffi.buffer(item.bitmaps + n * size, size)) for n in range(item.bitmap_count)]
        found.append(Item(item.block, layers, names, bitmaps, item.form))
    if result < 0:
        raise ValueError("its entries are damaged")
    return found


async def leaf_items(store: MapStore, view: View, leaf: int, index: Index) -> list[Item]:
    """Present entries of a leaf. EBADMSG."""
    return items_of(await merged_leaf(store, view, leaf, (1, 0, 0), index))


# --- writing ----------------------------------------------------------------------------------------

class Rebuild:
    """Writes the tree anew where a view's stretches changed it: new leaves and a new path to the root.

    New pages are (volume, epoch, next_page...). `cut` drops everything from the view's end on. After
    run(): root, level, next_page, and `replaced`, the pages that the new tree has no use for.
    """

    def __init__(self, store: MapStore, view: View, volume: int, epoch: int, next_page: int,
                 cut: bool = False) -> None:
        self.store, self.view, self.volume, self.epoch = store, view, volume, epoch
        self.next_page, self.cut = next_page, cut
        self.root, self.level = view.root, view.level
        self.replaced: list[Ref] = []
        self.last_leaf = (view.blocks - 1) >> ENTRIES_PER_PAGE_SHIFT
        self.made: list[Object] = []    # pages written, or begun
        self.left = 0                   # leaves to be written

    async def run(self) -> None:
        """Writes the pages; they are not synced yet. EBADMSG, and what the store says."""
        self.index = await index_of(self.view)
        changed = await self.leaves()
        top = max(self.view.level, depth_for(self.view.blocks))
        for level in range(1, top + 1):
            changed = await self.inner(level, changed)
        self.level = top
        if 0 in changed:
            self.root = changed[0]
        elif self.view.root is None:
            self.root = None
        await self.lower()

    def identity(self) -> Ref:
        """The next page's name."""
        self.next_page += 1
        return self.volume, self.epoch, self.next_page - 1

    async def leaves(self) -> dict[int, Ref | None]:
        """Writes the changed leaves. Number -> its new page, None if it is empty now."""
        touched = [leaf for leaf in self.index.leaves if leaf <= self.last_leaf]
        if self.cut and self.last_leaf not in touched:
            touched.append(self.last_leaf)
        self.left = len(touched)
        return dict(zip(touched, await gather_bounded(self.leaf, touched, PAGES_AT_ONCE), strict=True))

    async def leaf(self, leaf: int) -> Ref | None:
        """Writes one leaf."""
        old = await find_page(self.store, self.view, 0, leaf)
        if old:
            self.replaced.append(old)
        ref = self.identity()
        record = await merged_leaf(self.store, self.view, leaf, ref, self.index)
        self.left -= 1
        if len(record) == lib.RECORD_HEADER:
            return None
        await self.write(ref, record)
        return ref

    async def write(self, ref: Ref, record: bytes) -> None:
        """Stores a page, and keeps it at hand."""
        self.made.append(page_name(ref))
        await self.store.write(page_name(ref), 0, record)
        self.store.cache.put(page_name(ref), record, len(record))

    async def old_children(self, level: int, index: int) -> dict[int, Ref]:
        """Children that the inner page has so far. A tree that grows gets its old root as first child."""
        if level == self.view.level + 1 and index == 0 and self.view.root:
            return {0: self.view.root}
        ref = await find_page(self.store, self.view, level, index)
        if ref is None:
            return {}
        self.replaced.append(ref)
        return children(await read_page(self.store, self.view, ref, level, index))

    async def inner(self, level: int, changed: dict[int, Ref | None]) -> dict[int, Ref | None]:
        """Writes the pages of a level whose children changed. Number -> its new page."""
        groups: dict[int, dict[int, Ref | None]] = {}
        for child, ref in changed.items():
            groups.setdefault(child >> ENTRIES_PER_PAGE_SHIFT, {})[child] = ref
        if level == self.view.level + 1 and self.view.root:
            groups.setdefault(0, {})
        last_child = self.last_leaf >> ENTRIES_PER_PAGE_SHIFT * (level - 1)

        async def page(index: int) -> Ref | None:
            now = {child: ref for child, ref in (await self.old_children(level, index) | groups[index]).items()
                   if ref and (child <= last_child or not self.cut)}
            return await self.write_inner(level, index, now) if now else None

        return dict(zip(groups, await gather_bounded(page, groups, PAGES_AT_ONCE), strict=True))

    async def write_inner(self, level: int, index: int, now: dict[int, Ref]) -> Ref:
        """Writes one inner page."""
        ref = self.identity()
        payload = b"".join(CHILD.pack(child, volume, epoch, 0, number)
                           for child, (volume, epoch, number) in sorted(now.items()))
        out = bytearray(lib.RECORD_HEADER + len(payload))
        record, info = ffi.new("struct record *"), ffi.new("struct record_info *")
        info.kind, info.level, info.block_shift = lib.RECORD_INNER, level, self.view.block_shift
        info.volume, info.epoch, info.seq = ref
        info.first = index << ENTRIES_PER_PAGE_SHIFT * (level + 1)
        lib.record_begin(record, ffi.from_buffer(out), len(out), info)
        for at in range(0, len(payload), CHILD.size):
            if lib.record_add_encoded(record, payload[at:at + CHILD.size], CHILD.size):
                raise fail(errno.EOVERFLOW, f"volume '{self.view.name}': an inner page has no room")
        lib.record_end(record, 1)
        await self.write(ref, bytes(out))
        return ref

    async def lower(self) -> None:
        """Takes away upper levels that a cut has made superfluous, and the root if nothing is left."""
        if self.root is None:
            self.level = 0
            return
        while self.cut and self.level > depth_for(self.view.blocks):
            page = await read_page(self.store, self.view, self.root, self.level, 0)
            self.replaced.append(self.root)
            self.root, self.level = children(page)[0], self.level - 1


def own(ref: Ref, volume: int, writable_since: int) -> bool:
    """True if only this volume can have the object: it is its own and younger than its last snapshot."""
    return ref[0] == volume and ref[1] >= writable_since
