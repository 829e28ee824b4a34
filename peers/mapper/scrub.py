# SPDX-License-Identifier: Apache-2.0
"""Looks over a whole store while it is in use: `archipelago check`.

It runs in the process of the command and reads through the blockers, so that it finds what lies there and
not what the mapper remembers, and costs the mapper nothing. In this order:

    headers      each checked and decoded
    names        each pointer checked; each header's name must lead to it
    volumes      journals, pages, and that each object they name is there and no larger than a block
    contents     each object named by its content is read and hashed
    the rest     objects that nothing reaches, counted: they are left to the collector

A page that volumes share is looked at once, unless a volume that has it turned out damaged: then each is told
so. What has been reached is kept as marks in a bitmap of MARKS_BYTES, whatever the store's size: of the
unreachable a few may be taken for reached (1 in 200 when ten million are), never the other way round.

Others write meanwhile. What looks damaged is looked at again before it is believed (TRIES times), from the
header on; what a volume open for writing makes carries its epoch or a later one, and is never counted as
unreachable, and neither is what belongs to a volume that was made since.
"""
import asyncio
import errno
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import xxhash

from peers.mapper.frames import read_header
from peers.mapper.header import Header, id_text, name_digest, unpack_frame, unpack_header
from peers.mapper.journal import load_stretches
from peers.mapper.making import ALIVE, ELSEWHERE, REMEDY, object_of
from peers.mapper.names import COLLECTOR_STATE, pointer
from peers.mapper.store import (
    CONTENT,
    DATA,
    HEADER,
    IO_MAX,
    JOURNAL,
    LIST_ROOM,
    NAME,
    PAGE,
    MapStore,
    gather_bounded,
)
from peers.mapper.tree import Layer, Ref, View, all_leaves, index_of, page_name, view_of
from peers.mapper.walk import Check
from xseg._native import lib
from xseg.errors import NotFound
from xseg.request import Object, objects

MARKS_BYTES = 16 << 20              # bitmap of what was reached: 128 million bits
MARKS_EACH = 4                      # bits of one object
PAGES_MAX = 1 << 20                 # intact pages remembered; more are looked at again
TRIES = 3                           # of a volume that looks damaged
RETRY_S = 0.2                       # between two of them
SHOWN_MAX = 200                     # problems told of one volume
VOLUMES_AT_ONCE = 8                 # looked at at the same time
CONTENTS_AT_ONCE = 4                # read at the same time, IO_MAX bytes each
COUNTED = (DATA, CONTENT, PAGE, JOURNAL)
KIND_NAMES = {DATA: "data", CONTENT: "content", PAGE: "page", JOURNAL: "journal", NAME: "name", HEADER: "header"}


class Marks:
    """A set of names that may say yes too often, never no."""

    def __init__(self, size: int) -> None:
        self.bits = bytearray(size)

    def places(self, name: Object) -> list[int]:
        """Bits that stand for a name."""
        digest = xxhash.xxh3_128_digest(name.pack())
        return [int.from_bytes(digest[at * 4:at * 4 + 4], "little") % (len(self.bits) * 8) for at in range(MARKS_EACH)]

    def add(self, name: Object) -> None:
        """Puts a name in."""
        for place in self.places(name):
            self.bits[place >> 3] |= 1 << (place & 7)

    def __contains__(self, name: Object) -> bool:
        return all(self.bits[place >> 3] >> (place & 7) & 1 for place in self.places(name))


@dataclass
class Found:
    """What is said of one volume."""

    id: int
    name: str = ""
    kind: str = "damaged"
    blocks: int = 0
    objects: int = 0
    pages: int = 0
    journals: int = 0
    problems: list[str] = field(default_factory=list)
    left_out: int = 0
    unnamed: str = ""                   # the one of the problems that `repair` mends: its name does not lead to it

    def problem(self, sentence: Any) -> None:
        """Notes one."""
        if len(self.problems) < SHOWN_MAX:
            self.problems.append(str(sentence))
        else:
            self.left_out += 1

    def told(self) -> dict[str, Any]:
        """For programs."""
        return {**vars(self), "id": id_text(self.id)}


class Walk(Check):
    """check() of one volume that marks what it reaches."""

    def __init__(self, store: MapStore, view: View, scrub: "Scrub") -> None:
        super().__init__(store, view)
        self.scrub = scrub
        self.refs: list[Ref] = []

    def enter(self, ref: Ref) -> bool:
        """False: it is known to be intact, with all below."""
        if ref in self.scrub.intact:
            return False
        self.refs.append(ref)
        self.scrub.marks.add(page_name(ref))
        return True

    async def object(self, pair: tuple[int, Layer, Object]) -> None:
        self.scrub.marks.add(pair[2])
        await super().object(pair)

    async def all(self) -> None:
        """The whole map."""
        for stretch in self.view.stretches:
            self.scrub.marks.add(stretch.name)
        self.index = await index_of(self.view)
        async for leaf in all_leaves(self.store, self.view, 0, self.problem, self.index, self.enter):
            await self.leaf(leaf)
            self.scrub.progress()
        if not self.problems and not self.view.stretches and len(self.scrub.intact) < PAGES_MAX:
            self.scrub.intact.update(self.refs)


