# SPDX-License-Identifier: Apache-2.0
"""A client of a running instance: control operations, and I/O on volumes.

    with Client(home) as client:
        client.control("create", name="vm-1", size=20 << 30)
        with client.open("vm-1") as volume:
            volume.write(0, b"hello")
            volume.flush()

A Client belongs to one thread; it joins on a dynamic port. Errors are those of xseg.errors, with
the mapper's own sentence where there is one.
"""
from __future__ import annotations

import errno
import json
import os
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgpack

from xseg import ours
from xseg._native import lib
from xseg.errors import Damaged, Invalid, NotRunning, TimedOut, XsegError, error
from xseg.port import TIMEOUT_S, Port
from xseg.removed import supervisor_answers
from xseg.request import Reply
from xseg.segment import Segment, text

IO_MAX = lib.XSEG_IO_MAX
ZERO_MAX = 1 << 30              # bytes of one WRITE_ZEROES or DISCARD on a volume
CONTROL_TIMEOUT_S = 120.0
DEAD_PEER_TIMEOUT_S = 5.0       # how long a peer that is not running, and is not coming back, is waited for
EXTENTS_ROOM = 65536            # bytes of an answer to BLOCK_STATUS


def default_home() -> str:
    """The instance's home: ARCHIPELAGO_HOME, /var/lib/archipelago for root, the XDG state folder else."""
    if home := os.environ.get("ARCHIPELAGO_HOME"):
        return os.path.abspath(home)
    if os.geteuid() == 0:
        return "/var/lib/archipelago"
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(state, "archipelago")


