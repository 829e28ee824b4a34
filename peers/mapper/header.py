# SPDX-License-Identifier: Apache-2.0
"""Headers and name pointers: what they look like on the store, and the rules for names, sizes and ids.

A header (object kind HEADER, named by the volume's id) and a name pointer (kind NAME, named by the
SHA-256 of the name) have one shape, little-endian, and are written by REPLACE only:

    offset size
         0    8  generation: grows by 1 with each replacement; this is what compare-and-swap compares
         8    4  magic: "ARCH" a header, "ARCN" a name pointer
        12    2  version, 1
        14    2  reserved, 0
        16    4  bytes of payload
        20    4  reserved, 0
        24    8  checksum: XXH3-64 of the whole with these 8 bytes zero
        32    .  payload: a msgpack map

Payload of a name pointer: id, name. A pointer counts only if the header of its id carries that name, or is about to
get it; any other is left over from a create or rename that was cut short, and may be taken over.

Payload of a header. Numbers lie in RANGES, so that what follows from them fits where it is put:

    key             what
    id              64-bit id: milliseconds since 1970 << 22 | a random start that counts up; never reused
    name            the volume's name
    kind            "volume", "snapshot", or "removed": what it alone had is being given back, the name is free. The
                    header of what shared something stays as a *tombstone*, until the collector has deleted it
    size            bytes
    block_shift     block size is 1 << block_shift bytes
    epoch           largest epoch known to be in use when the header was written
    writable_since  own objects of this epoch or later may be written in place (see native/map/map.h)
    in_place_since  the same, if that is later: own objects before it may have lost writes to a failing disk, and are
                    the volume's own, but never written again. Only there when it is not 0
    parent          id of the snapshot it was cloned from (a snapshot: of its volume), or 0
    root            [volume, epoch, number] of the root page, or nil: all zeros
    level           level of the root page
    journals        stretches to replay over the tree, oldest first: [volume, epoch, number, end];
                    end = bytes, or nil for the last: up to its end, and on into the next journals
    seq             number of the last record before the stretch with the open end
    next_page       number of the next page to be written
    next_journal    number of the next journal after those listed
    created         milliseconds since 1970
    token           of the request that made, renamed or removed it: repeated, it finds its own work
    auto            true: a snapshot made only so that a live volume could be cloned
    renaming        the name it is about to get: as long as this stands here, nobody else takes that name over (see
                    mapper/names.py). Only there when it is not empty
    settled         true: no epoch later than `epoch` was ever used, as its last life has ended in order. Only there
                    when it is true
    origin          of a snapshot that was received: the id of the one whose bytes it has, where that was first taken.
                    Only there when it is not 0
    making          the mark of what it was made with: while there is such a mark, it is nobody's to use (see
                    mapper/making.py). Only there when it is not empty
    protected       true: it is not removed, and nothing of it is given up, until that is taken back. Only there when
                    it is true
    schedule        a volume: the rule by which snapshots of it are taken; a snapshot: its mark, if it was taken by
                    such a rule (see xseg/schedule.py). Only there when it is not empty
    removed_at      milliseconds since 1970 at which it was removed. Only there when it was
    limits          what a guest may have of it a second (see xseg/throttle.py). Only there when it is not empty
"""
import errno
import os
import re
import struct
import time
import unicodedata
from dataclasses import dataclass, field, fields
from hashlib import sha256
from typing import Any, NamedTuple, TypeGuard

import msgpack
import xxhash

from xseg import schedule, throttle
from xseg.errors import error as fail

HEADER_MAGIC = b"ARCH"
NAME_MAGIC = b"ARCN"
VERSION = 1
FRAME = struct.Struct("<Q4sHHIIQ")
CHECKSUM_AT = 24
FRAME_MAX = 65536
NAME_MAX = 255
SIZE_MAX = 1 << 60
SECTOR = 512
BLOCK_MIN_SHIFT, BLOCK_MAX_SHIFT, BLOCK_DEFAULT_SHIFT = 16, 24, 22
JOURNALS_MAX = 64
LEVEL_MAX = 5
EPOCH_LIMIT = 1 << 32
COUNT_LIMIT = 1 << 63                   # of what only ever grows by one
REFERENCE_LIMITS = (1 << 64, EPOCH_LIMIT, COUNT_LIMIT)      # of volume, epoch and number
ENTRIES_PER_PAGE_SHIFT = 10
MAKING_MAX = 1024                   # characters of a mark of being made
MAKING = re.compile("[0-9a-f]{1,16} [0-9a-f]{1,16} [0-9]{1,9} [0-9]{1,9} [^ ]+ .+", re.DOTALL)
UNSEEN = {"Cf", "Cn", "Co"}          # categories of characters: without width, direction of text; not assigned
ALIKE = {"LATIN", "GREEK", "CYRILLIC"}           # scripts some of whose letters look the same
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


