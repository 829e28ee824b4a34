# SPDX-License-Identifier: Apache-2.0
"""delay: a filter that holds requests back for a time, to see what waits for what.

It stands between two peers: give it a role and a `target`, and turn the edge to it:

    [peers.slow]
    type = "delay"
    target = "blockerb"
    ops = "sync"
    ms = 20

    [routes]
    "vlmc>blockerb" = "slow"

Requests that are of one of `ops`, and about an object of `kind`, are held for `ms` milliseconds
and `us` microseconds and then passed to the target; answers are passed back at once. With
`order` what comes after a request that is held waits behind it; without, others overtake.
"""
from __future__ import annotations

from xseg.peer import Option

from .filter import Filter


class Delay(Filter):
    """Holds chosen requests back for a time."""

    type = "delay"
    native = "delay"
    options = {
        **Filter.options,
        "ms": Option(0, "int", "milliseconds they are held", minimum=0, maximum=3600000),
        "us": Option(0, "int", "microseconds they are held, in addition", minimum=0, maximum=3600000000),
        "order": Option(True, "bool", "requests never overtake one that is held"),
    }
