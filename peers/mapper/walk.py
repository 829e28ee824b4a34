# SPDX-License-Identifier: Apache-2.0
"""Walks over a whole map: what it holds, whether that is all there, what of it is the volume's alone.

A walk answers in portions of whole leaves, WALK_OBJECTS objects or so each, with a cursor (the leaf to
go on with, 0: done), so that no request takes long however large the volume is.
"""
import errno
from collections.abc import AsyncIterator, Iterator
from typing import Any

from peers.mapper.header import Header, id_text
from peers.mapper.store import JOURNAL, PAGE, MapStore, gather_bounded, named
from peers.mapper.tree import Item, Layer, View, all_leaves, index_of, items_of, leaf_items, own, read_page, tree_pages
from xseg._native import lib
from xseg.errors import NotFound
from xseg.request import Object

WALK_OBJECTS = 16384                # objects after which a portion ends
MAPINFO_ENTRIES = 2048
PROBLEMS_MAX = 200                  # reported in one portion


def chunks_per_layer(item: Item, block_shift: int) -> list[int]:
    """How many chunks of 4 KiB of the block lie in each of its layers."""
    total = 1 << block_shift - 12
    taken, counts = 0, []
    for bits in layer_chunks(item) if item.form else (int.from_bytes(bitmap, "little") for bitmap in item.bitmaps):
        counts.append((bits & ~taken).bit_count())
        taken |= bits
    return [*counts, total - taken.bit_count()] if item.layers else []


def layer_chunks(item: Item) -> Iterator[int]:
    """A bit a chunk for those that lie in each layer but the last, topmost first, of an entry of form 1."""
    top, *numbers = (int.from_bytes(bitmap, "little") for bitmap in item.bitmaps)
    yield top
    for number in range(len(item.layers) - 2, 0, -1):
        chunks = (1 << len(item.bitmaps[0]) * 8) - 1 & ~top
        for bit, bitmap in enumerate(numbers):
            chunks &= bitmap if number >> bit & 1 else ~bitmap
        yield chunks


def layer_runs(item: Item, block_shift: int) -> Iterator[tuple[int, int, int]]:
    """The chunks of a block in runs of one layer each: (number of the layer, first chunk, end)."""
    total = 1 << block_shift - 12
    taken, masks = 0, []
    for bits in layer_chunks(item) if item.form else (int.from_bytes(bitmap, "little") for bitmap in item.bitmaps):
        masks.append(bits & ~taken)
        taken |= bits
    masks.append((1 << total) - 1 & ~taken)
    first, now = 0, -1
    for chunk in range(total):
        layer = next(number for number, mask in enumerate(masks) if mask >> chunk & 1)
        if layer != now and chunk:
            yield now, first, chunk
            first = chunk
        now = layer
    yield now, first, total


def describe(layer: Layer) -> str:
    """A layer's object, for people."""
    return f"object of volume {id_text(layer[1])} epoch {layer[2]}" if layer[0] == "data" \
        else f"content {layer[1].hex()}"


