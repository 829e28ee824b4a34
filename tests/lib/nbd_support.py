# SPDX-License-Identifier: Apache-2.0
"""What the tests of the NBD server are made of: the protocol's numbers, a client that says byte by
byte what it is told to, and libnbd. The fixtures are in nbd_fixtures.py.
"""
from __future__ import annotations

import itertools
import os
import socket
import struct
from typing import Any, NamedTuple

from support import Instance, libnbd

from xseg.segment import Segment

MIB = 1 << 20
SIZE = 64 * MIB
BLOCK = MIB
TIMEOUT_S = 60.0

MAGIC = b"NBDMAGIC"
OPTION_MAGIC = b"IHAVEOPT"
OPTION_REPLY_MAGIC = 0x3E889045565A9
REQUEST_MAGIC, SIMPLE_MAGIC, CHUNK_MAGIC = 0x25609513, 0x67446698, 0x668E33EF
OPT_EXPORT_NAME, OPT_ABORT, OPT_LIST, OPT_STARTTLS, OPT_INFO, OPT_GO, OPT_STRUCTURED = 1, 2, 3, 5, 6, 7, 8
OPT_LIST_META, OPT_SET_META = 9, 10
REP_ACK, REP_SERVER, REP_INFO, REP_META = 1, 2, 3, 4
ERR_UNSUP, ERR_POLICY, ERR_INVALID, ERR_UNKNOWN, ERR_TOO_BIG = (0x80000000 + n for n in (1, 2, 3, 6, 9))
CMD_READ, CMD_WRITE, CMD_DISC, CMD_FLUSH, CMD_TRIM, CMD_CACHE, CMD_ZEROES, CMD_STATUS = range(8)
EPERM, EIO, EINVAL, ENOSPC, EOVERFLOW = 1, 5, 22, 28, 75
CHUNK_NONE, CHUNK_DATA, CHUNK_STATUS, CHUNK_ERROR = 0, 1, 5, 0x8001


class Gone(Exception):
    """The server has closed the connection."""


class Option(NamedTuple):
    """One answer to an option."""

    option: int
    type: int
    data: bytes


class Chunk(NamedTuple):
    """A reply: a simple one has type None."""

    cookie: int
    type: int | None
    done: bool
    error: int
    data: bytes


def text(name: str | bytes) -> bytes:
    """A string as options carry it."""
    raw = name.encode() if isinstance(name, str) else name
    return struct.pack(">I", len(raw)) + raw


def go_data(name: str | bytes, infos: tuple[int, ...] = ()) -> bytes:
    return text(name) + struct.pack(f">H{len(infos)}H", len(infos), *infos)


def meta_data(name: str, *queries: str) -> bytes:
    return text(name) + struct.pack(">I", len(queries)) + b"".join(map(text, queries))


def request(command: int, cookie: int = 1, offset: int = 0, length: int = 0, flags: int = 0,
            magic: int = REQUEST_MAGIC) -> bytes:
    return struct.pack(">IHHQQI", magic, flags, command, cookie, offset, length)


class Wire:
    """A connection that is driven byte by byte."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(TIMEOUT_S)
        self.socket.connect(path)

    def close(self) -> None:
        self.socket.close()

    def send(self, *data: bytes) -> None:
        self.socket.sendall(b"".join(data))

    def get(self, size: int) -> bytes:
        """Exactly so many bytes. Gone: the server closed before that."""
        parts = []
        while size:
            try:
                part = self.socket.recv(min(size, MIB))
            except ConnectionError as failure:
                raise Gone from failure
            if not part:
                raise Gone
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def ends(self) -> bool:
        """True once the server has closed; bytes that still come are dropped."""
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionError:
            pass
        return True

    # --- handshake

    def hello(self, flags: int = 3) -> Wire:
        assert self.get(18) == MAGIC + OPTION_MAGIC + b"\0\3"
        self.send(struct.pack(">I", flags))
        return self

    def option(self, option: int, data: bytes = b"") -> list[Option]:
        """Sends an option; its answers up to the one that ends it."""
        self.send(OPTION_MAGIC, struct.pack(">II", option, len(data)), data)
        answers = [self.answer()]
        while answers[-1].type != REP_ACK and answers[-1].type < 0x80000000:
            answers.append(self.answer())
        return answers

    def answer(self) -> Option:
        magic, option, kind, length = struct.unpack(">QIII", self.get(20))
        assert magic == OPTION_REPLY_MAGIC
        return Option(option, kind, self.get(length))

    def go(self, name: str, structured: bool = True) -> Wire:
        """The whole handshake."""
        self.hello()
        if structured:
            assert self.option(OPT_STRUCTURED)[-1].type == REP_ACK
        assert self.option(OPT_GO, go_data(name))[-1].type == REP_ACK
        return self

    # --- commands

    def reply(self, length: int = 0) -> Chunk:
        """One reply or chunk; `length` bytes follow a simple one without an error."""
        magic = struct.unpack(">I", self.get(4))[0]
        if magic == SIMPLE_MAGIC:
            error, cookie = struct.unpack(">IQ", self.get(12))
            return Chunk(cookie, None, True, error, b"" if error else self.get(length))
        assert magic == CHUNK_MAGIC
        flags, kind, cookie, size = struct.unpack(">HHQI", self.get(16))
        data = self.get(size)
        error = struct.unpack(">I", data[:4])[0] if kind == CHUNK_ERROR else 0
        return Chunk(cookie, kind, bool(flags & 1), error, data)

    def ask(self, command: int, offset: int = 0, length: int = 0, flags: int = 0, data: bytes = b"") -> Chunk:
        """One command and its only reply."""
        self.send(request(command, 77, offset, length, flags), data)
        reply = self.reply(length if command == CMD_READ else 0)
        assert reply.cookie == 77
        return reply


class Server:
    """A running instance and what tests do with its NBD server."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.socket = os.path.join(instance.home, "run", "nbd.sock")
        self.numbers = itertools.count()

    def make(self, size: int = SIZE) -> str:
        """A new volume; its name."""
        name = f"vol-{next(self.numbers)}"
        self.instance.client.control("create", name=name, size=size, block_size=BLOCK)
        return name

    def openings(self) -> int:
        """How many times a volume was opened until now."""
        with Segment.of_home(self.instance.home) as segment:
            return sum(segment.c.volumes[place].generation for place in range(segment.c.volume_count))

    def uri(self, name: str) -> str:
        return self.instance.nbd_uri(name)

    def wire(self) -> Wire:
        return Wire(self.socket)

    def connect(self, name: str, structured: bool = True) -> Any:
        """A libnbd handle that serves `name`, with strict checks on the client's side off."""
        nbd = libnbd()
        handle = nbd.NBD()
        handle.set_strict_mode(0)
        handle.set_request_structured_replies(structured)
        if structured:
            handle.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
        handle.set_export_name(name)
        handle.connect_unix(self.socket)
        return handle