class Scrub:
    """One look over a store. `committed(id)` says which record of an open volume is durable, 0: not known;
    `progress()` is called now and then, `stage(what, count)` when another part begins (count: of things in it);
    `maker(mark)` says whether a volume is still being made (mapper/making.py)."""

    def __init__(self, store: MapStore, committed: Callable[[int], int] = lambda volume: 0,
                 progress: Callable[[], None] = lambda: None,
                 stage: Callable[[str, int], None] = lambda what, count: None,
                 maker: Callable[[str], str] = lambda mark: ELSEWHERE,
                 marks_bytes: int = MARKS_BYTES) -> None:
        self.store, self.committed, self.progress, self.stage = store, committed, progress, stage
        self.maker = maker
        self.marks = Marks(marks_bytes)
        self.intact: set[Ref] = set()
        self.epochs: dict[int, tuple[int, bool]] = {}   # of volumes: epoch at the start, whether it takes writes
        self.began_ms = time.time_ns() // 1_000_000
        self.problems: list[str] = []                   # of no volume
        self.contents = 0
        self.leftover = 0                               # name pointers of what is not there
        self.removed = 0                                # headers that wait for the collector
        self.unreachable: dict[str, int] = {}

    async def run(self) -> dict[str, Any]:
        """The whole store."""
        headers = await self.headers()
        names = await self.names()
        self.stage("volumes", len(headers))
        volumes = [found.told() for found in await gather_bounded(self.volume, headers, VOLUMES_AT_ONCE) if found]
        await self.all_contents()
        await self.rest()
        return {"volumes": volumes, "names": names, "contents": self.contents, "leftover": self.leftover,
                "removed": self.removed,
                "unreachable": self.unreachable, "problems": self.problems}

    # --- lists

    async def listed(self, kind: int) -> AsyncIterator[list[Object]]:
        """All objects of a kind, in batches."""
        send = self.store.blockerb if kind in (DATA, CONTENT) else self.store.blockerm
        cursor = 0
        while True:
            reply = await send(lib.XOP_LIST, object=Object(kind), arg=cursor, room=LIST_ROOM)
            yield objects(reply.data)
            self.progress()
            if (cursor := reply.arg) == 0:
                return

    async def headers(self) -> list[int]:
        """Ids of all volumes, and what epoch each has now."""
        self.stage("headers", 0)
        found: list[int] = []
        async for batch in self.listed(HEADER):
            for name, data in zip(batch, await gather_bounded(self.frame, batch), strict=True):
                found.append(name.volume)
                try:
                    header = unpack_header(data or b"", name.volume)
                except ValueError:
                    continue                # told of when the volume's turn comes
                writable = header.open_ended
                self.epochs[name.volume] = header.epoch, writable
        return sorted(found)

    async def frame(self, name: Object) -> bytes | None:
        """A header or name pointer. None: gone meanwhile."""
        try:
            return await self.store.read_frame(name)
        except NotFound:
            return None

    async def names(self) -> int:
        """Checks all name pointers; how many there are."""
        self.stage("names", 0)
        count = 0
        async for batch in self.listed(NAME):
            count += len(batch)
            await gather_bounded(self.one_name, batch)
        return count

    async def one_name(self, name: Object) -> None:
        """A pointer whose digest, checksum or volume is wrong."""
        for last in (False, True):
            data = await self.frame(name)
            if data is None:
                return
            try:
                _generation, payload = unpack_frame(b"ARCN", data)
                if name_digest(payload["name"]) != name.digest or not isinstance(payload["id"], int):
                    raise ValueError("it belongs to another name")
                break
            except (ValueError, KeyError, TypeError, AttributeError) as damage:
                if last:
                    self.problems.append(f"the name pointer {name.digest.hex()} is damaged: {damage}")
                    return
            await asyncio.sleep(RETRY_S)
        if payload["name"] == COLLECTOR_STATE:
            return
        try:
            header = await read_header(self.store, payload["id"])
        except OSError:
            self.leftover += 1              # no header, or a damaged one, which is told of with the volumes
            return
        self.leftover += header.name != payload["name"] or header.kind == "removed"

    async def is_finished(self, found: Found, header: Header) -> None:
        """A volume that is being made by nobody any more."""
        if not header.making or self.maker(header.making) == ALIVE:
            return
        try:
            await self.store.info(object_of(header.making))
        except NotFound:
            return
        state = self.maker(header.making)
        found.problem(f"it is {state}: {REMEDY[state]}")

    # --- volumes

    async def volume(self, volume: int) -> Found | None:
        """One volume; what looks wrong is looked at again. None: it is gone."""
        for attempt in range(TRIES):
            found = Found(volume)
            try:
                await self.look_at(found)
            except NotFound:
                return None
            if found.kind == "removed":
                self.removed += 1
                return None
            if not found.problems:
                break
            if attempt < TRIES - 1:
                await asyncio.sleep(RETRY_S)
        self.progress()
        return found

    async def look_at(self, found: Found) -> None:
        """Header, name, journals, pages, objects. NotFound: there is no header."""
        committed = self.committed(found.id)
        try:
            header = await read_header(self.store, found.id)
        except NotFound:
            raise
        except OSError as failure:
            found.problem(failure)
            return
        found.name, found.kind = header.name, header.kind
        if header.kind == "removed":
            return
        await self.name_leads_to(found, header)
        await self.is_finished(found, header)
        try:
            stretches = await load_stretches(self.store, header)
        except OSError as failure:
            found.problem(failure)
            return
        found.journals = len(stretches)
        last = max([header.seq, *(s.last_seq for s in stretches if s.volume == header.id)])
        if committed > last and header.open_ended:
            found.problem(f"volume '{header.name}': its journal ends with record {last}, but {committed} were written")
        walk = Walk(self.store, view_of(header, stretches), self)
        await walk.all()
        found.blocks, found.objects, found.pages = walk.blocks, walk.objects, len(walk.refs)
        found.problems += walk.problems
        found.left_out += walk.left_out

    async def name_leads_to(self, found: Found, header: Header) -> None:
        """The name's pointer must name this volume."""
        try:
            _generation, payload = unpack_frame(b"ARCN", await self.store.read_frame(pointer(header.name)))
            if payload.get("id") != header.id:
                found.unnamed = f"the name '{header.name}' leads to another volume"
        except NotFound:
            found.unnamed = f"the name '{header.name}' leads nowhere: its pointer is missing"
        except ValueError as damage:
            found.unnamed = f"the name pointer of '{header.name}' is damaged: {damage}"
        if found.unnamed:
            found.problem(found.unnamed)

    # --- contents

    async def all_contents(self) -> None:
        """Reads and hashes everything that is named by its content."""
        self.stage("contents", 0)
        async for batch in self.listed(CONTENT):
            await gather_bounded(self.content, batch, CONTENTS_AT_ONCE)
            self.contents += len(batch)

    async def content(self, name: Object) -> None:
        """One content object: the name is the SHA-256 of its bytes without zeros at the end."""
        try:
            size, _space = await self.store.info(name)
            digest, zeros = hashlib.sha256(), 0
            for at in range(0, size, IO_MAX):
                length = min(IO_MAX, size - at)
                data = (await self.store.blockerb(lib.XOP_READ, object=name, offset=at, size=length, room=length)).data
                used = data.rstrip(b"\0")
                if used:
                    digest.update(bytes(zeros) + used)
                    zeros = 0
                zeros += len(data) - len(used)
        except NotFound:
            return
        except OSError as failure:
            self.problems.append(f"content {name.digest.hex()} cannot be read: {failure}")
            return
        self.progress()
        if digest.digest() != name.digest:
            self.problems.append(f"content {name.digest.hex()} is damaged: its bytes have another digest")

    # --- what nothing reaches

    async def rest(self) -> None:
        """Counts it."""
        self.stage("unreachable", 0)
        for kind in COUNTED:
            count = 0
            async for batch in self.listed(kind):
                count += sum(name not in self.marks and self.is_old(name) for name in batch)
            self.unreachable[KIND_NAMES[kind]] = count

    def is_old(self, name: Object) -> bool:
        """True if nobody can be about to use an object that was not reached."""
        if name.kind == CONTENT:
            return True
        if name.volume not in self.epochs:
            return name.volume >> 22 < self.began_ms
        epoch, writable = self.epochs[name.volume]
        return name.epoch < epoch or (name.epoch == epoch and not writable)


async def scrub_one(scrub: Scrub, name: str) -> Found:
    """One volume by its name. NotFound; EBADMSG: its pointer is damaged."""
    try:
        _generation, payload = unpack_frame(b"ARCN", await scrub.store.read_frame(pointer(name)))
        found = await scrub.volume(payload["id"])
    except NotFound:
        found = None
    except ValueError as damage:
        found = Found(0, name, problems=[f"the name pointer of '{name}' is damaged: {damage}"])
    if found is None or (found.name != name and found.kind != "damaged"):
        raise NotFound(errno.ENOENT, f"there is no volume '{name}': `vlmc list` shows what there is")
    return found
