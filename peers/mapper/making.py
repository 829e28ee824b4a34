# SPDX-License-Identifier: Apache-2.0
"""What is being made: volumes that are nobody's to use yet. An image that is copied in, many clones at once.

Their headers name a *mark* (`making`), an object beside the name pointers that is there as long as they are being
made. All volumes of one making have one mark, so that its removal makes all of them whole in one step, and none
before. Until then they can be opened, cloned, renamed... by nobody but who makes them, by a name that holds the token
(xseg/volume_name.py). Who fails removes them by their ids.

The mark's name tells who makes them: by whose port in which life of which segment. When that is gone, they are
half-made for good: `vlmc list` and `archipelago check` say so, and `vlmc remove` removes them. (Another node cannot
see whether it is gone, and wants --force.)
"""
import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from peers.mapper.frames import create_frame
from peers.mapper.header import MAKING_MAX, Header, id_text, pack_name
from peers.mapper.names import missing, pointer
from peers.mapper.store import MapStore
from xseg.errors import NotFound
from xseg.errors import error as fail
from xseg.request import Object, Request
from xseg.volume_name import token_in

MARK = "/making/"                   # begins a mark's name, as no volume's can
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

    async def put(self, mark: str) -> None:
        """Before the first header that names it. One that is there is of an earlier attempt of the same request."""
        self.gone.discard(mark)
        await create_frame(self.store, object_of(mark), pack_name(MARK + mark, 1))

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
        """Clears the mark away that was only of this volume."""
        if header.making.startswith(id_text(header.id) + " "):
            await self.take(header.making)


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
