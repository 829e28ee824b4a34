# SPDX-License-Identifier: Apache-2.0
"""The volumes in hand: those that are open, and those that an operation is working on.

Verbs, housekeeping and take-over work on these; the peer, which answers requests, is above them. What they share is
here too: the store, names and marks of what is being made, the noted locks, and the way to vlmc.
"""
import asyncio
import errno
import os
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from peers.mapper.frames import read_header
from peers.mapper.header import Header, Ids, id_text
from peers.mapper.locks import Noted
from peers.mapper.making import Marks, UnderWay
from peers.mapper.names import Names, Settle, means, missing
from peers.mapper.place import publish, share_opens, unpublish
from peers.mapper.store import Cache, MapStore, NotTried
from peers.mapper.volume import Volume, log
from xseg import limits
from xseg._native import lib
from xseg.errors import Damaged, NotFound, Stale, XsegError
from xseg.errors import error as fail
from xseg.request import Request
from xseg.segment import Segment, text

LOOKUP_TRIES = 4                    # of a name that is renamed meanwhile
ROWS_BYTES = 128 << 20              # of memory for rows of lists: some 200,000 volumes
GRACE_S = 30.0                      # that a dead endpoint has to come back before its volumes are closed

Holder = tuple[int, int]            # a port, and its incarnation


def peer_lives(segment: Segment) -> list[int]:
    """Incarnations of all peers: a new one of a blocker may have lost the locks it held."""
    ports = segment.c.ports
    return [ports[number].incarnation for number in range(lib.XSEG_STATIC_PORTS)]


