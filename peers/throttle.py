# SPDX-License-Identifier: Apache-2.0
"""throttle: a filter that lets each volume have so many requests and bytes a second, and no more.

It stands before vlmc. To put it into a running pipeline, and to say what a volume may have:

    archipelago route --insert throttle --before vlmc --type throttle
    vlmc limit disk iops=500 write_bps=20M burst_ms=2000

or, in archipelago.toml, a role and its `target`, and the edge that leads to it:

    [peers.throttle]
    type = "throttle"
    target = "vlmc"
    iops_per_gib = 3

    [routes]
    "nbd>vlmc" = "throttle"

Limits are kept with the volume (`vlmc limit`), and a change counts at once. A volume that has no limit of its own for
all its requests or all its bytes has `iops_per_gib` and `bps_per_gib` times its size, if these options are not 0. What
was not used in burst_ms milliseconds (1000, if `vlmc limit` says nothing else) may come at once. Reads, writes,
discards and zeroing count, if they are of one of `ops`; `kind` must be "any", as requests on volumes are about no
object. Merging and flattening are not counted. `vlmc info` tells how many requests had to wait, and for how long,
beside what the store takes.
"""
from __future__ import annotations

from xseg.peer import Option

from .filter import Filter


class Throttle(Filter):
    """Holds a volume's requests back until it may have them."""

    type = "throttle"
    native = "throttle"
    options = {
        **Filter.options,
        "target": Option("vlmc", "role", "the role that gets what is passed on"),
        "iops_per_gib": Option(0, "int", "requests a second for each GiB of a volume without limits; 0: no such limit",
                               minimum=0, maximum=1_000_000),
        "bps_per_gib": Option(0, "size", "bytes a second for each GiB of a volume without limits; 0: no such limit",
                              minimum=0, maximum=1 << 40),
    }
