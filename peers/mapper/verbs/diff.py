# SPDX-License-Identifier: Apache-2.0
"""What differs between two volumes or snapshots: the verb diff, and XOP_DIFF for endpoints. See mapper/diff.py.

What was written to an open volume before the question began is committed first, and so is in the answer. A volume that
is being written to meanwhile may be told of as it is a moment later: of that, take a snapshot.
"""
import errno
import struct
from collections.abc import Iterator

from peers.mapper.diff import Found, nothing_like, portion
from peers.mapper.header import id_text
from peers.mapper.tree import View
from peers.mapper.verbs.arguments import Answer, Arguments
from peers.mapper.verbs.look import WALK_TRIES, at_rest
from peers.mapper.volume import Volume
from peers.mapper.volumes import Volumes
from xseg._native import lib
from xseg.errors import NotFound, Stale
from xseg.errors import error as fail
from xseg.request import Request
from xseg.volume_name import by_id

RANGE = struct.Struct("<QQ")        # offset and length, as the verb answers them
RANGES_MAX = 16384                  # in one answer of the verb
ANSWER_FRAME = 256                  # bytes of an answer beside its ranges
EXTENT = struct.Struct("=II")       # struct xextent


async def flush(hand: Volumes, name: str) -> None:
    """Commits what was written to a volume, if it is open here. EINPROGRESS: it is being made."""
    header = await hand.names.lookup(name)
    await hand.marks.refuse_unfinished(header, name)
    volume = hand.by_id.get(header.id)
    if volume is not None:
        await flush_open(hand, volume)


async def flush_open(hand: Volumes, volume: Volume) -> None:
    """The same of one in hand."""
    await hand.known(volume)
    if not volume.handle or volume.header.readonly:
        return
    try:
        await hand.vlmc(lib.XOP_FLUSH, volume)
    except Stale:                       # it was closed, which has committed it
        if volume.handle:
            raise


async def compared(hand: Volumes, base: str | None, name: str, start: int, length: int, most: int) -> tuple[Found, int]:
    """The first portion of what differs in [start, start + length) of a volume, and its size; begun again when a
    checkpoint replaces pages under it."""
    for _ in range(WALK_TRIES):
        volume, after = await at_rest(hand, name)
        other, before = await at_rest(hand, base) if base else (None, nothing_like(after))
        size = volume.header.size
        end = min(size, start + length)
        if start >= end or (other is not None and other.id == volume.id):
            return Found([], end), size
        try:
            return await portion(hand.store, before, after, start, end, most), size
        except NotFound:
            if await still(hand, name, after) and (not base or await still(hand, base, before)):
                raise fail(errno.EBADMSG, f"a page of the map of '{name}' or '{base}' is missing: `vlmc check` tells "
                                          "which") from None
    raise fail(errno.EAGAIN, f"the map of '{name}' changes too fast to be compared: try again")


async def still(hand: Volumes, name: str, view: View) -> bool:
    """Whether a map has the root that it had."""
    return (await at_rest(hand, name))[1].root == view.root


async def diff(hand: Volumes, a: Arguments, room: int) -> Answer:
    """Ranges of a volume that differ from those of `base`, or from zeros: as RANGE, in one text of bytes."""
    base: str | None = a["base"]
    if a["cursor"] == 0:
        for name in filter(None, (base, a["name"])):
            await flush(hand, name)
    start = a["cursor"] // lib.XMAP_CHUNK * lib.XMAP_CHUNK
    most = max(1, min(RANGES_MAX, (room - ANSWER_FRAME) // RANGE.size))
    found, size = await compared(hand, base, a["name"], start, 1 << 63, most)
    ranges = b"".join(RANGE.pack(at, end - at) for at, end in found.ranges)
    return {"ranges": ranges, "size": size, "cursor": 0 if found.end >= size else found.end}


async def diff_status(hand: Volumes, request: Request) -> None:
    """XOP_DIFF: see segment/layout.h. ENOENT: there is no such volume any more."""
    volume = await hand.open_one(request)
    start, length, room = request.c.offset, request.c.size, len(request.data) // EXTENT.size
    if request.c.generation not in (0, volume.shared.generation):
        raise fail(errno.ESTALE, "the volume was closed")
    if not room or not 0 < length < 1 << 32:
        raise fail(errno.EINVAL, "DIFF is of 1 byte to 4 GiB, and needs room for an extent")
    base = by_id(id_text(request.c.arg)) if request.c.arg else None
    if base:
        await flush(hand, base)
    await flush_open(hand, volume)
    found, _size = await compared(hand, base, by_id(id_text(volume.id)), start // lib.XMAP_CHUNK * lib.XMAP_CHUNK,
                                  length + start % lib.XMAP_CHUNK, max(1, room // 2))
    runs = list(extents(found, start))[:room]
    if not runs:
        raise fail(errno.EINVAL, f"volume '{volume.header.name}' ends before byte {start}")
    request.reply(data=b"".join(EXTENT.pack(*run) for run in runs), done=len(runs))


def extents(found: Found, start: int) -> Iterator[tuple[int, int]]:
    """Length and enum xextent_diff of each run from `start` on, without gaps."""
    at = start
    for offset, end in found.ranges:
        if offset > at:
            yield offset - at, 0
            at = offset
        if end > at:
            yield end - at, lib.XEXTENT_DIFFERS
            at = end
    if found.end > at:
        yield found.end - at, 0
