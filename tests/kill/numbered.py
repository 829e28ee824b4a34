# SPDX-License-Identifier: Apache-2.0
"""A client over libnbd that numbers its writes, and knows what each place of a volume may hold.

Every sector of a write says which place and which write it is. A write that was answered is the only thing its place
may hold. One whose connection ended first is in doubt: it may be there or not, but whatever the next read has shown
stays, and nothing in doubt comes back over a later write that was answered. settle() asks for just that, at once
after a death: it reads half of the places in doubt, and writes over the others.
"""
from __future__ import annotations

import random
import struct
import time
from typing import Any

from support import libnbd

PLACE, SECTOR = 4096, 512
CONNECT_S, ANSWER_S = 60.0, 60.0
NOTHING = 0


def data_of(place: int, number: int) -> bytes:
    return struct.pack("<QQ", place, number).ljust(SECTOR, b"\xa5") * (PLACE // SECTOR)


def number_in(data: bytes, place: int) -> int:
    """Which write of the place this is. An AssertionError: of another place, or of two."""
    if not any(data):
        return NOTHING
    found = {struct.unpack("<QQ", data[at:at + 16]) for at in range(0, PLACE, SECTOR)}
    assert len(found) == 1 and next(iter(found))[0] == place, f"place {place} holds parts of {found}"
    return next(iter(found))[1]


class Numbered:
    """The places of one volume. `log` tells what was done at each, for who reads a failure."""

    def __init__(self, socket: str, export: str, places: int, seed: int) -> None:
        self.nbd = libnbd()
        self.socket, self.export = socket, export
        self.dice = random.Random(seed)
        self.may_hold: list[set[int]] = [{NOTHING} for _ in range(places)]
        self.log: list[list[str]] = [[] for _ in range(places)]
        self.number = NOTHING
        self.in_doubt_seen = 0
        self.away: dict[int, tuple[int, int, Any]] = {}     # cookie -> (place, number or -1 for a read, buffer)
        self.handle: Any = None

    # --- connections

    def connect(self) -> Any:
        """A new connection, as soon as there is one to be had."""
        end = time.monotonic() + CONNECT_S
        while True:
            handle = self.nbd.NBD()
            handle.set_export_name(self.export)
            try:
                handle.connect_unix(self.socket)
                return handle
            except self.nbd.Error as failure:
                assert time.monotonic() < end, f"no connection within {CONNECT_S:g} s: {failure}"
                time.sleep(0.002)

    def wait_for_end(self) -> None:
        """Until the connection has ended by itself."""
        while not self.handle.aio_is_dead() and not self.handle.aio_is_closed():
            try:
                self.handle.poll(1000)
            except self.nbd.Error:
                break

    def drop(self, other: Any = None) -> None:
        """The connection has ended, or ends now: what is under way is in doubt. Goes on by `other`, if there is one."""
        self.handle = other                             # the last reference: its socket is closed
        self.in_doubt_seen += sum(number >= 0 for _, number, _ in self.away.values())
        for place, number, _ in self.away.values():
            self.log[place].append(f"{number} in doubt" if number >= 0 else "read cut short")
        self.away.clear()

    # --- commands

    def write(self, place: int) -> None:
        self.number += 1
        self.may_hold[place].add(self.number)
        data = self.nbd.Buffer.from_bytearray(bytearray(data_of(place, self.number)))
        self.away[self.handle.aio_pwrite(data, place * PLACE)] = place, self.number, data

    def read(self, place: int) -> None:
        data = self.nbd.Buffer(PLACE)
        self.away[self.handle.aio_pread(data, place * PLACE)] = place, -1, data

    def shown(self, place: int, data: bytes) -> None:
        """A read has shown this, and so it stays."""
        number = number_in(data, place)
        self.log[place].append(f"shown {number}")
        assert number in self.may_hold[place], \
            f"place {place} holds {number} instead of one of {self.may_hold[place]}: {self.log[place][-12:]}"
        self.may_hold[place] = {number}

    def take(self) -> None:
        """Takes in what was answered. Raises nbd.Error when the connection has ended."""
        self.handle.poll(1)
        for cookie in list(self.away):
            if self.handle.aio_command_completed(cookie):
                place, number, data = self.away.pop(cookie)
                if number < 0:
                    self.shown(place, bytes(data.to_bytearray()))
                else:
                    self.log[place].append(f"{number} answered")
                    self.may_hold[place] = {number}

    def finish(self) -> None:
        end = time.monotonic() + ANSWER_S
        while self.away:
            self.take()
            assert time.monotonic() < end, f"no answer within {ANSWER_S:g} s: {self.away}"

    # --- rounds

    def begin(self, depth: int, seconds: float) -> None:
        """Writes under way at so many places; what is answered within `seconds` is taken in."""
        self.handle = self.handle or self.connect()
        for place in self.dice.sample(range(len(self.may_hold)), depth):
            self.write(place)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.take()

    def settle(self) -> None:
        """At once after drop(): each place in doubt is read or written over."""
        self.handle = self.handle or self.connect()
        for place, held in enumerate(self.may_hold):
            if len(held) > 1:
                self.dice.choice((self.read, self.write))(place)
        self.finish()

    def look(self) -> None:
        """Reads every place."""
        for place in range(len(self.may_hold)):
            self.read(place)
        self.finish()
