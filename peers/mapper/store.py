# SPDX-License-Identifier: Apache-2.0
"""Object I/O of the mapper: the map blocker's operations as coroutines, and a cache of what never changes.

What goes over the map blocker: headers, name pointers, pages, journals, locks. The data blocker is
asked only about objects of data, by their names: for their size, and to remove them.
"""
import asyncio
import errno
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

from peers.mapper.header import frame_size
from xseg._native import ffi, lib
from xseg.errors import XsegError, error
from xseg.request import DIGEST_SIZE, Object, Reply, objects

DATA, CONTENT, HEADER, NAME, PAGE, JOURNAL, LOCK = (
    lib.XOBJ_DATA, lib.XOBJ_CONTENT, lib.XOBJ_HEADER, lib.XOBJ_NAME, lib.XOBJ_PAGE, lib.XOBJ_JOURNAL,
    lib.XOBJ_LOCK)
IO_MAX = lib.XSEG_IO_MAX
FIRST_READ = 65536                  # bytes asked for when a record's length is not known yet
HEADER_READ = 4096                  # most headers are far smaller
LIST_ROOM = 65536                   # bytes of names one LIST brings
CACHE_BYTES = 32 << 20              # of memory for pages and closed journals that are kept
ENTRY_BYTES = 400                   # of it that one takes beside its data: name, objects of Python, places in tables
JOURNAL_LIMIT = 4 << 20             # bytes of all stretches of a volume that start a checkpoint, at most
AT_ONCE = 256                       # requests under way for one bulk operation
OWNER_TEXT_MAX = 1024

Send = Callable[..., Awaitable[Reply]]


def named(kind: int, volume: int, epoch: int = 0, index: int = 0) -> Object:
    """Name of a header, page, journal, lock or data object."""
    return Object(kind, volume, epoch, index)


def record_header(data: Any) -> Any:
    """What the header of a record of native/map/map.h says, unchecked (struct record_info *). Of fewer bytes than it
    has, the rest counts as zeros."""
    info = ffi.new("struct record_info *")
    short = lib.RECORD_HEADER - len(data)
    lib.record_header(ffi.from_buffer(bytes(data) + bytes(short) if short > 0 else data), info)
    return info


class NotTried(XsegError):
    """A lock was refused before anything was tried to take it."""


