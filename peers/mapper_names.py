# SPDX-License-Identifier: Apache-2.0
"""Names of volumes: from a name to its header, claiming a name, giving it back.

Making a volume is: claim the name (create the pointer), then create the header, which is the commit
point. Renaming is: claim the new name, replace the header (commit point), remove the old pointer. A
pointer that the header of its id does not bear out was left over by a death in between, and is taken
over by compare-and-swap; where there is no header at all, a `removed` one is put there first, so that
whoever was so slow cannot complete its create any more.

Within this mapper names are locked in memory for as long as an operation works on them.
"""
import asyncio
import errno
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from peers.mapper_header import BLOCK_MIN_SHIFT, Header, name_digest, pack_name, unpack_name
from peers.mapper_store import HEADER, NAME, MapStore, named
from peers.mapper_volume import create_frame, read_header
from xseg.errors import Damaged, NotFound
from xseg.errors import error as fail
from xseg.request import Object
from xseg.volume_name import id_in


def pointer(name: str) -> Object:
    """The pointer's object."""
    return Object(NAME, digest=name_digest(name))


def means(name: str, header: Header) -> bool:
    """True if the volume of this header is what the name means."""
    return header.kind != "removed" and (header.name == name or header.id == id_in(name))


def exists(name: str) -> OSError:
    """EEXIST."""
    return fail(errno.EEXIST, f"'{name}' exists already: choose another name, or remove it first")


class Names:
    """Names on one store."""

    def __init__(self, store: MapStore) -> None:
        self.store = store
        self.busy: set[str] = set()
        self.freed = asyncio.Condition()

    @asynccontextmanager
    async def locked(self, names: Iterable[str]) -> AsyncIterator[None]:
        """Nobody else works on these names meanwhile."""
        wanted = set(names)
        async with self.freed:
            await self.freed.wait_for(lambda: not wanted & self.busy)
            self.busy |= wanted
        try:
            yield
        finally:
            self.busy -= wanted
            async with self.freed:
                self.freed.notify_all()

    async def target(self, name: str) -> tuple[int, int]:
        """Generation and id of a pointer. NotFound; EBADMSG that names it."""
        return self.decode(name, await self.store.read_frame(pointer(name)))

    def decode(self, name: str, data: bytes) -> tuple[int, int]:
        """Generation and id out of a pointer's bytes. EBADMSG."""
        try:
            return unpack_name(data, name)
        except ValueError as damage:
            raise fail(errno.EBADMSG, f"the name pointer of '{name}' is damaged: {damage}") from None

    async def lookup(self, name: str) -> Header:
        """The header of the volume of that name, or of the id in it (xseg/volume_name.py). NotFound; EBADMSG."""
        volume = id_in(name)
        try:
            if volume is None:
                _generation, volume = await self.target(name)
            header = await read_header(self.store, volume)
        except NotFound:
            raise missing(name) from None
        except Damaged as damage:
            raise fail(errno.EBADMSG, f"volume '{name}': {damage}") from None
        if not means(name, header):
            raise missing(name)
        return header

    async def claim(self, name: str, volume: int, token: int = 0) -> Header | None:
        """Points the name to an id whose header will be written next. Under locked(). EEXIST.

        The header that is there already if an earlier attempt with the same nonzero token made it.
        """
        data = pack_name(name, volume)
        found = await create_frame(self.store, pointer(name), data)
        if found is None:
            return None
        generation, holder = self.decode(name, found)
        try:
            header = await read_header(self.store, holder)
        except Damaged:
            raise exists(name) from None
        except NotFound:
            header = await self.fence(name, holder)
        if header.name == name and header.kind != "removed":
            if token and header.token == token:
                return header
            raise exists(name)
        await self.store.replace(pointer(name), pack_name(name, volume, generation + 1), generation)
        return None

    async def fence(self, name: str, volume: int) -> Header:
        """Makes sure that a create which got as far as the pointer does not complete. Its header if
        it has just done so."""
        tomb = Header(id=volume, name=name, kind="removed", size=0, block_shift=BLOCK_MIN_SHIFT)
        if await create_frame(self.store, named(HEADER, volume), tomb.pack()) is None:
            return tomb
        return await read_header(self.store, volume)

    async def release(self, name: str, volume: int) -> None:
        """Removes the pointer if it still leads to that id. Under locked()."""
        try:
            if (await self.target(name))[1] == volume:
                await self.store.delete(pointer(name))
        except NotFound:
            return

    async def drop(self, name: str) -> None:
        """Removes a pointer that cannot be read."""
        await self.store.delete(pointer(name))

    async def make(self, header: Header) -> None:
        """Creates the header whose name has been claimed: the commit point. EEXIST: fenced off."""
        if await create_frame(self.store, named(HEADER, header.id), header.pack()) is not None:
            raise exists(header.name)


def missing(name: str) -> OSError:
    """ENOENT."""
    return fail(errno.ENOENT, f"there is no volume '{name}': `vlmc list` shows what there is")
