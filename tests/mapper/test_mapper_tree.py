# SPDX-License-Identifier: Apache-2.0
"""The page tree on a real store, against a plain dict: folding journals, levels, cutting, growing."""
import asyncio
import errno
import random

import pytest

from peers.mapper.journal import Index, Stretch
from peers.mapper.store import PAGE, MapStore
from peers.mapper.tree import Rebuild, View, all_leaves, find_page, items_of, leaf_items, page_name, tree_pages
from xseg._native import ffi, lib
from xseg.errors import Damaged

SHIFT = 16
VOLUME = 77


def record(changes, seq):
    """A journal record: block -> epoch of its object, or None for zeros."""
    out = ffi.new("uint8_t[]", 64 + 64 * len(changes) + 512)
    rec, info = ffi.new("struct record *"), ffi.new("struct record_info *")
    info.kind, info.volume, info.epoch, info.seq, info.block_shift = lib.RECORD_JOURNAL, VOLUME, 1, seq, SHIFT
    lib.record_begin(rec, out, len(out), info)
    for block in sorted(changes):
        entry = ffi.new("struct xentry *")
        if changes[block] is not None:
            entry.volume, entry.epoch = VOLUME, changes[block]
        assert lib.record_add(rec, block, entry, ffi.NULL) == 0
    return bytes(ffi.buffer(out, lib.record_end(rec, lib.RECORD_ALIGN)))


def stretch(*all_changes):
    """A journal of one record for each dict."""
    data = b"".join(record(changes, number + 1) for number, changes in enumerate(all_changes))
    return Stretch(VOLUME, 1, 1, data, len(data))


