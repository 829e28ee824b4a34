# SPDX-License-Identifier: Apache-2.0
"""A vhost-user front-end with a guest's memory of its own: says what it likes, and puts what it likes into rings."""
from __future__ import annotations

import mmap
import os
import select
import socket
import struct
from dataclasses import dataclass, field
from typing import Any

GET_FEATURES, SET_FEATURES, SET_OWNER, RESET_OWNER, SET_MEM_TABLE, SET_LOG_BASE = 1, 2, 3, 4, 5, 6
SET_NUM, SET_ADDR, SET_BASE, GET_BASE, SET_KICK, SET_CALL, SET_ERR = 8, 9, 10, 11, 12, 13, 14
GET_PROTOCOL, SET_PROTOCOL, GET_QUEUES, ENABLE, SET_REQUEST_FD = 15, 16, 17, 18, 21
GET_CONFIG, SET_CONFIG, GET_INFLIGHT, SET_INFLIGHT, RESET_DEVICE = 24, 25, 31, 32, 34
GET_SLOTS, ADD_MEM, REM_MEM, SET_STATUS, GET_STATUS = 36, 37, 38, 39, 40

RO, BLK_SIZE, FLUSH, CONFIG_WCE, DISCARD, WRITE_ZEROES = 5, 6, 9, 11, 13, 14
LOG_ALL, INDIRECT, EVENT_IDX, PROTOCOL, VERSION_1 = 26, 28, 29, 30, 32
REPLY_ACK, BACKEND_REQ, CONFIG, INFLIGHT = 3, 5, 9, 12
IN, OUT, T_FLUSH, GET_ID, T_DISCARD, T_WRITE_ZEROES = 0, 1, 4, 8, 11, 13
OK, IOERR, UNSUPP = 0, 1, 2
NEXT, WRITE, IS_INDIRECT = 1, 2, 4

BASE = 0x10000000               # guest address of its memory
USER = 0x7f0000000000           # the same by its own addresses
RING_AT, RING_ROOM = 0, 0x20000     # of ring i: at RING_AT + i * RING_ROOM
DATA_AT = 0x200000
SIZE = 16 << 20
TIMEOUT_S = 30.0


class Disconnected(Exception):
    """The server has closed the connection."""


def bits(*numbers: int) -> int:
    return sum(1 << number for number in numbers)


USUAL = bits(VERSION_1, PROTOCOL, FLUSH, CONFIG_WCE, DISCARD, WRITE_ZEROES, EVENT_IDX, INDIRECT)


@dataclass
class Done:
    """A request that was given back."""

    status: int
    data: bytes
    written: int


@dataclass
class Ring:
    """A ring in the guest's memory, and what the guest knows of it."""

    index: int
    num: int
    kick: int = field(default_factory=lambda: os.eventfd(0, os.EFD_NONBLOCK))
    call: int = field(default_factory=lambda: os.eventfd(0, os.EFD_NONBLOCK))
    err: int = field(default_factory=lambda: os.eventfd(0, os.EFD_NONBLOCK))
    avail_idx: int = 0
    used_idx: int = 0
    free: list[int] = field(default_factory=list)           # descriptors
    under_way: dict[int, tuple[list[int], int, int, int]] = field(default_factory=dict)   # head: descriptors, data

    @property
    def desc(self) -> int:
        return RING_AT + self.index * RING_ROOM

    @property
    def avail(self) -> int:
        return self.desc + 16 * self.num

    @property
    def used(self) -> int:
        return (self.avail + 6 + 2 * self.num + 3) & ~3


