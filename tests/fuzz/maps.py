# SPDX-License-Identifier: Apache-2.0
"""Maps on a store in memory, of which some bytes are changed: all that reads a map ends with an answer, or with an
error that names the volume."""
from __future__ import annotations

import errno
import random
from dataclasses import replace
from typing import Any

import xxhash

from peers.mapper import walk
from peers.mapper.header import Header
from peers.mapper.journal import Index, load_stretches
from peers.mapper.store import JOURNAL, PAGE, MapStore
from peers.mapper.tree import Rebuild, index_of, items_of, load_range, view_of
from xseg._native import ffi, lib
from xseg.errors import error
from xseg.request import Object, Reply

from . import mutate

VOLUME, SHIFT = 77, 16
BLOCKS = 1 << 21                    # of the volume: its tree has three levels
RECORDS_MAX = 4                     # of one journal
ROOM = 65536


class Memory:
    """Map objects by name: the requests that a MapStore sends, as a blocker answers them."""

    def __init__(self) -> None:
        self.objects: dict[Object, bytes] = {}

    async def send(self, op: int, object: Any = None, offset: int = 0, size: int = 0, data: Any = b"",
                   **_: Any) -> Reply:
        name = Object(*object)
        if op == lib.XOP_WRITE:
            old = self.objects.get(name, b"").ljust(offset, b"\0")
            self.objects[name] = old[:offset] + bytes(data) + old[offset + len(data):]
            return Reply(0, len(data), 0, 0, b"")
        if name not in self.objects:
            raise error(errno.ENOENT)
        content = self.objects[name]
        if op == lib.XOP_INFO:
            return Reply(0, len(content), len(content), 0, b"")
        part = content[offset:offset + size].ljust(size, b"\0")
        return Reply(0, size, 0, 0, part)


def record(dice: random.Random, seq: int, epoch: int, flags: int, shift: int = SHIFT) -> bytes:
    """A journal record of some blocks."""
    blocks = sorted(dice.sample(range(5000), dice.randrange(1, 8))) + [BLOCKS - 1] * dice.randrange(2)
    out = ffi.new("uint8_t[]", 64 + 64 * len(blocks) + 512)
    rec, info = ffi.new("struct record *"), ffi.new("struct record_info *")
    info.kind, info.volume, info.epoch, info.seq = lib.RECORD_JOURNAL, VOLUME, epoch, seq
    info.block_shift, info.flags = shift, flags
    lib.record_begin(rec, out, len(out), info)
    for block in blocks:
        assert lib.record_add(rec, block, ffi.new("struct xentry *", {"volume": VOLUME, "epoch": epoch}), ffi.NULL) == 0
    return bytes(ffi.buffer(out, lib.record_end(rec, lib.RECORD_ALIGN)))


def journals(dice: random.Random, memory: Memory) -> None:
    """A chain of journals, one or more, of one life."""
    seq, epoch = 0, 1
    for number in range(1, dice.randrange(2, 5)):
        name, records = Object(JOURNAL, VOLUME, epoch, number), []
        count, marked = dice.randrange(1, RECORDS_MAX + 1), dice.random() < 0.5
        for place in range(count):
            seq += 1
            records.append(record(dice, seq, epoch, lib.RECORD_MARK if marked and place == count - 1 else 0))
        memory.objects[name] = b"".join(records)
        epoch += marked


def mended(data: bytes) -> bytes:
    """The same with the right length and checksum in its first record."""
    made = bytearray(data)
    if len(made) < lib.RECORD_HEADER:
        return data
    length = int.from_bytes(made[44:48], "little") % (len(made) - lib.RECORD_HEADER + 1)
    made[44:48] = length.to_bytes(4, "little")
    made[56:64] = bytes(8)
    made[56:64] = xxhash.xxh3_64_intdigest(bytes(made[:lib.RECORD_HEADER + length])).to_bytes(8, "little")
    return bytes(made)


