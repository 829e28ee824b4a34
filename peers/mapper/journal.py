# SPDX-License-Identifier: Apache-2.0
"""The journal of a volume, as the mapper sees it: a row of stretches, each one object.

A stretch is a journal object (volume, epoch, number). Its records carry its epoch or a later one: vlmc
may raise the epoch by itself. A record with the snapshot mark is the last of its object, and the next is
named with the epoch that the mark begins. Records are numbered without gaps
within one life of a volume (from its opening to its closing), across objects.

The header lists the stretches. The last may have an open end: it is followed up to its last intact
record, and from there into the object with the next number (of the epoch that the mark began, if there
was one), until there is none. So a new object is begun without touching the header.

After an append that failed nobody knows what lies behind the last good record: a part of it, all of it but
only in the page cache, or an extent that the file system has left unwritten although a second attempt seems to
succeed. So nothing is ever written there again: the header is made to say where the object ends, and the
records go on in the next object. The last record that is found behind an open end when a volume is opened may be
such a one, as whoever knew of the failure is gone: it is written again, into an object of its own.

Only the last record of a life can be torn by a power cut: each is durable before the next is sent. So
what is not intact but has an intact later record behind it is damage, and is refused (EBADMSG). So is a
record of one sector (SECTOR bytes) that is not intact, as no cut tears a sector, and a sector that is not
zeros but begins no record, where one should begin.
"""
import errno
import mmap
from dataclasses import dataclass, field
from typing import Any

from peers.mapper.header import Header, Listed, id_text
from peers.mapper.store import JOURNAL, JOURNAL_LIMIT, MapStore, named, record_header
from xseg._native import ffi, lib
from xseg.errors import NotFound
from xseg.errors import error as fail
from xseg.request import Object

JOURNAL_CAPACITY = JOURNAL_LIMIT + (1 << 20)    # of one object: the limit and one record more
STRETCHES_LIMIT = 8                 # stretches a header lists before they are folded into pages
STRETCHES_MAX = 32                  # ... at which snapshots and openings wait for that
CHAIN_MAX = 64                      # objects followed after an open end
SECTOR = 512                        # bytes that a power cut leaves as they were or as they became
MAGIC = b"ARCR"                     # of a record


class Leaves:
    """Where the entries of each leaf lie in one journal (native/map/leaves.h). Made when it is first asked for, and
    grown with the journal."""

    __slots__ = ("c", "end")

    def __init__(self) -> None:
        self.c: Any = ffi.NULL
        self.end = 0                # bytes of the journal that are in it

    def of(self, data: Any, end: int) -> Any:
        """The index of a journal's first `end` bytes, or more. ENOMEM."""
        if self.c == ffi.NULL:
            made = lib.journal_leaves_new()
            if made == ffi.NULL:
                raise fail(errno.ENOMEM, "there is no memory for the index of a journal")
            self.c = ffi.gc(made, lib.journal_leaves_free)
        if self.end < end:
            code = lib.journal_leaves_grow(self.c, ffi.from_buffer(data), end)
            if code:
                raise fail(-code, "a journal cannot be indexed")
            self.end = end
        return self.c

    @property
    def size(self) -> int:
        """Bytes of memory."""
        return lib.journal_leaves_bytes(self.c) if self.c != ffi.NULL else 0


