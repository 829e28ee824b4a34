# SPDX-License-Identifier: Apache-2.0
"""mapper: owns what volumes are made of: names, headers, maps, journals, locks.

Targets: `blockerm` stores its objects (see header.py for headers and names, native/map/map.h for
pages and journal records); `blockerb` is asked for sizes of data objects and removes those that only a
removed volume had; `vlmc` is told of snapshots, closing and resizing of volumes it has open.

Options: `cache` is how many bytes of map pages and closed journals are kept in memory; `journal_limit`
how many bytes of journal a volume may have before they are folded into pages.

Endpoints send OPEN, CLOSE, INFO and NAMES; vlmc sends MAP_LOAD and MAP_COMMIT; tools send CONTROL, whose data
is a msgpack map {"verb": ..., arguments}. The answer is a msgpack map; a failure is {"error": sentence}. It
lies behind the arguments, so that a mapper that comes after one that died answering reads them again.
The verbs are in verbs/.

A volume that is open has a place in the segment (struct xvolume), the lock of its id on the map store
(not so a snapshot), an epoch that nobody used before, and an open journal. It stays open until the last
port that opened it has closed it or died, unless `vlmc open` keeps it. When the mapper is restarted, its
state is rebuilt from the segment at once, and from the store when somebody asks for it, or in the
background; nothing is asked of its users.

Its parts: header.py (formats), store.py (object I/O), frames.py (headers on the store), journal.py, tree.py (pages),
handed.py (what vlmc appends by itself), volume.py (an open volume), place.py (its place in the segment), names.py,
making.py (what is being made), locks.py (which are noted), volumes.py (the volumes in hand, which all that follows
works on), walk.py (check, du), diff.py (two maps), scrub.py (`archipelago check`), keep.py (locks, closing what nobody
uses), takeover.py (after a restart), listing.py (rows of lists), verbs/ (a file a kind of verb). collector/ deletes
what nothing reaches, in a process of its own.
"""
import asyncio
import errno
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import Any

from peers.mapper import takeover, verbs
from peers.mapper.keep import sweep_forever
from peers.mapper.listing import rows
from peers.mapper.place import share_opens
from peers.mapper.store import CACHE_BYTES, HEADER, JOURNAL_LIMIT, MapStore
from peers.mapper.tree import load_range
from peers.mapper.verbs.diff import diff_status
from peers.mapper.verbs.rename import settle
from peers.mapper.volume import Volume
from peers.mapper.volumes import Volumes, peer_lives
from xseg._native import ffi, lib
from xseg.errors import NotFound, XsegError
from xseg.errors import error as fail
from xseg.peer import Option, Peer, tell_once
from xseg.request import Reply, Request

