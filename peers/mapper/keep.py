# SPDX-License-Identifier: Apache-2.0
"""What the mapper does beside answering: it keeps the locks of open volumes, and closes what nobody has open.

A lock dies with the blocker that took it, so it is taken again when a peer was restarted; whoever else
had it meanwhile has the volume now, and this node's commits of it fail. A port that died has closed all it
had open; an endpoint has when its successor is ready, as whoever connects to that opens anew, or when GRACE_S have
passed without one.
"""
import asyncio
import errno
import os
import socket
import time
from typing import TYPE_CHECKING, Any

from peers.mapper.store import gather_bounded
from peers.mapper.volume import Volume, read_header
from xseg._native import lib
from xseg.errors import error as fail

if TYPE_CHECKING:
    from peers.mapper import Mapper


class Noted:
    """The locks that a mapper has, or is about to take, as its successor will find them noted in the segment."""

    def __init__(self, places: Any) -> None:
        self.places = places
        self.of = {places[place]: place for place in range(lib.XSEG_LOCKS) if places[place]}
        self.free = [place for place in reversed(range(lib.XSEG_LOCKS)) if not places[place]]

    def add(self, volume_id: int) -> None:
        """Before the lock is taken. ENOLCK: there is no place left."""
        if volume_id in self.of:
            return
        if not self.free:
            raise fail(errno.ENOLCK, f"{lib.XSEG_LOCKS} volumes are locked by this instance already")
        self.of[volume_id] = place = self.free.pop()
        self.places[place] = volume_id

    def remove(self, volume_id: int) -> None:
        """After the lock was given back, or was not to be had."""
        if (place := self.of.pop(volume_id, None)) is not None:
            self.places[place] = 0
            self.free.append(place)

SWEEP_S = 1.0                       # between two looks at who still lives
GRACE_S = 30.0                      # that a dead endpoint has to come back before its volumes are closed


def blocker_lives(m: "Mapper") -> list[int]:
    """Incarnations of all peers: a new one of a blocker may have lost the locks it held."""
    ports = m.segment.c.ports
    return [ports[number].incarnation for number in range(lib.XSEG_STATIC_PORTS)]


async def keep_locks(m: "Mapper") -> None:
    """Takes the locks of open volumes again when a peer was restarted: they die with the blocker. Who
    comes while that goes on waits for it; after a failure the next tries again."""
    if blocker_lives(m) == m.incarnations and not m.keeping.locked():
        return
    async with m.keeping:
        lives = blocker_lives(m)
        if lives != m.incarnations:
            await gather_bounded(lambda volume: keep_lock(m, volume), [v for v in m.handles.values() if v.lock_number])
            m.incarnations = lives


async def keep_lock(m: "Mapper", volume: Volume) -> None:
    """Takes one lock again, unless the volume is being closed and has given it back."""
    async with volume.locking:
        if volume.lock_number and volume.shared is not None:
            await take_again(m, volume)


async def take_again(m: "Mapper", volume: Volume) -> None:
    """If another has had the lock meanwhile, the volume takes no more commits."""
    number, other = await m.store.acquire(volume.id, m.token, f"host {socket.gethostname()}, "
                                          f"pid {os.getpid()}, home {m.home}")
    if number == volume.lock_number:
        return
    if not number:
        volume.broken = fail(errno.ENOLCK, f"volume '{volume.header.name}' was taken over by: {other}")
    else:
        async with volume.writing_header:   # by this node
            if (await read_header(m.store, volume.id)).generation != volume.header.generation:
                volume.broken = fail(errno.ENOLCK, f"volume '{volume.header.name}' was changed by another node")
    volume.lock_number = number
    if volume.shared is not None:
        volume.shared.lock_number = number
    if volume.broken:
        m.log.error("%s: it takes no more commits", volume.broken)


async def sweep_forever(m: "Mapper") -> None:
    """Closes what nobody uses any more."""
    while True:
        await asyncio.sleep(SWEEP_S)
        try:
            await keep_locks(m)
            await sweep(m)
        except OSError as failure:
            m.log.warning("sweep: %s", failure)


async def sweep(m: "Mapper") -> None:
    """Forgets opens of dead ports, and closes volumes that none has open."""
    for volume in list(m.handles.values()):
        forget_gone(m, volume)
        if not volume.opens() and not volume.shared.administrative and not volume.users:
            await sweep_away(m, volume)


def forget_gone(m: "Mapper", volume: Volume) -> None:
    """Forgets opens of dead ports."""
    for holder in [h for h in volume.holders if gone(m, h)]:
        m.log.info("port %d, which had '%s' open, is gone", holder[0], volume.header.name)
        m.forget_opens(volume, holder, volume.holders[holder])


async def sweep_away(m: "Mapper", volume: Volume) -> None:
    """Closes one. What keeps it from closing is logged once, and it is tried again."""
    async with m.using(volume.id):
        try:
            await m.close_if_unused(volume)
        except OSError as failure:
            if str(failure) != volume.not_closed:
                m.log.error("volume '%s' cannot be closed: %s", volume.header.name, failure)
            volume.not_closed = str(failure)


def lives(m: "Mapper", holder: tuple[int, int]) -> bool:
    """True if a port's incarnation does."""
    port, incarnation = holder
    return m.segment.c.ports[port].incarnation == incarnation and m.segment.alive(port)


def gone(m: "Mapper", holder: tuple[int, int]) -> bool:
    """True if a port's incarnation is dead and has closed what it had open."""
    if lives(m, holder):
        m.missed.pop(holder, None)
        return False
    port = holder[0]
    since = m.missed.setdefault(holder, time.monotonic())
    succeeded = m.segment.c.ports[port].ready and m.segment.alive(port)
    return port >= lib.XSEG_STATIC_PORTS or bool(succeeded) or time.monotonic() - since > GRACE_S
