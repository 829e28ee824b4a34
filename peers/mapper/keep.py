# SPDX-License-Identifier: Apache-2.0
"""What the mapper does beside answering: it keeps the locks of open volumes, and closes what nobody has open.

A lock dies with the blocker that took it, so it is taken again when a peer was restarted; whoever else
had it meanwhile has the volume now, and this node's commits of it fail. A port that died has closed all it
had open; an endpoint has when its successor is ready, as whoever connects to that opens anew, or when GRACE_S have
passed without one.
"""
import asyncio
import errno
import logging
import os
import socket

from peers.mapper.store import gather_bounded
from peers.mapper.volume import Volume, read_header
from peers.mapper.volumes import Volumes
from xseg._native import lib
from xseg.errors import error as fail
from xseg.segment import Segment

SWEEP_S = 1.0                       # between two looks at who still lives
log = logging.getLogger("mapper")


def blocker_lives(segment: Segment) -> list[int]:
    """Incarnations of all peers: a new one of a blocker may have lost the locks it held."""
    ports = segment.c.ports
    return [ports[number].incarnation for number in range(lib.XSEG_STATIC_PORTS)]


class Keeper:
    """Keeps the locks of open volumes, and closes what nobody has open."""

    def __init__(self, hand: Volumes) -> None:
        self.hand = hand
        self.lives = blocker_lives(hand.segment)    # as they were when the locks were taken
        self.keeping = asyncio.Lock()               # by who takes them again

    async def keep_locks(self) -> None:
        """Takes the locks of open volumes again when a peer was restarted: they die with the blocker. Who
        comes while that goes on waits for it; after a failure the next tries again."""
        if blocker_lives(self.hand.segment) == self.lives and not self.keeping.locked():
            return
        async with self.keeping:
            lives = blocker_lives(self.hand.segment)
            if lives != self.lives:
                locked = [volume for volume in self.hand.handles.values() if volume.lock_number]
                await gather_bounded(lambda volume: keep_lock(self.hand, volume), locked)
                self.lives = lives

    async def sweep_forever(self) -> None:
        """Closes what nobody uses any more."""
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                await self.keep_locks()
                await sweep(self.hand)
            except OSError as failure:
                log.warning("sweep: %s", failure)


async def keep_lock(hand: Volumes, volume: Volume) -> None:
    """Takes one lock again, unless the volume is being closed and has given it back."""
    async with volume.locking:
        if volume.lock_number and volume.shared is not None:
            await take_again(hand, volume)


async def take_again(hand: Volumes, volume: Volume) -> None:
    """If another has had the lock meanwhile, the volume takes no more commits."""
    number, other = await hand.store.acquire(volume.id, hand.token, f"host {socket.gethostname()}, "
                                          f"pid {os.getpid()}, home {hand.home}")
    if number == volume.lock_number:
        return
    if not number:
        volume.broken = fail(errno.ENOLCK, f"volume '{volume.header.name}' was taken over by: {other}")
    else:
        async with volume.writing_header:   # by this node
            if (await read_header(hand.store, volume.id)).generation != volume.header.generation:
                volume.broken = fail(errno.ENOLCK, f"volume '{volume.header.name}' was changed by another node")
    volume.lock_number = number
    if volume.shared is not None:
        volume.shared.lock_number = number
    if volume.broken:
        log.error("%s: it takes no more commits", volume.broken)


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