class Volumes:
    """Of one mapper. `call(role, op, **fields)` sends a request to a peer, `settle(name, id)` takes back a rename."""

    def __init__(self, store: MapStore, segment: Segment, home: str, call: Callable[..., Awaitable[Any]],
                 settle: Settle) -> None:
        self.store, self.segment, self.home, self.call = store, segment, home, call
        self.token = segment.c.created_ns | 1           # by which locks and marks are this instance's
        self.names = Names(store, settle)
        self.ids = Ids()
        self.marks = Marks(store, segment, self.token, home)
        self.under_way = UnderWay(segment)
        self.noted = Noted(segment)
        self.rows = Cache(ROWS_BYTES)                   # of lists: see listing.py
        self.by_id: dict[int, Volume] = {}
        self.handles: dict[int, Volume] = {}            # open ones, by handle
        self.missed: dict[Holder, float] = {}           # when they were found dead
        self.closed_early: set[tuple[int, int]] = set()     # (handle, port) whose CLOSE may be repeated
        self.asides = asyncio.Semaphore(max(1, segment.c.static_slots // 2))

    # --- in hand

    @asynccontextmanager
    async def using(self, volume_id: int) -> AsyncIterator[Volume]:
        """The volume of that id, with its control lock held."""
        volume = self.by_id.get(volume_id)
        if volume is None:
            volume = self.by_id[volume_id] = Volume(self.store, volume_id)
        volume.users += 1
        try:
            async with volume.control:
                await self.known(volume)
                self.forget_gone(volume)
                yield volume
        finally:
            volume.users -= 1
            if not volume.users and not volume.handle:
                self.by_id.pop(volume_id, None)

    async def known(self, volume: Volume) -> None:
        """What the store says of a volume is known here when this returns: of one that an earlier life of the mapper
        had open that is read when somebody asks for it."""
        if not volume.unread:
            return
        if volume.reading is None:
            volume.reading = asyncio.create_task(self.take_up(volume))
        await asyncio.shield(volume.reading)

    async def take_up(self, volume: Volume) -> None:
        """known() of one. Damage on the store, or in its place in the segment, costs only this one."""
        try:
            await volume.resume(volume.shared)
            await self.keep_lock(volume)
        except OSError as failure:
            log.error("volume '%s' cannot be taken over: %s", text(volume.shared.name), failure)
            code = errno.EBADMSG if failure.errno == errno.ENOENT else failure.errno    # ENOENT is said of names
            volume.broken = fail(code or errno.EIO, str(failure))
        except Exception as failure:        # what its place in the segment says makes no sense
            log.exception("volume '%s' cannot be taken over", text(volume.shared.name))
            volume.broken = fail(errno.EIO, f"its place in the segment makes no sense: {failure}")
        volume.unread = False

    @asynccontextmanager
    async def by_name(self, name: str) -> AsyncIterator[Volume]:
        """The volume of that name, or of the id in it, with its control lock held and its header known. ENOENT,
        EBADMSG."""
        for _ in range(LOOKUP_TRIES):
            header = await self.names.lookup(name)
            async with self.using(header.id) as volume:
                if volume.handle and volume.shared.closing:     # left so by a mapper that was killed
                    await self.close_here(volume)
                if not volume.handle:
                    try:
                        await volume.read_header()
                    except NotFound:
                        raise missing(name) from None
                if means(name, volume.header):
                    await self.marks.refuse_unfinished(volume.header, name)
                    yield volume
                    return
        raise missing(name)

    @asynccontextmanager
    async def locked(self, volume: Volume) -> AsyncIterator[None]:
        """The volume's lock on the store is ours meanwhile. EBUSY. Snapshots have none."""
        taken = not volume.header.readonly and await self.take_lock(volume)
        try:
            yield
        finally:
            if taken:
                await self.drop_lock(volume)

    async def take_lock(self, volume: Volume) -> bool:
        """Takes the volume's lock. False: it was ours already. EBUSY, naming the owner."""
        if volume.lock_number:
            return False
        owner = f"host {socket.gethostname()}, pid {os.getpid()}, home {self.home}, " \
                f"since {time.strftime('%Y-%m-%d %H:%M:%S')}"
        async with volume.locking:
            self.noted.add(volume.id)
            lives = peer_lives(self.segment)
            try:
                number, other = await self.store.acquire(volume.id, self.token, owner)
            except XsegError as failure:
                if failure.errno == errno.ESTALE or isinstance(failure, NotTried):
                    self.noted.remove(volume.id)
                if failure.errno == errno.EMFILE:
                    raise fail(errno.EMFILE, f"{failure}; open are {limits.holders(self.held())}") from None
                raise
            if not number:
                self.noted.remove(volume.id)
                raise fail(errno.EBUSY, f"volume '{volume.header.name}' is locked by another: {other}")
            volume.lock_number, volume.locked_in = number, lives
        return True

    async def drop_lock(self, volume: Volume) -> None:
        """Gives the lock back."""
        async with volume.locking:
            if not volume.lock_number:
                return
            volume.lock_number = 0
            await self.give_back(volume.id)

    async def give_back(self, volume_id: int) -> None:
        """Gives a lock back. One that could not be stays noted for the next life."""
        try:
            await self.store.release(volume_id, self.token)
        except (NotFound, PermissionError):     # nobody has it, or another does
            log.info("the lock of volume %s was given back already", id_text(volume_id))
        except XsegError as failure:
            log.warning("the lock of volume %s was not given back: %s", id_text(volume_id), failure)
            return
        self.noted.remove(volume_id)

    async def keep_lock(self, volume: Volume) -> None:
        """Takes the lock again if a peer was restarted, as it dies with the blocker; unless the volume is being closed
        and has given it back. What the store says: the next call tries again."""
        if volume.locked_in == peer_lives(self.segment):
            return
        async with volume.locking:
            lives = peer_lives(self.segment)
            if volume.lock_number and volume.shared is not None and volume.locked_in != lives:
                await self.take_again(volume)
                volume.locked_in = lives

    async def take_again(self, volume: Volume) -> None:
        """If another has had the lock meanwhile, the volume takes no more commits."""
        number, other = await self.store.acquire(volume.id, self.token, f"host {socket.gethostname()}, "
                                                 f"pid {os.getpid()}, home {self.home}")
        if number == volume.lock_number:
            return
        if not number:
            volume.broken = fail(errno.ENOLCK, f"volume '{volume.header.name}' was taken over by: {other}")
        else:
            async with volume.writing_header:   # by this node
                if (await read_header(self.store, volume.id)).generation != volume.header.generation:
                    volume.broken = fail(errno.ENOLCK, f"volume '{volume.header.name}' was changed by another node")
        volume.lock_number = number
        if volume.shared is not None:
            volume.shared.lock_number = number
        if volume.broken:
            log.error("%s: it takes no more commits", volume.broken)

    async def vlmc(self, op: int, volume: Volume, **fields: Any) -> Any:
        """An operation of vlmc on an open volume. It may need this mapper to finish it, and the mapper a request for
        that: so half of its requests are kept from such operations."""
        async with self.asides:
            return await self.call("vlmc", op, volume=volume.handle, **{"flags": lib.XREQ_ASIDE} | fields)

    # --- opening and closing

    def free_place(self) -> int:
        """A handle that nobody uses. ENFILE."""
        volumes = self.segment.c.volumes
        for place in range(self.segment.c.volume_count):
            if volumes[place].state == lib.XVOL_FREE:
                return place + 1
        raise limits.no_volume_place(self.segment, self.held())

    def held(self) -> Counter[str]:
        """Who has how many volumes open, for people."""
        ports = Counter(port for volume in self.handles.values() for port, _life in volume.holders)
        by_hand = sum(bool(volume.shared.administrative) for volume in self.handles.values())
        return limits.volume_holders(self.segment, ports, by_hand)

    async def open_here(self, volume: Volume) -> None:
        """Opens a volume whose control lock is held; nothing if it is open. EBUSY, EBADMSG, ENFILE."""
        if volume.handle:
            return
        if self.segment.c.header.closing:
            raise fail(errno.ESHUTDOWN, f"volume '{volume.header.name}' is not opened: the instance is being stopped")
        taken = not volume.header.readonly and await self.take_lock(volume)
        try:
            await volume.load()
            if not volume.header.readonly:
                await volume.close_journal()
                volume.start_life()
                whole = await self.marks.is_whole(volume.header)
                await volume.write_header(making="" if whole else volume.header.making,
                                          renaming="")      # one that was cut short is given up
            handle = self.free_place()
            publish(volume, self.segment.c.volumes + (handle - 1), handle)
        except BaseException:
            volume.current = None
            if taken:
                await self.drop_lock(volume)
            raise
        self.handles[handle] = volume
        self.closed_early = {early for early in self.closed_early if early[0] != handle}
        volume.checkpoint_soon()

    async def close_here(self, volume: Volume) -> None:
        """Closes an open volume whose control lock is held. What vlmc says; it is open then."""
        volume.shared.closing = 1
        giving_up = volume.abandoned or bool(volume.shared.lost & lib.XLOST_TOLD)
        try:
            await self.vlmc(lib.XOP_VOL_CLOSE, volume, flags=lib.XREQ_ASIDE | lib.XREQ_FORCE * giving_up)
        except Stale as failure:
            if lib.export_unsaved(self.segment.c, volume.handle - 1):       # the store's word: this node is fenced
                volume.shared.closing = 0
                raise fail(errno.ESTALE, f"volume '{volume.header.name}' cannot be committed: {failure}") from None
            # done already, for a mapper that was killed before it could note it
            log.info("vlmc has closed volume '%s' already", volume.header.name)
        except OSError:
            volume.shared.closing = 0
            if volume.lost:
                raise volume.lost from None
            raise
        try:
            if volume.lost:
                log.error("%s: it is closed without that", volume.lost)
                if not volume.broken:
                    await volume.leave_objects()
        except OSError as failure:
            log.warning("volume '%s': what the disk has lost may be written in place: %s", volume.header.name,
                             failure)
        lib.export_volume_state(volume.shared, lib.XVOL_CLOSING)
        try:
            if not volume.abandoned:
                await volume.settle()
        except OSError as failure:      # everything is in the journal: the next opening finds it there
            log.warning("volume '%s' is closed with its journal as it is: %s", volume.header.name, failure)
        await self.drop_lock(volume)
        self.handles.pop(volume.handle)
        unpublish(volume)

    async def close_if_unused(self, volume: Volume) -> None:
        """Closes the volume if no port has it open and no operator keeps it so. Control lock held."""
        if volume.handle and not volume.opens() and not volume.shared.administrative:
            await self.close_here(volume)

    def openers(self, volume: Volume) -> str:
        """Who has it open, for people."""
        counts: dict[str, int] = {}
        for (port, incarnation), times in volume.holders.items():
            role = text(self.segment.c.ports[port].role) or f"port {port}"
            if not self.lives((port, incarnation)):
                role += f" (which died: it is closed when that runs again, or within {GRACE_S:g} s)"
            counts[role] = counts.get(role, 0) + times
        who = [f"{role} ({times} times)" if times > 1 else role for role, times in counts.items()]
        if volume.handle:
            by_hand = ((lib.XVOL_BY_OPEN, "`vlmc open`"), (lib.XVOL_BY_LOCK, "`vlmc lock`"))
            who += [how for bit, how in by_hand if volume.shared.administrative & bit]
        return ", ".join(who)

    def forget_opens(self, volume: Volume, holder: tuple[int, int], times: int) -> None:
        """Takes away from what a port holds."""
        left = volume.holders.get(holder, 0) - times
        if left > 0:
            volume.holders[holder] = left
        else:
            volume.holders.pop(holder, None)
        share_opens(volume, holder[0])

    def handle_of(self, request: Request) -> Volume:
        """The open volume that a request means. ESTALE."""
        volume = self.handles.get(request.c.volume)
        if volume is None:
            raise fail(errno.ESTALE, f"no volume is open under handle {request.c.volume}")
        return volume

    async def open_one(self, request: Request) -> Volume:
        """The same for one that works on its map. ESTALE."""
        await self.known(self.handle_of(request))
        return self.handle_of(request)          # unless it was closed meanwhile

    # --- who has them open

    def forget_gone(self, volume: Volume) -> None:
        """Forgets opens of dead ports."""
        for holder in [h for h in volume.holders if self.gone(h)]:
            log.info("port %d, which had '%s' open, is gone", holder[0], volume.header.name)
            self.forget_opens(volume, holder, volume.holders[holder])

    def lives(self, holder: Holder) -> bool:
        """True if a port's incarnation does."""
        port, incarnation = holder
        return self.segment.c.ports[port].incarnation == incarnation and self.segment.alive(port)

    def gone(self, holder: Holder) -> bool:
        """True if a port's incarnation is dead and has closed what it had open."""
        if self.lives(holder):
            self.missed.pop(holder, None)
            return False
        port = holder[0]
        since = self.missed.setdefault(holder, time.monotonic())
        succeeded = self.segment.c.ports[port].ready and self.segment.alive(port)
        return port >= lib.XSEG_STATIC_PORTS or bool(succeeded) or time.monotonic() - since > GRACE_S

    # --- headers

    def open_header(self, volume_id: int) -> Header | None:
        """The header of a volume that is open and known."""
        volume = self.by_id.get(volume_id)
        return volume.header if volume is not None and volume.handle and not volume.unread else None

    async def header_or_none(self, volume_id: int) -> Header | None:
        """A header, or None where it is damaged or just removed."""
        if header := self.open_header(volume_id):
            return header
        try:
            return await read_header(self.store, volume_id)
        except (Damaged, NotFound):
            return None
