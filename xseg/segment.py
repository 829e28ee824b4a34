# SPDX-License-Identifier: Apache-2.0
"""The shared-memory segment: making, joining, looking at it.

An instance's segment is a file in /dev/shm, where everybody may make files. So its name is one that nobody can guess,
another one each time; the home's run/segment says which, before the segment is made. Whoever makes files there
first takes no name from us, and what stands there under ours is joined only if it is ours (xseg/ours.py): its memory
is where the pipeline runs, and its members, the processes of one user, trust one another. All its memory is taken
when it is made (native/segment/segment.c), so that nobody who fills /dev/shm later takes it away.

`Segment.c` is the native handle (struct xseg *). Structured numpy views of what lies in the
segment are made when first asked for and copy nothing: they show, and change, the segment.
"""
from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from xseg import ours
from xseg._native import ffi, lib
from xseg.errors import Exists, NoSpace, NotRunning, Unfinished, WrongVersion, XsegError, check, error
from xseg.removed import ELSEWHERE, open_removed, supervisor_answers

if TYPE_CHECKING:
    import numpy

SHM = "/dev/shm"
RECORD = os.path.join("run", "segment")     # in the home: the name of its segment
BUSY_BATCH = 4096               # request slots looked at in one go
ANY = lib.XPORT_ANY
PARAMETERS = ("static_slots", "dynamic_slots", "clients", "volumes", "buffers", "frames", "stacks", "contents")

OPS: dict[int, str] = {number: name.removeprefix("XOP_").lower()
                       for number, name in ffi.typeof("enum xop").elements.items() if name != "XOP_COUNT"}
STATES: dict[int, str] = {number: name.removeprefix("XREQ_").lower()
                          for number, name in ffi.typeof("enum xstate").elements.items()}
NAME = re.compile(r"/archipelago-[0-9a-f]{12}(-[0-9a-f]{16})?")
KINDS: dict[int, str] = {number: name.removeprefix("XOBJ_").lower()
                         for number, name in ffi.typeof("enum xkind").elements.items() if name != "XOBJ_KINDS"}


def name_for(home: str) -> str:
    """Name of the segment of the instance whose home is `home`; of one that has none, what its name will begin with.

    NotOurs: run/segment is somebody else's.
    """
    return recorded(home) or _prefix(home)


def _prefix(home: str) -> str:
    return "/archipelago-" + hashlib.sha256(os.path.realpath(home).encode()).hexdigest()[:12]


def new_name(home: str) -> str:
    """A name for a new segment of this instance that nobody can have made before."""
    return f"{_prefix(home)}-{secrets.token_hex(8)}"


def names_of(home: str) -> list[str]:
    """Names of all segments that were made for an instance at this path, and are there."""
    found = ("/" + name for name in sorted(os.listdir(SHM)))
    return [name for name in found if name.startswith(_prefix(home) + "-") and NAME.fullmatch(name)
            and Segment.exists(name)]


def recorded(home: str) -> str:
    """The name that run/segment says, of a segment that may be gone; "" if it says none. NotOurs."""
    try:
        said = ours.read(os.path.join(home, RECORD)).strip()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return ""
    return said if NAME.fullmatch(said) else ""


def record(home: str, name: str) -> None:
    """Writes down the name of the home's segment; "" removes it."""
    path = os.path.join(home, RECORD)
    if name:
        ours.replace(path, name + "\n")
        return
    ours.forget(path)


def text(field: Any) -> str:
    """A char array of the segment as a string; bytes that are no UTF-8 show as such."""
    said: bytes = ffi.string(field)
    return said.decode(errors="backslashreplace")


def _fill(params: Any, run: str, values: dict[str, Any]) -> None:
    params.run = os.fsencode(run)
    for name, value in values.items():
        if name not in PARAMETERS:
            raise error(errno.EINVAL, f"a segment has no parameter {name}; it has {', '.join(PARAMETERS)}")
        setattr(params, name, value)


def _no_room(size: int, name: str) -> NoSpace:
    """All of a segment's memory is taken when it is made: what cannot be had is said then, and is not fatal later."""
    room = os.statvfs(SHM)
    return NoSpace(errno.ENOSPC, f"segment {name} needs {size >> 20} MiB, but {SHM} has "
                   f"{room.f_bavail * room.f_frsize >> 20} MiB free: enlarge it (mount -o remount,size="
                   f"{(size >> 20) * 2}M {SHM}), remove what fills it, or lower the numbers under [segment] in "
                   "archipelago.toml")