@dataclass(slots=True, eq=False)
class Stretch:
    """One journal object that is in memory. `data` may be longer than `end`, which is in bytes."""

    volume: int
    epoch: int
    number: int
    data: Any = b""
    end: int = 0
    first_seq: int = 0
    last_seq: int = 0
    epoch_max: int = 0              # of its records
    marked: int = 0                 # epoch that its snapshot mark began; 0: it has none
    stored: int = 0                 # bytes there were of the object when it was read, past `end` too
    leaves: Leaves = field(default_factory=Leaves)

    @property
    def name(self) -> Object:
        """The object's name."""
        return named(JOURNAL, self.volume, self.epoch, self.number)

    @property
    def size(self) -> int:
        """Bytes of memory, with the index of its leaves."""
        return self.end + self.leaves.size

    def listed(self, is_open: bool = False) -> list[int | None]:
        """What the header says of it."""
        return [self.volume, self.epoch, self.number, None if is_open else self.end]

    def take_in(self, data: bytes, seq: int) -> bool:
        """Adds the records up to that number that begin `data`, which lie behind its end in the object. False: one of
        them is not there. A journal of fresh() that has records."""
        view, at, info = memoryview(data), 0, ffi.new("struct record_info *")
        while self.last_seq < seq and at < len(data):
            if lib.record_check(ffi.from_buffer(view[at:]), len(data) - at, info) or info.volume != self.volume \
                    or info.kind != lib.RECORD_JOURNAL or info.seq != self.last_seq + 1 or info.flags:
                break
            size = int(lib.record_span(info))
            self.data[self.end:self.end + size] = view[at:at + size]
            self.end, self.last_seq, self.epoch_max = self.end + size, info.seq, max(self.epoch_max, info.epoch)
            at += size
        return self.last_seq == seq

    def cut(self, seq: int) -> None:
        """Takes away the records after that number."""
        end = 0
        for record in self.records():
            if record_header(record).seq > seq:
                break
            end += -(-len(record) // lib.RECORD_ALIGN) * lib.RECORD_ALIGN
        self.end, self.leaves = scan(self, end).end, Leaves()

    def last_checksum(self) -> int | None:
        """That of its last record, if it has one."""
        records = self.records()
        return record_header(records[-1]).checksum if records else None

    def last_record(self, epoch: int, number: int) -> "Stretch":
        """Another journal that holds its last record alone."""
        record = bytes(self.records()[-1])
        end = -(-len(record) // lib.RECORD_ALIGN) * lib.RECORD_ALIGN
        made = Stretch(self.volume, epoch, number, record.ljust(end, b"\0"), end)
        scan(made, end)
        return made

    def leaf_count(self) -> int:
        """How many leaves it has entries of."""
        return int(lib.journal_leaves_count(self.leaves.of(self.data, self.end)))

    def records(self) -> list[memoryview]:
        """Its records, whole, in order."""
        found, at, info = [], 0, ffi.new("struct record_info *")
        view = memoryview(self.data)[:self.end]
        while at < self.end:
            if lib.record_check(ffi.from_buffer(view[at:]), self.end - at, info):
                break
            size = lib.RECORD_HEADER + info.length
            found.append(view[at:at + size])
            at += -(-size // lib.RECORD_ALIGN) * lib.RECORD_ALIGN
        return found


def fresh(volume: int, epoch: int, number: int) -> Stretch:
    """A stretch to be appended to, with room for JOURNAL_CAPACITY bytes (committed when touched)."""
    return Stretch(volume, epoch, number, mmap.mmap(-1, JOURNAL_CAPACITY))


def describe(stretch: Stretch) -> str:
    """For error sentences."""
    return f"journal {stretch.number} (epoch {stretch.epoch}) of volume {id_text(stretch.volume)}"


def damaged(name: str, stretch: Stretch, reason: str, at: int) -> OSError:
    """EBADMSG that names volume and object."""
    return fail(errno.EBADMSG, f"volume '{name}': {describe(stretch)} is damaged at byte {at}: {reason}")


def scan(stretch: Stretch, length: int) -> Any:
    """Follows the records in the first `length` bytes and notes what they say. A journal_scan."""
    found = ffi.new("struct journal_scan *")
    lib.journal_scan(ffi.from_buffer(stretch.data), length, stretch.volume, found)
    if found.records:
        stretch.first_seq, stretch.last_seq = found.first_seq, found.last_seq
    stretch.epoch_max, stretch.marked = found.epoch_max, found.writable_since
    return found


def number_of(record: bytes, header: Header) -> int:
    """The number of a record that vlmc sends. EINVAL: this volume's journal could not be read with it."""
    found = ffi.new("struct journal_scan *")
    lib.journal_scan(ffi.from_buffer(record), len(record), header.id, found)
    if found.records != 1 or found.end != len(record) or found.block_shift != header.block_shift:
        raise fail(errno.EINVAL, f"volume '{header.name}': vlmc sent a record that is none: "
                                 f"{ffi.string(found.reason).decode()}")
    return int(found.first_seq)


def lost_records(stretch: Stretch, start: int, length: int) -> bool:
    """True if behind the place where a scan ended there is an intact record with a later number, or what looks like
    so many of them that it cannot be told."""
    return bool(lib.journal_lost(ffi.from_buffer(stretch.data), start, length, stretch.volume, stretch.last_seq))


def spoiled(stretch: Stretch, start: int, length: int) -> bool:
    """True if no power cut can have left the sector where a scan ended as it is."""
    sector = bytes(memoryview(stretch.data)[start:min(start + SECTOR, length)])
    if not any(sector):
        return False
    if sector[:4] != MAGIC or len(sector) < lib.RECORD_HEADER:
        return True
    return bool(lib.RECORD_HEADER + record_header(sector).length <= SECTOR)


async def load_closed(store: MapStore, header: Header, listed: Listed) -> Stretch:
    """A stretch whose end is known, from the cache if it is there. EBADMSG."""
    name = header.name
    stretch = Stretch(*listed[:3])
    assert listed.end is not None
    stretch.end = listed.end
    if stretch.end > JOURNAL_CAPACITY:
        raise damaged(name, stretch, "it is longer than any journal", 0)
    cached: Stretch | None = store.cache.get(stretch.name)
    if cached is not None and cached.end == stretch.end:
        return cached
    try:
        stretch.data = await store.read(stretch.name, stretch.end)
    except NotFound:
        raise damaged(name, stretch, "the object is missing", 0) from None
    found = scan(stretch, stretch.end)
    if found.end != stretch.end:
        raise damaged(name, stretch, ffi.string(found.reason).decode(), found.end)
    if found.block_shift != header.block_shift:
        raise damaged(name, stretch, "its block size is not the volume's", 0)
    store.cache.put(stretch.name, stretch, stretch.size)
    return stretch


async def load_open(store: MapStore, header: Header, listed: Listed) -> list[Stretch]:
    """The stretches that an open end leads to, closed where their records end. EBADMSG."""
    found: list[Stretch] = []
    volume, epoch, number = listed[:3]
    seq = header.seq
    for _ in range(CHAIN_MAX):
        stretch = Stretch(volume, epoch, number)
        try:
            length, _space = await store.info(stretch.name)
            length = min(length, JOURNAL_CAPACITY)
            stretch.data = await store.read(stretch.name, length)
        except NotFound:
            break
        result = scan(stretch, length)
        stretch.end, stretch.stored = result.end, length
        if result.records and result.block_shift != header.block_shift:
            raise damaged(header.name, stretch, "its block size is not the volume's", 0)
        if (result.records and result.first_seq != seq + 1) or lost_records(stretch, result.end, length) \
                or spoiled(stretch, result.end, length):
            reason = ffi.string(result.reason).decode() or "records before it are missing"
            raise damaged(header.name, stretch, reason, result.end)
        if not result.records:
            break
        seq = stretch.last_seq
        found.append(stretch)
        epoch, number = result.writable_since or epoch, number + 1
    else:
        raise damaged(header.name, stretch, f"more than {CHAIN_MAX} journals follow the header's last", 0)
    return found


async def load_stretches(store: MapStore, header: Header) -> list[Stretch]:
    """All stretches of a header, closed. Empty ones are left out. EBADMSG."""
    found: list[Stretch] = []
    for listed in header.listed:
        if listed.end is None:
            found += await load_open(store, header, listed)
        elif listed.end:
            found.append(await load_closed(store, header, listed))
    return found


def spans(stretches: tuple[Stretch, ...] | list[Stretch], indexed: bool = False) -> Any:
    """The stretches as a struct journal_span[], with their indexes or without. It is valid as long as they are."""
    made = ffi.new("struct journal_span[]", max(1, len(stretches)))
    for span, stretch in zip(made, stretches, strict=False):
        span.data, span.length = ffi.from_buffer(stretch.data), stretch.end
        if indexed:
            span.leaves = stretch.leaves.of(stretch.data, stretch.end)
    return made


class Index:
    """The newest entry of each block in some stretches, by leaf. Made by one walk over them."""

    def __init__(self, stretches: tuple[Stretch, ...]) -> None:
        self.stretches = stretches          # whose memory the entries point into
        self.spans = spans(stretches)
        room = lib.journal_count(self.spans, len(stretches))
        self.entries = ffi.new("struct journal_entry[]", room + 1)
        self.count = lib.journal_index(self.spans, len(stretches), self.entries, room)
        self.leaves: dict[int, tuple[int, int]] = {}    # leaf -> its entries, ascending
        at = 0
        while at < self.count:
            end = lib.journal_leaf_end(self.entries, self.count, at)
            self.leaves[self.entries[at].block // lib.XMAP_LEAF] = at, end
            at = end

    def of_leaf(self, leaf: int, block_shift: int) -> tuple[Stretch, ...]:
        """A stretch of one record that has just this leaf's entries; none if there are none."""
        at, end = self.leaves.get(leaf, (0, 0))
        if at == end:
            return ()
        size = lib.RECORD_HEADER + sum(self.entries[place].size for place in range(at, end))
        data = bytearray(size)
        info = ffi.new("struct record_info *")
        info.kind, info.volume, info.block_shift = lib.RECORD_JOURNAL, 1, block_shift
        length = lib.journal_gather(self.entries + at, end - at, info, ffi.from_buffer(data), size)
        assert length == size
        return (Stretch(1, 0, 0, data, size),)
