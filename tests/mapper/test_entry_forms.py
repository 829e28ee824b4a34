# SPDX-License-Identifier: Apache-2.0
"""Entries of the map with bitmaps of the older form are read, and written as the newer one."""
import random
import struct

import pytest

from peers.mapper.tree import items_of
from peers.mapper.walk import chunks_per_layer
from xseg._native import ffi, lib

SHIFT, BITMAP = 18, 8               # blocks of 256 KiB: 64 chunks, bitmaps of 8 bytes
VERSION_AT, ENTRY_AT = 4, 64


def record_of(add):
    """A leaf record with what add(record) puts into it."""
    out = ffi.new("uint8_t[]", 65536)
    rec, info = ffi.new("struct record *"), ffi.new("struct record_info *")
    info.kind, info.volume, info.epoch, info.seq, info.block_shift = lib.RECORD_LEAF, 1, 9, 1, SHIFT
    lib.record_begin(rec, out, len(out), info)
    assert add(rec) == 0
    data = bytes(ffi.buffer(out, lib.record_end(rec, 1)))
    assert lib.record_check(ffi.from_buffer(data), len(data), info) == 0
    return data


def old_entry(layers, bitmaps):
    """Of block 5: bitmap l says which chunks lie in layer l unless a layer above has them."""
    assert len(bitmaps) == max(0, layers - 1)
    return struct.pack("<QBBHI", 5, layers, 0, BITMAP if layers > 1 else 0, 0) \
        + b"".join(struct.pack("<IIQ", lib.XOBJ_DATA, 100 - place, 7) for place in range(layers)) + b"".join(bitmaps)


def written_anew(data):
    """The record of one entry as it is written after it was read."""
    at, item, entry = ffi.new("uint64_t *"), ffi.new("struct map_item *"), ffi.new("struct xentry *")
    memory, kept = ffi.new("uint64_t[]", 1024), ffi.from_buffer(data)
    assert lib.record_next(kept, at, item) == 1
    stack = ffi.cast("struct xstack *", memory)
    lib.item_to_entry(item, entry, stack if item.layers > 1 else ffi.NULL)
    return record_of(lambda rec: lib.record_add(rec, item.block, entry, stack if item.layers > 1 else ffi.NULL))


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_an_entry_of_the_older_form_means_the_same_when_it_is_written_anew(layers):
    bitmaps = [random.Random(layers * 10 + place).randbytes(BITMAP) for place in range(layers - 1)]
    entry = old_entry(layers, bitmaps)
    old = record_of(lambda rec: lib.record_add_encoded(rec, entry, len(entry)))
    new = written_anew(old)
    before, after = items_of(old)[0], items_of(new)[0]
    assert after.layers == before.layers and after.names == before.names
    assert chunks_per_layer(after, SHIFT) == chunks_per_layer(before, SHIFT)
    assert (before.form, after.form) == (0, int(layers > 2))
    assert (old[VERSION_AT], new[VERSION_AT]) == (1, 1 + int(layers > 2))
    assert written_anew(new) == new


@pytest.mark.parametrize("layers, form", [(5, 0), (2, 1), (1, 1), (33, 1), (4, 2)])
def test_a_form_with_layers_that_it_cannot_have_is_refused(layers, form):
    entry = bytearray(old_entry(layers, [bytes(BITMAP)] * (layers - 1)))
    entry[9] = form
    data = record_of(lambda rec: lib.record_add_encoded(rec, bytes(entry), len(entry)))
    with pytest.raises(ValueError, match="damaged"):
        items_of(data)


def test_content_is_the_last_layer_or_none():
    layer = struct.pack("<II32s", lib.XOBJ_CONTENT, 0, b"digest")
    data = struct.pack("<IIQ", lib.XOBJ_DATA, 3, 7)
    for entry, whole in ((data + layer, True), (layer + data, False)):
        encoded = struct.pack("<QBBHI", 5, 2, 0, BITMAP, 0) + entry + bytes(BITMAP)
        record = record_of(lambda rec, encoded=encoded: lib.record_add_encoded(rec, encoded, len(encoded)))
        assert bool(lib.record_intact(ffi.from_buffer(record))) is whole
    kept = record_of(lambda rec: lib.record_add_encoded(
        rec, struct.pack("<QBBHI", 5, 2, 0, BITMAP, 0) + data + layer + bytes(BITMAP), 16 + 16 + 40 + BITMAP))
    assert items_of(written_anew(kept))[0].layers == items_of(kept)[0].layers
