# SPDX-License-Identifier: Apache-2.0
"""Headers and name pointers on the store: reading, making, replacing them. Their formats are in header.py."""
import errno
from contextlib import suppress
from typing import Any

from peers.mapper.header import Header, id_text, unpack_header
from peers.mapper.store import HEADER, MapStore, named
from xseg.errors import Exists, NotFound, Stale
from xseg.errors import error as fail

CREATE_TRIES = 16                   # of a header or name pointer that others remove meanwhile


async def read_header(store: MapStore, volume: int) -> Header:
    """A header. NotFound; EBADMSG that names the object, and the volume if its name can still be read."""
    data = await store.read_frame(named(HEADER, volume))
    try:
        return unpack_header(data, volume)
    except ValueError as damage:
        raise fail(errno.EBADMSG, f"the header of volume {id_text(volume)} is damaged: {damage}") from None


async def replace_header(store: MapStore, header: Header, generation: int) -> None:
    """Replaces a header of that generation. Stale, in a sentence for people."""
    try:
        await replace_frame(store, named(HEADER, header.id), header.pack(), generation)
    except Stale:
        raise fail(errno.ESTALE, f"volume '{header.name}' was changed by somebody else meanwhile: try again") from None


async def replace_frame(store: MapStore, name: Any, data: bytes, generation: int) -> None:
    """Replaces a header or name pointer of that generation. One that is there already, by a repeated request, is
    fine. Stale, NotFound."""
    try:
        await store.replace(name, data, generation)
    except Stale:
        if (await store.read_frame(name))[:len(data)] != data:
            raise


async def create_frame(store: MapStore, name: Any, data: bytes) -> bytes | None:
    """Makes a header or name pointer. What is there already, if it is not just that; else None. EAGAIN: it comes and
    goes all the time."""
    for _ in range(CREATE_TRIES):
        try:
            await store.create(name, data)
            return None
        except Exists:
            with suppress(NotFound):        # it was removed since
                found = await store.read_frame(name)
                return None if found[:len(data)] == data else found
    raise fail(errno.EAGAIN, "a name is taken and freed all the time: try again")
