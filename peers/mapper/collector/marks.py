# SPDX-License-Identifier: Apache-2.0
"""Which objects were reached: hashes of their names, in so much memory and no more.

Marks holds the hashes of one range, [low, high). It begins with all that are left to do, and gives up the upper half
when its memory is full: another pass over the store does that then. Two names of one hash (one pair in 10^5 stores
of ten million objects) keep garbage, and never cost anything else.
"""
from __future__ import annotations

from typing import Any

import numpy as np

from peers.mapper.store import CONTENT
from xseg._native import ffi, lib
from xseg.request import Object

HASH_END = 1 << 64
HASH_BYTES = 8
HASH_COPIES = 4                     # of each there are while they are sorted: sorted, added, together, and scratch
LEAF_HASHES = lib.XMAP_LEAF * lib.XMAP_LAYERS
XOBJ = np.dtype([("kind", "<u4"), ("epoch", "<u4"), ("volume", "<u8"), ("index", "<u8"), ("zero", "<u8", 2)])
assert XOBJ.itemsize == ffi.sizeof("struct xobj")

Hashes = Any                        # numpy arrays of u8; of XOBJ
Names = Any


def names_of(data: bytes) -> Names:
    """The names that a LIST put into its data."""
    return np.frombuffer(data[:len(data) // XOBJ.itemsize * XOBJ.itemsize], XOBJ)


def object_of(name: Any) -> Object:
    """One of them."""
    if name["kind"] == CONTENT:
        return Object(CONTENT, digest=bytes(name.tobytes()[8:]))
    return Object(int(name["kind"]), int(name["volume"]), int(name["epoch"]), int(name["index"]))


def hashes_of(names: Names) -> Hashes:
    """Hashes of names."""
    hashes = np.empty(len(names), "<u8")
    lib.reach_names(ffi.cast("struct xobj *", ffi.from_buffer(names)), len(names),
                    ffi.cast("uint64_t *", ffi.from_buffer(hashes)))
    return hashes


class Marks:
    """Hashes from `low` on, in `memory` bytes."""

    def __init__(self, memory: int, low: int = 0) -> None:
        self.low, self.high = low, HASH_END
        self.most = max(2, memory // (HASH_BYTES * HASH_COPIES))
        self.sorted: Hashes = np.empty(0, "<u8")
        self.added: list[Hashes] = []
        self.waiting = 0                # hashes in `added`
        self.entries = 0                # names that were put in, as often as they were
        self.room: Hashes = np.empty(LEAF_HASHES, "<u8")

    def put(self, hashes: Hashes) -> None:
        """Puts some in. The array is kept."""
        self.entries += len(hashes)
        hashes = hashes[self.covers(hashes)]
        self.added.append(hashes)
        self.waiting += len(hashes)
        if self.waiting >= max(LEAF_HASHES, len(self.sorted) // 2, self.most // 4) or self.waiting >= self.most:
            self.settle()

    def name(self, name: Object) -> None:
        """Puts one in."""
        self.put(hashes_of(names_of(name.pack())))

    def record(self, record: Any) -> None:
        """Puts in all that the entries of a checked leaf or journal record mention. ValueError: it is damaged."""
        data = ffi.from_buffer(record)
        info = ffi.new("struct record_info *")
        lib.record_header(data, info)
        room = info.count * lib.XMAP_LAYERS
        if room > len(self.room):
            self.room = np.empty(room, "<u8")
        count = lib.reach_record(data, ffi.cast("uint64_t *", ffi.from_buffer(self.room)), len(self.room))
        if count < 0:
            raise ValueError("its entries are damaged")
        self.put(self.room[:count].copy())

    def settle(self) -> None:
        """Sorts in what was added, and gives up upper halves as long as there is too much."""
        self.sorted = np.unique(np.concatenate([self.sorted, *self.added]))
        self.added, self.waiting = [], 0
        while len(self.sorted) > self.most:
            half = len(self.sorted) // 2
            self.high = int(self.sorted[half])
            self.sorted = self.sorted[:half].copy()

    def covers(self, hashes: Hashes) -> Any:
        """Which of them are of this range, as truth values."""
        return (hashes >= np.uint64(self.low)) & (hashes <= np.uint64(self.high - 1))

    def have(self, hashes: Hashes) -> Any:
        """Which of them were put in, as truth values. All are, and settle() was called: its range is final."""
        assert not self.added
        if not len(self.sorted):
            return np.zeros(len(hashes), bool)
        places = np.minimum(np.searchsorted(self.sorted, hashes), len(self.sorted) - 1)
        return self.sorted[places] == hashes
