# SPDX-License-Identifier: Apache-2.0
"""vlmc: the volume composer. Turns requests on volumes into requests on objects.

It serves READ, WRITE, WRITE_ZEROES, DISCARD, FLUSH, BLOCK_STATUS and CACHE on open volumes,
and takes orders from the mapper: VOL_SNAPSHOT, VOL_FREEZE, VOL_THAW, VOL_CLOSE (native/map/map.h).
All of it is native: native/vlmc/parts.h tells how. Its leaf pages, and with them everything that is
not yet committed, lie in the segment and outlive it.

It sends to `blockerb` (data objects) and `mapper` (leaf pages to load, records to commit).
It has no options.
"""
from __future__ import annotations

from xseg.peer import Peer


class Vlmc(Peer):
    """The volume composer."""

    type = "vlmc"
    native = "vlmc"
    targets = ("blockerb", "mapper")
