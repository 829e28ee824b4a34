# SPDX-License-Identifier: Apache-2.0
"""Lists of digests as files: what `vlmc hashes` prints and `vlmc create --from-hashes` reads.

    line    what
    1       "archipelago hashes 1"
    2       "size" and the bytes of the whole
    3       "block_size" and the bytes of a block, a power of two from 64 KiB to 16 MiB
    4...    a digest a block, in order, as 64 lower-case hexadecimal digits; "-" for a block of zeros

A digest is the SHA-256 of the block without the zeros at its end. Every line ends with a newline; there are no others.
"""
from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from xseg._native import lib
from xseg.errors import Invalid
from xseg.request import DIGEST_SIZE

FIRST = "archipelago hashes 1"
SIZE_MAX = 1 << 60
SECTOR = 512
NUMBER = re.compile("0|[1-9][0-9]{0,18}")
DIGEST = re.compile("[0-9a-f]{64}")
NOTHING = hashlib.sha256(b"").digest()
SHOWN_MAX = 40


class Hashes(NamedTuple):
    """A list: sizes in bytes, raw digests one behind the other."""

    size: int
    block_size: int
    digests: bytes


def head(size: int, block_size: int) -> str:
    """The first lines."""
    return f"{FIRST}\nsize {size}\nblock_size {block_size}\n"


def line(digest: bytes) -> str:
    """The line of a block."""
    return "-\n" if digest == NOTHING else digest.hex() + "\n"


def read(lines: Iterable[str], name: str) -> Hashes:
    """A list from the lines of a file. Invalid, naming file and line: it is none."""
    numbered = enumerate(lines, 1)
    if next_line(numbered, name) != FIRST:
        raise Invalid(f"{name}, line 1: {FIRST!r} is missing: it is no list of hashes of this version")
    size = number(numbered, name, "size")
    block_size = number(numbered, name, "block_size")
    if not 0 < size <= SIZE_MAX or size % SECTOR:
        raise Invalid(f"{name}, line 2: the size must be a multiple of {SECTOR} bytes from {SECTOR} to {SIZE_MAX}")
    if block_size not in (1 << shift for shift in range(lib.XMAP_BLOCK_MIN_SHIFT, lib.XMAP_BLOCK_MAX_SHIFT + 1)):
        raise Invalid(f"{name}, line 3: the block size must be a power of two from 64 KiB to 16 MiB")
    blocks = -(-size // block_size)
    digests = bytearray()
    for place, text in numbered:
        if len(digests) // DIGEST_SIZE == blocks:
            raise Invalid(f"{name}, line {place}: {size} bytes are {blocks} blocks, and there are more lines")
        digests += digest(text, name, place)
    if len(digests) // DIGEST_SIZE != blocks:
        raise Invalid(f"{name}: {size} bytes are {blocks} blocks, but it has {len(digests) // DIGEST_SIZE} digests: it "
                      "is cut short")
    return Hashes(size, block_size, bytes(digests))


def next_line(numbered: Iterator[tuple[int, str]], name: str) -> str:
    """One line. Invalid: there is none, or it has no end."""
    place, text = next(numbered, (0, ""))
    if not text.endswith("\n"):
        raise Invalid(f"{name}: it is cut short" + (f" in line {place}" if place else ""))
    return text[:-1]


def number(numbered: Iterator[tuple[int, str]], name: str, word: str) -> int:
    """The number of a line that begins with a word. Invalid."""
    text = next_line(numbered, name)
    key, _space, value = text.partition(" ")
    if key != word or not NUMBER.fullmatch(value):
        raise Invalid(f"{name}: {text[:SHOWN_MAX]!r} stands where '{word}' and a number should")
    return int(value)


def digest(text: str, name: str, place: int) -> bytes:
    """The digest of a line. Invalid."""
    if text == "-\n":
        return NOTHING
    if not text.endswith("\n") or not DIGEST.fullmatch(text[:-1]):
        raise Invalid(f"{name}, line {place}: {text[:SHOWN_MAX]!r} is no digest of 64 hexadecimal digits, and not '-'")
    return bytes.fromhex(text[:-1])
