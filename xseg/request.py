# SPDX-License-Identifier: Apache-2.0
"""A request as Python sees it: what is asked, its data without a copy, the answer."""
from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, NamedTuple

from xseg._native import ffi, lib
from xseg.errors import error
from xseg.segment import OPS

if TYPE_CHECKING:
    import numpy

# Operations whose `done` is no number of bytes: how many bytes each thing counted by it takes.
DONE_UNITS = {lib.XOP_LIST: ffi.sizeof("struct xobj"), lib.XOP_BLOCK_STATUS: 8, lib.XOP_DIFF: 8}
DIGEST_SIZE = 32


class Object(NamedTuple):
    """Name of an object: (kind, volume, epoch, index), or kind and a 32-byte digest."""

    kind: int
    volume: int = 0
    epoch: int = 0
    index: int = 0                  # type: ignore[assignment]    # tuple's method of this name is not wanted
    digest: bytes = b""

    @classmethod
    def read(cls, c: Any) -> Object:
        """From a struct xobj."""
        if c.kind in (lib.XOBJ_CONTENT, lib.XOBJ_NAME):
            return cls(c.kind, digest=bytes(c.digest))
        return cls(c.kind, c.volume, c.epoch, c.index)

    def write(self, c: Any) -> None:
        """Into a struct xobj whose bytes are zero."""
        c.kind = self.kind
        if self.digest:
            c.digest = self.digest
        else:
            c.epoch, c.volume, c.index = self.epoch, self.volume, self.index

    def pack(self) -> bytes:
        """Its 40 bytes, as in data of COPY."""
        c = ffi.new("struct xobj *")
        self.write(c)
        return bytes(ffi.buffer(c))


def objects(data: bytes | memoryview) -> list[Object]:
    """The objects that a LIST put into its data."""
    size = ffi.sizeof("struct xobj")
    array = ffi.from_buffer("struct xobj[]", bytes(data[:len(data) // size * size]))
    return [Object.read(array[i]) for i in range(len(array))]


class Call(NamedTuple):
    """What is asked of another port. `data` is copied in; `room` is bytes wanted for an answer, of which a CONTROL
    has those behind its data."""

    op: int
    volume: int = 0
    offset: int = 0
    size: int = 0
    flags: int = 0
    arg: int = 0
    object: Object | tuple[int, ...] | None = None
    data: bytes | bytearray | memoryview | None = None
    room: int = 0
    generation: int = 0

    def buffer_size(self) -> int:
        """Bytes of buffer it needs. Invalid: more than one request carries."""
        size = max(self.room, len(self.data) if self.data is not None else 0)
        if size > lib.XSEG_IO_MAX:
            raise error(errno.EINVAL, f"{size} bytes of data: one request carries {lib.XSEG_IO_MAX} at most")
        return size

    def put(self, port: Any, c: Any) -> None:
        """Writes it into a fresh request, which has its buffer already."""
        c.op, c.volume, c.flags, c.generation = self.op, self.volume, self.flags, self.generation
        c.offset, c.size, c.arg = self.offset, self.size, self.arg
        if self.object is not None:
            Object(*self.object).write(c.object)
        if self.data is not None:
            c.size = self.size or len(self.data)
            ffi.memmove(port.seg.base + c.data, self.data, len(self.data))


class Reply(NamedTuple):
    """An answer. `error` is 0 or a positive errno; `data` is a copy of what came with it."""

    error: int
    done: int
    arg: int
    flags: int
    data: bytes

    def check(self, what: str = "") -> Reply:
        """Itself, unless it is an error: then that is raised."""
        if self.error:
            raise error(self.error, what)
        return self


ANSWERED_BEHIND = (lib.XOP_CONTROL, lib.XOP_OPEN)      # the answer's data lie at `offset`, behind what was sent


def take_reply(port: Any, c: Any, room: int) -> Reply:
    """Copies the answer out of a request that came back; the request is still the caller's."""
    length, start = 0, min(c.offset, c.data_size) if c.op in ANSWERED_BEHIND else 0
    if room:
        length = DIGEST_SIZE if c.op == lib.XOP_HASH else c.done * DONE_UNITS.get(c.op, 1)
        length = min(length, room, c.data_size - start)
    data = bytes(ffi.buffer(port.seg.base + c.data + start, length)) if length else b""
    return Reply(-c.error, c.done, c.arg, c.flags, data)


class Request:
    """A request this port holds: one of its own, or one that it serves and must answer once.

    `c` is the port's own copy of it (struct xreq *); its fields may be read and set directly.
    """

    __slots__ = ("port", "c", "answered")

    def __init__(self, port: Any, c: Any) -> None:
        self.port = port                # struct port *
        self.c = c
        self.answered = False

    def __repr__(self) -> str:
        c = self.c
        return f"<request {c.index} {OPS.get(c.op, c.op)} from port {c.src} to {c.dst}>"

    @property
    def object(self) -> Object:
        return Object.read(self.c.object)

    @property
    def data(self) -> memoryview:
        """All bytes that go with it, writable, not copied. Invalid: they lie outside the segment."""
        c = self.c
        if c.data_size == 0:
            return memoryview(bytearray())
        if not lib.xreq_data_ok(self.port.seg, c, c.data_size):
            raise error(errno.EINVAL, "the request's data lie outside the segment")
        return memoryview(ffi.buffer(self.port.seg.base + c.data, c.data_size))

    @property
    def payload(self) -> bytes:
        """A copy of the `size` bytes sent with it. Invalid: it has not that many."""
        data = self.data
        if self.c.size > len(data):
            raise error(errno.EINVAL, f"the request says {self.c.size} bytes of data but brings {len(data)}")
        return bytes(data[:self.c.size])

    def array(self, dtype: Any = "u1") -> numpy.ndarray:
        """Its data as a numpy array, not copied."""
        import numpy
        data = self.data
        dtype = numpy.dtype(dtype)
        return numpy.frombuffer(data, dtype, len(data) // dtype.itemsize)

    def reply(self, error: int = 0, *, done: int | None = None, arg: int | None = None,
              data: bytes | None = None) -> None:
        """Answers it; error is 0 or an errno of either sign. `data` is copied in, and is then `done`.

        That of a CONTROL or OPEN goes behind what was sent with it, which stays as it is until the answer has been
        delivered: should this process die before, its successor can serve the request once more.
        Rings nobody: the port does so at the end of its turn, or by ring().
        """
        if self.answered:
            raise RuntimeError(f"{self!r} was answered already")
        if data is not None:
            target = self.data
            if self.c.op in ANSWERED_BEHIND:
                self.c.offset = self.c.size
                target = target[self.c.size:]
            if len(data) > len(target):
                error, data = errno.ENOBUFS, b""
            target[:len(data)] = data
            self.c.done = len(data)
        if done is not None:
            self.c.done = done
        if arg is not None:
            self.c.arg = arg
        self.answered = True
        lib.xreq_reply(self.port, self.c, -abs(error))
