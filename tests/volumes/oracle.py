# SPDX-License-Identifier: Apache-2.0
"""What volumes must hold, kept in plain Python: the oracle of the random tests."""
from __future__ import annotations

CHUNK = 4096
ZERO_CHUNK = bytes(CHUNK)


class Image:
    """The bytes of one volume. Only chunks of 4 KiB that are not all zeros are kept."""

    def __init__(self, size: int, readonly: bool = False) -> None:
        self.size = size
        self.readonly = readonly
        self.of: Image | None = None        # a snapshot: the volume it was taken of
        self.chunks: dict[int, bytes] = {}

    def copy(self, size: int | None = None, readonly: bool = False) -> Image:
        """Another image with the same content, at least as large."""
        made = Image(size or self.size, readonly)
        made.chunks = dict(self.chunks)
        return made

    def read(self, offset: int, length: int) -> bytes:
        first, last = offset // CHUNK, (offset + length - 1) // CHUNK
        whole = b"".join(self.chunks.get(chunk, ZERO_CHUNK) for chunk in range(first, last + 1))
        return whole[offset - first * CHUNK:][:length]

    def write(self, offset: int, data: bytes) -> None:
        assert offset + len(data) <= self.size
        at = 0
        while at < len(data):
            chunk, begin = divmod(offset + at, CHUNK)
            part = data[at:at + CHUNK - begin]
            old = self.chunks.get(chunk, ZERO_CHUNK)
            self.put(chunk, old[:begin] + part + old[begin + len(part):])
            at += len(part)

    def put(self, chunk: int, data: bytes) -> None:
        if data == ZERO_CHUNK:
            self.chunks.pop(chunk, None)
        else:
            self.chunks[chunk] = data

    def zero(self, offset: int, length: int) -> None:
        """Like write() of zeros, but as fast for a large range as for a small one."""
        end = offset + length
        first, last = -(-offset // CHUNK), end // CHUNK
        if first <= last:
            for chunk in [c for c in self.chunks if first <= c < last]:
                del self.chunks[chunk]
            self.write(offset, bytes(first * CHUNK - offset))
            self.write(last * CHUNK, bytes(end - last * CHUNK))
        else:
            self.write(offset, bytes(length))

    def discard(self, offset: int, length: int) -> None:
        """Whole chunks become zeros; parts at either end stay. The volume's end ends a chunk."""
        end = offset + length
        first = -(-offset // CHUNK)
        last = -(-end // CHUNK) if end == self.size else end // CHUNK
        for chunk in [c for c in self.chunks if first <= c < last]:
            del self.chunks[chunk]

    def resize(self, size: int) -> None:
        if size < self.size:
            end = self.size
            self.zero(size, end - size)
        self.size = size

    def is_zero(self, offset: int, length: int) -> bool:
        first, last = offset // CHUNK, (offset + length - 1) // CHUNK
        if last - first > len(self.chunks):
            mine = [c for c in self.chunks if first <= c <= last]
        else:
            mine = [c for c in range(first, last + 1) if c in self.chunks]
        return not any(any(self.read(max(offset, c * CHUNK), min(offset + length, (c + 1) * CHUNK)
                                     - max(offset, c * CHUNK))) for c in mine)