class FrontEnd:
    """One connection. Addresses of memory are bytes from its beginning, which BASE is to the guest."""

    def __init__(self, path: str, features: int = USUAL, size: int = SIZE) -> None:
        self.path, self.size, self.want = path, size, features
        self.fd = os.memfd_create("guest")
        os.truncate(self.fd, size)
        self.memory = mmap.mmap(self.fd, size)
        self.rings: dict[int, Ring] = {}
        self.bump = DATA_AT
        self.features = self.protocol = 0
        self.connect()

    def connect(self) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(TIMEOUT_S)
        self.socket.connect(self.path)

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> FrontEnd:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
        for ring in self.rings.values():
            for fd in (ring.kick, ring.call, ring.err):
                os.close(fd)
        self.memory.close()
        os.close(self.fd)

    # --- messages

    def send(self, request: int, payload: bytes = b"", fds: tuple[int, ...] = (), flags: int = 1) -> None:
        try:
            socket.send_fds(self.socket, [struct.pack("<III", request, flags, len(payload)) + payload], list(fds))
        except (BrokenPipeError, ConnectionResetError) as failure:
            raise Disconnected from failure

    def receive(self, fds: int = 0) -> tuple[int, bytes, list[int]]:
        """The next message: what it is, its payload, descriptors."""
        head, found = b"", []
        try:
            while len(head) < 12:
                data, more, _flags, _from = socket.recv_fds(self.socket, 12 - len(head), 4)
                found += more
                if not data:
                    raise Disconnected
                head += data
            request, flags, size = struct.unpack("<III", head)
            assert flags & 7 == 5
            payload = b""
            while len(payload) < size:
                data = self.socket.recv(size - len(payload))
                if not data:
                    raise Disconnected
                payload += data
        except ConnectionResetError as failure:
            raise Disconnected from failure
        assert len(found) == fds
        return request, payload, found

    def ask(self, request: int, payload: bytes = b"") -> bytes:
        self.send(request, payload)
        answered, data, _fds = self.receive()
        assert answered == request
        return data

    def number(self, request: int, payload: bytes = b"") -> int:
        return struct.unpack("<Q", self.ask(request, payload))[0]

    def tell(self, request: int, payload: bytes = b"", fds: tuple[int, ...] = ()) -> None:
        """A message without an answer of its own, which is acknowledged if that was negotiated."""
        acknowledged = self.protocol >> REPLY_ACK & 1
        self.send(request, payload, fds, 9 if acknowledged else 1)
        if acknowledged:
            answered, data, _fds = self.receive()
            assert answered == request
            assert struct.unpack("<Q", data)[0] == 0

    def still_served(self) -> bool:
        """False: the connection was closed."""
        try:
            self.number(GET_FEATURES)
        except Disconnected:
            return False
        return True

    def config(self) -> dict[str, int]:
        """What the disk looks like."""
        data = self.ask(GET_CONFIG, struct.pack("<III", 0, 60, 0) + bytes(60))[12:]
        names = ("capacity size_max seg_max cylinders heads sectors blk_size physical alignment min_io opt_io wce "
                 "unused num_queues max_discard discard_segs discard_align max_zeroes zeroes_segs may_unmap").split()
        return dict(zip(names, struct.unpack_from("<QIIHBBIBBHIBBHIIIIIB", data), strict=True))

    def negotiate(self, protocol: int = bits(REPLY_ACK, CONFIG, INFLIGHT)) -> None:
        offered = self.number(GET_FEATURES)
        assert offered >> PROTOCOL & 1
        assert not protocol & ~self.number(GET_PROTOCOL)
        self.send(SET_PROTOCOL, struct.pack("<Q", protocol))
        self.protocol = protocol
        self.tell(SET_OWNER)
        self.features = self.want & offered
        self.tell(SET_FEATURES, struct.pack("<Q", self.features))

    def share_memory(self) -> None:
        self.tell(SET_MEM_TABLE, struct.pack("<IIQQQQ", 1, 0, BASE, self.size, USER, 0), (self.fd,))

    # --- rings

    def add_ring(self, index: int = 0, num: int = 128) -> Ring:
        ring = self.rings[index] = Ring(index, num)
        ring.free = list(range(num))[::-1]
        self.memory[ring.desc:ring.desc + RING_ROOM] = bytes(RING_ROOM)
        return ring

    def start_ring(self, ring: Ring, base: int | None = None) -> None:
        self.tell(SET_NUM, struct.pack("<II", ring.index, ring.num))
        self.tell(SET_BASE, struct.pack("<II", ring.index, ring.used_idx if base is None else base))
        self.tell(SET_ADDR, self.addresses(ring))
        self.tell(SET_ERR, struct.pack("<Q", ring.index), (ring.err,))
        self.tell(SET_CALL, struct.pack("<Q", ring.index), (ring.call,))
        self.tell(SET_KICK, struct.pack("<Q", ring.index), (ring.kick,))
        self.tell(ENABLE, struct.pack("<II", ring.index, 1))

    def addresses(self, ring: Ring, flags: int = 0, log: int = 0, **other: int) -> bytes:
        place = {"desc": USER + ring.desc, "used": USER + ring.used, "avail": USER + ring.avail, **other}
        return struct.pack("<IIQQQQ", ring.index, flags, place["desc"], place["used"], place["avail"], log)

    def stop_ring(self, ring: Ring) -> int:
        """Where it stopped."""
        index, base = struct.unpack("<II", self.ask(GET_BASE, struct.pack("<II", ring.index, 0)))
        assert index == ring.index
        return base

    def begin(self, queues: int = 1, num: int = 128) -> FrontEnd:
        """All there is to do until requests are served."""
        self.negotiate()
        self.share_memory()
        for index in range(queues):
            self.start_ring(self.add_ring(index, num))
        return self

    def room(self, size: int) -> int:
        """Some memory that nothing else uses; from the beginning again when all was used."""
        size = (size + 15) & ~15
        if self.bump + size > self.size:
            self.bump = DATA_AT
        at, self.bump = self.bump, self.bump + size
        return at

    def header(self, kind: int, sector: int) -> int:
        """A request's first part, in memory."""
        at = self.room(16)
        struct.pack_into("<IIQ", self.memory, at, kind, 0, sector)
        return at

    def cut_off(self) -> None:
        """Takes the second half of the memory away, has something read to there, and waits until the session ends."""
        ring = self.rings[0]
        parts = [(self.header(IN, 0), 16, 0), (self.size - 65536, 32768, WRITE), (self.room(1), 1, WRITE)]
        os.truncate(self.fd, self.size // 2)
        self.chain(ring, parts)
        self.kick(ring)
        try:
            while True:
                self.number(GET_FEATURES)
        except Disconnected:
            pass

    def put_descriptor(self, ring: Ring, i: int, at: int, length: int, flags: int, following: int = 0) -> None:
        struct.pack_into("<QIHH", self.memory, ring.desc + 16 * i, BASE + at, length, flags, following)

    def expose(self, ring: Ring, head: int) -> None:
        """Makes a head available."""
        struct.pack_into("<H", self.memory, ring.avail + 4 + 2 * (ring.avail_idx % ring.num), head)
        ring.avail_idx = ring.avail_idx + 1 & 0xffff
        struct.pack_into("<H", self.memory, ring.avail + 2, ring.avail_idx)

    def kick(self, ring: Ring) -> None:
        os.eventfd_write(ring.kick, 1)

    def chain(self, ring: Ring, parts: list[tuple[int, int, int]], expose: bool = True) -> int:
        """A chain of (place, length, flags) in free descriptors; its head."""
        used = [ring.free.pop() for _ in parts]
        for n, (at, length, flags) in enumerate(parts):
            last = n == len(parts) - 1
            self.put_descriptor(ring, used[n], at, length, flags | (0 if last else NEXT), 0 if last else used[n + 1])
        ring.under_way[used[0]] = (used, 0, 0, parts[-1][0] if parts else 0)
        if expose:
            self.expose(ring, used[0])
        return used[0]

    def submit(self, kind: int, sector: int = 0, data: bytes = b"", length: int = 0, ring: Ring | None = None,
               kick: bool = True, cut: int = 1 << 16) -> int:
        """A request as a driver makes it: header, data in parts, status. Its head."""
        ring = ring or self.rings[0]
        head = self.room(16)
        struct.pack_into("<IIQ", self.memory, head, kind, 0, sector)
        size = length or len(data)
        at, status = self.room(size), self.room(1)
        if data:
            self.memory[at:at + size] = data
        self.memory[status] = 0xff
        flags = WRITE if length else 0
        parts = [(head, 16, 0), *((at + n, min(cut, size - n), flags) for n in range(0, size, cut)), (status, 1, WRITE)]
        first = self.chain(ring, parts, expose=False)
        ring.under_way[first] = (ring.under_way[first][0], at, length, status)
        self.expose(ring, first)
        if kick:
            self.kick(ring)
        return first

    def given_back(self, ring: Ring | None = None) -> dict[int, Done]:
        """What has come back since last asked, by its head."""
        ring = ring or self.rings[0]
        idx, = struct.unpack_from("<H", self.memory, ring.used + 2)
        found = {}
        while ring.used_idx != idx:
            head, written = struct.unpack_from("<II", self.memory, ring.used + 4 + 8 * (ring.used_idx % ring.num))
            assert head in ring.under_way, f"head {head} was given back, and was not under way"
            used, at, length, status = ring.under_way.pop(head)
            ring.free += used
            found[head] = Done(self.memory[status], self.memory[at:at + length], written)
            ring.used_idx = ring.used_idx + 1 & 0xffff
        struct.pack_into("<H", self.memory, ring.avail + 4 + 2 * ring.num, ring.used_idx)      # used_event
        return found

    def wait(self, ring: Ring | None = None, seconds: float = TIMEOUT_S) -> dict[int, Done]:
        """What comes back next; at least one."""
        ring = ring or self.rings[0]
        while not (found := self.given_back(ring)):
            assert select.select([ring.call], [], [], seconds)[0], f"nothing comes back within {seconds:g} s"
            os.eventfd_read(ring.call)
        return found

    def finish(self, ring: Ring | None = None) -> dict[int, Done]:
        """All that is under way."""
        ring = ring or self.rings[0]
        found: dict[int, Done] = {}
        while ring.under_way:
            found |= self.wait(ring)
        return found

    def do(self, kind: int, sector: int = 0, data: bytes = b"", length: int = 0, **more: Any) -> Done:
        head = self.submit(kind, sector, data, length, **more)
        return self.finish(more.get("ring"))[head]

    def broken(self, ring: Ring | None = None, seconds: float = TIMEOUT_S) -> bool:
        """True when the server has given the ring up."""
        ring = ring or self.rings[0]
        return bool(select.select([ring.err], [], [], seconds)[0])
