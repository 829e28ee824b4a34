# SPDX-License-Identifier: Apache-2.0
"""What a peer type is, for Python: its name, options, targets and operations.

A peer type is one module in peers/ whose docstring is its manual, with one subclass of Peer:

    class Mirror(Peer):
        type = "mirror"
        targets = ("blockerb",)                     # roles it sends to, or names of role options
        options = {"copies": Option(2, "int", "how many copies are kept", minimum=1)}

        async def read(self, request): ...

        ops = {lib.XOP_READ: read}                  # last, as it names the functions above

One with `native` set is run by the C peer of that type, which gets the value of each option (its
table of `struct peer_option` says where it goes), and `ops` stays empty. The others are served
here: each request is handed to the operation's coroutine, which answers it by request.reply().
What it leaves unanswered is answered with success; an exception with an errno becomes the reply's
error, any other EIO and a traceback in the log; an operation that is not in the table is answered
with EOPNOTSUPP.
"""
from __future__ import annotations

import errno
import grp
import logging
import os
import pwd
import re
import time
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from xseg._native import ffi, lib
from xseg.errors import Invalid, XsegError

if TYPE_CHECKING:
    from xseg.aio import AsyncPort
    from xseg.request import Reply, Request
    from xseg.segment import Segment

SIZE_SUFFIXES = ("", "K", "M", "G", "T", "P")
SIZE = re.compile(r"(-?\d{1,30})(?:\.(\d{0,30}))?(?:([KMGTP])(I?B?)|B)?", re.ASCII)
SIZE_LIMIT = 1 << 63
TRACEBACK_S = 60.0              # between two tracebacks of one failure in the log
TRACEBACKS_MAX = 64             # failures remembered for that
NUMBER_LIMIT = 1 << 63          # of options
KINDS = ("str", "path", "int", "size", "float", "bool", "role", "mode", "user", "group", "rules")
MODE_MAX = 0o777
ID_MAX = (1 << 32) - 2
ID_DIGITS_MAX = 10
RULES_MAX = 64
PATTERN_MAX = 255               # bytes


def parse_size(value: int | str) -> int:
    """Bytes of 4096, "64K", "1.5G", "20GiB" (powers of 1024), "20GB" (powers of 1000)... Invalid: anything else, or no
    whole number of bytes."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    found = SIZE.fullmatch(str(value).strip().upper())
    if not found:
        raise Invalid(f"{value!a} is no size: a number of bytes, or one with K, M, G, T or P (powers of 1024), or KB, "
                      "MB... (of 1000)")
    digits, part, suffix, unit = found.groups("")
    factor: int = (1000 if unit == "B" else 1024) ** SIZE_SUFFIXES.index(suffix)
    scale: int = 10 ** len(part)
    whole, rest = divmod(int(digits + part) * factor, scale)
    if rest:
        raise Invalid(f"{value!r} is no whole number of bytes")
    if not -SIZE_LIMIT < whole < SIZE_LIMIT:
        raise Invalid(f"{value!r} is more than any volume may have")
    return whole


def parse_mode(value: int | str) -> int:
    """The permissions of "0660", or of a number. Invalid."""
    if isinstance(value, str) and re.fullmatch("[0-7]{3,4}", value):
        value = int(value, 8)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MODE_MAX:
        raise Invalid('must be permissions in octal digits: "0660"')
    return value


def parse_id(kind: str, value: int | str) -> int:
    """The number of a "user" or "group", which is said by its name or by the number itself. Invalid."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= ID_DIGITS_MAX:
        value = int(value)
    if isinstance(value, str):
        try:
            return pwd.getpwnam(value).pw_uid if kind == "user" else grp.getgrnam(value).gr_gid
        except (KeyError, ValueError):
            raise Invalid(f"names a {kind} that this machine does not know: {value!r}") from None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= ID_MAX:
        raise Invalid(f"must be the name or number of a {kind}")
    return value


def parse_rules(value: Any) -> str:
    """Rules about who may have what, "WHO: PATTERN" each, as the native half reads them (native/nbd/allow.c): WHO is a
    user, "@GROUP", "tcp" or "*". Invalid."""
    if not isinstance(value, list) or len(value) > RULES_MAX or not all(isinstance(rule, str) for rule in value):
        raise Invalid(f'must be a list of {RULES_MAX} texts at most: ["USER: PATTERN", "@GROUP: PATTERN"]')
    return "\n".join(parse_rule(rule) for rule in value)


def parse_rule(rule: str) -> str:
    who, colon, pattern = (word.strip() for word in rule.partition(":"))
    if not colon or not who or not pattern or not pattern.isprintable() or len(pattern.encode()) > PATTERN_MAX:
        raise Invalid(f'has a rule that is none: {rule!r} must be "USER: PATTERN", "@GROUP: PATTERN", "tcp: PATTERN" '
                      'or "*: PATTERN"')
    if who in ("*", "tcp"):
        return f"{who[0]} {pattern}"
    return f"g{parse_id('group', who[1:])} {pattern}" if who[0] == "@" else f"u{parse_id('user', who)} {pattern}"


