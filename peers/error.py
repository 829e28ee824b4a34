# SPDX-License-Identifier: Apache-2.0
"""error: a filter that fails chosen requests, to see what the others make of it.

It stands between two peers: give it a role and a `target`, and turn the edge to it:

    [peers.faulty]
    type = "error"
    target = "blockerb"
    ops = "write"
    errno = "ENOSPC"
    after = 100

    [routes]
    "vlmc>blockerb" = "faulty"

Of the requests that are of one of `ops`, and about an object of `kind`, the first `after` go
through; of those that follow each `every`th is answered with `errno`, `count` of them in all.
Everything else is passed to the target, and its answer back. A request that is failed never
reaches the target.
"""
from __future__ import annotations

from xseg.peer import Option

from .filter import Filter


class Error(Filter):
    """Fails chosen requests."""

    type = "error"
    native = "error"
    options = {
        **Filter.options,
        "errno": Option("EIO", "str", "the error's name"),
        "after": Option(0, "int", "how many go through before the first is failed", minimum=0),
        "every": Option(1, "int", "fail each so-manieth", minimum=1),
        "count": Option(0, "int", "how many are failed in all; 0: no limit", minimum=0),
    }
