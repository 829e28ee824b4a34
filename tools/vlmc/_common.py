# SPDX-License-Identifier: Apache-2.0
"""What the verbs of `vlmc` share: asking the mapper, sizes, tokens, URIs, --json."""
from __future__ import annotations

import argparse
import functools
import os
import time
from collections.abc import Iterator
from typing import Any

from xseg import ours
from xseg.client import Client
from xseg.errors import Invalid

UNRESERVED = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
LONG_S = 3600.0                 # for what may be long: thousands of clones, removal of a large volume


def add_json(parser: argparse.ArgumentParser) -> None:
    """The option --json."""
    parser.add_argument("--json", action="store_true", help="for programs")


def add_size(parser: argparse.ArgumentParser, name: str, **more: Any) -> None:
    """An option or argument that is a size in bytes, with K, M, G, T or P for powers of 1024, KB, MB... of 1000."""
    parser.add_argument(name, type=size, metavar="SIZE", **more)


def size(word: str) -> int:
    """Bytes; what is no size is wrong usage."""
    from xseg.peer import parse_size
    try:
        return parse_size(word)
    except OSError as failure:
        raise argparse.ArgumentTypeError(str(failure)) from None


def control(args: argparse.Namespace, verb: str, **arguments: Any) -> dict[str, Any]:
    """An operation of the mapper of the instance meant."""
    with Client(args.home, "vlmc") as client:
        return client.control(verb, timeout=LONG_S, **arguments)


def portions(args: argparse.Namespace, verb: str, **arguments: Any) -> Iterator[dict[str, Any]]:
    """The answers of an operation that gives its result in portions, each with a cursor."""
    cursor = 0
    with Client(args.home, "vlmc") as client:
        while True:
            answer = client.control(verb, timeout=LONG_S, cursor=cursor, **arguments)
            cursor = answer.pop("cursor")
            yield answer
            if cursor == 0:
                return


def token() -> int:
    """By which the mapper recognises a request it gets a second time."""
    return int.from_bytes(os.urandom(8), "little") >> 1 | 1


def nbd_uri(home: str, name: str) -> str:
    """Where NBD clients find a volume or snapshot, open or not."""
    return f"nbd+unix:///{quoted(name)}?socket={quoted(nbd_socket(home), '/')}"


def served_uri(home: str, name: str) -> str:
    """The same for a program that is given data to send there. NotOurs: a stranger listens at the socket."""
    ours.check_socket(nbd_socket(home))
    return nbd_uri(home, name)


def nbd_socket(home: str) -> str:
    """The path of the NBD socket, as the running instance's archipelago.toml has it. Invalid. (The module
    tools.instance.config is slow to import.)"""
    path = os.path.join(home, "run", "archipelago.toml")
    said = _said_socket(path) if os.path.exists(path) else ""
    return os.path.normpath(os.path.join(home, os.path.expanduser(said or "run/nbd.sock")))


def _said_socket(path: str) -> str:
    import tomllib
    try:
        table: Any = tomllib.loads(ours.read_linked(path).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as failure:
        raise Invalid(f"{path}: {failure}") from None
    for key in ("peers", "nbd", "socket"):
        table = table.get(key, {}) if isinstance(table, dict) else {}
    return table if isinstance(table, str) else ""


def quoted(text: str, more: str = "") -> str:
    """Text as a URI wants it; characters of `more` stay, too. (urllib.parse takes 10 ms to import.)"""
    stay = UNRESERVED + more.encode()
    return "".join(chr(byte) if byte in stay else f"%{byte:02X}" for byte in os.fsencode(text))


def when(milliseconds: int) -> str:
    """A moment in local time."""
    return minute(milliseconds // 60_000)


@functools.lru_cache(maxsize=4096)
def minute(number: int) -> str:
    """A minute since 1970 in local time. (Of many volumes that were made together it is one.)"""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(number * 60))
