# SPDX-License-Identifier: Apache-2.0
"""Deleting what no mark stands for: objects, name pointers, marks of what was being made, locks.

An object is deleted when it was listed after all marks were made, is not marked, and nobody can be about to make it: by
the epoch and number in its name (roots.Known), or because its volume has no header at all. A volume's header is there
before its first object and its id is never used again, so of an object that was listed first and whose header is not
there then nobody has any use.

A name pointer goes when no header bears it out. Where there is none at all, a volume may be about to be made: so its
id must be old, and a tombstone is put where the header would be (mapper/names.py).
"""
from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from peers.mapper.collector.marks import Marks, hashes_of, object_of
from peers.mapper.collector.roots import Known, listed
from peers.mapper.frames import read_header
from peers.mapper.header import NAME_MAGIC, Header, is_number, unpack_frame
from peers.mapper.making import ALIVE, GONE, MARK, unpack_mark
from peers.mapper.making import object_of as object_of_mark
from peers.mapper.names import fence
from peers.mapper.scrub import KIND_NAMES
from peers.mapper.store import CONTENT, DATA, HEADER, JOURNAL, LOCK, NAME, PAGE, MapStore, gather_bounded, named
from xseg.errors import Busy, Damaged, NotFound, Stale
from xseg.request import Object

COLLECTOR = 1                       # "volume" of the lock that the collector has; no volume's id is so small
KINDS = (DATA, CONTENT, JOURNAL, PAGE)
DELETES_AT_ONCE = 32
SIZED = 64                          # objects of a batch whose space is asked for, in order to estimate that of all


@dataclass
class Account:
    """What there is of one kind."""

    objects: int = 0                # listed
    bytes: int = 0                  # that they take, about
    freed_objects: int = 0
    freed_bytes: int = 0


@dataclass
class Swept:
    """What a cycle did, or would do (`dry_run`)."""

    kinds: dict[str, Account] = field(default_factory=lambda: {KIND_NAMES[kind]: Account() for kind in KINDS})
    names: int = 0                  # pointers that led nowhere
    headers: int = 0                # tombstones
    locks: int = 0                  # of what is gone
    half_made: int = 0              # volumes whose maker is gone


