# SPDX-License-Identifier: Apache-2.0
"""A blocker that a power cut hits: it knows of every change whether it must survive.

It serves native/objects/blocker.h as strictly as that may be read. A SYNC makes durable what had been acknowledged
when it came, and nothing else; FUA its own bytes and the object's being there; REPLACE and DELETE are
durable when they are done. What is held back longer than it must, in whatever order, and what becomes of
the rest at a cut, the dice say: of each 512-byte sector any state since the last durable one may be left,
whatever is left of its neighbours, and an object that was made may be gone, or there without its bytes.
"""
from __future__ import annotations

import errno
import hashlib
import random
from collections.abc import Callable
from typing import Any

import xxhash

from xseg._native import ffi, lib
from xseg.aio import AsyncPort, Hub
from xseg.request import Object, Request

SECTOR = 512
LIST_NAME_BYTES = 40
KEEP = (0.0, 0.1, 0.5, 0.9, 1.0)        # how likely it is, at a cut, that something unsynced is kept


class Change:
    """Sectors as one write left them, and the object's size. `durable`: they survive; `acked`: their writer
    has been told."""

    __slots__ = ("first", "data", "size", "durable", "acked")

    def __init__(self, first: int, data: bytes, size: int, durable: bool) -> None:
        self.first, self.data, self.size, self.durable, self.acked = first, data, size, durable, False

    def reach(self, sectors: int) -> int:
        """Bytes the object has if so many of its sectors survive and nothing behind them."""
        return min(self.size, (self.first + sectors) * SECTOR)