# --- frames -----------------------------------------------------------------------------------------

def pack_frame(magic: bytes, generation: int, payload: bytes) -> bytes:
    """The bytes of a header or name pointer object."""
    head = FRAME.pack(generation, magic, VERSION, 0, len(payload), 0, 0)
    checksum = xxhash.xxh3_64_intdigest(head + payload)
    if len(payload) > FRAME_MAX - FRAME.size:
        raise fail(errno.EMSGSIZE, f"a header of {len(payload)} bytes is too large")
    return head[:CHECKSUM_AT] + checksum.to_bytes(8, "little") + payload


def frame_size(data: bytes) -> int:
    """Bytes of a frame, by its own unchecked word; those of its head are there, or it has none."""
    return FRAME.size + FRAME.unpack_from(data)[4] if len(data) >= FRAME.size else 0


def unpack_frame(magic: bytes, data: bytes) -> tuple[int, dict[Any, Any]]:
    """Generation and payload. ValueError, saying how, for what is damaged."""
    if len(data) < FRAME.size:
        raise ValueError("it is cut short")
    generation, found, version, zero, length, zero2, checksum = FRAME.unpack_from(data)
    if found != magic:
        raise ValueError("its magic number is wrong")
    if version != VERSION:
        raise ValueError(f"its format has version {version}, this mapper reads version {VERSION}")
    if zero or zero2 or FRAME.size + length > len(data):
        raise ValueError("its frame is damaged")
    body = bytes(data[FRAME.size:FRAME.size + length])
    if xxhash.xxh3_64_intdigest(bytes(data[:CHECKSUM_AT]) + bytes(8) + body) != checksum:
        raise ValueError("its checksum does not match")
    try:
        payload = msgpack.unpackb(body, strict_map_key=False)
    except Exception as error:
        raise ValueError(f"its payload is damaged ({error})") from None
    if not isinstance(payload, dict):
        raise ValueError("its payload is no map")
    return generation, payload


# --- headers ----------------------------------------------------------------------------------------

class Listed(NamedTuple):
    """A stretch as a header lists it."""

    volume: int
    epoch: int
    number: int
    end: int | None                     # bytes; None: open


@dataclass(slots=True)
class Header:
    """A volume's header, decoded. `generation` is that of the stored object."""

    id: int
    name: str
    kind: str
    size: int
    block_shift: int
    epoch: int = 1
    writable_since: int = 1
    parent: int = 0
    root: list[int] | None = None
    level: int = 0
    journals: list[list[Any]] = field(default_factory=list)     # as msgpack has them; see `listed`
    seq: int = 0
    next_page: int = 1
    next_journal: int = 1
    created: int = 0
    token: int = 0
    auto: bool = False
    renaming: str = ""
    making: str = ""
    in_place_since: int = 0
    settled: bool = False
    protected: bool = False
    schedule: str = ""
    removed_at: int = 0
    origin: int = 0
    limits: str = ""
    generation: int = 1

    @property
    def block_size(self) -> int:
        """Bytes."""
        return 1 << self.block_shift

    @property
    def blocks(self) -> int:
        """Blocks, the last of which may be cut."""
        return -(-self.size >> self.block_shift)

    @property
    def listed(self) -> list[Listed]:
        """Its journals, by name."""
        return [Listed(*stretch) for stretch in self.journals]

    @property
    def open_ended(self) -> bool:
        """True if its last journal has an open end."""
        return bool(self.journals) and self.listed[-1].end is None

    @property
    def readonly(self) -> bool:
        """True for what is never written again."""
        return self.kind != "volume"

    def pack(self) -> bytes:
        """The object's bytes, with the present generation."""
        return pack_frame(HEADER_MAGIC, self.generation,
                          msgpack.packb({key: value for key in STORED
                                         if (value := getattr(self, key)) or key not in OPTIONAL}))


STORED = tuple(f.name for f in fields(Header) if f.name != "generation")
# Left out while they say nothing.
OPTIONAL = ("renaming", "making", "in_place_since", "settled", "protected", "schedule", "removed_at",
            "origin", "limits")
