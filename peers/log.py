# SPDX-License-Identifier: Apache-2.0
"""log: a filter that counts requests by size, and tells the log.

It stands between two peers. To see what comes to `blockerb` of a running pipeline, and to take it out again:

    archipelago route --insert sizes --before blockerb --type log --option every_s=10
    xseg sizes
    archipelago route --remove sizes

or, in archipelago.toml, a role and its `target`, and the edge that leads to it:

    [peers.sizes]
    type = "log"
    target = "blockerb"
    ops = "read,write"

    [routes]
    "vlmc>blockerb" = "sizes"

Requests that are of one of `ops`, and about an object of `kind`, are counted for each operation in classes: of no
bytes, of 512 bytes at most, of 1 KiB, 2 KiB ... 32 MiB, of more. While some come the log has a line for each
operation every `every_s` seconds, with all since the start, and when the peer ends:

    sizes INFO write: 120 of 4K, 3 of 64K

`xseg sizes` shows the same at any time. Everything is passed on, and its answer back.
"""
from __future__ import annotations

from xseg.peer import Option

from .filter import Filter


class Log(Filter):
    """Counts chosen requests by size."""

    type = "log"
    native = "log"
    options = {
        **Filter.options,
        "every_s": Option(60, "int", "seconds between its lines in the log; 0: only one at the end",
                          minimum=0, maximum=86400),
    }
