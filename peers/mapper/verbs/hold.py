# SPDX-License-Identifier: Apache-2.0
"""Verbs of the mapper that hold a volume by hand: open, close, lock, unlock. See mapper/verbs/."""
import errno

from peers.mapper.verbs.arguments import Answer, Arguments
from peers.mapper.volume import Volume
from peers.mapper.volumes import Volumes
from xseg._native import lib
from xseg.errors import Busy, NotFound, XsegError
from xseg.errors import error as fail

RELEASING = 1                   # noted in an `unlock`: its RELEASE may have been sent


async def open_volume(hand: Volumes, a: Arguments, room: int) -> Answer:
    """Opens a volume and keeps it open until `close`. EBUSY: locked by another."""
    async with hand.by_name(a["name"]) as volume:
        await hand.open_here(volume)
        volume.shared.administrative |= lib.XVOL_BY_OPEN
        return {"handle": volume.handle}


async def close_volume(hand: Volumes, a: Arguments, room: int) -> Answer:
    """Undoes `open`. With force, closes it under whoever else has it open; if it is broken (its lock was
    lost, its map is damaged, the disk has failed), what was not committed is thrown away. EINVAL: not open."""
    async with hand.by_name(a["name"]) as volume:
        if not volume.handle or not (volume.shared.administrative & lib.XVOL_BY_OPEN or a["force"]):
            who = f": it is open by {hand.openers(volume)}" if volume.handle else ""
            raise fail(errno.EINVAL, f"volume '{a['name']}' was not opened by `vlmc open`{who}")
        volume.shared.administrative &= 0 if volume.broken or (volume.lost and a["force"]) \
            else ~lib.XVOL_BY_OPEN & 0xffffffff
        if a["force"]:
            volume.abandoned = (volume.broken or volume.lost) is not None
            for holder in list(volume.holders):
                hand.forget_opens(volume, holder, volume.holders[holder])
        await hand.close_if_unused(volume)
        return {"still_open_by": hand.openers(volume)}


async def lock(hand: Volumes, a: Arguments, room: int) -> Answer:
    """Takes the volume's lock by hand, so that no other node opens it: it is kept open here, which is noted
    in the segment, and so outlives this process and the blocker's. EBUSY."""
    async with hand.by_name(a["name"]) as volume:
        if volume.header.readonly:
            raise fail(errno.EINVAL, f"'{a['name']}' is a snapshot: it needs no lock")
        await hand.open_here(volume)
        volume.shared.administrative |= lib.XVOL_BY_LOCK
        return {"number": volume.lock_number}


async def unlock(hand: Volumes, a: Arguments, room: int) -> Answer:
    """Gives the lock back; with force, breaks one whose owner is gone. EBUSY, EPERM, EINVAL: not locked.

    One that is served again, for a mapper that was killed, may find that done: its request bears a note."""
    name, slot = a["name"], a["request"].c
    async with hand.by_name(name) as volume:
        if volume.handle and volume.shared.administrative == lib.XVOL_BY_LOCK and not volume.opens():
            volume.shared.administrative = 0
            await hand.close_here(volume)
            return {}
        if volume.handle and not volume.header.readonly:
            who = hand.openers(volume) or "its last user"
            raise fail(errno.EBUSY, f"volume '{name}' is open by {who}: it is unlocked when it is closed")
        volume.lock_number = 0
        again, slot.arg = slot.arg == RELEASING, RELEASING
        lib.xreq_note(a["request"].port, slot)
        try:
            await hand.store.release(volume.id, hand.token, a["force"])
            hand.noted.remove(volume.id)
        except NotFound:
            if again:
                return {}
            raise fail(errno.EINVAL, f"volume '{name}' is not locked") from None
        except Busy:
            raise fail(errno.EBUSY, f"volume '{name}': the owner of its lock is alive{await owner(hand, volume)}: "
                                    "stop that one first") from None
        except XsegError as failure:
            if failure.errno != errno.EPERM:
                raise
            raise fail(errno.EPERM, f"volume '{name}' is locked by another{await owner(hand, volume)}: "
                                    "`vlmc unlock -f` breaks the lock if its owner is gone") from None
    return {}


async def owner(hand: Volumes, volume: Volume) -> str:
    """" (who)" of a lock that another has."""
    number, other = await hand.store.acquire(volume.id, hand.token, "asking")
    if number:
        await hand.store.release(volume.id, hand.token)
        return ""
    return f" ({other})"