KINDS = ("volume", "snapshot", "removed")
RANGES = {                          # of the numbers of a header: from, below
    "id": (1, 1 << 64), "size": (0, SIZE_MAX + 1), "block_shift": (BLOCK_MIN_SHIFT, BLOCK_MAX_SHIFT + 1),
    "epoch": (0, EPOCH_LIMIT), "writable_since": (0, EPOCH_LIMIT), "parent": (0, 1 << 64),
    "level": (0, LEVEL_MAX + 1), "seq": (0, COUNT_LIMIT), "next_page": (1, COUNT_LIMIT),
    "next_journal": (1, COUNT_LIMIT), "created": (0, 1 << 64), "token": (0, 1 << 64)}


def unpack_header(data: bytes, wanted: int) -> Header:
    """The header of volume id `wanted`. ValueError, saying how, for what is damaged."""
    generation, payload = unpack_frame(HEADER_MAGIC, data)
    if set(payload) | set(OPTIONAL) != set(STORED):
        raise ValueError("its payload has other keys than it should")
    for key, (low, limit) in RANGES.items():
        if not is_number(payload[key], low, limit):
            raise ValueError(f"its {key} is no number from {low} to {limit - 1}")
    if payload["id"] != wanted:
        raise ValueError("it belongs to another volume")
    if payload["kind"] not in KINDS or not good_name(payload["name"]):
        raise ValueError("its kind or name is damaged")
    if not good_name(payload.get("renaming", "a name")):
        raise ValueError("the name it is to get is damaged")
    if not good_mark(payload.get("making", "")):
        raise ValueError("its mark of being made is damaged")
    if not is_number(payload.get("in_place_since", 0), 0, EPOCH_LIMIT):
        raise ValueError("its in_place_since is no epoch")
    if not is_number(payload.get("removed_at", 0), 0, COUNT_LIMIT):
        raise ValueError("the time at which it was removed is no time")
    if not is_number(payload.get("origin", 0), 0, 1 << 64):
        raise ValueError("its origin is no id")
    for key in ("settled", "protected"):
        if not isinstance(payload.get(key, False), bool):
            raise ValueError(f"whether it is {key} is no truth value")
    good_schedule = schedule.good_mark if payload["kind"] == "snapshot" else schedule.good_text
    if payload["kind"] != "removed" and not good_schedule(payload.get("schedule", "")):
        raise ValueError("its schedule is damaged")
    if not throttle.good_text(payload.get("limits", "")):
        raise ValueError("its limits are damaged")
    if not isinstance(payload["auto"], bool) or not 0 < generation < COUNT_LIMIT:
        raise ValueError("its mark or generation is damaged")
    if payload["size"] % SECTOR or (payload["size"] == 0 and payload["kind"] != "removed"):
        raise ValueError("its size is no number of sectors")
    if not good_root(payload["root"], payload["level"]) or not good_journals(payload["journals"], payload["kind"]):
        raise ValueError("its root or journals are damaged")
    return Header(generation=generation, **payload)


def is_number(value: object, low: int, limit: int) -> TypeGuard[int]:
    """True for a whole number in [low, limit)."""
    return type(value) is int and low <= value < limit


def good_name(name: object) -> bool:
    """True for what check_name() lets a volume have."""
    try:
        return check_name(name) == name
    except OSError:
        return False


def good_mark(mark: object) -> bool:
    """True for what mapper/making.py writes there."""
    return isinstance(mark, str) and len(mark) <= MAKING_MAX and (not mark or MAKING.fullmatch(mark) is not None)


def good_root(root: object, level: int) -> bool:
    """True if a root has the shape of the table above: [volume, epoch, number], or nil at level 0."""
    if root is None:
        return level == 0
    return isinstance(root, list) and len(root) == 3 and all(map(is_number, root, (1, 0, 1), REFERENCE_LIMITS))


def good_journals(journals: object, kind: str) -> bool:
    """True if journals have the shape of the table above. Only the last may have an open end, and no snapshot's."""
    if not isinstance(journals, list) or len(journals) > JOURNALS_MAX:
        return False
    for place, stretch in enumerate(journals):
        if not isinstance(stretch, list) or len(stretch) != 4 \
                or not all(map(is_number, stretch[:3], (1, 0, 1), REFERENCE_LIMITS)):
            return False
        may_be_open = place == len(journals) - 1 and kind != "snapshot"
        if not is_number(stretch[3], 0, COUNT_LIMIT) and not (stretch[3] is None and may_be_open):
            return False
    return True


# --- name pointers ----------------------------------------------------------------------------------

