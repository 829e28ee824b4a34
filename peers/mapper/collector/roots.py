# SPDX-License-Identifier: Apache-2.0
"""What keeps objects alive, and marking what it reaches. Here: the headers of volumes and snapshots, and tombstones.

Who else keeps references to objects of the data store is another *root source*, and is given to the cycle like this
one: it marks all it reaches when it is first asked, and what has come since when it is asked again (RootSource).

How much of a map is marked. Of a volume that is closed, and of a snapshot, just what a reader of it would find: pages,
overlaid by journals. Of one that is, or may be, open (its last journal has an open end) everything that is mentioned
in any of its pages and journals, replaced or not: a snapshot that is being taken may be of a moment before the
replacement, and a power cut may take the last records back. What is kept for that goes when the volume is closed.

A page that was walked with all below it is not walked again for another root, and roots with the same map are walked
once. What is not there any more when it is read was replaced meanwhile: the header is read again.
"""
from __future__ import annotations

import asyncio
import errno
from bisect import bisect_left
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Protocol

import numpy as np

from peers.mapper.collector.marks import Marks, names_of
from peers.mapper.frames import read_header
from peers.mapper.header import ENTRIES_PER_PAGE_SHIFT, Header, id_text
from peers.mapper.journal import Stretch, load_closed, load_stretches
from peers.mapper.making import object_of as object_of_mark
from peers.mapper.store import CONTENT, DATA, HEADER, JOURNAL, LIST_ROOM, PAGE, MapStore, gather_bounded
from peers.mapper.tree import Ref, View, children, index_of, merged_leaf, page_name, read_page, view_of
from xseg._native import lib
from xseg.errors import Damaged, NotFound
from xseg.errors import error as fail
from xseg.request import Object

EPOCH_END = 1 << 32
NUMBER_END = (1 << 64) - 1
ROOTS_AT_ONCE = 4
PAGES_AT_ONCE = 16                  # children of one page
TRIES = 20                          # of a root that changes while it is walked
DAMAGED_TRIES = 4                   # of one that does not change, and cannot be read
RETRY_S = 0.1
SEEN_BYTES = 200                    # of memory that a page takes which need not be walked again
SHARE = 8                           # one such part of the memory is for those


class RootSource(Protocol):
    """Who keeps references to objects."""

    async def mark(self, marks: Marks) -> None:
        """Marks all that is reached now. What cannot be told: an OSError, and nothing is collected."""

    async def mark_again(self, marks: Marks) -> None:
        """Marks what is reached by what has come since."""


async def listed(store: MapStore, kind: int) -> AsyncIterator[Any]:
    """All names of a kind, in batches (arrays of marks.XOBJ)."""
    send = store.blockerb if kind in (DATA, CONTENT) else store.blockerm
    cursor = 0
    while True:
        reply = await send(lib.XOP_LIST, object=Object(kind), arg=cursor, room=LIST_ROOM)
        yield names_of(bytes(reply.data))
        if (cursor := reply.arg) == 0:
            return


class Known:
    """What the headers said when they were read: which objects of each volume nobody can be about to make. Those are
    of epochs below a bound, and of journals of numbers below another."""

    def __init__(self) -> None:
        # by id: below which epoch of data, pages and journals, and below which number of journals
        self.bounds: dict[int, tuple[int, int, int, int]] = {}
        self.arrays: tuple[Any, Any] | None = None

    def put(self, header: Header) -> None:
        """One that was there when the cycle began."""
        bounds = EPOCH_END, EPOCH_END, EPOCH_END, NUMBER_END
        if header.kind == "snapshot":       # its map may be being folded or hashed, into pages and objects of its epoch
            bounds = header.epoch, header.epoch, EPOCH_END, NUMBER_END
        elif header.open_ended:
            now = header.listed[-1]
            bounds = now.epoch, now.epoch, now.epoch, now.number
        elif header.kind == "volume":       # its next life has a later epoch
            end = header.epoch + 1
            bounds = end, end, end, NUMBER_END
        self.add(header.id, bounds)

    def add(self, volume: int, bounds: tuple[int, int, int, int] = (0, 0, 0, 0)) -> None:
        """One of which nothing is to be collected, unless bounds are given."""
        self.bounds[volume], self.arrays = bounds, None

    def old(self, names: Any, kind: int) -> tuple[Any, Any]:
        """Which of some names nobody can be about to make, and which are of volumes that are not known. A content can
        be wanted at any moment: claims tell (native/objects/blocker.h)."""
        if kind == CONTENT:
            return np.ones(len(names), bool), np.zeros(len(names), bool)
        if self.arrays is None:
            ids = np.array(sorted(self.bounds), "<u8")
            self.arrays = ids, np.array([self.bounds[int(volume)] for volume in ids], "<u8").reshape(-1, 4)
        ids, bounds = self.arrays
        if not len(ids):
            return np.zeros(len(names), bool), np.ones(len(names), bool)
        places = np.minimum(np.searchsorted(ids, names["volume"]), len(ids) - 1)
        unknown = ids[places] != names["volume"]
        mine = bounds[places]
        column = {DATA: 0, PAGE: 1, JOURNAL: 2}[kind]
        old = (names["epoch"] < mine[:, column]) & ~unknown
        if kind == JOURNAL:
            old &= names["index"] < mine[:, 3]
        return old, unknown


