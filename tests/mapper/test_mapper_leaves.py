# SPDX-License-Identifier: Apache-2.0
"""The index of a journal by leaf: it grows with each record, and a leaf is put together without walking the journal."""
import random

import pytest
from test_mapper_tree import SHIFT, VOLUME, record

from peers.mapper.journal import Stretch
from peers.mapper.tree import View, items_of, merge
from xseg._native import ffi, lib

CAPACITY = lib.RECORD_HEADER + lib.RECORD_ENTRY_MAX + lib.XMAP_LEAF * 64
BLOCKS = 1 << 40
MANY = 3000                         # records that write one leaf again and again


class Growing:
    """A journal that records are appended to."""

    def __init__(self):
        self.data = bytearray(16 << 20)
        self.stretch = Stretch(VOLUME, 1, 1, self.data)
        self.starts = []            # of its records

    def append(self, changes):
        new = record(changes, len(self.starts) + 1)
        end = self.stretch.end
        self.starts.append(end)
        self.data[end:end + len(new)] = new
        self.stretch.end += len(new)

    def leaf(self, leaf, indexed=True):
        """Block -> epoch."""
        view = View("test", BLOCKS, SHIFT, None, 0, (self.stretch,))
        out = bytearray(CAPACITY)
        length, _next = merge(view, None, leaf * lib.XMAP_LEAF, lib.XMAP_LEAF, (VOLUME, 1, 1), ffi.from_buffer(out),
                              CAPACITY, indexed)
        return {item.block: item.layers[0][2] for item in items_of(out[:length])}


@pytest.mark.parametrize("seed", range(10))
def test_a_leaf_by_the_index_is_the_leaf_of_a_walk(seed):
    dice = random.Random(seed)
    journal = Growing()
    leaves = [dice.randrange(BLOCKS // lib.XMAP_LEAF) for _ in range(dice.choice([1, 3, 100]))]
    for epoch in range(1, 60):
        blocks = [dice.choice(leaves) * lib.XMAP_LEAF + dice.randrange(lib.XMAP_LEAF)
                  for _ in range(dice.randrange(1, 200))]
        journal.append({block: dice.choice([None, epoch]) for block in blocks})
        for leaf in {dice.choice(leaves), dice.choice(leaves) + 1}:
            assert journal.leaf(leaf) == journal.leaf(leaf, indexed=False), f"seed {seed}, record {epoch}"


def test_a_leaf_looks_at_no_record_of_another():
    journal = Growing()
    for leaf in range(1000):
        journal.append({leaf * lib.XMAP_LEAF: leaf + 1})
        assert journal.leaf(leaf) == {leaf * lib.XMAP_LEAF: leaf + 1}
    for leaf, start in enumerate(journal.starts):
        if leaf != 700:
            journal.data[start:start + lib.RECORD_ALIGN] = b"\xff" * lib.RECORD_ALIGN
    assert journal.leaf(700) == {700 * lib.XMAP_LEAF: 701}


def test_a_leaf_written_again_and_again_looks_at_its_latest_records():
    journal = Growing()
    for epoch in range(1, MANY + 1):
        journal.append({5: epoch})
        journal.leaf(0)
    for start in journal.starts[:-2 * lib.XMAP_LEAF]:
        journal.data[start:start + lib.RECORD_ALIGN] = b"\xff" * lib.RECORD_ALIGN
    assert journal.leaf(0) == {5: MANY}


def test_an_index_takes_a_part_of_what_its_journal_takes():
    journal = Growing()
    for number in range(100):
        journal.append({leaf * lib.XMAP_LEAF: 1 for leaf in range(number * 1000, number * 1000 + 1000)})
    journal.leaf(0)
    assert 0 < journal.stretch.leaves.size <= 2.5 * journal.stretch.end
