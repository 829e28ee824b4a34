# SPDX-License-Identifier: Apache-2.0
"""What is being made: volumes that are nobody's to use yet. An image that is copied in, many clones at once.

Their headers name a *mark* (`making`), an object beside the name pointers that is there as long as they are being
made. All volumes of one making have one mark, so that its removal makes all of them whole in one step, and none
before. Until then they can be opened, cloned, renamed... by nobody but who makes them, by a name that holds the token
(xseg/volume_name.py). Who fails removes them by their ids.

The mark's name tells who makes them: by whose port in which life of which segment. When that is gone, they are
half-made for good: `vlmc list` and `archipelago check` say so, and `vlmc remove` removes them, with the last of them
the mark. (Another node cannot see whether it is gone, and wants --force.)

The mark's object is a frame like a name pointer's (mapper/header.py), with one member more:

    id              1
    name            MARK and the mark
    ids             [[first, count], ...]: runs of the ids of those that have it. Not there in older ones, nor where so
                    many would not fit: such a mark of many stays when they are gone
"""
import asyncio
import errno
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgpack

from peers.mapper.frames import create_frame, read_header, replace_frame
from peers.mapper.header import MAKING_MAX, NAME_MAGIC, Header, id_text, is_number, pack_frame, unpack_frame
from peers.mapper.names import missing, pointer
from peers.mapper.store import AT_ONCE, MapStore, gather_bounded
from xseg.errors import Damaged, NotFound
from xseg.errors import error as fail
from xseg.request import Object, Request
from xseg.volume_name import token_in

MARK = "/making/"                   # begins a mark's name, as no volume's can
RUNS_MAX = 3000                     # of ids in a mark: 15 bytes each at most, and so they fit a frame
IDS_MAX = 1 << 20                   # of one mark: more is damage
WHOLE_MAX = 65536                   # marks that are known to be gone; then they are looked for again
ALIVE, GONE, ELSEWHERE = "being made", "half-made", "being made, or half-made, by another node"
REMEDY = {ALIVE: "it is nobody's to use until that is done",
          GONE: "what made it is gone, and `vlmc remove` removes it",
          ELSEWHERE: "it is nobody's to use until that is done; `vlmc remove --force` removes one that never will be"}


# --- marks ------------------------------------------------------------------------------------------

def node(home: str) -> str:
    """By which a mark names the instance: host and home."""
    return f"{socket.gethostname()} {home}".encode(errors="replace").decode()


def state_of(mark: str, segment: Any, segment_token: int, home: str) -> str:
    """Whether who makes what has this mark is still at it: ALIVE, GONE or ELSEWHERE."""
    _what, made_in, port, life, made_at = mark.split(" ", 4)
    if made_in == f"{segment_token:x}" and int(port) < segment.c.port_count:
        there = segment.c.ports[int(port)].incarnation == int(life) and segment.alive(int(port))
        return ALIVE if there else GONE
    return GONE if made_at == node(home) else ELSEWHERE


def object_of(mark: str) -> Object:
    """The mark's object."""
    return pointer(MARK + mark)


def pack_mark(mark: str, ids: list[int], generation: int) -> bytes:
    """The bytes of a mark's object."""
    runs: list[list[int]] = []
    for volume in sorted(ids):
        if runs and volume == sum(runs[-1]):
            runs[-1][1] += 1
        else:
            runs.append([volume, 1])
    payload = {"id": 1, "name": MARK + mark} | ({"ids": runs} if len(runs) <= RUNS_MAX else {})
    return pack_frame(NAME_MAGIC, generation, msgpack.packb(payload))


def unpack_mark(data: bytes) -> tuple[int, list[int]]:
    """Generation, and the ids in it: none if it does not say. ValueError for what is damaged."""
    generation, payload = unpack_frame(NAME_MAGIC, data)
    ids: list[int] = []
    runs = payload.get("ids", [])
    if not isinstance(runs, list):
        raise ValueError("its ids are damaged")
    for run in runs:
        if not isinstance(run, list) or len(run) != 2 or not is_number(run[0], 1, 1 << 64) \
                or not is_number(run[1], 1, IDS_MAX - len(ids)):
            raise ValueError("its ids are damaged")
        ids += range(run[0], run[0] + run[1])
    return generation, ids