def name_digest(name: str) -> bytes:
    """The name of the pointer object."""
    return sha256(name.encode()).digest()


def pack_name(name: str, volume: int, generation: int = 0) -> bytes:
    """The bytes of a name pointer object. A new one begins with a generation of its own: so who has looked at a
    pointer that was removed since does not take its successor for it."""
    generation = generation or int.from_bytes(os.urandom(7), "little") + 1
    return pack_frame(NAME_MAGIC, generation, msgpack.packb({"id": volume, "name": name}))


def unpack_name(data: bytes, wanted: str) -> tuple[int, int]:
    """Generation and id. ValueError, saying how, for what is damaged."""
    generation, payload = unpack_frame(NAME_MAGIC, data)
    volume = payload.get("id")
    if payload.get("name") != wanted:
        raise ValueError("it belongs to another name")
    if set(payload) != {"id", "name"} or not is_number(volume, 1, 1 << 64) or not 0 < generation < COUNT_LIMIT:
        raise ValueError("its id or generation is damaged")
    return generation, volume


# --- what may be asked for --------------------------------------------------------------------------

def check_name(name: object) -> str:
    """The name, if a volume may have it. EINVAL."""
    if not isinstance(name, str) or not name:
        raise fail(errno.EINVAL, "a volume's name must not be empty")
    if CONTROL.search(name):
        raise fail(errno.EINVAL, f"name {name!r}: control characters and broken UTF-8 are not allowed")
    if len(name.encode()) > NAME_MAX:
        raise fail(errno.ENAMETOOLONG, f"name {name[:20]}...: {len(name.encode())} bytes are more than "
                                       f"the {NAME_MAX} allowed")
    if "/" in name:
        raise fail(errno.EINVAL, f"name {name!r}: '/' is not allowed")
    if name[0] in "-.":
        raise fail(errno.EINVAL, f"name {name!r}: it must not begin with '{name[0]}'")
    return name


def check_new_name(name: object) -> str:
    """The name, if a volume may get it: none that looks like another. (Older versions gave such.) EINVAL."""
    name = check_name(name)
    if name != name.strip() or any(unicodedata.category(letter) in UNSEEN for letter in name):
        raise fail(errno.EINVAL, f"name {name!a}: characters that cannot be seen are not allowed, nor are spaces at "
                                 "its ends")
    if (usual := unicodedata.normalize("NFKC", name)) != name:
        raise fail(errno.EINVAL, f"name {name!a}: it looks like {usual!a}, which is allowed")
    scripts = {unicodedata.name(letter, " ").split(" ")[0] for letter in name if letter.isalpha()} & ALIKE
    if len(scripts) > 1:
        raise fail(errno.EINVAL, f"name {name!a}: letters of {' and '.join(sorted(scripts)).title()}, which look "
                                 "alike, must not be mixed")
    return name


def check_size(size: object) -> int:
    """The size in bytes, if a volume may have it. EINVAL, EFBIG."""
    if not isinstance(size, int) or size <= 0:
        raise fail(errno.EINVAL, f"size {size}: it must be greater than 0")
    if size % SECTOR:
        raise fail(errno.EINVAL, f"size {size}: it must be a multiple of {SECTOR} bytes")
    if size > SIZE_MAX:
        raise fail(errno.EFBIG, f"size {size}: the largest is {SIZE_MAX} bytes (1 EiB)")
    return size


def check_block_size(block_size: object) -> int:
    """The shift of a block size in bytes. EINVAL."""
    if not isinstance(block_size, int) or block_size & (block_size - 1) or not (
            1 << BLOCK_MIN_SHIFT <= block_size <= 1 << BLOCK_MAX_SHIFT):
        raise fail(errno.EINVAL, f"block size {block_size}: it must be a power of two from 64K to 16M")
    return block_size.bit_length() - 1


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class Ids:
    """Gives out ids: growing within a process, and different between processes of one millisecond."""

    def __init__(self) -> None:
        self.last = 0

    def next(self) -> int:
        """A fresh 64-bit id."""
        fresh = now_ms() << 22 | int.from_bytes(os.urandom(3), "little") & 0x3FFFFF
        self.last = max(self.last + 1, fresh)
        return self.last


def id_text(volume: int) -> str:
    """How an id is shown to people."""
    return f"{volume:016x}"


def depth_for(blocks: int) -> int:
    """Level that a root page must have to cover so many blocks."""
    level = 0
    while blocks > 1 << ENTRIES_PER_PAGE_SHIFT * (level + 1):
        level += 1
    return level
