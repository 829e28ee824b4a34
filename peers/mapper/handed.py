# SPDX-License-Identifier: Apache-2.0
"""A volume's journal while vlmc may append to it: see "Appending" in native/map/map.h.

What was handed out and appended is on the store and not here until it is learned: learn() reads it. Whoever looks at
the map learns first; whoever changes the journal takes it back first, which learns, too.
"""
import asyncio
import errno
from typing import Any

from peers.mapper.journal import JOURNAL_CAPACITY, Stretch
from peers.mapper.store import MapStore
from xseg._native import ffi, lib
from xseg.errors import error as fail

AT_ONCE = 256 << 10                 # bytes of a journal that are handed out: what is learned at one time
LOOK_S = 0.001                      # between two looks whether a record is still on its way


class Handed:
    """Of one open volume. Hands out and takes back under the volume's `appending`."""

    def __init__(self, store: MapStore) -> None:
        self.store = store
        self.shared: Any = None             # the volume's struct xvolume while a journal is handed out ...
        self.stretch: Stretch | None = None     # ... and which
        self.learning = asyncio.Lock()

    def out(self, shared: Any, stretch: Stretch, port: int, lives: int, room: int) -> None:
        """Lets vlmc append `room` bytes at most behind the stretch's end, by way of the blocker's port, as long as no
        peer begins a new life. Records up to the stretch's last are durable, and known here."""
        assert self.stretch is None
        room = min(room, AT_ONCE, JOURNAL_CAPACITY - stretch.end)
        if room < lib.RECORD_ALIGN:
            return
        shared.append_port, shared.append_epoch, shared.append_number = port, stretch.epoch, stretch.number
        shared.append_end, shared.append_lives = stretch.end + room, lives
        shared.journal_offset = stretch.end
        self.shared, self.stretch = shared, stretch
        lib.export_append(shared, lib.XAPPEND_HANDED)

    async def back(self, shared: Any) -> bool:
        """vlmc appends nothing when this returns, and what it has is learned. True: a record was sent of which nobody
        knows what became; it may lie behind the end."""
        while (turn := lib.export_append_take_back(shared)) == lib.XAPPEND_WRITING:
            await asyncio.sleep(LOOK_S)
        await self.learn()
        self.shared = self.stretch = None
        return bool(turn == lib.XAPPEND_DOUBT)

    async def learn(self) -> None:
        """The stretch has all durable records when this returns. EBADMSG: they are not on the store."""
        async with self.learning:
            if self.stretch is None:
                return
            offset = ffi.new("uint64_t *")
            seq = lib.export_append_seen(self.shared, offset)
            if seq == self.stretch.last_seq:
                return
            end = min(offset[0], JOURNAL_CAPACITY)
            data = await self.store.read(self.stretch.name, max(0, end - self.stretch.end), self.stretch.end)
            if not self.stretch.take_in(data, seq):
                raise fail(errno.EBADMSG, f"journal {self.stretch.number} of volume {self.stretch.volume:016x}: record "
                                          f"{seq} was acknowledged, and there are intact ones up to "
                                          f"{self.stretch.last_seq} only")
