# SPDX-License-Identifier: Apache-2.0
"""blocker-file: stores objects as files in a folder.

Both blockers of the default pipeline are of this type: `blockerb` keeps the data of volumes,
`blockerm` their maps. What a blocker answers to is told in native/objects/blocker.h, how the files lie
and what is made durable when in native/blocker_file/parts.h. All of it is native.

The folder, `path`, must exist. An empty one becomes a store by its first use: a small file `store` in it
says so, and a folder with other things in it, or of another version, is refused. Several
processes may serve one store: locks, REPLACE and DELETE are safe between them.

Objects are named by what they are, so `ls` shows whose they are:

    data/3f/000000000000002a_00000001_0000000000000007     volume 42, epoch 1, block 7
    header/c0/000000000000002a                             header of volume 42
    lock/9b/000000000000002a                               who has it, and its number

The files are sparse and may be copied with any tool that knows holes while nothing serves them.

With `direct`, requests whose offset, size and place in memory are multiples of 4 KiB bypass the
page cache; the others go through it. Without it the page cache is used by all. `sync = false`
gives up durability: SYNC and FUA are answered at once. It is for scratch stores only.

What would block the loop is done by `workers` threads. `fds` objects are kept open, those used
last; others are opened when they are needed.

A full disk is ENOSPC for the request that hit it; all others are served. When the disk fails to take
what was written, every later flush of the volumes concerned fails until they are closed and opened anew,
as the system tells of it once and then forgets the data. An error that came while no process served the
store is heard of, too, by a descriptor of the folder that the supervisor keeps open.
"""
from __future__ import annotations

from xseg.peer import Option, Peer


class BlockerFile(Peer):
    """Objects in files."""

    type = "blocker-file"
    native = "blocker-file"
    told = "path"
    keeps = ("path",)
    options = {
        "path": Option(None, "path", "the folder of the store"),
        "direct": Option(False, "bool", "bypass the page cache where requests are aligned to 4 KiB"),
        "sync": Option(True, "bool", "false: promise no durability at all"),
        "workers": Option(4, "int", "threads for what would block", minimum=1, maximum=64),
        "fds": Option(None, "int", "objects kept open; if not set, half of what may be, 4096 at most",
                      minimum=16, maximum=1 << 20),
    }
