# SPDX-License-Identifier: Apache-2.0
"""What lists say of volumes, without reading each header for each list.

A LIST of the store tells a number with each header, where the store can: as long as it is the same, so is what the
header holds, whichever node or instance writes it. So the row of a header that was read once counts until that number
changes; it is kept packed, in a cache with a bound of bytes. Not kept is what may change without the header: whether a
volume is open, or is still being made.
"""
import msgpack

from peers.mapper.frames import read_header
from peers.mapper.header import id_text
from peers.mapper.store import gather_bounded
from peers.mapper.verbs.arguments import Answer
from peers.mapper.volumes import Volumes
from xseg.errors import Damaged, NotFound
from xseg.request import Object


async def rows(hand: Volumes, found: list[Object]) -> list[Answer]:
    """Rows of the headers that a LIST with versions has found, without those that are gone."""
    kept = [kept_row(hand, header) for header in found]
    read = await gather_bounded(lambda header: row(hand, header),
                                [header for header, known in zip(found, kept, strict=True) if not known])
    return [answer for answer in [*map(msgpack.unpackb, filter(None, kept)), *read] if answer]


def is_open(hand: Volumes, volume_id: int) -> bool:
    """True if this mapper has a volume open."""
    volume = hand.by_id.get(volume_id)
    return volume is not None and volume.handle != 0


def kept_row(hand: Volumes, found: Object) -> bytes | None:
    """The row of a header that is what it was, packed."""
    if not found.index or is_open(hand, found.volume):
        return None
    known: bytes | None = hand.rows.get(found)
    return known


async def row(hand: Volumes, found: Object) -> Answer | None:
    """What a list says of one volume; of one whose header is damaged `id` and `damaged` only."""
    volume_id, opened = found.volume, is_open(hand, found.volume)
    try:
        header = hand.open_header(volume_id) or await read_header(hand.store, volume_id)
    except NotFound:
        return None
    except Damaged as damage:
        return {"id": id_text(volume_id), "damaged": str(damage)}
    if header.kind == "removed":
        return None
    answer = {"id": id_text(header.id), "name": header.name, "kind": header.kind, "size": header.size,
              "block_size": header.block_size, "readonly": header.readonly, "parent_id": id_or_none(header.parent),
              "created": header.created, "open": opened, "auto": header.auto, "protected": header.protected,
              "schedule": header.schedule, "origin": id_or_none(header.origin),
              "making": await hand.marks.state(header)}
    if found.index and not opened and not is_open(hand, volume_id) and answer["making"] is None:
        packed = msgpack.packb(answer)
        hand.rows.put(found, packed, len(packed))
    return answer


def id_or_none(volume: int) -> str | None:
    """An id as text, or None for 0."""
    return id_text(volume) if volume else None