class Tree:
    """A tree under test, and the dict it must equal."""

    def __init__(self, store, blocks):
        self.store, self.blocks = store, blocks
        self.view = View("test", blocks, SHIFT, None, 0, ())
        self.model = {}
        self.next_page = 1

    async def fold(self, *all_changes, cut_to=None):
        """Journals the changes, and folds them into a new tree."""
        for changes in all_changes:
            self.model.update(changes)
        if cut_to is not None:
            self.blocks = cut_to
            self.model = {block: epoch for block, epoch in self.model.items() if block < cut_to}
        stretches = (stretch(*all_changes),) if all_changes else ()
        view = View("test", self.blocks, SHIFT, self.view.root, self.view.level, stretches)
        tree = Rebuild(self.store, view, VOLUME, 1, self.next_page, cut_to is not None)
        await tree.run()
        self.next_page = tree.next_page
        self.view = View("test", self.blocks, SHIFT, tree.root, tree.level, ())
        return tree

    async def content(self):
        """Block -> epoch, as the tree has it, read from the store."""
        self.store.cache.kept.clear()
        found = {}
        async for leaf in all_leaves(self.store, self.view):
            for item in await leaf_items(self.store, self.view, leaf, Index(())):
                found[item.block] = item.layers[0][2]
        return found

    async def check(self):
        assert await self.content() == {block: epoch for block, epoch in self.model.items() if epoch is not None}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A map blocker."""
    import shutil
    import tempfile

    from support import Instance, config_of

    from xseg.segment import Segment, name_for
    home = tempfile.mkdtemp(prefix="ar-", dir="/tmp")
    instance = Instance(home, config_of([("blockerm", "blocker-file", {"path": "map"})]))
    instance.start()
    yield instance
    instance.finish()
    Segment.unlink(name_for(home))
    shutil.rmtree(home)


def on_store(pipeline, work):
    """Runs work(MapStore) in an event loop."""
    from xseg.aio import AsyncPort, Hub
    from xseg.segment import Segment

    async def main():
        with Segment.of_home(pipeline.home) as segment:
            hub = Hub(segment)
            port, target = AsyncPort(hub), segment.port_of("blockerm")

            async def send(op, **fields):
                return await port.call(target, op, **fields)

            try:
                await work(MapStore(send, send))
            finally:
                hub.close()

    asyncio.run(main())


def test_an_empty_tree_has_no_pages(pipeline):
    async def work(store):
        tree = Tree(store, 5000)
        await tree.fold()
        assert tree.view.root is None
        await tree.check()

    on_store(pipeline, work)


def test_one_block_makes_one_path(pipeline):
    async def work(store):
        tree = Tree(store, 1 << 25)
        made = await tree.fold({12_345_678: 4})
        assert len(made.made) == 3 and tree.view.level == 2
        await tree.check()

    on_store(pipeline, work)


def test_only_touched_leaves_and_their_path_are_written_again(pipeline):
    async def work(store):
        tree = Tree(store, 1 << 20)
        await tree.fold({leaf * 1024: 1 for leaf in range(100)})
        old = {leaf: await find_page(store, tree.view, 0, leaf) for leaf in range(100)}
        made = await tree.fold({50 * 1024 + 3: 2})
        assert len(made.made) == 2 and len(made.replaced) == 2
        now = {leaf: await find_page(store, tree.view, 0, leaf) for leaf in range(100)}
        assert [leaf for leaf in range(100) if old[leaf] != now[leaf]] == [50]

    on_store(pipeline, work)


def test_the_old_tree_stays_as_it_was(pipeline):
    async def work(store):
        tree = Tree(store, 1 << 15)
        await tree.fold({1: 1, 2000: 1})
        before, content = tree.view, await tree.content()
        await tree.fold({1: 2, 30000: 2})
        tree.view = before
        assert await tree.content() == content

    on_store(pipeline, work)


def test_a_leaf_whose_blocks_became_zeros_is_left_out(pipeline):
    async def work(store):
        tree = Tree(store, 1 << 15)
        await tree.fold({5: 1, 2000: 1})
        await tree.fold({5: None})
        assert await find_page(store, tree.view, 0, 0) is None
        await tree.check()
        await tree.fold({2000: None})
        assert tree.view.root is None

    on_store(pipeline, work)


def test_growing_puts_levels_on_top(pipeline):
    async def work(store):
        tree = Tree(store, 700)
        await tree.fold({699: 1})
        assert tree.view.level == 0
        tree.blocks = 1 << 31
        await tree.fold({(1 << 31) - 1: 2})
        assert tree.view.level == 3
        await tree.check()

    on_store(pipeline, work)


def test_growing_alone_keeps_what_is_there_readable(pipeline):
    async def work(store):
        tree = Tree(store, 700)
        await tree.fold({3: 1})
        tree.view = View("test", 1 << 31, SHIFT, tree.view.root, tree.view.level, ())
        assert await tree.content() == {3: 1}
        assert await find_page(store, tree.view, 0, 1 << 20) is None

    on_store(pipeline, work)


def test_a_cut_lowers_the_tree(pipeline):
    async def work(store):
        tree = Tree(store, 1 << 25)
        await tree.fold({1: 1, 1500: 1, 1 << 24: 1})
        await tree.fold(cut_to=1501)
        assert tree.view.level == 1
        await tree.check()
        await tree.fold(cut_to=2)
        assert tree.view.level == 0
        await tree.check()
        await tree.fold(cut_to=1)
        assert tree.view.root is None

    on_store(pipeline, work)


def test_what_a_cut_took_does_not_come_back(pipeline):
    async def work(store):
        tree = Tree(store, 1 << 22)
        await tree.fold({block: 1 for block in range(0, 1 << 22, 99_991)})
        await tree.fold({5: 2, 1 << 21: 2}, cut_to=70_000)
        tree.blocks = 1 << 22
        await tree.fold({6: 3})
        await tree.check()

    on_store(pipeline, work)


@pytest.mark.parametrize("seed", range(4))
def test_random_changes_cuts_and_growth(pipeline, seed):
    dice = random.Random(seed)

    async def work(store):
        tree = Tree(store, 1 << 22)
        for step in range(25):
            tree.blocks = max(tree.blocks, dice.choice([1, 1 << 10, 1 << 21, 1 << 30]))
            hot = dice.randrange(tree.blocks)
            changes = [{min(tree.blocks - 1, dice.choice([hot + dice.randrange(3000), dice.randrange(tree.blocks)])):
                        dice.choice([None, step + 1]) for _ in range(dice.randrange(40))} for _ in range(3)]
            cut = dice.randrange(1, tree.blocks + 1) if dice.random() < 0.3 else None
            await tree.fold(*changes, cut_to=cut)
            await tree.check()

    on_store(pipeline, work)


def test_a_page_larger_than_one_request(pipeline):
    """1024 entries of four layers in 16 MiB blocks: 1.7 MiB."""
    async def work(store):
        stack = ffi.cast("struct xstack *", ffi.new("uint8_t[]", 4096))
        memory = ffi.new("uint8_t[]", 4096)
        stack = ffi.cast("struct xstack *", memory)
        stack.layers, stack.bitmap_size = 4, 512
        for place in range(4):
            stack.layer[place].kind, stack.layer[place].volume, stack.layer[place].epoch = lib.XOBJ_DATA, 9, place + 1
        out = ffi.new("uint8_t[]", 2 << 20)
        rec, info = ffi.new("struct record *"), ffi.new("struct record_info *")
        info.kind, info.volume, info.epoch, info.seq, info.block_shift = lib.RECORD_JOURNAL, VOLUME, 1, 1, 24
        lib.record_begin(rec, out, len(out), info)
        entry = ffi.new("struct xentry *", {"volume": 9, "epoch": 1})
        for block in range(1024):
            assert lib.record_add(rec, block, entry, stack) == 0
        data = bytes(ffi.buffer(out, lib.record_end(rec, lib.RECORD_ALIGN)))
        view = View("test", 1024, 24, None, 0, (Stretch(VOLUME, 1, 1, data, len(data)),))
        tree = Rebuild(store, view, VOLUME, 2, 1)
        await tree.run()
        store.cache.kept.clear()
        items = await leaf_items(store, View("test", 1024, 24, tree.root, 0, ()), 0, Index(()))
        assert len(items) == 1024 and all(len(item.layers) == 4 for item in items)

    on_store(pipeline, work)


@pytest.mark.parametrize("place", [0, 4, 8, 50, 56, 64, 80, 100])
def test_a_damaged_page_is_refused_by_name(pipeline, place):
    async def work(store):
        tree = Tree(store, 2000)
        tree.next_page = 1000 + place * 10
        await tree.fold({1: 1, 2: 1, 3: 1, 1999: 1})
        ref = await find_page(store, tree.view, 0, 0)
        data = bytearray(await store.read_record(page_name(ref)))
        data[place] ^= 1
        await store.write(page_name(ref), 0, bytes(data))
        with pytest.raises(Damaged, match=f"'test': map page {ref[2]} .* is damaged"):
            await tree.content()

    on_store(pipeline, work)


def test_one_page_in_the_place_of_another_is_refused(pipeline):
    async def work(store):
        tree = Tree(store, 5000)
        tree.next_page = 5000
        await tree.fold({1: 1, 2000: 1})
        one, other = [await find_page(store, tree.view, 0, leaf) for leaf in (0, 1)]
        await store.write(page_name(one), 0, await store.read_record(page_name(other)))
        with pytest.raises(Damaged, match="another page's content"):
            await tree.content()

    on_store(pipeline, work)


def test_a_walk_can_go_on_after_a_damaged_page(pipeline):
    async def work(store):
        tree = Tree(store, 1 << 22)
        tree.next_page = 6000
        await tree.fold({1: 1, 1 << 21: 1})
        bad = await find_page(store, tree.view, 1, 0)
        await store.write(page_name(bad), 0, b"garbage")
        store.cache.kept.clear()
        told = []
        leaves = [leaf async for leaf in all_leaves(store, tree.view, damage=told.append)]
        assert leaves == [1 << 11] and told[0].errno == errno.EBADMSG

    on_store(pipeline, work)


def test_walking_from_a_leaf_on(pipeline):
    async def work(store):
        tree = Tree(store, 1 << 22)
        await tree.fold({leaf * 1024: 1 for leaf in range(0, 4000, 7)})
        assert [leaf async for leaf in all_leaves(store, tree.view, 3000)] == list(range(3003, 4000, 7))
        pages = [ref async for ref, _level, _index in tree_pages(store, tree.view, tree.view.root, 2 - 1, 0)]
        assert all(page_name(ref).kind == PAGE for ref in pages)

    on_store(pipeline, work)


def test_entries_of_a_record_in_order(pipeline):
    data = record({5: 1, 3: 2, 9: None}, 1)
    assert [(item.block, item.layers) for item in items_of(data)] == [
        (3, [("data", VOLUME, 2)]), (5, [("data", VOLUME, 1)]), (9, [])]
