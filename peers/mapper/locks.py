# SPDX-License-Identifier: Apache-2.0
"""Which locks a mapper has: noted in the segment, so that its successor finds them there."""
import errno
from typing import Any

from xseg._native import lib
from xseg.errors import error as fail


class Noted:
    """The locks that a mapper has, or is about to take, as its successor will find them noted in the segment."""

    def __init__(self, places: Any) -> None:
        self.places = places
        self.of = {places[place]: place for place in range(lib.XSEG_LOCKS) if places[place]}
        self.free = [place for place in reversed(range(lib.XSEG_LOCKS)) if not places[place]]

    def add(self, volume_id: int) -> None:
        """Before the lock is taken. ENOLCK: there is no place left."""
        if volume_id in self.of:
            return
        if not self.free:
            raise fail(errno.ENOLCK, f"{lib.XSEG_LOCKS} volumes are locked by this instance already")
        self.of[volume_id] = place = self.free.pop()
        self.places[place] = volume_id

    def remove(self, volume_id: int) -> None:
        """After the lock was given back, or was not to be had."""
        if (place := self.of.pop(volume_id, None)) is not None:
            self.places[place] = 0
            self.free.append(place)
