# SPDX-License-Identifier: Apache-2.0
"""What the mapper's verbs take: every argument of every verb, its type and its bounds.

parse() holds a request against this table before the verb begins, so that a verb can believe what it gets: each
argument is there, or has its default. One that is not in the table is refused, too. The verbs are told in
mapper/verbs/.
"""
import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from peers.mapper.header import BLOCK_DEFAULT_SHIFT, check_block_size, check_new_name, check_size
from xseg import schedule, throttle
from xseg.errors import error as fail
from xseg.request import DIGEST_SIZE

CLONES_MAX = 100_000                # of one request
TEXT_MAX = 4096                     # bytes of a name that is looked for
NUMBER_LIMIT = 1 << 64
SHOWN_MAX = 40                      # characters of a wrong value that its sentence repeats
REQUIRED = object()

Arguments = dict[str, Any]          # a verb's, all of them, and "request": the request itself
Answer = dict[str, object]          # what msgpack packs


@dataclass(frozen=True)
class Argument:
    """How one is checked: `parse` returns the value, or raises ValueError with the rest of a sentence, or an error
    that says all. None stands for the default."""

    parse: Callable[[Any], Any]
    default: Any = REQUIRED


def number(low: int, limit: int) -> Callable[[Any], int]:
    """A whole number in [low, limit)."""
    def parse(value: Any) -> int:
        if type(value) is not int or not low <= value < limit:
            raise ValueError(f"must be a whole number from {low} to {limit - 1}")
        return value

    return parse


def flag(value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def text(value: Any) -> str:
    """A name to be looked for, whether or not a volume may have it; a pattern."""
    if not isinstance(value, str):
        raise ValueError("must be a text")
    if len(value.encode(errors="replace")) > TEXT_MAX:
        raise fail(errno.ENAMETOOLONG, f"{value[:SHOWN_MAX]}...: {TEXT_MAX} bytes are the most")
    return value


def new_names(value: Any) -> list[str]:
    """Names that volumes may have."""
    if not isinstance(value, list) or not 1 <= len(value) <= CLONES_MAX:
        raise ValueError(f"must be a list of 1 to {CLONES_MAX} names")
    return [check_new_name(name) for name in value]


def raw_digests(value: Any) -> bytes:
    """Digests of 32 bytes, one behind the other."""
    if not isinstance(value, bytes) or not value or len(value) % DIGEST_SIZE:
        raise ValueError(f"must be bytes, {DIGEST_SIZE} a digest")
    return value


def digest_list(value: Any) -> list[bytes]:
    """Digests of 32 bytes, in a list."""
    if not isinstance(value, list) or not all(isinstance(digest, bytes) and len(digest) == DIGEST_SIZE
                                              for digest in value):
        raise ValueError(f"must be a list of digests of {DIGEST_SIZE} bytes")
    return value


def block_size(value: Any) -> int:
    """Bytes that a block may have."""
    return 1 << check_block_size(value)


def rule(value: Any) -> str:
    """By which snapshots are taken, or "" for none."""
    if not schedule.good_text(value):
        raise ValueError("is no rule of a schedule")
    return str(value)


def limits(value: Any) -> str:
    """What a guest may have a second."""
    if not throttle.good_text(value):
        raise ValueError("are no limits")
    return str(value)


def mark(value: Any) -> str:
    """Of a snapshot that is taken by a rule."""
    if not schedule.good_mark(value):
        raise ValueError("is no mark of a schedule")
    return str(value)


NAME = Argument(text)
NEW_NAME = Argument(check_new_name)
TOKEN = Argument(number(0, NUMBER_LIMIT), 0)
CURSOR = Argument(number(0, NUMBER_LIMIT), 0)
FORCE = Argument(flag, False)
MARK = Argument(mark, "")

ARGUMENTS: dict[str, dict[str, Argument]] = {
    "create": {"name": NEW_NAME, "size": Argument(check_size), "token": TOKEN, "making": Argument(flag, False),
               "block_size": Argument(block_size, 1 << BLOCK_DEFAULT_SHIFT)},
    "adopt": {"name": NEW_NAME, "size": Argument(check_size), "token": TOKEN,
              "block_size": Argument(block_size, 1 << BLOCK_DEFAULT_SHIFT), "hashes": Argument(raw_digests, None),
              "lists": Argument(digest_list, None)},
    "clone": {"name": NAME, "names": Argument(new_names, None), "pattern": Argument(text, None),
              "count": Argument(number(1, CLONES_MAX + 1), None), "first": Argument(number(0, NUMBER_LIMIT), 1),
              "size": Argument(check_size, None), "token": TOKEN, "making": Argument(flag, False)},
    "snapshot": {"name": NAME, "snapshot": NEW_NAME, "token": TOKEN, "schedule": MARK},
    "schedule": {"name": NAME, "rule": Argument(rule)},
    "list": {"cursor": CURSOR},
    "info": {"name": NAME},
    "hash": {"name": NAME, "cursor": CURSOR},
    "hashes": {"name": NAME, "cursor": CURSOR},
    "rename": {"name": NEW_NAME, "to": NEW_NAME, "token": TOKEN},
    "resize": {"name": NAME, "size": Argument(check_size)},
    "remove": {"name": NAME, "force": FORCE, "token": TOKEN, "making": TOKEN, "schedule": MARK},
    "finish": {"name": NAME},
    "seal": {"name": NAME, "origin": Argument(number(1, NUMBER_LIMIT))},
    "cancel": {"token": TOKEN},
    "open": {"name": NAME},
    "close": {"name": NAME, "force": FORCE},
    "lock": {"name": NAME},
    "unlock": {"name": NAME, "force": FORCE},
    "close_all": {},
    "mapinfo": {"name": NAME, "cursor": CURSOR},
    "check": {"name": NAME, "cursor": CURSOR},
    "du": {"name": NAME, "cursor": CURSOR},
    "diff": {"name": NAME, "base": Argument(text, None), "cursor": CURSOR},
    "repair": {"name": NAME},
    "rollback": {"name": NAME, "snapshot": NAME, "keep": Argument(check_new_name, None), "discard": FORCE,
                 "token": TOKEN},
    "flatten": {"name": NAME, "cursor": CURSOR, "since": CURSOR},
    "limit": {"name": NAME, "limits": Argument(limits)},
    "protect": {"name": NAME},
    "unprotect": {"name": NAME},
}


def parse(verb: str, given: dict[Any, Any]) -> dict[str, Any]:
    """The arguments of a verb that there is, every one of the table. EINVAL, ENAMETOOLONG, EFBIG."""
    known = ARGUMENTS[verb]
    for key in given:
        if key not in known:
            raise fail(errno.EINVAL, f"{verb}: there is no argument {shown(key)}; there are: {', '.join(known)}")
    return {key: value_of(verb, key, argument, given.get(key)) for key, argument in known.items()}


def value_of(verb: str, key: str, argument: Argument, value: Any) -> Any:
    """One of them."""
    if value is None:
        if argument.default is REQUIRED:
            raise fail(errno.EINVAL, f"{verb}: the argument {key} is missing")
        return argument.default
    try:
        return argument.parse(value)
    except ValueError as wrong:
        raise fail(errno.EINVAL, f"{verb}: {key} = {shown(value)} {wrong}") from None


def shown(value: Any) -> str:
    """A value for people, cut where it is long."""
    words = repr(value)
    return words if len(words) <= SHOWN_MAX else words[:SHOWN_MAX] + "..."