class Stored:
    """One object: its bytes now, those that are durable, and the changes between, oldest first."""

    __slots__ = ("now", "kept", "size", "kept_size", "changes", "there")

    def __init__(self, data: bytes = b"", there: bool = False) -> None:
        self.now, self.kept = bytearray(data), bytearray(data)
        self.size = self.kept_size = len(data)
        self.changes: list[Change] = []
        self.there = there                  # its being there is durable

    def read(self, offset: int, size: int) -> bytes:
        return bytes(self.now[offset:offset + size]).ljust(size, b"\0")

    def write(self, offset: int, data: bytes, durable: bool, grow: bool = True) -> Change:
        """Changes bytes; whole sectors are noted, as they are afterwards."""
        end = offset + len(data)
        if len(self.now) < -(-end // SECTOR) * SECTOR:
            self.now.extend(bytes(-(-end // SECTOR) * SECTOR - len(self.now)))
        self.now[offset:end] = data
        first, last = offset // SECTOR, -(-end // SECTOR)
        if grow:
            self.size = max(self.size, end)
        change = Change(first, bytes(self.now[first * SECTOR:last * SECTOR]), self.size, durable)
        self.there |= durable
        self.changes.append(change)
        self.settle()
        return change

    def settle(self) -> None:
        """Changes that are durable, and before which none is that is not, become what is kept."""
        done = 0
        while done < len(self.changes) and self.changes[done].durable:
            change = self.changes[done]
            lay(self.kept, change.first, change.data)
            self.kept_size = max(self.kept_size, change.reach(len(change.data) // SECTOR))
            done += 1
        del self.changes[:done]

    def cut(self, dice: random.Random) -> Stored | None:
        """What is left of it. None: nothing."""
        keep, there = dice.choice(KEEP), self.there
        image, size = bytearray(self.kept), self.kept_size
        sizes = [change.size for change in self.changes]
        for change in self.changes:
            kept = dice.choice((keep, keep, 0.0, 1.0))
            for at in range(0, len(change.data), SECTOR):
                if change.durable or dice.random() < kept:
                    lay(image, change.first + at // SECTOR, change.data[at:at + SECTOR])
                    size = max(size, change.reach(at // SECTOR + 1))
                    there = True
        if dice.random() < keep:
            there, size = True, max([size, *(end for end in sizes if dice.random() < keep)])
        if not there:
            return None
        left = Stored(bytes(image[:size]).ljust(size, b"\0"), there=True)
        return left


def lay(image: bytearray, first: int, data: bytes) -> None:
    """Puts whole sectors into an image, which grows if need be."""
    offset = first * SECTOR
    if len(image) < offset + len(data):
        image.extend(bytes(offset + len(data) - len(image)))
    image[offset:offset + len(data)] = data


class Disk:
    """All objects of one store. It outlives the nodes that serve it."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.objects: dict[Object, Stored] = {}
        self.numbers: dict[Object, int] = {}    # of locks
        self.locks: dict[Object, tuple[int, bytes]] = {}

    def cut(self) -> None:
        """The power fails: unsynced changes are lost or torn, locks are gone."""
        left = {name: stored.cut(self.dice) for name, stored in sorted(self.objects.items())}
        self.objects = {name: stored for name, stored in left.items() if stored is not None}
        self.locks.clear()


class DiskPeer:
    """Serves a disk to a node until the node's power fails."""

    def __init__(self, disk: Disk, hub: Hub, number: int, role: str) -> None:
        self.disk, self.dice = disk, disk.dice
        self.port = AsyncPort(hub, number, role)
        self.waiting: list[tuple[Request, Any]] = []    # with what a SYNC will make durable
        self.done: list[tuple[Request, int, Change | None]] = []
        self.served = 0
        self.patience = self.dice.choice((0.3, 0.7, 0.95, 1.0))   # what of the waiting is done in a turn
        self.port.serve(self.take)

    async def take(self, request: Request) -> None:
        """A request came. What a SYNC covers is decided now."""
        self.waiting.append((request, self.acknowledged(request) if request.c.op == lib.XOP_SYNC else None))

    def turn(self) -> None:
        """Does some of what waits, in any order, and answers some of what is done."""
        if self.done and self.dice.random() < self.patience:
            for request, code, change in self.done:
                if change is not None:
                    change.acked = True
                request.reply(code)
            self.done.clear()
        if not self.waiting:
            return
        self.dice.shuffle(self.waiting)
        count = sum(self.dice.random() < self.patience for _ in self.waiting)
        now, self.waiting = self.waiting[:count], self.waiting[count:]
        for request, covered in now:
            self.served += 1
            code, change = self.serve(request, covered)
            self.done.append((request, code, change))

    # --- operations: 0 or an errno, and the change to be acknowledged

    def serve(self, request: Request, covered: Any) -> tuple[int, Change | None]:
        """One request."""
        if covered is not None:
            return self.sync(covered), None
        op = OPERATIONS.get(request.c.op)
        if op is None:
            return errno.EOPNOTSUPP, None
        return op(self, request, request.object)

    def acknowledged(self, request: Request) -> list[tuple[Stored, list[Change]]]:
        """What a SYNC must make durable."""
        kind, volume = request.c.object.kind, request.c.object.volume
        found = []
        for name, stored in self.disk.objects.items():
            if stored.changes and volume in (0, name.volume) and kind in (lib.XOBJ_NONE, name.kind):
                found.append((stored, [change for change in stored.changes if change.acked]))
        return found

    def sync(self, covered: list[tuple[Stored, list[Change]]]) -> int:
        for stored, changes in covered:
            for change in changes:
                change.durable = stored.there = True
            stored.settle()
        return 0

    def read(self, request: Request, name: Object) -> tuple[int, Change | None]:
        stored = self.disk.objects.get(name)
        if stored is None:
            return errno.ENOENT, None
        request.data[:request.c.size] = stored.read(request.c.offset, request.c.size)
        request.c.done = request.c.size
        return 0, None

    def write(self, request: Request, name: Object) -> tuple[int, Change | None]:
        stored, c = self.disk.objects.setdefault(name, Stored()), request.c
        data = request.payload if c.op == lib.XOP_WRITE else bytes(c.size)
        c.done = c.size
        grow = c.op == lib.XOP_WRITE or bool(c.flags & lib.XREQ_NO_HOLE)
        return 0, stored.write(c.offset, data, bool(c.flags & lib.XREQ_FUA), grow)

    def discard(self, request: Request, name: Object) -> tuple[int, Change | None]:
        request.c.done = request.c.size
        return self.write(request, name) if name in self.disk.objects else (0, None)

    def delete(self, request: Request, name: Object) -> tuple[int, Change | None]:
        if name.kind == lib.XOBJ_CONTENT and request.c.arg:
            return errno.EBUSY, None        # each was claimed less than a day ago
        return (0 if self.disk.objects.pop(name, None) else errno.ENOENT), None

    def info(self, request: Request, name: Object) -> tuple[int, Change | None]:
        stored = self.disk.objects.get(name)
        if stored is None:
            return errno.ENOENT, None
        request.c.done, request.c.arg = stored.size, len(stored.now)
        if any(stored.now):
            request.c.flags &= ~lib.XREQ_ZEROS
        return 0, None

    def list(self, request: Request, name: Object) -> tuple[int, Change | None]:
        room, cursor = len(request.data) // LIST_NAME_BYTES, request.c.arg
        room = min(room, request.c.size or room)
        packed = sorted((xxhash.xxh3_64_intdigest(data), data) for data in
                        (found.pack() for found in self.disk.objects if found.kind == name.kind))
        found = [entry for entry in packed if entry[0] >= cursor]
        request.c.arg = found[room][0] if len(found) > room else 0
        data = b"".join(data for _hash, data in found[:room])
        request.data[:len(data)] = data
        request.c.done = len(data) // LIST_NAME_BYTES
        return 0, None

    def replace(self, request: Request, name: Object) -> tuple[int, Change | None]:
        stored, c = self.disk.objects.get(name), request.c
        if (stored is not None) == bool(c.flags & lib.XREQ_CREATE):
            return (errno.EEXIST if stored else errno.ENOENT), None
        if stored and c.arg and stored.read(0, 8) != c.arg.to_bytes(8, "little"):
            return errno.ESTALE, None
        self.disk.objects[name] = Stored(request.payload, there=True)
        return 0, None

    def keep(self, name: Object, data: bytes) -> None:
        """A content, durable from now on."""
        if data:
            self.disk.objects[name] = Stored(data, there=True)

    def put(self, request: Request, name: Object) -> tuple[int, Change | None]:
        self.keep(name, request.payload.rstrip(b"\0"))
        request.c.done = request.c.size
        return 0, None

    def claim(self, request: Request, name: Object) -> tuple[int, Change | None]:
        return 0 if name in self.disk.objects else errno.ENOENT, None

    def hash(self, request: Request, name: Object) -> tuple[int, Change | None]:
        stored = self.disk.objects.get(name)
        if stored is None:
            return errno.ENOENT, None
        data = stored.read(0, request.c.size).rstrip(b"\0")
        digest = hashlib.sha256(data).digest()
        self.keep(Object(lib.XOBJ_CONTENT, digest=digest), data)
        request.data[:len(digest)] = digest
        request.c.done = len(digest)
        return 0, None

    def acquire(self, request: Request, name: Object) -> tuple[int, Change | None]:
        token, owner = self.disk.locks.get(name, (0, b""))
        if token and token != request.c.arg:
            request.data[:len(owner)] = owner
            request.c.done = len(owner)
            return errno.EBUSY, None
        if not token:
            self.disk.numbers[name] = self.disk.numbers.get(name, 0) + 1
            self.disk.locks[name] = request.c.arg, request.payload
        request.c.done = self.disk.numbers[name]
        return 0, None

    def release(self, request: Request, name: Object) -> tuple[int, Change | None]:
        token, _owner = self.disk.locks.get(name, (0, b""))
        if not token:
            return errno.ENOENT, None
        if token != request.c.arg and not request.c.flags & lib.XREQ_FORCE:
            return errno.EPERM, None
        del self.disk.locks[name]
        return 0, None


OPERATIONS: dict[int, Callable[[DiskPeer, Request, Object], tuple[int, Change | None]]] = {
    lib.XOP_READ: DiskPeer.read, lib.XOP_WRITE: DiskPeer.write, lib.XOP_WRITE_ZEROES: DiskPeer.write,
    lib.XOP_DISCARD: DiskPeer.discard, lib.XOP_DELETE: DiskPeer.delete, lib.XOP_INFO: DiskPeer.info,
    lib.XOP_LIST: DiskPeer.list, lib.XOP_REPLACE: DiskPeer.replace, lib.XOP_ACQUIRE: DiskPeer.acquire,
    lib.XOP_RELEASE: DiskPeer.release, lib.XOP_PUT: DiskPeer.put, lib.XOP_CLAIM: DiskPeer.claim,
    lib.XOP_HASH: DiskPeer.hash}
assert ffi.sizeof("struct xobj") == LIST_NAME_BYTES
