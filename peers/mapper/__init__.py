# SPDX-License-Identifier: Apache-2.0
"""mapper: owns what volumes are made of: names, headers, maps, journals, locks.

Targets: `blockerm` stores its objects (see header.py for headers and names, native/map/map.h for
pages and journal records); `blockerb` is asked for sizes of data objects and removes those that only a
removed volume had; `vlmc` is told of snapshots, closing and resizing of volumes it has open.

Options: `cache` is how many bytes of map pages and closed journals are kept in memory; `journal_limit`
how many bytes of journal a volume may have before they are folded into pages.

Endpoints send OPEN, CLOSE and NAMES; vlmc sends MAP_LOAD and MAP_COMMIT; tools send CONTROL, whose data
is a msgpack map {"verb": ..., arguments}. The answer is a msgpack map; a failure is {"error": sentence}. It
lies behind the arguments, so that a mapper that comes after one that died answering reads them again.
The verbs are in verbs/.

A volume that is open has a place in the segment (struct xvolume), the lock of its id on the map store
(not so a snapshot), an epoch that nobody used before, and an open journal. It stays open until the last
port that opened it has closed it or died, unless `vlmc open` keeps it. Its state is rebuilt from the
segment and the store when the mapper is restarted; nothing is asked of its users.

Its parts: header.py (formats), store.py (object I/O), journal.py, tree.py (pages), volume.py (an open volume),
names.py, making.py (what is being made), walk.py (check, du), scrub.py (`archipelago check`), keep.py (locks,
closing what nobody uses), takeover.py (after a restart), verbs/ (a file a kind of verb).
"""
import asyncio
import errno
import functools
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from peers.mapper import keep, making, takeover, verbs
from peers.mapper.header import Ids, id_text
from peers.mapper.names import Names, means, missing
from peers.mapper.store import CACHE_BYTES, HEADER, JOURNAL_LIMIT, MapStore, gather_bounded
from peers.mapper.tree import load_range
from peers.mapper.verbs.rename import settle
from peers.mapper.volume import Volume, read_header
from xseg._native import lib
from xseg.errors import Damaged, NotFound, Stale, XsegError
from xseg.errors import error as fail
from xseg.peer import Option, Peer, tell_once
from xseg.request import Reply, Request
from xseg.segment import text

LOAD_TRIES = 4                      # of a MAP_LOAD that a checkpoint overtakes
LOOKUP_TRIES = 4                    # of a name that is renamed meanwhile
LIST_ROOM_MIN = 4096