class Sweep:
    """Of one cycle. What is younger than `young` (milliseconds since 1970) may be being made still; `maker(mark)` says
    whether what has that mark is. A content goes if it was not claimed since `unclaimed_since` (ns since 1970)."""

    def __init__(self, store: MapStore, swept: Swept, young: int, unclaimed_since: int, maker: Any,
                 dry_run: bool) -> None:
        self.store, self.swept, self.young, self.maker, self.dry_run = store, swept, young, maker, dry_run
        self.unclaimed_since = max(1, unclaimed_since)
        self.half_made: list[Header] = []

    async def delete(self, name: Object, condition: int = 0) -> bool:
        """Deletes an object, or only says that it would. False: it is not there, or another by now, or claimed."""
        if name.kind == CONTENT:
            condition = self.unclaimed_since
        if self.dry_run:
            return True
        with suppress(Stale, Busy):
            return await self.store.delete(name, condition)
        return False

    # --- objects

    async def objects(self, kind: int, marks: Marks, known: Known) -> None:
        """Those of a kind, as far as their hashes are of the marks' range."""
        account, gone = self.swept.kinds[KIND_NAMES[kind]], dict[int, bool]()
        async for names in listed(self.store, kind):
            hashes = hashes_of(names)
            covered = marks.covers(hashes)
            names, hashes = names[covered], hashes[covered]
            old, unknown = known.old(names, kind)
            idle = ~marks.have(hashes)
            for volume in np.unique(names["volume"][unknown & idle]):
                if int(volume) not in gone:
                    gone[int(volume)] = await self.has_no_header(int(volume))
            orphans = np.array([volume for volume, is_gone in gone.items() if is_gone], "<u8")
            doomed = idle & (old | (unknown & np.isin(names["volume"], orphans)))
            await self.size(account, names[~doomed])
            await gather_bounded(lambda name: self.free(account, object_of(name)), names[doomed], DELETES_AT_ONCE)

    async def has_no_header(self, volume: int) -> bool:
        """True if a volume of which an object was listed is gone."""
        try:
            await self.store.info(named(HEADER, volume))
        except NotFound:
            return True
        return False

    async def size(self, account: Account, names: Any) -> None:
        """Counts objects that stay. Of many only some are asked for their size."""
        account.objects += len(names)
        asked = names[::max(1, -(-len(names) // SIZED))]
        spaces = await gather_bounded(self.space, [object_of(name) for name in asked], DELETES_AT_ONCE)
        if spaces:
            account.bytes += sum(spaces) * len(names) // len(spaces)

    async def space(self, name: Object) -> int:
        """Bytes that an object takes."""
        try:
            return (await self.store.info(name))[1]
        except NotFound:
            return 0

    async def free(self, account: Account, name: Object) -> None:
        """Deletes one."""
        space = await self.space(name)
        if await self.delete(name):
            account.freed_objects += 1
            account.freed_bytes += space

    # --- the rest

    async def rest(self, known: Known, ended: dict[int, int]) -> None:
        """Names, marks and locks of what is gone, then tombstones that have had their time: id -> generation."""
        async for names in listed(self.store, NAME):
            await gather_bounded(lambda digest: self.name(Object(NAME, digest=digest)),
                                 [bytes(name.tobytes()[8:]) for name in names], DELETES_AT_ONCE)
        async for names in listed(self.store, LOCK):
            await gather_bounded(lambda volume: self.lock(int(volume), known), names["volume"], DELETES_AT_ONCE)
        for volume, generation in ended.items():
            self.swept.headers += await self.delete(named(HEADER, volume), generation)

    async def name(self, pointer: Object) -> None:
        """One pointer, or mark. What cannot be read is left to `archipelago check`."""
        try:
            data = await self.store.read_frame(pointer)
            generation, payload = unpack_frame(NAME_MAGIC, data)
        except (NotFound, ValueError):
            return
        name, volume = payload.get("name"), payload.get("id")
        if not isinstance(name, str) or not is_number(volume, 1, 1 << 64):
            return
        if name.startswith(MARK):
            await self.mark(pointer, name.removeprefix(MARK), data)
        elif not name.startswith("/") and not await self.borne_out(name, volume):
            self.swept.names += await self.delete(pointer, generation)

    async def borne_out(self, name: str, volume: int) -> bool:
        """True if a name leads to a volume, or may come to."""
        try:
            header = await read_header(self.store, volume)
        except Damaged:
            return True
        except NotFound:
            if not self.is_old(volume):
                return True
            if self.dry_run:
                return False
            header = await fence(self.store, name, volume)
        if header.making and self.is_old(volume) and self.maker(header.making) == GONE:
            with suppress(NotFound):
                await self.store.info(object_of_mark(header.making))
                self.half_made.append(header)
        return header.kind != "removed" and name in (header.name, header.renaming)

    def is_old(self, volume: int) -> bool:
        """True if nobody can be about to make a volume of that id."""
        return volume >> 22 < self.young

    async def mark(self, pointer: Object, mark: str, data: bytes) -> None:
        """A mark of what was being made, if nothing has it and nobody goes on."""
        try:
            generation, ids = unpack_mark(data)
            state = self.maker(mark)
        except ValueError:
            return
        if state == ALIVE or not ids or not all(map(self.is_old, ids)):
            return
        for volume in ids:
            if not await self.has_no_header(volume):
                return
        self.swept.names += await self.delete(pointer, generation)

    async def lock(self, volume: int, known: Known) -> None:
        """A lock, if its volume is gone and nobody has it."""
        if volume == COLLECTOR or volume in known.bounds or not self.is_old(volume) \
                or not await self.has_no_header(volume):
            return
        self.swept.locks += await self.delete(named(LOCK, volume))
