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
import errno
from typing import TYPE_CHECKING, Any

from peers.mapper.header import Header, id_text
from peers.mapper.keep import keep_lock
from peers.mapper.volume import Volume
from xseg._native import lib
from xseg.errors import XsegError
from xseg.errors import error as fail
from xseg.request import Request
from xseg.segment import text

if TYPE_CHECKING:
    from peers.mapper import Mapper


def note_count(request: Request, handle: int, times: int) -> None:
    """Notes in an OPEN or CLOSE that its port will have the volume open so many times."""
    request.c.volume = handle
    request.c.arg = request.c.op << 32 | times
    lib.xreq_note(request.port, request.c)


def take_back_counts(m: "Mapper") -> None:
    """Undoes what an earlier life of this mapper has counted and not answered."""
    for c in m.segment.busy():
        if c.op in (lib.XOP_OPEN, lib.XOP_CLOSE) and c.arg != c.asked and c.owner == m.port.number \
                and c.state in (lib.XREQ_HELD, lib.XREQ_QUEUED) and 0 < c.volume <= lib.XSEG_VOLUMES \
                and c.src < lib.XSEG_PORTS:
            take_back(m, m.segment.c.volumes + (c.volume - 1), c)


def take_back(m: "Mapper", shared: Any, c: Any) -> None:
    """The same for a request with a note. It has none afterwards, unless it has closed the volume."""
    op, times = c.arg >> 32, c.arg & 0xffffffff
    if op == c.op == lib.XOP_CLOSE and shared.state in (lib.XVOL_CLOSING, lib.XVOL_FREE):
        m.closed_early.add((c.volume, c.src))
        return
    c.arg = c.asked
    if op != c.op or shared.opens[c.src] != times or (times and shared.opened_by[c.src] != c.incarnation):
        return
    shared.opens[c.src] = min(65535, times - 1 if op == lib.XOP_OPEN else times + 1)
    shared.opened_by[c.src] = c.incarnation


async def take_over(m: "Mapper") -> None:
    """Rebuilds the state of what is open in the segment."""
    take_back_counts(m)
    freezing = still_freezing(m)
    to_thaw = []
    for place in range(lib.XSEG_VOLUMES):
        shared = m.segment.c.volumes + place
        if shared.state in (lib.XVOL_OPENING, lib.XVOL_CLOSING):
            await undo_place(m, shared)
        elif shared.state != lib.XVOL_FREE:
            volume = await take_over_one(m, shared, place + 1)
            if shared.frozen or volume.handle in freezing:
                to_thaw.append(volume)
    m.thawing = [asyncio.create_task(thaw(m, volume)) for volume in to_thaw]
    m.thawing += [asyncio.create_task(let_go(m, volume_id)) for volume_id in m.noted.of if volume_id not in m.volumes]


async def undo_place(m: "Mapper", shared: Any) -> None:
    """Gives back a place whose volume was being opened, or which vlmc has closed: the journal's end is
    left to the next opening."""
    if shared.state == lib.XVOL_CLOSING and shared.lock_number:
        try:
            await m.store.release(shared.id, m.token)
        except XsegError as failure:
            m.log.info("the lock of volume %s was given back already: %s", id_text(shared.id), failure)
    lib.export_volume_state(shared, lib.XVOL_FREE)


def still_freezing(m: "Mapper") -> set[int]:
    """Handles of volumes that an earlier life of this mapper has asked vlmc to freeze."""
    slots = m.segment.c.slots
    return {slots[slot].volume for slot in m.segment.slots_of(m.port.number)
            if slots[slot].op == lib.XOP_VOL_FREEZE and slots[slot].state != lib.XREQ_FREE}


async def thaw(m: "Mapper", volume: Volume) -> None:
    """Undoes a freeze whose mapper was killed. It may still come: so it is waited for by another."""
    async with m.using(volume.id):
        if volume.handle:
            await m.vlmc(lib.XOP_VOL_FREEZE, volume)
            await m.vlmc(lib.XOP_VOL_THAW, volume)


async def let_go(m: "Mapper", volume_id: int) -> None:
    """Gives back the lock of a volume that is not open: it was taken for a verb, or an opening, that ended with its
    mapper. One that is served again takes it anew."""
    async with m.using(volume_id) as volume:
        if not volume.handle and not volume.lock_number:
            await m.give_back(volume_id)


async def take_over_one(m: "Mapper", shared: Any, handle: int) -> Volume:
    """Rebuilds the state of one volume. Damage on the store, or in its place in the segment, costs only this one."""
    volume = Volume(m.store, shared.id)
    volume.shared, volume.handle, volume.lock_number = shared, handle, shared.lock_number
    m.volumes[volume.id] = m.handles[handle] = volume
    volume.holders = {(port, shared.opened_by[port]): shared.opens[port]
                      for port in range(lib.XSEG_PORTS) if shared.opens[port]}
    volume.header = Header(id=volume.id, name=text(shared.name), kind="volume", size=shared.size,
                           block_shift=shared.block_shift)
    try:
        await volume.resume(shared)
        if volume.lock_number:
            await keep_lock(m, volume)
    except OSError as failure:
        m.log.error("volume '%s' cannot be taken over: %s", text(shared.name), failure)
        volume.broken = fail(failure.errno or errno.EIO, str(failure))
    except Exception as failure:        # what its place in the segment says makes no sense
        m.log.exception("volume '%s' cannot be taken over", text(shared.name))
        volume.broken = fail(errno.EIO, f"its place in the segment makes no sense: {failure}")
    if not volume.holders and not shared.administrative:
        shared.closing = 1
    return volume
