# SPDX-License-Identifier: Apache-2.0
"""The place of an open volume in the segment: struct xvolume of native/segment/layout.h."""
import time
from typing import Any

from peers.mapper.handed import Handed
from peers.mapper.volume import Volume
from xseg import throttle
from xseg._native import ffi, lib


def publish(volume: Volume, shared: Any, handle: int) -> None:
    """Fills in a free struct xvolume; open to all when this returns. OverflowError: nothing has happened."""
    new = filled(volume, shared.generation + 1 & 0xffffffff)
    lib.export_volume_state(shared, lib.XVOL_OPENING)
    ffi.memmove(ffi.cast("char *", shared) + 4, ffi.cast("char *", new) + 4, ffi.sizeof("struct xvolume") - 4)
    volume.shared, volume.handle = shared, handle
    throttle.share(volume.header.limits, shared)
    lib.export_volume_state(shared, lib.XVOL_OPEN)


def filled(volume: Volume, generation: int) -> Any:
    """What its struct xvolume is to say, behind the state."""
    header = volume.header
    return ffi.new("struct xvolume *", {
        "generation": generation, "id": header.id, "size": header.size, "block_shift": header.block_shift,
        "readonly": int(header.readonly), "opened_ns": time.time_ns(), "lock_number": volume.lock_number,
        "parent": header.parent, "name": header.name.encode(), "epoch": volume.epoch,
        "writable_since": max(volume.writable_since, header.in_place_since), "epoch_durable": volume.epoch,
        "commit_seq": volume.seq, "journal_offset": volume.current.end if volume.current else 0})


def unpublish(volume: Volume) -> None:
    """Gives the place back."""
    lib.export_volume_state(volume.shared, lib.XVOL_FREE)
    volume.shared, volume.handle, volume.handed = None, 0, Handed(volume.store)
    volume.holders.clear()


def share_opens(volume: Volume, port: int) -> None:
    """Writes how many times a port has it open to where everyone can see it: its latest incarnation, as an earlier one
    is dead, and what it had open is closed sooner or later."""
    life = max((life for p, life in volume.holders if p == port), default=0)
    if volume.shared.opened_by[port] != life:
        volume.shared.opens[port] = 0
        volume.shared.opened_by[port] = life
    volume.shared.opens[port] = min(65535, volume.holders.get((port, life), 0))