class Mapper(Peer):
    """The mapper of a node. One for a store on a node."""

    type = "mapper"
    targets = ("blockerm", "blockerb", "vlmc")
    options = {"cache": Option(CACHE_BYTES, "size", "map pages and journals kept in memory",
                               minimum=1 << 20, maximum=16 << 30),
               "journal_limit": Option(JOURNAL_LIMIT, "size", "journal of a volume that is folded into pages",
                                       minimum=4096, maximum=JOURNAL_LIMIT)}

    async def start(self) -> None:
        """Takes over the volumes that are open in the segment."""
        def blockerm(op: int, **fields: Any) -> Awaitable[Reply]:
            return self.port.call(self.target("blockerm"), op, **fields)

        def blockerb(op: int, **fields: Any) -> Awaitable[Reply]:
            return self.port.call(self.target("blockerb"), op, **fields)

        self.store = MapStore(blockerm, blockerb, self.options["cache"], self.options["journal_limit"],
                              lambda: keep.blocker_lives(self))
        self.names = Names(self.store, functools.partial(settle, self))
        self.routes = {role: self.segment.route(self.role, role) for role in self.targets}
        self.ids = Ids()
        self.making: dict[int, making.Making] = {}   # what requests make, by their tokens
        self.whole: set[str] = set()                # marks that are gone (mapper/making.py)
        self.volumes: dict[int, Volume] = {}        # by id
        self.handles: dict[int, Volume] = {}        # open ones, by handle
        self.token = self.segment.c.created_ns | 1
        self.missed: dict[tuple[int, int], float] = {}  # (port, incarnation) -> when it was found dead
        self.incarnations = keep.blocker_lives(self)
        self.keeping = asyncio.Lock()               # by who takes the locks again
        self.noted = keep.Noted(self.segment.c.header.locks)
        self.closed_early: set[tuple[int, int]] = set()     # (handle, port) whose CLOSE may be repeated
        self.asides = asyncio.Semaphore(max(1, self.segment.c.static_slots // 2))
        self.recovered = asyncio.Event()
        self.port.serve(self.handle)                # what waits in the inbox waits for `recovered`
        await self.port.recovered()                 # a header or record may still be on its way to the store
        await takeover.take_over(self)
        self.recovered.set()
        self.sweeper = asyncio.create_task(keep.sweep_forever(self))

    def target(self, role: str) -> int:
        """As Peer.target(), which looks the edge up by its name each time."""
        return lib.export_route(self.segment.c, self.routes[role])

    async def stop(self) -> None:
        """Volumes stay open in the segment; background work is given up, as it can be done again."""
        self.sweeper.cancel()
        for volume in self.volumes.values():
            if volume.checkpointing is not None:
                volume.checkpointing.cancel()

    async def handle(self, request: Request) -> None:
        """Serves a request once the open volumes have been taken over."""
        await self.recovered.wait()
        await super().handle(request)

    # --- volumes in hand

    @asynccontextmanager
    async def using(self, volume_id: int) -> AsyncIterator[Volume]:
        """The volume of that id, with its control lock held."""
        volume = self.volumes.get(volume_id)
        if volume is None:
            volume = self.volumes[volume_id] = Volume(self.store, volume_id)
        volume.users += 1
        try:
            async with volume.control:
                keep.forget_gone(self, volume)
                yield volume
        finally:
            volume.users -= 1
            if not volume.users and not volume.handle:
                self.volumes.pop(volume_id, None)

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
                    await making.refuse_unfinished(self, volume.header, name)
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
            try:
                number, other = await self.store.acquire(volume.id, self.token, owner)
            except XsegError as failure:
                if failure.errno in (errno.ESTALE, errno.ENOTCONN):     # refused before anything was tried
                    self.noted.remove(volume.id)
                raise
            if not number:
                self.noted.remove(volume.id)
                raise fail(errno.EBUSY, f"volume '{volume.header.name}' is locked by another: {other}")
            volume.lock_number = number
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
            self.log.info("the lock of volume %s was given back already", id_text(volume_id))
        except XsegError as failure:
            self.log.warning("the lock of volume %s was not given back: %s", id_text(volume_id), failure)
            return
        self.noted.remove(volume_id)

    async def vlmc(self, op: int, volume: Volume, **fields: Any) -> Any:
        """An operation of vlmc on an open volume. It may need this mapper to finish it, and the mapper a request for
        that: so half of its requests are kept from such operations."""
        async with self.asides:
            return await self.call("vlmc", op, volume=volume.handle, **{"flags": lib.XREQ_ASIDE} | fields)

    # --- opening and closing

    def free_place(self) -> int:
        """A handle that nobody uses. ENFILE."""
        volumes = self.segment.c.volumes
        for place in range(lib.XSEG_VOLUMES):
            if volumes[place].state == lib.XVOL_FREE:
                return place + 1
        raise fail(errno.ENFILE, f"{lib.XSEG_VOLUMES} volumes are open already")

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
                whole = await making.is_whole(self, volume.header)
                await volume.write_header(making="" if whole else volume.header.making,
                                          renaming="")      # one that was cut short is given up
            handle = self.free_place()
            volume.publish(self.segment.c.volumes + (handle - 1), handle)
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
            self.log.info("vlmc has closed volume '%s' already", volume.header.name)
        except OSError:
            volume.shared.closing = 0
            if volume.lost:
                raise volume.lost from None
            raise
        try:
            if volume.lost:
                self.log.error("%s: it is closed without that", volume.lost)
                if not volume.broken:
                    await volume.leave_objects()
        except OSError as failure:
            self.log.warning("volume '%s': what the disk has lost may be written in place: %s", volume.header.name,
                             failure)
        lib.export_volume_state(volume.shared, lib.XVOL_CLOSING)
        try:
            if not volume.abandoned:
                await volume.settle()
        except OSError as failure:      # everything is in the journal: the next opening finds it there
            self.log.warning("volume '%s' is closed with its journal as it is: %s", volume.header.name, failure)
        await self.drop_lock(volume)
        self.handles.pop(volume.handle)
        volume.unpublish()

    async def close_if_unused(self, volume: Volume) -> None:
        """Closes the volume if no port has it open and no operator keeps it so. Control lock held."""
        if volume.handle and not volume.opens() and not volume.shared.administrative:
            await self.close_here(volume)

    def openers(self, volume: Volume) -> str:
        """Who has it open, for people."""
        counts: dict[str, int] = {}
        for (port, incarnation), times in volume.holders.items():
            role = text(self.segment.c.ports[port].role) or f"port {port}"
            if not keep.lives(self, (port, incarnation)):
                role += f" (which died: it is closed when that runs again, or within {keep.GRACE_S:g} s)"
            counts[role] = counts.get(role, 0) + times
        who = [f"{role} ({times} times)" if times > 1 else role for role, times in counts.items()]
        if volume.handle:
            by_hand = ((lib.XVOL_BY_OPEN, "`vlmc open`"), (lib.XVOL_BY_LOCK, "`vlmc lock`"))
            who += [how for bit, how in by_hand if volume.shared.administrative & bit]
        return ", ".join(who)

    async def open(self, request: Request) -> None:
        """OPEN: data = name, or one that holds the id (xseg/volume_name.py). Reply: done = handle."""
        try:
            name = request.payload.decode()
        except UnicodeDecodeError:
            raise fail(errno.ENOENT, "no volume has a name that is not UTF-8") from None
        with self.failures_told(f"'{name}' is not opened"):
            await self.open_for(request, name)

    @contextmanager
    def failures_told(self, what: str) -> Iterator[None]:
        """Logs what goes wrong: who asked gets an errno, and no sentence."""
        try:
            yield
        except OSError as failure:
            if failure.errno != errno.ENOENT:
                tell_once(self.log, f"{what}: {failure}")
            raise

    async def open_for(self, request: Request, name: str) -> None:
        """OPEN, with its name."""
        async with self.by_name(name) as volume:
            await self.open_here(volume)
            holder = request.c.src, request.c.incarnation
            times = volume.holders.get(holder, 0) + 1
            takeover.note_count(request, volume.handle, times)
            volume.holders[holder] = times
            volume.share_opens(request.c.src)
            request.reply(done=volume.handle)       # with no await since the note

    async def close(self, request: Request) -> None:
        """CLOSE: volume = handle. ESTALE: this port has not opened it, or has closed it.

        The note comes before the last close takes effect, so that a repeated one does not come too late.
        """
        early = request.c.volume, request.c.src
        if early in self.closed_early:
            self.closed_early.remove(early)
            return
        volume = self.handle_of(request)
        async with self.using(volume.id):
            holder = request.c.src, request.c.incarnation
            if volume.handle != request.c.volume or not volume.holders.get(holder) \
                    or request.c.generation not in (0, volume.shared.generation):
                raise fail(errno.ESTALE, "this port does not have it open")
            takeover.note_count(request, volume.handle, volume.holders[holder] - 1)
            try:
                if volume.opens() == 1 and not volume.shared.administrative:
                    await self.close_here(volume)
            finally:
                if volume.handle:                   # answered with no await after it is counted
                    self.forget_opens(volume, holder, 1)

    def forget_opens(self, volume: Volume, holder: tuple[int, int], times: int) -> None:
        """Takes away from what a port holds."""
        left = volume.holders.get(holder, 0) - times
        if left > 0:
            volume.holders[holder] = left
        else:
            volume.holders.pop(holder, None)
        volume.share_opens(holder[0])

    def handle_of(self, request: Request) -> Volume:
        """The open volume that a request means. ESTALE."""
        volume = self.handles.get(request.c.volume)
        if volume is None:
            raise fail(errno.ESTALE, f"no volume is open under handle {request.c.volume}")
        return volume

    # --- map

    async def map_load(self, request: Request) -> None:
        """MAP_LOAD, see native/map/map.h."""
        volume = self.handle_of(request)
        first, count, room = request.c.offset, request.c.size, len(request.data)
        last = first + count - 1
        if not 0 < count <= lib.XMAP_LEAF or first // lib.XMAP_LEAF != last // lib.XMAP_LEAF:
            raise fail(errno.EINVAL, f"blocks {first}..{last} are not of one leaf")
        if volume.broken:
            raise volume.broken
        out = self.segment.c.base + request.c.data
        length, following = await self.load_latest(volume, first, count, out, room)
        request.c.flags = lib.XREQ_MORE if following <= last else 0
        request.reply(done=length, arg=following)

    async def load_latest(self, volume: Volume, first: int, count: int, out: Any, room: int) -> tuple[int, int]:
        """load_range() of the present view. A view whose pages a checkpoint has just replaced is let go."""
        for _ in range(LOAD_TRIES):
            view = volume.view()
            try:
                return await load_range(self.store, view, first, count, out, room)
            except NotFound:
                if volume.view().root == view.root:
                    raise fail(errno.EBADMSG, f"volume '{view.name}': a page of its map is missing") from None
        raise fail(errno.EAGAIN, f"volume '{view.name}': the map changes too fast to be read")

    async def map_commit(self, request: Request) -> None:
        """MAP_COMMIT, see native/map/map.h."""
        volume = self.handle_of(request)
        await keep.keep_locks(self)
        record = request.payload        # a copy: what is checked is what is written
        if len(record) < lib.RECORD_HEADER:
            raise fail(errno.EINVAL, "the record is cut short")
        request.reply(done=await volume.append(record))

    # --- names

    async def list_names(self, request: Request) -> None:
        """NAMES: arg = cursor. Reply: names, each ended by NUL; arg = next cursor.

        The cursor is the store's: nothing is remembered that a restart could forget."""
        room = len(request.data)
        if room < LIST_ROOM_MIN:
            raise fail(errno.EINVAL, f"{room} bytes are too few for names: {LIST_ROOM_MIN} at least")
        with self.failures_told("volumes cannot be listed"):
            found, following = await self.store.list(HEADER, request.c.arg, most=room // (lib.XSEG_NAME_MAX + 1))
            names = await gather_bounded(self.name_or_none, [name.volume for name in found])
        request.reply(data=b"".join(name.encode() + b"\0" for name in names if name), arg=following)

    async def name_or_none(self, volume_id: int) -> str | None:
        """The name of a volume that everybody may use."""
        header = await self.header_or_none(volume_id)
        if header and header.kind != "removed" and await making.is_whole(self, header):
            return header.name
        return None

    async def header_or_none(self, volume_id: int) -> Any:
        """A header, or None where it is damaged or just removed."""
        volume = self.volumes.get(volume_id)
        if volume is not None and volume.handle:
            return volume.header
        try:
            return await read_header(self.store, volume_id)
        except (Damaged, NotFound):
            return None

    async def control(self, request: Request) -> None:
        """CONTROL: a verb of mapper/verbs/."""
        await verbs.control(self, request)

    ops = {lib.XOP_OPEN: open, lib.XOP_CLOSE: close, lib.XOP_NAMES: list_names, lib.XOP_CONTROL: control,
           lib.XOP_MAP_LOAD: map_load, lib.XOP_MAP_COMMIT: map_commit}
