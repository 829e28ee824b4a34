# SPDX-License-Identifier: Apache-2.0
"""memory: stores objects in memory, and forgets them when its process ends.

It serves all that native/objects/blocker.h asks of a blocker, so a pipeline runs on it without a disk:
for tests, for volumes that need not outlive a restart, and to measure what the rest of the
pipeline costs. Space is taken in pieces of 64 KiB when they are first written, and given back
when they are discarded. An object may have 4 GiB. With `size` all of them together have a
bound, beyond which writes are answered with ENOSPC.

All of it is native. Locks are kept, but as everything is gone with the process, so are they.
"""
from __future__ import annotations

from xseg.peer import Option, Peer


class Memory(Peer):
    """Objects in memory."""

    type = "memory"
    native = "memory"
    options = {
        "size": Option(0, "size", "bytes it may hold, in pieces of 64 KiB; 0: no bound", minimum=0),
    }