def is_coming_back(home: str, process: str) -> bool:
    """True if a supervisor runs that has started a process of the pipeline anew, or is about to."""
    try:
        said = json.loads(ours.read(os.path.join(home, "run", "supervisor.json")))
        state = said["processes"][process]["state"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return state in ("starting", "running", "waiting") and supervisor_answers(home)


class Extent(NamedTuple):
    """A run of bytes of one kind."""

    offset: int
    length: int
    hole: bool
    zero: bool


class Client:
    """Joins the instance whose home is `home`. NotRunning: there is no segment."""

    def __init__(self, home: str | None = None, name: str = "client") -> None:
        self.home = os.path.abspath(home) if home else default_home()
        self.segment = Segment.of_home(self.home)
        try:
            self.port = Port(self.segment, name)
        except BaseException:
            self.segment.close()
            raise

    def close(self) -> None:
        self.port.close()
        self.segment.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def call(self, role: str, op: int, *, timeout: float = TIMEOUT_S, check: bool = True, **fields: Any) -> Reply:
        """One request to the peer that plays `role`; see Port.call().

        NotRunning: no process has served the role for DEAD_PEER_TIMEOUT_S, and no supervisor brings one back.
        """
        port = self.segment.port_of(role)
        process = self.segment.process_of(port)
        try:
            return self.port.call(port, op, timeout=timeout, patience=DEAD_PEER_TIMEOUT_S,
                                  comes_back=lambda: is_coming_back(self.home, process), check=check, **fields)
        except TimedOut:
            if self.segment.alive(port):
                raise
            raise NotRunning(f"the {role} is not running: start it with `archipelago restart {role}`") from None

    def control(self, verb: str, *, timeout: float = CONTROL_TIMEOUT_S, **args: Any) -> dict[str, Any]:
        """An operation of the mapper; its result. A failure raises with the mapper's sentence."""
        data = packed({"verb": verb, **args})
        reply = self.call("mapper", lib.XOP_CONTROL, data=data, room=IO_MAX, timeout=timeout, check=False)
        try:
            return control_answer(verb, reply)
        except XsegError as failure:
            raise self._failure(failure.errno, failure.strerror) from None

    def _failure(self, code: int, sentence: str) -> XsegError:
        """The error, with what is behind it where that concerns the whole instance."""
        fenced = self.segment.fenced() if code == errno.ESTALE else ""
        return error(code, "; ".join(filter(None, (sentence, fenced))))

    def open(self, name: str, readonly: bool = False) -> Volume:
        """Opens a volume or snapshot. NotFound; Busy: locked elsewhere; Damaged.

        It takes as long as a verb may: a holder that died may have to be fenced first.
        """
        reply = self.call("mapper", lib.XOP_OPEN, data=name.encode(), check=False, room=IO_MAX,
                          timeout=CONTROL_TIMEOUT_S, flags=lib.XREQ_READONLY if readonly else 0)
        if reply.error:
            sentence = reply.data.decode(errors="replace")
            raise self._failure(reply.error, sentence or f"{name}: {os.strerror(reply.error)}")
        return Volume(self, reply.done)

    def names(self) -> Iterator[str]:
        """Names of all volumes and snapshots."""
        cursor = 0
        while True:
            reply = self.call("mapper", lib.XOP_NAMES, room=IO_MAX, arg=cursor)
            yield from (name.decode() for name in reply.data.split(b"\0") if name)
            if (cursor := reply.arg) == 0:
                return


def packed(request: dict[str, Any]) -> bytes:
    """A request for the mapper. Invalid: a text is no UTF-8, a number has more than 64 bits."""
    try:
        return bytes(msgpack.packb(request))
    except UnicodeEncodeError as failure:
        raise Invalid(f"{failure.object!a} is no UTF-8") from None
    except (OverflowError, ValueError):
        raise Invalid("a number has more than 64 bits") from None


class Volume:
    """An open volume. Offsets and lengths are in bytes, of any alignment."""

    def __init__(self, client: Client, handle: int) -> None:
        self.client = client
        self.handle = handle
        self.shared = client.segment.c.volumes[handle - 1]
        self.generation: int = self.shared.generation

    @property
    def name(self) -> str:
        return text(self.shared.name)

    @property
    def size(self) -> int:
        return int(self.shared.size)

    @property
    def block_size(self) -> int:
        return 1 << int(self.shared.block_shift)

    @property
    def readonly(self) -> bool:
        return bool(self.shared.readonly)

    def __enter__(self) -> Volume:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        if self.handle:
            self.client.call("mapper", lib.XOP_CLOSE, volume=self.handle, generation=self.generation)
            self.handle = 0

    def call(self, op: int, offset: int = 0, size: int = 0, *, check: bool = True, **fields: Any) -> Reply:
        """One request to vlmc on this volume."""
        return self.client.call("vlmc", op, volume=self.handle, generation=self.generation, offset=offset, size=size,
                                check=check, **fields)

    def read(self, offset: int, length: int) -> bytes:
        parts = [self.call(lib.XOP_READ, at, size, room=size).data for at, size in pieces(offset, length, IO_MAX)]
        return b"".join(parts)

    def write(self, offset: int, data: bytes, fua: bool = False) -> None:
        view, flags = memoryview(data), lib.XREQ_FUA if fua else 0
        for at, size in pieces(offset, len(view), IO_MAX):
            self.call(lib.XOP_WRITE, at, size, data=view[at - offset:at - offset + size], flags=flags)

    def zeroes(self, offset: int, length: int, no_hole: bool = False) -> None:
        for at, size in pieces(offset, length, ZERO_MAX):
            self.call(lib.XOP_WRITE_ZEROES, at, size, flags=lib.XREQ_NO_HOLE if no_hole else 0)

    def discard(self, offset: int, length: int) -> None:
        for at, size in pieces(offset, length, ZERO_MAX):
            self.call(lib.XOP_DISCARD, at, size)

    def flush(self) -> None:
        self.call(lib.XOP_FLUSH)

    def extents(self, offset: int = 0, length: int | None = None) -> Iterator[Extent]:
        """What the bytes of a range are, in order and without gaps."""
        end = self.size if length is None else offset + length
        while offset < end:
            size = min(end - offset, ZERO_MAX)
            reply = self.call(lib.XOP_BLOCK_STATUS, offset, size, room=EXTENTS_ROOM)
            runs = list(struct.iter_unpack("=II", reply.data))
            if not runs or not all(run for run, _flags in runs):
                raise XsegError(f"{self.name}: an empty answer to block status at {offset}")
            for run, flags in runs:
                yield Extent(offset, run, bool(flags & lib.XEXTENT_HOLE), bool(flags & lib.XEXTENT_ZERO))
                offset += run


def control_answer(verb: str, reply: Reply) -> dict[str, Any]:
    """What the mapper answered. Its failure is raised, with its own sentence; Damaged: it is no answer."""
    try:
        result = msgpack.unpackb(reply.data) if reply.data else {}
    except Exception:                   # msgpack has many
        result = None
    if reply.error:
        sentence = result.get("error") if isinstance(result, dict) else ""
        raise error(reply.error, sentence if isinstance(sentence, str) else "")
    if not isinstance(result, dict):
        raise Damaged(f"{verb}: the mapper's answer cannot be read; see its log")
    return result


def pieces(offset: int, length: int, most: int) -> Iterator[tuple[int, int]]:
    """Cuts [offset, offset + length) into (offset, size) of at most `most` bytes each."""
    end = offset + length
    while offset < end:
        size = min(most, end - offset)
        yield offset, size
        offset += size