class Cache:
    """What never changes, by object name: least recently used goes first when `limit` bytes of memory are full."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self.limit = limit
        self.used = 0
        self.kept: OrderedDict[Object, tuple[Any, int]] = OrderedDict()

    def get(self, name: Object) -> Any:
        """What was put, or None."""
        found = self.kept.get(name)
        if found is None:
            return None
        self.kept.move_to_end(name)
        return found[0]

    def put(self, name: Object, value: Any, size: int) -> None:
        """Keeps value, whose data take so many bytes."""
        self.drop(name)
        self.kept[name] = value, size + ENTRY_BYTES
        self.used += size + ENTRY_BYTES
        while self.used > self.limit and self.kept:
            _name, (_value, freed) = self.kept.popitem(last=False)
            self.used -= freed

    def grown(self, name: Object, size: int) -> None:
        """What is kept under a name, if anything is, takes so many bytes by now."""
        found = self.kept.get(name)
        if found is not None and found[1] != size + ENTRY_BYTES:
            self.put(name, found[0], size)

    def drop(self, name: Object) -> None:
        """Forgets one."""
        found = self.kept.pop(name, None)
        if found:
            self.used -= found[1]


class MapStore:
    """The map blocker behind `blockerm` and the data blocker behind `blockerb`: both send a request's
    fields and give its reply, as AsyncPort.call does. Errors of the store are raised as XsegErrors."""

    def __init__(self, blockerm: Send, blockerb: Send, cache_bytes: int = CACHE_BYTES,
                 journal_limit: int = JOURNAL_LIMIT, lives: Callable[[], list[int]] = list) -> None:
        self.blockerm, self.blockerb = blockerm, blockerb
        self.lives = lives                      # something else when a blocker has been started anew
        self.journal_limit = journal_limit      # bytes of a volume's stretches that start a checkpoint
        self.cache = Cache(cache_bytes)

    async def read(self, name: Object, length: int, offset: int = 0) -> bytes:
        """Bytes [offset, offset + length) of a map object; zeros past its end. NotFound."""
        if length <= IO_MAX:
            return (await self.blockerm(lib.XOP_READ, object=name, offset=offset, size=length, room=length)).data
        parts = [(at, min(IO_MAX, length - at)) for at in range(0, length, IO_MAX)]
        return b"".join([await self.read(name, size, offset + at) for at, size in parts])

    async def read_record(self, name: Object) -> bytes:
        """A page: one record of native/map/map.h, as long as its header says. NotFound."""
        data = await self.read(name, FIRST_READ)
        length = lib.RECORD_HEADER + min(record_header(data).length, lib.XMAP_LEAF * lib.RECORD_ENTRY_MAX)
        if length <= len(data):
            return data[:length]
        return data + await self.read(name, length - len(data), len(data))

    async def read_frame(self, name: Object) -> bytes:
        """A header's or name pointer's object. NotFound."""
        data = await self.read(name, HEADER_READ)
        if frame_size(data) > HEADER_READ:
            data = await self.read(name, FIRST_READ)
        return data

    async def write(self, name: Object, offset: int, data: Any, durable: bool = False) -> None:
        """Writes into a map object; durable when it returns if asked for."""
        flags = lib.XREQ_FUA if durable else 0
        view = memoryview(data)
        for at in range(0, len(view), IO_MAX):
            await self.blockerm(lib.XOP_WRITE, object=name, offset=offset + at, data=view[at:at + IO_MAX], flags=flags)

    async def create(self, name: Object, data: bytes) -> None:
        """Makes a header or name pointer, durably. Exists."""
        await self.blockerm(lib.XOP_REPLACE, object=name, data=data, flags=lib.XREQ_CREATE)

    async def replace(self, name: Object, data: bytes, generation: int) -> None:
        """Replaces a header or name pointer, durably, if its generation is still that. Stale, NotFound."""
        await self.blockerm(lib.XOP_REPLACE, object=name, data=data, arg=generation)

    async def sync(self, volume: int) -> None:
        """All map objects of the volume are durable when it returns."""
        await self.blockerm(lib.XOP_SYNC, object=named(lib.XOBJ_NONE, volume))

    async def info(self, name: Object) -> tuple[int, int]:
        """Size and space of an object, in bytes. NotFound."""
        send = self.blockerb if name.kind in (DATA, CONTENT) else self.blockerm
        reply = await send(lib.XOP_INFO, object=name)
        return reply.done, reply.arg

    async def claim(self, digest: bytes) -> bool:
        """Claims a content, durably. False: there is none."""
        reply = await self.blockerb(lib.XOP_CLAIM, object=Object(CONTENT, digest=digest), check=False)
        if reply.error not in (0, errno.ENOENT):
            raise error(reply.error)
        return reply.error == 0

    async def hash(self, name: Object, size: int) -> bytes:
        """The digest of the first `size` bytes of a data object that is never written again; that content is stored
        and claimed. NotFound."""
        reply = await self.blockerb(lib.XOP_HASH, object=name, size=size, room=DIGEST_SIZE, flags=lib.XREQ_FROZEN)
        return reply.data

    async def move(self, source: Object, target: Object, offset: int, length: int) -> None:
        """Copies bytes, IO_MAX at most, of a data object or content to the same place of a data object. NotFound."""
        found = await self.blockerb(lib.XOP_READ, object=source, offset=offset, size=length, room=length)
        await self.blockerb(lib.XOP_WRITE, object=target, offset=offset, data=found.data)

    async def read_content(self, digest: bytes, length: int) -> bytes:
        """The first `length` bytes of a content, IO_MAX at most; zeros past its end. NotFound."""
        name = Object(CONTENT, digest=digest)
        return (await self.blockerb(lib.XOP_READ, object=name, size=length, room=length)).data

    async def delete(self, name: Object, generation: int = 0) -> bool:
        """Removes an object. False: there was none. Stale: it has another generation than the one given."""
        send = self.blockerb if name.kind in (DATA, CONTENT) else self.blockerm
        reply = await send(lib.XOP_DELETE, object=name, arg=generation, check=False)
        if reply.error not in (0, errno.ENOENT):
            raise error(reply.error)
        self.cache.drop(name)
        return reply.error == 0

    async def delete_all(self, names: Iterable[Object]) -> int:
        """Removes many, AT_ONCE at a time. How many there were."""
        return sum(await gather_bounded(self.delete, names))

    async def list(self, kind: int, cursor: int, most: int = 0, room: int = LIST_ROOM,
                   versions: bool = False) -> tuple[list[Object], int]:
        """Objects of a kind (`most`: how many at most; `room`: bytes for them), and the cursor to go on with; 0: that
        was all. `versions`, of headers: see objects/blocker.h."""
        reply = await self.blockerm(lib.XOP_LIST, object=Object(kind), arg=cursor, size=most, room=room,
                                    flags=lib.XREQ_VERSIONS if versions else 0)
        return objects(reply.data), reply.arg

    async def acquire(self, volume: int, token: int, owner: str) -> tuple[int, str]:
        """Takes a volume's lock: its number and "". Taken by another: 0 and what its owner says.

        ENOTCONN: a blocker of this instance is not ready for that, and which. EMFILE: its process may have no more
        files open.
        """
        text = owner.encode()[:OWNER_TEXT_MAX]
        reply = await self.blockerm(lib.XOP_ACQUIRE, object=named(LOCK, volume), data=text, size=len(text),
                                    arg=token, room=OWNER_TEXT_MAX, check=False)
        if reply.error == errno.EBUSY:
            return 0, reply.data.decode(errors="replace")
        if reply.error == errno.ENOTCONN or (reply.error == errno.EMFILE and reply.data):
            raise NotTried(reply.error, f"no lock can be taken: {reply.data.decode(errors='replace')}")
        reply.check()
        return reply.done, ""

    async def release(self, volume: int, token: int, force: bool = False) -> None:
        """Gives a volume's lock back. NotFound, PermissionError (EPERM), Busy as objects/blocker.h says."""
        await self.blockerm(lib.XOP_RELEASE, object=named(LOCK, volume), arg=token,
                            flags=lib.XREQ_FORCE if force else 0)


async def gather_bounded(work: Callable[[Any], Awaitable[Any]], items: Iterable[Any],
                         at_once: int = AT_ONCE) -> list[Any]:
    """Results of work(item), in order, with so many under way. After an error nothing new is begun; it
    is raised when what was under way has ended."""
    items = list(items)
    results: list[Any] = [None] * len(items)
    numbered = iter(enumerate(items))
    failures: list[BaseException] = []

    async def worker() -> None:
        for place, item in numbered:
            if failures:
                return
            try:
                results[place] = await work(item)
            except BaseException as failure:
                failures.append(failure)

    await asyncio.gather(*(worker() for _ in range(min(at_once, len(items)))))
    if failures:
        raise failures[0]
    return results


async def listed(store: MapStore, kind: int) -> AsyncIterator[Object]:
    """All objects of a kind."""
    cursor = 0
    while True:
        found, cursor = await store.list(kind, cursor)
        for name in found:
            yield name
        if cursor == 0:
            return