def spoil(dice: random.Random, memory: Memory, kind: int) -> None:
    """Changes one object; most often so that its checksum is right."""
    name = dice.choice([name for name in memory.objects if name.kind == kind])
    data = memory.objects[name]
    at = dice.randrange(0, len(data), 512) if kind == JOURNAL else 0
    end = len(data) if kind == PAGE else min(len(data), at + dice.choice((512, 1024)))
    head = bytearray(data[at:end])
    if dice.random() < 0.5 and len(head) >= lib.RECORD_HEADER:
        field, size = dice.choice(((6, 2), (8, 8), (16, 4), (20, 4), (24, 8), (32, 8), (40, 4), (48, 4), (52, 4)))
        head[field:field + size] = (dice.choice(mutate.NUMBERS) & (1 << 8 * size) - 1).to_bytes(size, "little")
    else:
        head = bytearray(mutate.data(dice, bytes(head)))
    memory.objects[name] = data[:at] + (mended(bytes(head)) if dice.random() < 0.8 else bytes(head)) + data[end:]


async def read_all(store: MapStore, header: Header) -> None:
    """Everything that is ever read of a map. An OSError says what is wrong."""
    stretches = await load_stretches(store, header)
    for stretch in stretches:
        assert 0 < stretch.end <= len(stretch.data) and stretch.first_seq <= stretch.last_seq
        assert stretch.epoch_max < (1 << 32) - 1 and stretch.marked < 1 << 32
        for found in stretch.records():
            items_of(found)
    view = view_of(header, stretches)
    assert Index(view.stretches).count >= 0
    answer = await walk.Check(store, view).run(0)
    assert all(isinstance(problem, str) for problem in answer["problems"])
    out = ffi.new("uint8_t[]", ROOM)
    await load_range(store, view, 0, lib.XMAP_LEAF, out, ROOM)
    await walk.mapinfo(store, view, 0, 1000)
    await walk.du(store, view, walk.Usage(VOLUME, 1), 0)
    told: list[object] = []
    async for _names in walk.own_objects(store, view, header, 1, damage=told.append):
        pass
    async for _name in walk.own_map(store, view, header, 1, told.append):
        pass
    await Rebuild(store, replace(view, blocks=header.blocks), VOLUME, 9, 1000).run()


async def attempt(memory: Memory, header: Header) -> None:
    """Reads a map that may be damaged."""
    try:
        await read_all(MapStore(memory.send, memory.send), header)
    except OSError as failure:
        assert failure.errno in (errno.EBADMSG, errno.ENOENT) and str(failure), repr(failure)


async def journal_round(dice: random.Random) -> None:
    """Journals that follow a header's open end, or are closed in it."""
    memory = Memory()
    journals(dice, memory)
    listed: list[list] = [[VOLUME, 1, 1, None]]
    if dice.random() < 0.3:
        first = memory.objects[Object(JOURNAL, VOLUME, 1, 1)]
        listed = [[VOLUME, 1, 1, dice.choice((len(first), 512, 0, 100, 1 << 40))]]
    if dice.random() < 0.9:
        spoil(dice, memory, JOURNAL)
    await attempt(memory, Header(id=VOLUME, name="v", kind="volume", size=BLOCKS << SHIFT, block_shift=SHIFT,
                                 journals=listed))


async def page_round(dice: random.Random) -> None:
    """A tree of pages."""
    memory = Memory()
    journals(dice, memory)
    store = MapStore(memory.send, memory.send)
    header = Header(id=VOLUME, name="v", kind="volume", size=BLOCKS << SHIFT, block_shift=SHIFT,
                    journals=[[VOLUME, 1, 1, None]])
    view = view_of(header, await load_stretches(store, header))
    await index_of(view)
    tree = Rebuild(store, view, VOLUME, 1, 1)
    await tree.run()
    header = replace(header, journals=[], root=list(tree.root), level=tree.level)
    if dice.random() < 0.9:
        spoil(dice, memory, PAGE)
    if dice.random() < 0.1:
        header = replace(header, size=dice.choice((512, 1 << 20, 1 << 60)), level=dice.randrange(6))
    await attempt(memory, header)
