# SPDX-License-Identifier: Apache-2.0
"""A client over libnbd that connects again whenever its connection ends, and knows what the volume must hold.

It keeps DEPTH commands in flight, never two on the same place. One whose answer did not come is sent again on the
next connection, as qemu does. What it reads is compared with what was acknowledged.
"""
from __future__ import annotations

import random
import time
from typing import Any

from support import libnbd

PLACE = 4096
DEPTH = 32
CONNECT_S = 60.0
STALL_S = 60.0
KINDS = ("write", "write", "write", "read", "read", "zero", "flush")


class Reconnecting:
    def __init__(self, socket: str, export: str, size: int, seed: int) -> None:
        self.nbd = libnbd()
        self.socket, self.export = socket, export
        self.places = size // PLACE
        self.dice = random.Random(seed)
        self.image: dict[int, bytes] = {}
        self.away: dict[int, tuple[str, int, Any]] = {}     # cookie -> (kind, place, its buffer)
        self.again: list[tuple[str, int, Any]] = []
        self.connections = self.refused = self.done = 0
        self.handle: Any = None

    def connect(self) -> None:
        """Once the listening socket is there nobody is refused: that is counted. The handshake may be cut off."""
        end = time.monotonic() + CONNECT_S
        while True:
            self.handle = self.nbd.NBD()
            self.handle.set_export_name(self.export)
            try:
                self.handle.connect_unix(self.socket)
                self.connections += 1
                return
            except self.nbd.Error as failure:
                self.refused += failure.errno in ("ECONNREFUSED", "ENOENT") and "connect" in failure.string
                assert time.monotonic() < end, f"no connection within {CONNECT_S:g} s: {failure}"
                time.sleep(0.01)

    def send(self, kind: str, place: int, data: Any) -> None:
        offset = place * PLACE
        if kind == "read":
            data = self.nbd.Buffer(PLACE)
            cookie = self.handle.aio_pread(data, offset)
        elif kind == "write":
            cookie = self.handle.aio_pwrite(self.nbd.Buffer.from_bytearray(bytearray(data)), offset)
        elif kind == "zero":
            cookie = self.handle.aio_zero(PLACE, offset)
        else:
            cookie = self.handle.aio_flush()
        self.away[cookie] = (kind, place, data)

    def begin(self) -> None:
        """Something new, at a place where nothing is in flight."""
        kind, place = self.dice.choice(KINDS), self.dice.randrange(self.places)
        if any(place == other for _, other, _ in self.away.values()) and kind != "flush":
            return
        self.send(kind, place if kind != "flush" else -1, self.dice.randbytes(PLACE) if kind == "write" else None)

    def finish(self, kind: str, place: int, data: Any) -> None:
        self.done += 1
        if kind == "write":
            self.image[place] = data
        elif kind == "zero":
            self.image[place] = bytes(PLACE)
        elif kind == "read":
            assert bytes(data.to_bytearray()) == self.image.get(place, bytes(PLACE)), f"the block at {place * PLACE}"

    def step(self, more: bool) -> None:
        """Sends what there is room for, takes in what came. Raises nbd.Error when the connection ended."""
        while self.again and len(self.away) < DEPTH:
            self.send(*self.again[-1])
            self.again.pop()
        if more and len(self.away) < DEPTH and not self.again:
            for _ in range(DEPTH - len(self.away)):
                self.begin()
        self.handle.poll(100)
        for cookie in list(self.away):
            if self.handle.aio_command_completed(cookie):
                self.finish(*self.away.pop(cookie))

    def gone(self) -> bool:
        return self.handle.aio_is_dead() or self.handle.aio_is_closed()

    def run(self, seconds: float) -> None:
        """Works for so long, then finishes what is in flight. An error answered is an AssertionError."""
        end, progress, seen = time.monotonic() + seconds, time.monotonic(), -1
        while time.monotonic() < end or self.away or self.again:
            if self.handle is None:
                self.connect()
            try:
                self.step(time.monotonic() < end)
            except self.nbd.Error as failure:
                assert self.gone(), f"an error from the server: {failure}"
            if self.gone():
                self.again += self.away.values()
                self.away.clear()
                self.handle = None
            if self.done != seen:
                seen, progress = self.done, time.monotonic()
            assert time.monotonic() - progress < STALL_S, f"nothing was answered for {STALL_S:g} s"

    def check_all(self) -> None:
        """Reads everything that was ever written, on a new connection."""
        self.connect()
        for place, data in self.image.items():
            assert bytes(self.handle.pread(PLACE, place * PLACE)) == data, f"the block at {place * PLACE}"
