# SPDX-License-Identifier: Apache-2.0
"""vlmc: the volume composer. Turns requests on volumes into requests on objects.

It serves READ, WRITE, WRITE_ZEROES, DISCARD, FLUSH, BLOCK_STATUS and CACHE on open volumes,
and takes orders from the mapper: VOL_SNAPSHOT, VOL_FREEZE, VOL_THAW, VOL_CLOSE (native/map/map.h).
All of it is native: native/vlmc/parts.h tells how. Its leaf pages, and with them everything that is
not yet committed, lie in the segment and outlive it.

It sends to `blockerb` (data objects), `mapper` (leaf pages to load, records to commit) and `blockerm` (records to
append where the mapper lets it).

A block's bytes may lie in many objects, one for each snapshot since which it was written to. The option `layers` says
in how many at most, before some of them are merged: with more, less is copied, and maps are larger.
"""
from __future__ import annotations

from xseg._native import lib
from xseg.peer import Option, Peer


class Vlmc(Peer):
    """The volume composer."""

    type = "vlmc"
    native = "vlmc"
    targets = ("blockerb", "mapper", "blockerm")
    options = {
        "layers": Option(lib.XMAP_LAYERS, "int", "objects a block may lie in before some are merged",
                         minimum=4, maximum=lib.XMAP_LAYERS),
    }
