# SPDX-License-Identifier: Apache-2.0
"""Verbs of the mapper that look at volumes: list, info, mapinfo, du, check. See mapper/verbs/."""
import errno
from collections.abc import Awaitable, Callable

from peers.mapper import walk
from peers.mapper.header import id_text
from peers.mapper.listing import id_or_none, rows
from peers.mapper.store import HEADER, MapStore
from peers.mapper.tree import View
from peers.mapper.verbs.arguments import Answer, Arguments
from peers.mapper.volume import EPOCH_MAX, Volume
from peers.mapper.volumes import Volumes
from xseg._native import lib
from xseg.errors import Damaged, NotFound
from xseg.errors import error as fail
from xseg.segment import text

ROW_MAX = 512                       # bytes a listed volume takes at most, about
LIST_ROOM, LIST_ROOM_MIN = 65536, 4096  # bytes of object names asked for: whole buffers
ENTRY_ROOM = 400                    # bytes of a mapinfo entry at most
NAME_BYTES = 40                     # of an object's name in a LIST
CHECK_CACHE = 4 << 20               # bytes of pages kept for one portion of a check
WALK_TRIES = 4                      # of a portion of a walk that a checkpoint overtakes


async def list_volumes(hand: Volumes, a: Arguments, room: int) -> Answer:
    """Volumes and snapshots, in no order. One whose header is damaged has `id` and `damaged` only."""
    names_room = LIST_ROOM if room >= LIST_ROOM // NAME_BYTES * ROW_MAX else LIST_ROOM_MIN
    found, cursor = await hand.store.list(HEADER, a["cursor"], room=names_room, versions=True)
    return {"volumes": await rows(hand, found), "cursor": cursor}


async def info(hand: Volumes, a: Arguments, room: int) -> Answer:
    """All that is known of one volume; of an open one, who has it open and its counters."""
    header = await hand.names.lookup(a["name"])
    volume = hand.by_id.get(header.id)
    if volume is not None:
        await hand.known(volume)
    if volume is not None and volume.handle:
        header = volume.header
    answer: Answer = {
        "name": header.name, "id": id_text(header.id), "kind": header.kind, "size": header.size,
        "block_size": header.block_size, "epoch": header.epoch, "writable_since": header.writable_since,
        "epochs_left": None if header.readonly else EPOCH_MAX - header.epoch,
        "readonly": header.readonly, "parent": None, "parent_id": id_or_none(header.parent),
        "created": header.created, "auto": header.auto, "protected": header.protected, "schedule": header.schedule,
        "origin": id_or_none(header.origin), "limits": header.limits,
        "journals": len(header.journals),
        "map_level": header.level, "making": await hand.marks.state(header), "open": None, "lock_number": 0}
    if header.parent:
        answer["parent"] = await name_of(hand, header.parent)
    if volume is not None:
        answer["lock_number"] = volume.lock_number
        if volume.handle:
            await volume.learn()
            answer |= {"epoch": volume.shared.epoch, "writable_since": volume.shared.writable_since,
                       "epochs_left": None if header.readonly else volume.epochs_left,
                       "open": usage(hand, volume)}
    return answer


def usage(hand: Volumes, volume: Volume) -> Answer:
    """Of an open volume: users and counters."""
    ports: dict[str, int] = {}
    for (port, _incarnation), times in volume.holders.items():
        role = text(hand.segment.c.ports[port].role) or f"port {port}"
        ports[role] = ports.get(role, 0) + times
    counters = ("reads", "writes", "bytes_read", "bytes_written", "first_writes", "merges", "flushes",
                "commits", "appends", "snapshots", "snapshots_held_ns", "throttled", "throttled_ns")
    by_hand = volume.shared.administrative
    return {"handle": volume.handle, "by": ports, "administrative": bool(by_hand & lib.XVOL_BY_OPEN),
            "locked": bool(by_hand & lib.XVOL_BY_LOCK), "lost": str(volume.lost) if volume.lost else None,
            "journal_bytes": sum(stretch.end for stretch in volume.view().stretches)} | {
        counter: getattr(volume.shared, counter) for counter in counters}


async def name_of(hand: Volumes, volume_id: int) -> str | None:
    """A volume's present name, or None if it is gone or damaged."""
    header = await hand.header_or_none(volume_id)
    return header.name if header and header.kind != "removed" else None


async def at_rest(hand: Volumes, name: str, store: MapStore | None = None) -> tuple[Volume, View]:
    """A volume and its committed map, for walks: the open one, or one loaded for the purpose."""
    header = await hand.names.lookup(name)
    volume = hand.by_id.get(header.id)
    if volume is not None:
        await hand.known(volume)
    if volume is None or not volume.handle:
        volume = Volume(store or hand.store, header.id)
        await volume.load()
    await volume.learn()
    return volume, volume.view()


async def walked(hand: Volumes, name: str, work: Callable[[Volume, View], Awaitable[Answer]]) -> Answer:
    """One portion of a walk, begun again when a checkpoint replaces pages under it."""
    for _ in range(WALK_TRIES):
        volume, view = await at_rest(hand, name)
        try:
            return await work(volume, view)
        except NotFound:
            if (await at_rest(hand, name))[1].root == view.root:
                raise fail(errno.EBADMSG, f"volume '{name}': a page of its map is missing") from None
    raise fail(errno.EAGAIN, f"the map of '{name}' changes too fast to be walked: try again")


async def mapinfo(hand: Volumes, a: Arguments, room: int) -> Answer:
    """Blocks that are not zeros, and the objects they lie in."""
    most = room // ENTRY_ROOM
    return await walked(hand, a["name"], lambda _v, view: walk.mapinfo(hand.store, view, a["cursor"], most))


async def du(hand: Volumes, a: Arguments, room: int) -> Answer:
    """Space: logical size, and what its objects take, by whether only it can have them."""
    async def work(volume: Volume, view: View) -> Answer:
        used = walk.Usage(volume.id, volume.writable_since)
        return {"logical": volume.header.size} | await walk.du(hand.store, view, used, a["cursor"])

    return await walked(hand, a["name"], work)


async def check(hand: Volumes, a: Arguments, room: int) -> Answer:
    """Whether the map is intact and every object it names is there. Damage is reported, not raised.
    It reads what is on the store, not what the mapper remembers."""
    store = MapStore(hand.store.blockerm, hand.store.blockerb, CHECK_CACHE)
    try:
        _volume, view = await at_rest(hand, a["name"], store)
    except Damaged as damage:
        return {"blocks": 0, "objects": 0, "problems": [str(damage)], "left_out": 0, "cursor": 0}
    return await walk.Check(store, view).run(a["cursor"])