async def mapinfo(store: MapStore, view: View, cursor: int, most: int) -> dict[str, Any]:
    """Entries from block `cursor` on: [block, [[kind, id or digest, epoch, chunks]...]]."""
    most = max(1, min(MAPINFO_ENTRIES, most))
    entries: list[list[object]] = []
    index = await index_of(view)
    async for leaf in all_leaves(store, view, cursor // lib.XMAP_LEAF, index=index):
        for item in await leaf_items(store, view, leaf, index):
            if item.block < cursor:
                continue
            if len(entries) >= most:
                return {"entries": entries, "cursor": item.block}
            counts = chunks_per_layer(item, view.block_shift)
            entries.append([item.block, [
                [layer[0], id_text(layer[1]) if layer[0] == "data" else layer[1].hex(),
                 layer[2] if layer[0] == "data" else 0, count]
                for layer, count in zip(item.layers, counts, strict=True)]])
    return {"entries": entries, "cursor": 0}


class Usage:
    """Bytes of space that objects take, by whether only this volume can have them."""

    def __init__(self, volume: int, writable_since: int) -> None:
        self.volume, self.writable_since = volume, writable_since
        self.exclusive = self.shared = self.blocks = self.objects = 0

    def add(self, layer: Layer, space: int) -> None:
        """Counts one object."""
        self.objects += 1
        if layer[0] == "data" and own((layer[1], layer[2], 0), self.volume, self.writable_since):
            self.exclusive += space
        else:
            self.shared += space


async def du(store: MapStore, view: View, usage: Usage, cursor: int) -> dict[str, Any]:
    """Space of the objects of a portion of leaves. An object that is missing counts nothing."""
    async def space(name: Object) -> int:
        try:
            return (await store.info(name))[1]
        except NotFound:
            return 0

    index = await index_of(view)
    async for leaf in all_leaves(store, view, cursor, index=index):
        if usage.objects >= WALK_OBJECTS:
            break
        items = await leaf_items(store, view, leaf, index)
        usage.blocks += len(items)
        spaces = await gather_bounded(space, [name for item in items for name in item.names])
        for layer, taken in zip((layer for item in items for layer in item.layers), spaces, strict=True):
            usage.add(layer, taken)
    else:
        leaf = 0
    return {"blocks": usage.blocks, "objects": usage.objects, "exclusive": usage.exclusive,
            "shared": usage.shared, "cursor": leaf}


class Check:
    """One portion of a check. It reports what is wrong and raises nothing for it."""

    def __init__(self, store: MapStore, view: View) -> None:
        self.store, self.view = store, view
        self.blocks = self.objects = 0
        self.problems: list[str] = []
        self.left_out = 0

    def problem(self, sentence: Any) -> None:
        """Notes one."""
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(str(sentence))
        else:
            self.left_out += 1

    async def run(self, cursor: int) -> dict[str, Any]:
        """Checks leaves from `cursor` on."""
        going_on = 0
        self.index = await index_of(self.view)
        async for leaf in all_leaves(self.store, self.view, cursor, self.problem, self.index):
            if self.objects >= WALK_OBJECTS:
                going_on = leaf
                break
            await self.leaf(leaf)
        return {"blocks": self.blocks, "objects": self.objects, "problems": self.problems,
                "left_out": self.left_out, "cursor": going_on}

    async def leaf(self, leaf: int) -> None:
        """Checks a leaf's page, its entries and their objects."""
        try:
            items = await leaf_items(self.store, self.view, leaf, self.index)
        except OSError as failure:
            self.problem(f"the map page of block {leaf * lib.XMAP_LEAF} is missing"
                         if failure.errno == errno.ENOENT else failure)
            return
        self.blocks += len(items)
        for item in items:
            if item.block >= self.view.blocks:
                self.problem(f"block {item.block} lies beyond the end of the volume")
        shift = self.view.block_shift       # a layer no chunk lies in may wait for its first write, and have no object
        pairs = [(item.block, layer, name) for item in items for layer, name, chunks in
                 zip(item.layers, item.names, chunks_per_layer(item, shift), strict=True) if chunks]
        self.objects += len(pairs)
        await gather_bounded(self.object, pairs)

    async def object(self, pair: tuple[int, Layer, Object]) -> None:
        """Checks that an object is there and sane."""
        block, layer, name = pair
        try:
            size, _space = await self.store.info(name)
        except NotFound:
            self.problem(f"block {block}: its {describe(layer)} is missing")
        except OSError as failure:
            self.problem(f"block {block}: its {describe(layer)} cannot be read: {failure}")
        else:
            if size > 1 << self.view.block_shift:
                self.problem(f"block {block}: its {describe(layer)} has {size} bytes, more than a block")


async def own_objects(store: MapStore, view: View, header: Header, writable_since: int,
                      first_block: int = 0, damage: Any = None) -> AsyncIterator[list[Object]]:
    """Names, in batches, of the data objects that the volume's own pages and journals mention and that
    only this volume can have, from a block on. What lies under a shared page is shared itself."""
    def mine(items: list[Item]) -> list[Object]:
        return [name for item in items if item.block >= first_block
                for layer, name in zip(item.layers, item.names, strict=True)
                if layer[0] == "data" and own((layer[1], layer[2], 0), header.id, writable_since)]

    seen: set[Object] = set()
    for stretch in view.stretches:
        if own((stretch.volume, stretch.epoch, 0), header.id, writable_since):
            for record in stretch.records():
                seen.update(mine(items_of(record)))
    yield list(seen)
    if not view.root:
        return
    async for ref, level, index in tree_pages(
            store, view, view.root, view.level, 0, first_block // lib.XMAP_LEAF,
            enter=lambda ref: own(ref, header.id, writable_since), damage=damage):
        if level == 0:
            try:
                yield [name for name in mine(items_of(await read_page(store, view, ref, 0, index))) if name not in seen]
            except (OSError, ValueError) as failure:
                if damage is None:
                    raise
                damage(failure)


async def own_map(store: MapStore, view: View, header: Header, writable_since: int,
                  damage: Any) -> AsyncIterator[Object]:
    """Names of the pages and journals that only this volume can have."""
    for stretch in view.stretches:
        if own((stretch.volume, stretch.epoch, 0), header.id, writable_since):
            yield named(JOURNAL, stretch.volume, stretch.epoch, stretch.number)
    if view.root:
        async for ref, _level, _index in tree_pages(
                store, view, view.root, view.level, 0,
                enter=lambda ref: own(ref, header.id, writable_since), damage=damage):
            yield named(PAGE, *ref)