class MapRoots:
    """Headers on a map store. Those with an id in `ended` are tombstones that count no more."""

    def __init__(self, store: MapStore, memory: int, ended: dict[int, int]) -> None:
        self.store, self.ended = store, ended
        self.seen_most = max(64, memory // SHARE // SEEN_BYTES)
        self.known = Known()
        self.seen: set[Ref] = set()             # pages that are marked with all below, whoever's journal is over them
        self.walked: set[tuple[Any, ...]] = set()       # maps
        self.roots = self.pages = self.volumes = self.tombstones = 0

    async def mark(self, marks: Marks) -> None:
        """All headers."""
        async for names in listed(self.store, HEADER):
            for header in await gather_bounded(lambda volume: self.root(int(volume), marks), names["volume"],
                                               ROOTS_AT_ONCE):
                if header is not None:
                    self.count(header)
                    await self.know(header)

    async def mark_again(self, marks: Marks) -> None:
        """Those that are there since."""
        async for names in listed(self.store, HEADER):
            new = [int(volume) for volume in names["volume"] if int(volume) not in self.known.bounds]
            await gather_bounded(lambda volume: self.root(volume, marks), new, ROOTS_AT_ONCE)
            for volume in new:
                self.known.add(volume)

    async def know(self, header: Header) -> None:
        """Notes what is known of a header. What is being made may have pages that its header does not name yet."""
        if header.making and header.kind != "removed":
            with suppress(NotFound):
                await self.store.info(object_of_mark(header.making))
                self.known.add(header.id)
                return
        self.known.put(header)

    def count(self, header: Header) -> None:
        """For the account."""
        self.volumes += header.kind != "removed"
        self.tombstones += header.kind == "removed"

    async def root(self, volume: int, marks: Marks) -> Header | None:
        """Marks what one header reaches. The header that was walked; None: it is gone. EBADMSG: nobody can tell what it
        reaches."""
        before, same = 0, 0
        for _ in range(TRIES):
            try:
                header = await read_header(self.store, volume)
            except NotFound:
                return None
            if volume in self.ended:
                return header
            try:
                await self.walk(header, marks)
                return header
            except (NotFound, Damaged) as failure:
                same = same + 1 if header.generation == before else 0
                if same >= DAMAGED_TRIES:
                    raise fail(errno.EBADMSG, f"nobody can tell what '{header.name}' ({id_text(volume)}) is made of: "
                                              f"{failure}") from None
                before = header.generation
            await asyncio.sleep(RETRY_S)
        raise fail(errno.EAGAIN, f"the map of '{header.name}' changes too fast to be walked")

    async def walk(self, header: Header, marks: Marks) -> None:
        """The same for a header that was read just now. NotFound: a page of it is replaced already."""
        key = header.root and tuple(header.root), tuple(header.listed), header.blocks
        if not header.open_ended and key in self.walked:
            return
        self.roots += 1
        gone = header.kind == "removed"
        stretches = await self.left_stretches(header) if gone else await load_stretches(self.store, header)
        for listed_one in header.listed:
            marks.name(Stretch(*listed_one[:3]).name)
        walk = Walk(self, view_of(header, stretches), marks, gone)
        await (walk.everything() if header.open_ended else walk.present())
        if not header.open_ended and not gone and len(self.walked) < self.seen_most:
            self.walked.add(key)

    async def left_stretches(self, header: Header) -> list[Stretch]:
        """Those of a tombstone's journals that are not removed yet."""
        found = []
        for one in header.listed:
            try:
                if one.end:
                    found.append(await load_closed(self.store, header, one))
            except (NotFound, Damaged):
                continue
        return found


class Walk:
    """Over one map."""

    def __init__(self, roots: MapRoots, view: View, marks: Marks, gone: bool) -> None:
        self.roots, self.view, self.marks, self.gone = roots, view, marks, gone
        self.touched: list[int] = []            # leaves, ascending, that are marked by themselves, with their journal

    async def everything(self) -> None:
        """All that pages and journals mention."""
        for stretch in self.view.stretches:
            self.marks.name(stretch.name)
            for record in stretch.records():
                self.mark_record(record)
        if self.view.root:
            await self.page(self.view.root, self.view.level, 0)

    async def present(self) -> None:
        """What the map says."""
        index = await index_of(self.view)
        self.touched = sorted(index.leaves)
        if self.view.root:
            await self.page(self.view.root, self.view.level, 0)
        for leaf in self.touched:
            try:
                self.mark_record(await merged_leaf(self.roots.store, self.view, leaf, (1, 0, 0), index))
            except (NotFound, Damaged):
                if not self.gone:
                    raise

    def mark_record(self, record: Any) -> None:
        """One record."""
        try:
            self.marks.record(record)
        except ValueError as damage:
            raise fail(errno.EBADMSG, f"volume '{self.view.name}': a record of its map is damaged: {damage}") from None

    async def page(self, ref: Ref, level: int, index: int) -> None:
        """A page and all below it."""
        first, end = index << ENTRIES_PER_PAGE_SHIFT * level, index + 1 << ENTRIES_PER_PAGE_SHIFT * level
        own = bisect_left(self.touched, first) != bisect_left(self.touched, end)
        if not own and ref in self.roots.seen:
            return
        self.marks.name(page_name(ref))
        if own and level == 0:
            return
        try:
            data = await read_page(self.roots.store, self.view, ref, level, index)
        except (NotFound, Damaged):
            if self.gone:
                return
            raise
        self.roots.pages += 1
        if level == 0:
            self.mark_record(data)
        else:
            await gather_bounded(lambda child: self.page(child[1], level - 1, child[0]), children(data).items(),
                                 PAGES_AT_ONCE if level == 1 else 1)
        if not own and not self.gone and len(self.roots.seen) < self.roots.seen_most:
            self.roots.seen.add(ref)
