# SPDX-License-Identifier: Apache-2.0
"""Marks of what is being made: which volumes they say they are of."""
import random

import msgpack
import pytest

from peers.mapper.header import FRAME_MAX, NAME_MAGIC, Ids, pack_frame, pack_name
from peers.mapper.making import MARK, RUNS_MAX, pack_mark, unpack_mark

TEXT = "7 5 40 1 host /home"


def test_a_mark_holds_the_ids_of_its_batch():
    ids = Ids()
    batch = [ids.next() for _ in range(1000)]
    mixed = random.Random(1).sample(batch, len(batch))
    assert unpack_mark(pack_mark(TEXT, mixed, 3)) == (3, batch)


def test_a_mark_of_an_earlier_version_holds_none():
    assert unpack_mark(pack_name(MARK + TEXT, 1, 3)) == (3, [])


def test_ids_that_would_not_fit_are_left_out():
    last = (1 << 64) - 1
    most = [last - 2 * step for step in range(RUNS_MAX)]
    full = pack_mark("\u20ac" * 1024, most, 1)
    assert len(full) <= FRAME_MAX and unpack_mark(full) == (1, sorted(most))
    assert unpack_mark(pack_mark(TEXT, [*most, 1], 1)) == (1, [])


@pytest.mark.parametrize("ids", [1, [1], [[1]], [[0, 1]], [[1, 0]], [[1, 1 << 40]], [["a", 1]], {}],
                         ids=repr)
def test_damaged_ids_are_noticed(ids):
    with pytest.raises(ValueError):
        unpack_mark(pack_frame(NAME_MAGIC, 1, msgpack.packb({"id": 1, "name": MARK + TEXT, "ids": ids})))
