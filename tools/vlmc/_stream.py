# SPDX-License-Identifier: Apache-2.0
"""A snapshot as a stream of bytes: what `vlmc send` writes and `vlmc receive` reads.

It has what a snapshot holds, or, with a base, what differs from another snapshot. It begins with a preamble, and what
follows are records. All numbers are little-endian.

    preamble  offset size
                   0    8  magic "ARCHSEND"
                   8    4  version, 1: a reader that does not know it reads no further
                  12    4  reserved, 0

    record         0    4  kind
                   4    4  bytes of payload, PAYLOAD_MAX at most
                   8    8  number: 0 for the first, then one more each
                  16    8  checksum: XXH3-64 of the preamble's version, the fields above and the payload
                  24    .  payload

    kind   payload
    HEAD   a msgpack map: see Head. The first record, and only that
    DATA   8 offset, then bytes, DATA_MAX at most
    ZDAT   8 offset, 4 number of bytes, then these as one zstd frame
    ZERO   8 offset, 8 length: these bytes are zeros
    DONE   8 number of records before this one. The last record: nothing after it belongs to the stream

Records of bytes are in ascending order and do not overlap, and lie within the snapshot's size. What none of them tells
of is as in the base, or zeros if there is none. A stream without DONE was cut short.

A snapshot is known by the id it had where it was first taken: what is received keeps it as its `origin`, so that a
base is recognised wherever the stream comes from, and whatever it is called.
"""
from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

import msgpack
import xxhash

from xseg.errors import Damaged, Invalid

MAGIC = b"ARCHSEND"
VERSION = 1
PREAMBLE = struct.Struct("<8sII")
FRAME = struct.Struct("<4sIQ")
CHECKSUM = struct.Struct("<Q")
OFFSET = struct.Struct("<Q")
PACKED = struct.Struct("<QI")
ZERO = struct.Struct("<QQ")
DATA_MAX = 1 << 20
PAYLOAD_MAX = DATA_MAX + 4096       # what zstd makes of bytes that cannot be compressed is a little longer
CHUNK = 4096                        # zeros are told by these
ZEROS = bytes(DATA_MAX)
SECTOR, SIZE_MAX, ID_LIMIT = 512, 1 << 60, 1 << 64
BLOCK_SIZES = [1 << shift for shift in range(16, 25)]
TEXT_MAX = 255                      # bytes of a name

Read = Callable[[int], bytes]       # so many bytes, fewer at the end
Write = Callable[[bytes], None]


@dataclass(frozen=True)
class Head:
    """What a stream is of. Ids are those of the place where a snapshot was first taken."""

    name: str
    id: int
    base: int                       # its id, or 0: there is none
    base_name: str
    size: int                       # bytes
    block_size: int
    created: int                    # milliseconds since 1970


@dataclass(frozen=True)
class Piece:
    """Bytes at an offset. `data` is None: `length` zeros."""

    offset: int
    length: int
    data: bytes | None


def checksum(frame: bytes, payload: bytes) -> bytes:
    """Of a record."""
    state = xxhash.xxh3_64(VERSION.to_bytes(4, "little"))
    state.update(frame)
    state.update(payload)
    return CHECKSUM.pack(state.intdigest())


def identity(info: dict[str, Any]) -> int:
    """The id by which a snapshot is known everywhere, of what the mapper says of it."""
    return int(info["origin"] or info["id"], 16)


# --- writing --------------------------------------------------------------------------------------------

class Writer:
    """Writes a stream. `level`: of zstd; None: nothing is compressed."""

    def __init__(self, write: Write, level: int | None = None) -> None:
        self.write, self.number, self.compress = write, 0, None
        if level is not None:
            import zstandard
            self.compress = zstandard.ZstdCompressor(level=level).compress

    def record(self, kind: bytes, payload: bytes) -> None:
        """One record."""
        frame = FRAME.pack(kind, len(payload), self.number)
        self.write(frame + checksum(frame, payload) + payload)
        self.number += 1

    def begin(self, head: Head) -> None:
        """Preamble and head."""
        self.write(PREAMBLE.pack(MAGIC, VERSION, 0))
        self.record(b"HEAD", msgpack.packb(asdict(head)))

    def piece(self, offset: int, data: bytes, zeros_count: bool) -> None:
        """DATA_MAX bytes at most. Of zeros nothing is told unless they count."""
        for at, length, zero in runs(data):
            if not zero:
                self.data(offset + at, data[at:at + length])
            elif zeros_count:
                self.record(b"ZERO", ZERO.pack(offset + at, length))

    def data(self, offset: int, data: bytes) -> None:
        """Bytes, compressed if that makes them fewer."""
        packed = self.compress(data) if self.compress else data
        if len(packed) < len(data):
            self.record(b"ZDAT", PACKED.pack(offset, len(data)) + packed)
        else:
            self.record(b"DATA", OFFSET.pack(offset) + data)

    def end(self) -> None:
        """The end mark."""
        self.record(b"DONE", OFFSET.pack(self.number))