@dataclass(frozen=True)
class Option:
    """An option of a peer type. A default of None leaves it out unless it is set."""

    default: Any
    kind: str                           # one of KINDS
    help: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()

    def parse(self, value: Any) -> Any:
        """The value as the kind wants it. Invalid: the rest of a sentence that says what is allowed."""
        if self.kind == "size":
            value = parse_size(value)
            if not 0 <= value < NUMBER_LIMIT:
                raise Invalid("is beyond all bounds")
        elif self.kind == "mode":
            value = parse_mode(value)
        elif self.kind in ("user", "group"):
            value = parse_id(self.kind, value)
        elif self.kind == "rules":
            value = parse_rules(value)
        elif self.kind == "bool":
            if not isinstance(value, bool):
                raise Invalid("must be true or false")
        elif self.kind in ("int", "float"):
            allowed = (int,) if self.kind == "int" else (int, float)
            if isinstance(value, bool) or not isinstance(value, allowed):
                raise Invalid("must be a whole number" if self.kind == "int" else "must be a number")
            if not -NUMBER_LIMIT < value < NUMBER_LIMIT:
                raise Invalid("is beyond all bounds")
        elif not isinstance(value, str) or "\0" in value:
            raise Invalid("must be a text")
        self._check_bounds(value)
        return value

    def _check_bounds(self, value: Any) -> None:
        if self.choices and value not in self.choices:
            raise Invalid(f"must be one of {', '.join(self.choices)}")
        if self.minimum is not None and value < self.minimum:
            raise Invalid(f"must be {self.minimum:g} or more")
        if self.maximum is not None and value > self.maximum:
            raise Invalid(f"must be {self.maximum:g} or less")

    def native(self, value: Any) -> str | None:
        """The value as text for the C half, which has no defaults of its own; None: it is not set."""
        if value is None:
            return None
        return str(int(value)) if isinstance(value, bool) else str(value)


Operation = Callable[[Any, "Request"], Awaitable[None]]


class Peer:
    """A peer of a role. One is made for each role that Python serves, in the host's event loop."""

    type: ClassVar[str] = ""
    native: ClassVar[str | None] = None
    targets: ClassVar[tuple[str, ...]] = ()
    listens: ClassVar[dict[str, str]] = {}      # options that name sockets, "unix" or "tcp", which the supervisor
                                                # holds: the native half gets NAME_fd, a descriptor that listens
    endpoint: ClassVar[bool] = False            # it has clients outside, whom the end of the instance disconnects
    keeps: ClassVar[tuple[str, ...]] = ()       # options that name folders, which the supervisor keeps open: NAME_fd
    told: ClassVar[str | None] = None           # an option that the native half is told of all roles of the type, as
                                                # NAME_all: a line "ROLE VALUE" each
    options: dict[str, Any] = {}        # of the class: an Option each; of an object: their values
    ops: ClassVar[dict[int, Operation]] = {}

    def __init__(self, port: AsyncPort, home: str, role: str, options: dict[str, Any]) -> None:
        self.port = port
        self.segment: Segment = port.segment
        self.home = home
        self.role = role
        self.options = options          # values now: every option of the type, parsed; paths are absolute
        self.log = logging.getLogger(role)

    @classmethod
    def native_type(cls, options: dict[str, Any]) -> str | None:
        """The C peer type that serves a role with these options; None: this class does."""
        return cls.native

    @classmethod
    def target_roles(cls, options: dict[str, Any]) -> list[str]:
        """The roles it sends to, in the order in which the native half numbers them."""
        return [options[name] if name in cls.options else name for name in cls.targets]

    def target(self, role: str) -> int:
        """The port that plays `role` for this peer now; to be asked again for each request."""
        return int(lib.export_route(self.segment.c, self.segment.route(self.role, role)))

    async def call(self, role: str, op: int, **fields: Any) -> Reply:
        """AsyncPort.call() to whoever plays `role` for this peer now."""
        return await self.port.call(self.target(role), op, **fields)

    async def start(self) -> None:
        """Before the first request. An exception stops the process."""

    async def stop(self) -> None:
        """After the last request was answered."""

    async def handle(self, request: Request) -> None:
        """Serves one request and sees to it that it is answered."""
        code = await self._serve(request)
        if self.port.c != ffi.NULL and not request.answered:
            request.reply(code)

    async def _serve(self, request: Request) -> int:
        operation = self.ops.get(request.c.op)
        if operation is None:
            return errno.EOPNOTSUPP
        try:
            await operation(self, request)
        except XsegError as failure:
            return failure.errno
        except OSError as failure:
            self.log.error("%r: %s", request, failure)
            return failure.errno or errno.EIO
        except Exception as failure:
            tell_failure(self.log, repr(request), failure)
            return errno.EIO
        return 0


told: dict[tuple[str, str], float] = {}         # (where, what) of failures -> when their traceback was logged


def tell_failure(log: logging.Logger, what: str, failure: Exception) -> None:
    """Logs a failure that nobody expected: one line, and where it came from once in TRACEBACK_S, so that nobody can
    fill the log by asking for it again."""
    frames = traceback.extract_tb(failure.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    key, now = (place, type(failure).__name__), time.monotonic()
    if now - told.get(key, -TRACEBACK_S) < TRACEBACK_S:
        log.error("%s failed: %s %s (see above)", what, type(failure).__name__, failure)
        return
    if len(told) >= TRACEBACKS_MAX:
        told.clear()
    told[key] = now
    log.error("%s failed", what, exc_info=failure)


def tell_once(log: logging.Logger, sentence: str) -> None:
    """Logs why somebody was refused, once in TRACEBACK_S, however often he asks."""
    key, now = ("", sentence), time.monotonic()
    if now - told.get(key, -TRACEBACK_S) >= TRACEBACK_S:
        if len(told) >= TRACEBACKS_MAX:
            told.clear()
        told[key] = now
        log.warning("%s", sentence)


def below_home(path: str, home: str) -> str:
    """A path as an option means it: relative ones lie below the instance's home."""
    return os.path.normpath(os.path.join(home, os.path.expanduser(path)))