class Marks:
    """The marks on a store, as this instance sees them. `token` is that of its segment."""

    def __init__(self, store: MapStore, segment: Any, token: int, home: str) -> None:
        self.store, self.segment, self.token, self.home = store, segment, token, home
        self.gone: set[str] = set()             # those that were there once

    def new(self, request: Request, what: str) -> str:
        """The mark of what a request makes: `what` (an id, or the token of many), the segment, the client's port and
        its life, the node."""
        c = request.c
        return f"{what} {self.token:x} {c.src} {c.incarnation} {node(self.home)}"[:MAKING_MAX]

    async def put(self, mark: str, ids: list[int]) -> None:
        """Before the first header that names it, those of `ids`. One that is there is of an earlier attempt of the
        same request, in which some had other ids."""
        self.gone.discard(mark)
        found = await create_frame(self.store, object_of(mark), pack_mark(mark, ids, 1))
        if found is not None:
            try:
                generation, _ids = unpack_mark(found)
            except ValueError as damage:
                raise fail(errno.EBADMSG, f"the mark of what is being made is damaged: {damage}") from None
            await replace_frame(self.store, object_of(mark), pack_mark(mark, ids, generation + 1), generation)

    async def ids(self, mark: str) -> list[int]:
        """Of those that have it, or were to; none if it is gone, or does not say."""
        try:
            return unpack_mark(await self.store.read_frame(object_of(mark)))[1]
        except (NotFound, ValueError):
            return []

    async def is_left(self, volume: int) -> bool:
        """False if the volume is gone, or about to."""
        try:
            return (await read_header(self.store, volume)).kind != "removed"
        except NotFound:
            return False
        except Damaged:
            return True

    async def take(self, mark: str) -> None:
        """Makes whole what has it; or, where that was removed, clears it away."""
        await self.store.delete(object_of(mark))

    async def is_there(self, mark: str) -> bool:
        """True while what has it is being made."""
        try:
            await self.store.info(object_of(mark))
        except NotFound:
            return False
        return True

    async def is_whole(self, header: Header) -> bool:
        """False while it is being made."""
        if not header.making or header.making in self.gone:
            return True
        if await self.is_there(header.making):
            return False
        if len(self.gone) >= WHOLE_MAX:
            self.gone.clear()
        self.gone.add(header.making)
        return True

    async def state(self, header: Header) -> str | None:
        """For people: None for what is whole."""
        return None if await self.is_whole(header) else state_of(header.making, self.segment, self.token, self.home)

    async def refuse_unfinished(self, header: Header, name: str) -> None:
        """EINPROGRESS for what is being made, unless the name says that who asks makes it."""
        if token_in(name) and token_in(name) == header.token:
            return
        if state := await self.state(header):
            raise fail(errno.EINPROGRESS, f"volume '{header.name}' is {state}: {REMEDY[state]}")

    async def may_be_removed(self, header: Header, name: str, token: int, force: bool) -> None:
        """EBUSY: it is being made by somebody else. ENOENT: its maker, who has the token, wants to remove it, but it
        is whole, or another's."""
        state = await self.state(header)
        if token:
            if state is None or header.token != token:
                raise missing(name)
        elif state == ALIVE or (state == ELSEWHERE and not force):
            raise fail(errno.EBUSY, f"volume '{header.name}' is {state}: {REMEDY[state]}")

    async def removed(self, header: Header) -> None:
        """Clears the mark away if it was of this volume alone, or this was the last that had it."""
        mark = header.making
        if not mark or mark in self.gone:
            return
        if mark.startswith(id_text(header.id) + " ") or await self.is_last(mark):
            await self.take(mark)

    async def is_last(self, mark: str) -> bool:
        """True if none is left of many that had a mark, and no more of them will be made."""
        if state_of(mark, self.segment, self.token, self.home) == ALIVE or not (ids := await self.ids(mark)):
            return False
        random.shuffle(ids)                 # so one that is there is found soon where many are
        for at in range(0, len(ids), AT_ONCE):
            if any(await gather_bounded(self.is_left, ids[at:at + AT_ONCE])):
                return False
        return True


# --- requests that make something, and whose client may go or want them to end ----------------------

class Making:
    """One of them."""

    def __init__(self, segment: Any, request: Request) -> None:
        self.segment, self.client = segment, (request.c.src, request.c.incarnation)
        self.cancelled = False
        self.done = asyncio.Event()

    def go_on(self) -> None:
        """ECANCELED: nobody wants it any more. Asked before each part."""
        port, life = self.client
        if self.cancelled or self.segment.c.ports[port].incarnation != life or not self.segment.alive(port):
            raise fail(errno.ECANCELED, "who asked for it is gone, or has given it up")


class UnderWay:
    """All of them, by their tokens."""

    def __init__(self, segment: Any) -> None:
        self.segment = segment
        self.by_token: dict[int, Making] = {}

    @asynccontextmanager
    async def making(self, request: Request, token: int) -> AsyncIterator[Making]:
        """Lets cancel() find one."""
        made = Making(self.segment, request)
        self.by_token[token] = made
        try:
            yield made
        finally:
            made.done.set()
            if self.by_token.get(token) is made:
                del self.by_token[token]

    async def cancel(self, token: int) -> bool:
        """Has what is made with this token undone, and waits for that. False: there was nothing."""
        made = self.by_token.get(token)
        if made is not None:
            made.cancelled = True
            await made.done.wait()
        return made is not None