def runs(data: bytes) -> Iterator[tuple[int, int, bool]]:
    """Offset and length of runs of chunks that are all zeros, or are not."""
    start, zero = 0, False
    for at in range(0, len(data), CHUNK):
        chunk = data[at:at + CHUNK]
        now = chunk == ZEROS[:len(chunk)]
        if at > start and now != zero:
            yield start, at - start, zero
            start = at
        zero = now
    if data:
        yield start, len(data) - start, zero


# --- reading --------------------------------------------------------------------------------------------

class Reader:
    """Reads a stream, and believes nothing of it. Damaged, in a sentence about the stream."""

    def __init__(self, read: Read) -> None:
        self.read, self.number, self.end = read, 0, 0
        magic, version, zero = PREAMBLE.unpack(self.exactly(PREAMBLE.size, "its preamble"))
        if magic != MAGIC:
            raise Invalid("it is no stream of `vlmc send`")
        if version != VERSION:
            raise Invalid(f"it has version {version} of the format, and this vlmc reads version {VERSION}: use one as "
                          "new as that which sent it")
        if zero:
            raise Damaged("its preamble is damaged")
        kind, payload = self.record()
        if kind != b"HEAD":
            raise Damaged("it does not begin with what it is of")
        self.head = unpack_head(payload)

    def exactly(self, size: int, what: str) -> bytes:
        """So many bytes. Damaged: there are fewer."""
        data = self.read(size)
        if len(data) < size:
            raise Damaged(f"it is cut short in {what}")
        return data

    def record(self) -> tuple[bytes, bytes]:
        """Kind and payload of the next record."""
        what = f"record {self.number}"
        frame = self.exactly(FRAME.size, what)
        kind, size, number = FRAME.unpack(frame)
        if size > PAYLOAD_MAX or number != self.number:
            raise Damaged(f"{what} is damaged, or is missing")
        wanted = self.exactly(CHECKSUM.size, what)
        payload = self.exactly(size, what)
        if checksum(frame, payload) != wanted:
            raise Damaged(f"{what} is damaged: its checksum does not match")
        self.number += 1
        return kind, payload

    def pieces(self) -> Iterator[Piece]:
        """All that it tells of, in ascending order, up to its end."""
        while True:
            kind, payload = self.record()
            if kind == b"DONE":
                if payload != OFFSET.pack(self.number - 1):
                    raise Damaged("its end mark is that of another stream")
                return
            piece = unpack_piece(kind, payload)
            if piece is None or piece.offset < self.end or not 0 < piece.length <= self.head.size - piece.offset:
                raise Damaged(f"record {self.number - 1} makes no sense")
            self.end = piece.offset + piece.length
            yield piece


def unpack_head(payload: bytes) -> Head:
    """The head of a stream. Damaged."""
    try:
        found = msgpack.unpackb(payload)
    except Exception:                   # msgpack has many
        raise Damaged("what it is of cannot be read") from None
    names = {field.name for field in fields(Head)}
    if not isinstance(found, dict) or set(found) != names or not all(map(good, found, found.values())):
        raise Damaged("what it is of makes no sense")
    return Head(**found)


def good(key: str, value: Any) -> bool:
    """Whether a head can say this."""
    if key in ("name", "base_name"):
        return isinstance(value, str) and len(value.encode(errors="replace")) <= TEXT_MAX
    if type(value) is not int:
        return False
    if key == "size":
        return 0 < value <= SIZE_MAX and value % SECTOR == 0
    return value in BLOCK_SIZES if key == "block_size" else int(key == "id") <= value < ID_LIMIT


def unpack_piece(kind: bytes, payload: bytes) -> Piece | None:
    """What a record tells of; None: it is no such record."""
    if kind == b"ZERO" and len(payload) == ZERO.size:
        offset, length = ZERO.unpack(payload)
        return Piece(offset, length, None)
    if kind == b"DATA" and OFFSET.size < len(payload) <= OFFSET.size + DATA_MAX:
        data = payload[OFFSET.size:]
        return Piece(OFFSET.unpack_from(payload)[0], len(data), data)
    if kind == b"ZDAT" and len(payload) > PACKED.size:
        offset, length = PACKED.unpack_from(payload)
        unpacked = decompressed(payload[PACKED.size:], length)
        return None if unpacked is None else Piece(offset, length, unpacked)
    return None


def decompressed(packed: bytes, length: int) -> bytes | None:
    """Just so many bytes out of one zstd frame; None: it has others."""
    import zstandard
    if not 0 < length <= DATA_MAX:
        return None
    try:
        if zstandard.frame_content_size(packed) != length:
            return None
        data = zstandard.ZstdDecompressor().decompress(packed, max_output_size=length, allow_extra_data=False)
    except zstandard.ZstdError:
        return None
    return data if len(data) == length else None