LOAD_TRIES = 4                      # of a MAP_LOAD that a checkpoint overtakes
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

        self.routes = {role: self.segment.route(self.role, role) for role in self.targets}
        store = MapStore(blockerm, blockerb, self.options["cache"], self.options["journal_limit"],
                         lambda: peer_lives(self.segment))
        self.hand = Volumes(store, self.segment, self.home, self.call, self.settle)
        self.recovered = asyncio.Event()
        self.port.serve(self.handle)                # what waits in the inbox waits for `recovered`
        await self.port.recovered()                 # a header or record may still be on its way to the store
        self.tasks = await takeover.take_over(self.hand, self.port.number)
        self.recovered.set()
        self.tasks.append(asyncio.create_task(sweep_forever(self.hand)))

    async def settle(self, name: str, volume_id: int) -> None:
        """Takes back a rename to a name that was cut short. EEXIST."""
        await settle(self.hand, name, volume_id)

    def target(self, role: str) -> int:
        """As Peer.target(), which looks the edge up by its name each time."""
        return int(lib.export_route(self.segment.c, self.routes[role]))

    async def stop(self) -> None:
        """Volumes stay open in the segment; background work is given up, as it can be done again."""
        for task in self.tasks:
            task.cancel()
        for volume in self.hand.by_id.values():
            for under_way in (volume.checkpointing, volume.reading):
                if under_way is not None:
                    under_way.cancel()

    async def handle(self, request: Request) -> None:
        """Serves a request once the open volumes have been taken over."""
        await self.recovered.wait()
        await super().handle(request)

    async def open(self, request: Request) -> None:
        """OPEN: data = name, or one that holds the id (xseg/volume_name.py). Reply: done = handle; why not."""
        try:
            name = request.payload.decode()
        except UnicodeDecodeError:
            raise fail(errno.ENOENT, "no volume has a name that is not UTF-8") from None
        try:
            with self.failures_told(f"'{name}' is not opened"):
                await self.open_for(request, name)
        except XsegError as failure:
            room = max(0, len(request.data) - request.c.size)
            request.reply(failure.errno, data=str(failure).encode(errors="replace")[:room])

    @contextmanager
    def failures_told(self, what: str) -> Iterator[None]:
        """Logs what goes wrong: who asked may get an errno, and no sentence."""
        try:
            yield
        except OSError as failure:
            if failure.errno != errno.ENOENT:
                tell_once(self.log, f"{what}: {failure}")
            raise

    async def open_for(self, request: Request, name: str) -> None:
        """OPEN, with its name."""
        hand = self.hand
        async with hand.by_name(name) as volume:
            await hand.open_here(volume)
            holder = request.c.src, request.c.incarnation
            times = volume.holders.get(holder, 0) + 1
            takeover.note_count(request, volume.handle, times)
            volume.holders[holder] = times
            share_opens(volume, request.c.src)
            request.reply(done=volume.handle)       # with no await since the note

    async def close(self, request: Request) -> None:
        """CLOSE: volume = handle. ESTALE: this port has not opened it, or has closed it.

        The note comes before the last close takes effect, so that a repeated one does not come too late.
        """
        hand, early = self.hand, (request.c.volume, request.c.src)
        if early in hand.closed_early:
            hand.closed_early.remove(early)
            return
        volume = hand.handle_of(request)
        async with hand.using(volume.id):
            holder = request.c.src, request.c.incarnation
            if volume.handle != request.c.volume or not volume.holders.get(holder) \
                    or request.c.generation not in (0, volume.shared.generation):
                raise fail(errno.ESTALE, "this port does not have it open")
            takeover.note_count(request, volume.handle, volume.holders[holder] - 1)
            try:
                if volume.opens() == 1 and not volume.shared.administrative:
                    await hand.close_here(volume)
            finally:
                if volume.handle:                   # answered with no await after it is counted
                    hand.forget_opens(volume, holder, 1)

    async def info(self, request: Request) -> None:
        """INFO: data = name, or one that holds the id. Reply: a struct xinfo. Nothing is opened or locked."""
        try:
            name = request.payload.decode()
        except UnicodeDecodeError:
            raise fail(errno.ENOENT, "no volume has a name that is not UTF-8") from None
        with self.failures_told(f"'{name}' is not described"):
            header = await self.hand.names.lookup(name)
            header = self.hand.open_header(header.id) or header
            await self.hand.marks.refuse_unfinished(header, name)
            answer = ffi.new("struct xinfo *", {
                "id": header.id, "size": header.size, "block_shift": header.block_size.bit_length() - 1,
                "readonly": header.readonly, "name": header.name.encode()})
            request.reply(data=bytes(ffi.buffer(answer)))

    # --- map

    async def map_load(self, request: Request) -> None:
        """MAP_LOAD, see native/map/map.h."""
        volume = await self.hand.open_one(request)
        first, count, room = request.c.offset, request.c.size, len(request.data)
        last = first + count - 1
        if not 0 < count <= lib.XMAP_LEAF or first // lib.XMAP_LEAF != last // lib.XMAP_LEAF:
            raise fail(errno.EINVAL, f"blocks {first}..{last} are not of one leaf")
        if volume.broken:
            raise volume.broken
        if request.c.flags & lib.XREQ_FORCE and volume.header.readonly:
            await self.look_again(volume)
        out = self.segment.c.base + request.c.data
        length, following = await self.load_latest(volume, first, count, out, room)
        request.c.flags = lib.XREQ_MORE if following <= last else 0
        request.reply(done=length, arg=following)

    async def look_again(self, volume: Volume) -> None:
        """Reads a snapshot's header anew: what another node has hashed has other names. EIO: it is gone."""
        try:
            await volume.load()
        except NotFound:
            raise fail(errno.EIO, f"volume '{volume.header.name}' was removed while it was read here") from None

    async def load_latest(self, volume: Volume, first: int, count: int, out: Any, room: int) -> tuple[int, int]:
        """load_range() of the present view. A view whose pages a checkpoint has just replaced is let go."""
        for _ in range(LOAD_TRIES):
            await volume.learn()
            view = volume.view()
            try:
                return await load_range(self.hand.store, view, first, count, out, room)
            except NotFound:
                if volume.view().root == view.root:
                    raise fail(errno.EBADMSG, f"volume '{view.name}': a page of its map is missing") from None
        raise fail(errno.EAGAIN, f"volume '{view.name}': the map changes too fast to be read")

    async def diff(self, request: Request) -> None:
        """DIFF: a part of two maps side by side, see mapper/verbs/diff.py."""
        with self.failures_told("a volume is not compared"):
            await diff_status(self.hand, request)

    async def map_commit(self, request: Request) -> None:
        """MAP_COMMIT, see native/map/map.h."""
        volume = await self.hand.open_one(request)
        await self.hand.keep_lock(volume)
        record = request.payload        # a copy: what is checked is what is written
        if len(record) < lib.RECORD_HEADER:
            raise fail(errno.EINVAL, "the record is cut short")
        offset = await volume.append(record, self.target("blockerm"))
        await volume.keep_pace()
        request.reply(done=offset)

    # --- names

    async def list_names(self, request: Request) -> None:
        """NAMES: arg = cursor. Reply: names, each ended by NUL; arg = next cursor.

        The cursor is the store's: nothing is remembered that a restart could forget."""
        room = len(request.data)
        if room < LIST_ROOM_MIN:
            raise fail(errno.EINVAL, f"{room} bytes are too few for names: {LIST_ROOM_MIN} at least")
        with self.failures_told("volumes cannot be listed"):
            found, following = await self.hand.store.list(HEADER, request.c.arg, room // (lib.XSEG_NAME_MAX + 1),
                                                          versions=True)
            listed = await rows(self.hand, found)
        names = [str(row["name"]) for row in listed if "name" in row and row["making"] is None]
        request.reply(data=b"".join(name.encode() + b"\0" for name in names), arg=following)

    async def control(self, request: Request) -> None:
        """CONTROL: a verb of mapper/verbs/."""
        await verbs.control(self.hand, request)

    ops = {lib.XOP_OPEN: open, lib.XOP_CLOSE: close, lib.XOP_INFO: info, lib.XOP_NAMES: list_names,
           lib.XOP_CONTROL: control,
           lib.XOP_MAP_LOAD: map_load, lib.XOP_MAP_COMMIT: map_commit, lib.XOP_DIFF: diff}
