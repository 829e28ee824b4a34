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
from typing import TYPE_CHECKING, Any

from peers.mapper.header import MAKING_MAX, Header, id_text, pack_name
from peers.mapper.names import missing, pointer
from peers.mapper.volume import create_frame
from xseg._native import lib
from xseg.errors import NotFound
from xseg.errors import error as fail
from xseg.request import Object, Request
from xseg.volume_name import token_in

if TYPE_CHECKING:
    from peers.mapper import Mapper
    from peers.mapper.verbs import Arguments

MARK = "/making/"                   # begins a mark's name, as no volume's can
WHOLE_MAX = 65536                   # marks that are known to be gone; then they are looked for again
ALIVE, GONE, ELSEWHERE = "being made", "half-made", "being made, or half-made, by another node"
REMEDY = {ALIVE: "it is nobody's to use until that is done",
          GONE: "what made it is gone, and `vlmc remove` removes it",
          ELSEWHERE: "it is nobody's to use until that is done; `vlmc remove --force` removes one that never will be"}


# --- marks ------------------------------------------------------------------------------------------

def mark_for(m: "Mapper", request: Request, what: str) -> str:
    """The mark of what a request makes: `what` (an id, or the token of many), the segment, the client's port and
    its life, the node."""
    c = request.c
    return f"{what} {m.token:x} {c.src} {c.incarnation} {node(m.home)}"[:MAKING_MAX]


def node(home: str) -> str:
    """By which a mark names the instance: host and home."""
    return f"{socket.gethostname()} {home}".encode(errors="replace").decode()


def state_of(mark: str, segment: Any, segment_token: int, home: str) -> str:
    """Whether who makes what has this mark is still at it: ALIVE, GONE or ELSEWHERE."""
    _what, made_in, port, life, made_at = mark.split(" ", 4)
    if made_in == f"{segment_token:x}" and int(port) < lib.XSEG_PORTS:
        there = segment.c.ports[int(port)].incarnation == int(life) and segment.alive(int(port))
        return ALIVE if there else GONE
    return GONE if made_at == node(home) else ELSEWHERE


def object_of(mark: str) -> Object:
    """The mark's object."""
    return pointer(MARK + mark)


async def put_mark(m: "Mapper", mark: str) -> None:
    """Before the first header that names it. One that is there is of an earlier attempt of the same request."""
    m.whole.discard(mark)
    await create_frame(m.store, object_of(mark), pack_name(MARK + mark, 1))


async def take_mark(m: "Mapper", mark: str) -> None:
    """Makes whole what has it; or, where that was removed, clears it away."""
    await m.store.delete(object_of(mark))


async def is_whole(m: "Mapper", header: Header) -> bool:
    """False while it is being made."""
    if not header.making or header.making in m.whole:
        return True
    if await is_marked(m, header.making):
        return False
    if len(m.whole) >= WHOLE_MAX:
        m.whole.clear()
    m.whole.add(header.making)
    return True


async def is_marked(m: "Mapper", mark: str) -> bool:
    """True while the mark is there."""
    try:
        await m.store.info(object_of(mark))
    except NotFound:
        return False
    return True


async def making_state(m: "Mapper", header: Header) -> str | None:
    """For people: None for what is whole."""
    return None if await is_whole(m, header) else state_of(header.making, m.segment, m.token, m.home)


async def refuse_unfinished(m: "Mapper", header: Header, name: str) -> None:
    """EINPROGRESS for what is being made, unless the name says that who asks makes it."""
    if token_in(name) and token_in(name) == header.token:
        return
    if state := await making_state(m, header):
        raise fail(errno.EINPROGRESS, f"volume '{header.name}' is {state}: {REMEDY[state]}")


async def may_be_removed(m: "Mapper", header: Header, a: "Arguments") -> None:
    """EBUSY: it is being made by somebody else. ENOENT: the maker wants to remove it, but it is whole, or another's."""
    state = await making_state(m, header)
    if a["making"]:
        if state is None or header.token != a["making"]:
            raise missing(a["name"])
    elif state == ALIVE or (state == ELSEWHERE and not a["force"]):
        raise fail(errno.EBUSY, f"volume '{header.name}' is {state}: {REMEDY[state]}")


async def removed(m: "Mapper", header: Header) -> None:
    """Clears the mark away that was only of this volume."""
    if header.making.startswith(id_text(header.id) + " "):
        await take_mark(m, header.making)


async def finish(m: "Mapper", a: "Arguments", room: int) -> dict:
    """What was being made is whole from now on. EPERM: not by who makes it."""
    header = await m.names.lookup(a["name"])
    if not token_in(a["name"]) or token_in(a["name"]) != header.token:
        raise fail(errno.EPERM, f"volume '{header.name}' is finished by who makes it, by a name with its token")
    if header.making:
        await take_mark(m, header.making)
    return {}


# --- requests that make something, and whose client may go or want them to end ----------------------

class Making:
    """One of them."""

    def __init__(self, m: "Mapper", request: Request) -> None:
        self.m, self.client = m, (request.c.src, request.c.incarnation)
        self.cancelled = False
        self.done = asyncio.Event()

    def go_on(self) -> None:
        """ECANCELED: nobody wants it any more. Asked before each part."""
        port, life = self.client
        segment = self.m.segment
        if self.cancelled or segment.c.ports[port].incarnation != life or not segment.alive(port):
            raise fail(errno.ECANCELED, "who asked for it is gone, or has given it up")


@asynccontextmanager
async def making(m: "Mapper", request: Request, token: int) -> AsyncIterator[Making]:
    """Lets `cancel` find it by its token."""
    made = Making(m, request)
    m.making[token] = made
    try:
        yield made
    finally:
        made.done.set()
        if m.making.get(token) is made:
            del m.making[token]


async def cancel(m: "Mapper", a: "Arguments", room: int) -> dict:
    """Has what is made with this token undone, and waits for that. running: whether there was something."""
    made = m.making.get(a["token"])
    if made is not None:
        made.cancelled = True
        await made.done.wait()
    return {"running": made is not None}
