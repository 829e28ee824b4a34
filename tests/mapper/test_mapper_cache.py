# SPDX-License-Identifier: Apache-2.0
"""What the mapper keeps in memory takes as much as it says."""
import gc
import tracemalloc

import pytest
from test_mapper_leaves import Growing

from peers.mapper.journal import lost_records, scan
from peers.mapper.store import Cache
from peers.mapper.tree import page_name
from xseg._native import lib

LIMIT = 4 << 20


@pytest.mark.parametrize("size", [0, 96, 1000, 30_000])
def test_a_full_cache_takes_the_memory_it_may(size):
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        cache = Cache(LIMIT)
        for number in range(2 * LIMIT // (size + 300)):
            data = bytearray(size)
            cache.put(page_name((number + (1 << 40), number + 1000, number + (1 << 20))), bytes(data), size)
        del data
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 0.7 * LIMIT <= taken <= 1.2 * LIMIT
    assert cache.used <= LIMIT


def test_the_index_of_a_kept_journal_counts():
    journal, cache = Growing(), Cache(LIMIT)
    for leaf in range(500):
        journal.append({leaf * lib.XMAP_LEAF: 1})
    cache.put(journal.stretch.name, journal.stretch, journal.stretch.size)
    before = cache.used
    journal.leaf(0)
    cache.grown(journal.stretch.name, journal.stretch.size)
    assert cache.used == before + journal.stretch.leaves.size > before
    cache.drop(journal.stretch.name)
    assert cache.used == 0


def damaged(records):
    """A journal of 5 MiB in which so many headers say that their record reaches to its end, and no checksum is right;
    and where its first record ends."""
    journal = Growing()
    journal.append({1: 1})
    first, length = journal.stretch.end, 5 << 20
    for number in range(records):
        at = first + number * lib.RECORD_ALIGN
        journal.append({1: 2})
        journal.data[at + 44:at + 48] = (length - at - lib.RECORD_HEADER).to_bytes(4, "little")
    found = scan(journal.stretch, length)
    assert found.end == first
    return journal.stretch, first, length


def test_a_damaged_journal_is_refused_when_it_cannot_be_looked_through():
    assert lost_records(*damaged(2 * lib.JOURNAL_LOOKS))


def test_the_torn_end_of_a_journal_is_no_damage():
    assert not lost_records(*damaged(1))
    assert not lost_records(*damaged(lib.JOURNAL_LOOKS - 1))


def test_an_intact_record_behind_a_damaged_one_is_found():
    stretch, first, length = damaged(1)
    journal = Growing()
    for number in range(9):
        journal.append({number: 1})
    stretch.data[first + (1 << 20):first + (1 << 20) + 512] = journal.data[journal.starts[8]:journal.starts[8] + 512]
    assert lost_records(stretch, first, length)
