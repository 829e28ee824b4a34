# SPDX-License-Identifier: Apache-2.0
"""What the mapper does beside answering: it keeps the locks of open volumes, and closes what nobody has open.

A lock dies with the blocker that took it, so it is taken again when a peer was restarted, at the latest by the next
commit of its volume; whoever else had it meanwhile has the volume now, and this node's commits of it fail. A port that
died has closed all it had open; an endpoint has when its successor is ready, as whoever connects to that opens anew,
or when GRACE_S have passed without one.
"""
import asyncio

from peers.mapper.store import gather_bounded
from peers.mapper.volume import Volume, log
from peers.mapper.volumes import Volumes

SWEEP_S = 1.0                       # between two looks at who still lives
LOCKS_AT_ONCE = 16                  # taken again beside what is asked for


async def sweep_forever(hand: Volumes) -> None:
    """Takes locks again, and closes what nobody uses any more."""
    while True:
        await asyncio.sleep(SWEEP_S)
        try:
            await keep_locks(hand)
            await sweep(hand)
        except OSError as failure:
            log.warning("sweep: %s", failure)


async def keep_locks(hand: Volumes) -> None:
    """Takes the locks of open volumes again when a peer was restarted."""
    locked = [volume for volume in hand.handles.values() if volume.lock_number and not volume.unread]
    await gather_bounded(hand.keep_lock, locked, LOCKS_AT_ONCE)


async def sweep(hand: Volumes) -> None:
    """Forgets opens of dead ports, and closes volumes that none has open."""
    for volume in list(hand.handles.values()):
        hand.forget_gone(volume)
        if not volume.opens() and not volume.shared.administrative and not volume.users:
            await sweep_away(hand, volume)


async def sweep_away(hand: Volumes, volume: Volume) -> None:
    """Closes one. What keeps it from closing is logged once, and it is tried again."""
    async with hand.using(volume.id):
        try:
            await hand.close_if_unused(volume)
        except OSError as failure:
            if str(failure) != volume.not_closed:
                log.error("volume '%s' cannot be closed: %s", volume.header.name, failure)
            volume.not_closed = str(failure)
