# SPDX-License-Identifier: Apache-2.0
"""Names of volumes: from a name to its header, claiming a name, giving it back.

Making a volume is: claim the name (create the pointer), then create the header, which is the commit
point. A pointer that the header of its id does not bear out was left over by a death in between, and is taken
over by compare-and-swap; where there is no header at all, a `removed` one is put there first, so that
whoever was so slow cannot complete its create any more.

Renaming (mapper/verbs/rename.py) is: note the new name in the header, claim it, replace the header (commit point),
remove the old pointer. So the header bears the new name out before its pointer leads there, and as long as the
rename may still be completed. Why of two nodes that want one name only one gets it:

* Whoever claims a name writes its pointer, by exclusive create or by compare-and-swap, also where it leads to the
  right id already, and has in the header what bears it out before (a rename), or cannot create the header after
  (a create that was fenced off).
* Who takes a pointer over has read it, and then a header that does not bear it out. If that header came to bear it
  out since, the pointer was written after that, and the compare-and-swap fails.
* A rename is taken back only by who holds the volume's lock, or, of a snapshot, by a replacement of the header at
  which that of the rename fails.
* A pointer is removed only if it is still the one that was looked at. Its generation tells, which begins anywhere:
  one that was made since is another.

Within this mapper names are locked in memory for as long as an operation works on them.
"""
import asyncio
import errno
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress

from peers.mapper.frames import create_frame, read_header, replace_frame
from peers.mapper.header import BLOCK_MIN_SHIFT, Header, name_digest, now_ms, pack_name, unpack_name
from peers.mapper.store import HEADER, NAME, MapStore, named
from xseg.errors import Damaged, NotFound, Stale
from xseg.errors import error as fail
from xseg.request import Object
from xseg.volume_name import id_in

LATE_MS = 20_000                    # after a new volume got its id: see make()
COLLECTOR_STATE = "/collector"      # "name" of what the collector notes: no volume has such a name
TAKE_TRIES = 16                     # of a pointer that others change at the same time
Settle = Callable[[str, int], Awaitable[None]]          # name, id


def pointer(name: str) -> Object:
    """The pointer's object."""
    return Object(NAME, digest=name_digest(name))


def means(name: str, header: Header) -> bool:
    """True if the volume of this header is what the name means."""
    return header.kind != "removed" and (header.name == name or header.id == id_in(name))


def exists(name: str) -> OSError:
    """EEXIST."""
    return fail(errno.EEXIST, f"'{name}' exists already: choose another name, or remove it first")


async def fence(store: MapStore, name: str, volume: int) -> Header:
    """Makes sure that a create which got as far as the pointer does not complete. Its header if it has just done so."""
    tomb = Header(id=volume, name=name, kind="removed", size=0, block_shift=BLOCK_MIN_SHIFT, removed_at=now_ms())
    if await create_frame(store, named(HEADER, volume), tomb.pack()) is None:
        return tomb
    return await read_header(store, volume)


class Names:
    """Names on one store. `settle` takes back a rename to a name that was cut short. EEXIST: it was not."""

    def __init__(self, store: MapStore, settle: Settle) -> None:
        self.store = store
        self.settle = settle
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
        holder = await self.take(name, volume)
        if holder is not None and holder.renaming == name and holder.name != name:
            await self.settle(name, holder.id)
            holder = await self.take(name, volume)
        if holder is None or (token and holder.name == name and holder.token == token):
            return holder
        raise exists(name)

    async def take(self, name: str, volume: int) -> Header | None:
        """Makes the pointer lead to an id, whatever it did before. Not if a header bears it out, which is given then;
        one that cannot be read does. EEXIST: that, or others are at it all the time."""
        for _ in range(TAKE_TRIES):
            found = await create_frame(self.store, pointer(name), pack_name(name, volume))
            if found is None:
                return None
            generation, holder = self.decode(name, found)
            if holder != volume and (header := await self.bears_out(name, holder)) is not None:
                return header
            try:
                await replace_frame(self.store, pointer(name), pack_name(name, volume, generation + 1), generation)
                return None
            except (Stale, NotFound):
                continue
        raise exists(name)

    async def bears_out(self, name: str, volume: int) -> Header | None:
        """The header of an id if a pointer of that name to it counts. EEXIST: it is damaged."""
        try:
            header = await read_header(self.store, volume)
        except Damaged:
            raise exists(name) from None
        except NotFound:
            header = await fence(self.store, name, volume)
        return header if header.kind != "removed" and name in (header.name, header.renaming) else None

    async def release(self, name: str, volume: int) -> None:
        """Removes the pointer if it still leads to that id. Under locked()."""
        with suppress(NotFound, Stale):         # gone, or another's
            generation, holder = await self.target(name)
            if holder == volume:
                await self.store.delete(pointer(name), generation)

    async def drop(self, name: str) -> None:
        """Removes a pointer that cannot be read."""
        await self.store.delete(pointer(name))

    async def make(self, header: Header) -> None:
        """Creates the header whose name has been claimed: the commit point. EEXIST: fenced off.

        Who comes very late may find that the collector has taken the pointer away, and the fence as well."""
        if await create_frame(self.store, named(HEADER, header.id), header.pack()) is not None:
            raise exists(header.name)
        if now_ms() - (header.id >> 22) > LATE_MS and await self.take(header.name, header.id) is not None:
            await self.store.delete(named(HEADER, header.id), header.generation)
            raise exists(header.name)


def missing(name: str) -> OSError:
    """ENOENT."""
    return fail(errno.ENOENT, f"there is no volume '{name}': `vlmc list` shows what there is")
