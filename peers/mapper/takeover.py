# SPDX-License-Identifier: Apache-2.0
"""A restarted mapper takes over what is open in the segment: nothing is asked of those who have it open.

An OPEN or CLOSE that was counted but not answered is served again, and must not count twice. So before it is counted
its slot gets a note, in `volume` and `arg`: the handle, the op, and how often the port has the volume open after it.
If the segment says the same when the mapper is restarted, the count is taken back. A CLOSE that closes the volume
gets its note before that, and is only to be answered if the volume's place says how far it came. At most one request
is between its count and its answer when the mapper dies. A note that was not there when the request was sent is told
by `asked`: the sender may use the slot of an answer for another request.
"""
import asyncio
from typing import Any

from peers.mapper.header import Header
from peers.mapper.store import gather_bounded
from peers.mapper.volume import Volume
from peers.mapper.volumes import Volumes
from xseg._native import ffi, lib
from xseg.request import Request
from xseg.segment import text

READ_AT_ONCE = 4                    # volumes whose headers and journals are read in the background


def note_count(request: Request, handle: int, times: int) -> None:
    """Notes in an OPEN or CLOSE that its port will have the volume open so many times."""
    request.c.volume = handle
    request.c.arg = request.c.op << 32 | times
    lib.xreq_note(request.port, request.c)


def take_back_counts(hand: Volumes, port: int) -> None:
    """Undoes what an earlier life of this mapper has counted and not answered."""
    for c in hand.segment.busy():
        if c.op in (lib.XOP_OPEN, lib.XOP_CLOSE) and c.arg != c.asked and c.owner == port \
                and c.state in (lib.XREQ_HELD, lib.XREQ_QUEUED) and 0 < c.volume <= hand.segment.c.volume_count \
                and c.src < hand.segment.c.port_count:
            take_back(hand, hand.segment.c.volumes + (c.volume - 1), c)


def take_back(hand: Volumes, shared: Any, c: Any) -> None:
    """The same for a request with a note. It has none afterwards, unless it has closed the volume."""
    op, times = c.arg >> 32, c.arg & 0xffffffff
    if op == c.op == lib.XOP_CLOSE and shared.state in (lib.XVOL_CLOSING, lib.XVOL_FREE):
        hand.closed_early.add((c.volume, c.src))
        return
    c.arg = c.asked
    if op != c.op or shared.opens[c.src] != times or (times and shared.opened_by[c.src] != c.incarnation):
        return
    shared.opens[c.src] = min(65535, times - 1 if op == lib.XOP_OPEN else times + 1)
    shared.opened_by[c.src] = c.incarnation


async def take_over(hand: Volumes, port: int) -> list[asyncio.Task[object]]:
    """Takes over what is open in the segment, for the mapper of that port. What the store says of it is read when it
    is asked for, and in the background: that, and what else is left to do there, is in the tasks."""
    take_back_counts(hand, port)
    freezing = still_freezing(hand, port)
    taken, undone = [], []
    for place in range(hand.segment.c.volume_count):
        shared = hand.segment.c.volumes + place
        if shared.state in (lib.XVOL_OPENING, lib.XVOL_CLOSING):
            undone.append(shared)
        elif shared.state != lib.XVOL_FREE:
            taken.append(take_over_one(hand, shared, place + 1))
    await gather_bounded(lambda shared: undo_place(hand, shared), undone)
    to_thaw = [volume for volume in taken if volume.shared.frozen or volume.handle in freezing]
    left = [volume_id for volume_id in hand.noted.of if volume_id not in hand.by_id]
    tasks: list[asyncio.Task[object]] = [asyncio.create_task(gather_bounded(hand.known, taken, READ_AT_ONCE))]
    tasks += [asyncio.create_task(thaw(hand, volume)) for volume in to_thaw]
    tasks += [asyncio.create_task(let_go(hand, volume_id)) for volume_id in left]
    return tasks


async def undo_place(hand: Volumes, shared: Any) -> None:
    """Gives back a place whose volume was being opened, or which vlmc has closed: the journal's end is
    left to the next opening."""
    if shared.state == lib.XVOL_CLOSING and shared.lock_number:
        await hand.give_back(shared.id)
    lib.export_volume_state(shared, lib.XVOL_FREE)


def still_freezing(hand: Volumes, port: int) -> set[int]:
    """Handles of volumes that an earlier life of this mapper has asked vlmc to freeze."""
    slots = hand.segment.c.slots
    return {slots[slot].volume for slot in hand.segment.slots_of(port)
            if slots[slot].op == lib.XOP_VOL_FREEZE and slots[slot].state != lib.XREQ_FREE}


async def thaw(hand: Volumes, volume: Volume) -> None:
    """Undoes a freeze whose mapper was killed. It may still come: so it is waited for by another."""
    async with hand.using(volume.id):
        if volume.handle:
            await hand.vlmc(lib.XOP_VOL_FREEZE, volume)
            await hand.vlmc(lib.XOP_VOL_THAW, volume)


async def let_go(hand: Volumes, volume_id: int) -> None:
    """Gives back the lock of a volume that is not open: it was taken for a verb, or an opening, that ended with its
    mapper. One that is served again takes it anew."""
    async with hand.using(volume_id) as volume:
        if not volume.handle and not volume.lock_number:
            await hand.give_back(volume_id)


def take_over_one(hand: Volumes, shared: Any, handle: int) -> Volume:
    """One volume, as its place in the segment says."""
    volume = Volume(hand.store, shared.id)
    volume.shared, volume.handle, volume.lock_number = shared, handle, shared.lock_number
    volume.unread = True
    hand.by_id[volume.id] = hand.handles[handle] = volume
    lives = ffi.unpack(shared.opened_by, lib.XSEG_PORTS)
    volume.holders = {(port, lives[port]): times
                      for port, times in enumerate(ffi.unpack(shared.opens, lib.XSEG_PORTS)) if times}
    volume.header = Header(id=volume.id, name=text(shared.name), kind="volume", size=shared.size,
                           block_shift=shared.block_shift)
    if not volume.holders and not shared.administrative:
        shared.closing = 1
    return volume
