# SPDX-License-Identifier: Apache-2.0
"""What differs between two volumes, portion by portion."""
from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tools.vlmc._common import LONG_S
from xseg.errors import Damaged

if TYPE_CHECKING:
    from xseg.client import Client

RANGE = struct.Struct("<QQ")    # as the mapper answers them


def differing(client: Client, base: str | None, name: str) -> Iterator[tuple[int, int]]:
    """Offset and length, in bytes, of the ranges of a volume that differ from `base`, or from zeros; ascending and
    apart from each other. What the mapper says."""
    offset = length = cursor = 0
    while True:
        answer = client.control("diff", timeout=LONG_S, name=name, base=base, cursor=cursor)
        for at, size in ranges(answer["ranges"]):
            if at == offset + length:
                length += size
                continue
            if length:
                yield offset, length
            offset, length = at, size
        cursor = answer["cursor"]
        if cursor == 0:
            break
    if length:
        yield offset, length


def ranges(data: bytes) -> Iterator[tuple[int, int]]:
    """Those of one answer. Damaged."""
    if len(data) % RANGE.size:
        raise Damaged("the mapper's list of ranges is cut short")
    return RANGE.iter_unpack(data)
