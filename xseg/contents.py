# SPDX-License-Identifier: Apache-2.0
"""Contents by their digests, for programs: put a block, ask which are missing, claim, read.

    with Client(home) as client:
        contents = Contents(client)
        digest = contents.put(b"...")
        lacking = contents.claim([digest, other])
        contents.read(digest, 0, 4096)

A digest is the SHA-256 of a block without the zeros at its end. What was put or claimed counts as used for a day, so
whoever makes something that refers to it does so within half of that, and claims what it did not put itself. The digest
of zeros names no object: zeros are known always, and are stored nowhere. Contents lie on the data blocker of the
instance. It belongs to the thread of its Client.
"""
from __future__ import annotations

import errno
import hashlib
import time
from collections import deque
from collections.abc import Iterable

from xseg._native import lib
from xseg.client import Client, pieces
from xseg.errors import Invalid, NoBuffers, NoSlots, TimedOut, error
from xseg.port import TIMEOUT_S
from xseg.request import DIGEST_SIZE, Call, Object, Reply, take_reply

ROLE = "blockerb"
PUT_MAX = lib.XSEG_IO_MAX       # bytes of one content that is put
AT_ONCE = 64                    # requests under way
WAIT_S = 0.5                    # between two looks at whether the blocker lives
NOTHING = hashlib.sha256(b"").digest()


def digest_of(data: bytes | bytearray | memoryview) -> bytes:
    """The name of a content."""
    return hashlib.sha256(bytes(data).rstrip(b"\0")).digest()


def named(digest: bytes) -> Object:
    """The object. Invalid: it is no digest."""
    if len(digest) != DIGEST_SIZE:
        raise Invalid(f"a digest has {DIGEST_SIZE} bytes, not {len(digest)}")
    return Object(lib.XOBJ_CONTENT, digest=digest)


class Contents:
    """Those of the instance that a client has joined."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def put(self, data: bytes | bytearray | memoryview) -> bytes:
        """Stores one, of PUT_MAX bytes at most, durably, and claims it: its digest. NoSpace; as the store says."""
        digest = digest_of(data)
        if digest != NOTHING:
            self.client.call(ROLE, lib.XOP_PUT, object=named(digest), data=data)
        return digest

    def put_all(self, blocks: Iterable[bytes]) -> list[bytes]:
        """The same for many, one after the other: their digests."""
        return [self.put(block) for block in blocks]

    def missing(self, digests: Iterable[bytes]) -> list[bytes]:
        """Those that the store does not have, each once, in order. What it has may go before it is claimed."""
        return self.lacking(digests, lib.XOP_INFO)

    def claim(self, digests: Iterable[bytes]) -> list[bytes]:
        """Claims them, durably; those that the store does not have, each once, in order."""
        return self.lacking(digests, lib.XOP_CLAIM)

    def lacking(self, digests: Iterable[bytes], op: int) -> list[bytes]:
        """Those of which an operation says ENOENT."""
        wanted = [digest for digest in dict.fromkeys(digests) if digest != NOTHING]
        replies = self.run(Call(op, object=named(digest)) for digest in wanted)
        found = []
        for digest, reply in zip(wanted, replies, strict=True):
            if reply.error == errno.ENOENT:
                found.append(digest)
            elif reply.error:
                raise error(reply.error, digest.hex())
        return found

    def read(self, digest: bytes, offset: int, length: int) -> bytes:
        """Bytes of one; zeros past its end. NotFound."""
        if digest == NOTHING:
            return bytes(length)
        return b"".join(self.client.call(ROLE, lib.XOP_READ, object=named(digest), offset=at, size=size, room=size).data
                        for at, size in pieces(offset, length, lib.XSEG_IO_MAX))

    def run(self, calls: Iterable[Call]) -> list[Reply]:
        """Sends them to the data blocker, AT_ONCE at most under way: their answers, in order. TimedOut: one was not
        answered for TIMEOUT_S."""
        port, destination = self.client.port, self.client.segment.port_of(ROLE)
        replies: list[Reply | None] = []
        under_way: dict[int, tuple[int, int]] = {}      # request's number -> place, room
        todo, last = deque(calls), time.monotonic()
        while todo or under_way:
            while todo and len(under_way) < AT_ONCE:
                try:
                    request = port.get(todo[0].buffer_size())
                except (NoSlots, NoBuffers):
                    if not under_way:
                        raise
                    break                           # when answers have come
                call = todo.popleft()
                call.put(port.c, request.c)
                under_way[request.c.index] = len(replies), call.room
                replies.append(None)
                port.send(destination, [request])
            for request in port.receive(WAIT_S):
                place, room = under_way.pop(request.c.index)
                replies[place] = take_reply(port.c, request.c, room)
                port.put(request)
                last = time.monotonic()
            if time.monotonic() - last > TIMEOUT_S:
                raise TimedOut(f"{ROLE} did not answer within {TIMEOUT_S:g} s")
        return [reply for reply in replies if reply is not None]
