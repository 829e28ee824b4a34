# SPDX-License-Identifier: Apache-2.0
"""Which locks a mapper has: noted in the segment, so that its successor finds them there."""
from xseg import limits
from xseg.segment import Segment


class Noted:
    """The locks that a mapper has, or is about to take, as its successor will find them noted in the segment."""

    def __init__(self, segment: Segment) -> None:
        places, count = segment.c.locks, segment.c.lock_count
        self.segment = segment
        self.places = places
        self.of = {places[place]: place for place in range(count) if places[place]}
        self.free = [place for place in reversed(range(count)) if not places[place]]

    def add(self, volume_id: int) -> None:
        """Before the lock is taken. ENOLCK: there is no place left."""
        if volume_id in self.of:
            return
        if not self.free:
            raise limits.no_lock_place(self.segment)
        self.of[volume_id] = place = self.free.pop()
        self.places[place] = volume_id

    def remove(self, volume_id: int) -> None:
        """After the lock was given back, or was not to be had."""
        if (place := self.of.pop(volume_id, None)) is not None:
            self.places[place] = 0
            self.free.append(place)