class Segment:
    """A segment joined by this process. May be used by all its threads."""

    def __init__(self, c: Any, name: str, fd: int) -> None:
        self.c = c
        self.name = name
        self.fd = fd                    # open for as long as it is joined: see removed.py
        self._arrays: dict[str, Any] = {}

    @staticmethod
    def size_of(run: str = "/", **params: Any) -> int:
        """Bytes that a segment with these parameters needs."""
        c = ffi.new("struct xparams *")
        _fill(c, run, params)
        return int(lib.xseg_size(c))

    @classmethod
    def create(cls, name: str, run: str, **params: Any) -> Segment:
        """Makes a segment and joins it. `run` is the folder of its doorbells and must exist.

        Exists: there is one. NoSpace: shared memory is too small. Invalid: unknown parameter.
        """
        if len(os.fsencode(run)) >= lib.XSEG_PATH_MAX:
            raise error(errno.ENAMETOOLONG, f"the path {run} is too long: {lib.XSEG_PATH_MAX - 1} bytes at most")
        c = ffi.new("struct xparams *")
        _fill(c, run, params)
        size = lib.xseg_size(c)
        ours.resolve(SHM + name)
        try:
            fd = ours.open_file(SHM + name, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            raise Exists(errno.EEXIST, f"segment {name} exists already") from None
        try:
            rc = lib.xseg_format(fd, c)
            if rc in (-errno.ENOSPC, -errno.ENOMEM):
                raise _no_room(size, name)
            check(rc, f"segment {name}")
        except OSError:
            cls.unlink(name)
            raise
        finally:
            os.close(fd)
        return cls.open(name)

    @classmethod
    def open(cls, name: str) -> Segment:
        """Joins a segment. NotRunning: there is none. NotOurs. WrongVersion: another version or build made it."""
        try:
            fd = ours.open_file(SHM + name, os.O_RDWR)
        except FileNotFoundError:
            raise NotRunning(errno.ENOENT, "not running: start it with `archipelago start`") from None
        except PermissionError:
            raise _of_another(SHM + name) from None
        return cls._join(fd, name)

    @classmethod
    def _join(cls, fd: int, name: str) -> Segment:
        """Joins one that is open; the descriptor is the segment's from now on."""
        try:
            return cls(cls._attach(fd, name), name, fd)
        except BaseException:
            os.close(fd)
            raise

    @staticmethod
    def _attach(fd: int, name: str) -> Any:
        """The native handle. Unfinished, WrongVersion."""
        out, found = ffi.new("struct xseg **"), ffi.new("uint32_t *")
        rc = lib.xseg_attach(fd, out, found)
        if rc == -errno.EPROTO and os.pread(fd, 4, 0) in (b"", bytes(4)):
            raise Unfinished(errno.EPROTO, f"segment {name} was not completely made: `archipelago start` makes it anew")
        if rc == -errno.EPROTO:
            raise WrongVersion(errno.EPROTO, _mismatch(name, found[0]))
        check(rc, f"segment {name}")
        return out[0]

    @classmethod
    def of_home(cls, home: str) -> Segment:
        """Joins the segment of the instance whose home is `home`, even if somebody has removed its file. NotRunning;
        NotOurs: home or segment."""
        ours.check_home(home)
        try:
            name = name_for(home)
        except PermissionError:
            raise _of_another(home) from None
        try:
            if cls.exists(name):
                return cls.open(name)
        except NotRunning:
            pass
        if (fd := open_removed(home, name)) >= 0:
            return cls._join(fd, name)
        if supervisor_answers(home):
            raise NotRunning(errno.ENOENT, ELSEWHERE.format(home))
        raise NotRunning(errno.ENOENT, f"not running (home {home}): start it with `archipelago start`")

    @classmethod
    def exists_for(cls, home: str) -> bool:
        """True if of_home() would find one, whatever made it."""
        name = name_for(home)
        if cls.exists(name):
            return True
        if (fd := open_removed(home, name)) < 0:
            return False
        os.close(fd)
        return True

    @staticmethod
    def exists(name: str) -> bool:
        """True if there is one, made by us: what a stranger put there is none."""
        try:
            return ours.is_us(os.lstat(SHM + name).st_uid)
        except FileNotFoundError:
            return False

    @staticmethod
    def unlink(name: str) -> None:
        """Removes the segment's name; its memory goes when the last process leaves. None there: nothing."""
        if Segment.exists(name):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(SHM + name)

    def close(self) -> None:
        """Leaves. Ports, requests and arrays of this segment must not be used afterwards."""
        if self.c != ffi.NULL:
            self._arrays.clear()
            lib.xseg_detach(self.c)
            self.c = ffi.NULL
            os.close(self.fd)

    def __enter__(self) -> Segment:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # --- roles and routes

    def declare(self, role: str, type: str, process: str) -> int:
        """Sets a port aside for a role; its number. Idempotent. NoSpace: too many roles."""
        number = ffi.new("uint32_t *")
        check(lib.port_declare(self.c, role.encode(), type.encode(), process.encode(), number), f"role {role}")
        return int(number[0])

    def port_of(self, role: str) -> int:
        """Number of the port of a role. NotFound: no such role."""
        number = ffi.new("uint32_t *")
        check(lib.port_find(self.c, role.encode(), number), f"role {role}")
        return int(number[0])

    def route(self, source: str, target: str) -> int:
        """Number of the edge from role `source` to role `target`; NotFound: no such role."""
        number = ffi.new("uint32_t *")
        check(lib.route_find(self.c, source.encode(), target.encode(), number), f"route {source}>{target}")
        return int(number[0])

    def set_route(self, edge: str, port: int) -> None:
        """Turns the edge "from>to" to a port."""
        check(lib.route_set(self.c, edge.encode(), port), f"route {edge}")

    def routes(self) -> dict[str, int]:
        """Every edge there is, and the port it leads to."""
        return {text(route.edge): route.port
                for route in (self.c.routes[i] for i in range(lib.XSEG_ROUTES)) if route.used == 1}

    def role_of(self, port: int) -> str:
        """The role of a port; "port N" where it has none, or there is no such port."""
        role = text(self.c.ports[port].role) if 0 <= port < self.c.port_count else ""
        return role or f"port {port}"

    def process_of(self, port: int) -> str:
        """The process that the configuration puts the role of a port in; empty for a client's."""
        return text(self.c.ports[port].process)

    def alive(self, port: int) -> bool:
        """True while the process that bound the port lives."""
        return bool(lib.port_alive(self.c, port))

    def fenced(self) -> str:
        """In a sentence: that another node has fenced this one, why, and what to do. Empty: none has."""
        if self.c.header.trusted_until_ns != lib.XSEG_FENCED:
            return ""
        return f"this node was fenced ({text(self.c.header.fenced_why) or 'its log says why'}): others may have its " \
               "volumes, and all it is asked for fails; `archipelago stop --force && archipelago start` begins anew"

    def busy(self) -> Iterator[Any]:
        """The request slots (struct xslot) that are not free, lowest first."""
        slots = ffi.new("uint32_t[]", BUSY_BATCH)
        start = 0
        while count := lib.export_busy(self.c, start, slots, BUSY_BATCH):
            for i in range(count):
                yield self.c.slots[slots[i] - 1]
            start = slots[count - 1]

    def slots_of(self, port: int) -> range:
        """Numbers of the request slots that are a port's own."""
        first = lib.export_first_slot(self.c, port)
        return range(first, first + lib.export_slots_of(self.c, port))

    # --- memory

    def memory(self, offset: int, size: int) -> memoryview:
        """Bytes [offset, offset + size) of the segment, writable, not copied. Invalid: outside it."""
        if offset < 0 or size < 0 or offset + size > self.c.size:
            raise error(errno.EINVAL, f"bytes {offset}..{offset + size} lie outside the segment")
        return memoryview(ffi.buffer(self.c.base + offset, size))

    def _array(self, name: str, struct: str, first: Any, count: int) -> numpy.ndarray:
        if name not in self._arrays:
            import numpy

            from xseg.dtypes import dtype_of
            dtype = dtype_of(struct)
            offset = int(ffi.cast("uintptr_t", first)) - int(ffi.cast("uintptr_t", self.c.base))
            self._arrays[name] = numpy.frombuffer(self.memory(offset, dtype.itemsize * count), dtype, count)
        array: numpy.ndarray[Any, Any] = self._arrays[name]
        return array

    @property
    def requests(self) -> numpy.ndarray:
        """All request slots as a structured array, indexed by slot number."""
        return self._array("requests", "struct xslot", self.c.slots, self.c.slot_count)

    @property
    def ports(self) -> numpy.ndarray:
        """All ports as a structured array, indexed by port number."""
        return self._array("ports", "struct xport", self.c.ports, self.c.port_count)

    @property
    def volumes(self) -> numpy.ndarray:
        """The table of open volumes as a structured array, indexed by handle - 1."""
        return self._array("volumes", "struct xvolume", self.c.volumes, self.c.volume_count)


def _of_another(path: str) -> XsegError:
    return error(errno.EACCES, f"{path} belongs to {ours.who(os.lstat(path).st_uid)}: run this as that user")


def _mismatch(name: str, version: int) -> str:
    remedy = ("stop the instance with the programs that started it, then start it again. `archipelago stop --force` "
              "removes the segment, and with it what was written to its volumes since their last flush")
    if version == 0:
        return f"{name} is not a segment of Archipelago: {remedy}"
    if version != lib.XSEG_VERSION:
        return f"segment {name} is of version {version}, these programs need {lib.XSEG_VERSION}: {remedy}"
    return f"segment {name} was made by another build of version {version}: {remedy}"
