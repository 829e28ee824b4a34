# SPDX-License-Identifier: Apache-2.0
"""What is said when something of the segment has run out: which limit it is, who holds what there is of it, and what
to do. Whoever meets the limit is told so, and not only a log."""
from __future__ import annotations

import errno
from collections import Counter
from typing import TYPE_CHECKING

from xseg._native import lib
from xseg.errors import NoSlots, XsegError, check, error

if TYPE_CHECKING:
    from xseg.segment import Segment

HOLDERS_TOLD = 4                # those who hold most of it


def name_of(pid: int) -> str:
    """A process for a person: its number, and its command where there is one."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return f"process {pid} ({file.read().strip()})"
    except OSError:
        return f"process {pid}"


def holders(counts: Counter[str]) -> str:
    """Who holds how many, those with most first."""
    told = [f"{count} by {name}" for name, count in counts.most_common(HOLDERS_TOLD)]
    if (others := len(counts) - len(told)) > 0:
        told.append(f"{sum(counts.values()) - sum(n for _, n in counts.most_common(HOLDERS_TOLD))} by {others} others")
    return ", ".join(told)


def remedy(parameter: str, most: int) -> str:
    """How a limit that the configuration sets is raised."""
    return f"or raise `{parameter}` (to {most} at most) under [segment] in archipelago.toml and start the instance anew"


def client_holders(segment: Segment) -> Counter[str]:
    """How many client ports each process has."""
    c = segment.c
    pids = Counter(c.ports[number].pid for number in range(lib.XSEG_STATIC_PORTS, c.port_count) if c.ports[number].tag)
    return Counter({name_of(pid): count for pid, count in pids.items()})


def no_client_port(segment: Segment) -> NoSlots:
    """All ports for clients, or all doorbells, are taken."""
    counts = client_holders(segment)
    return NoSlots(f"all {segment.c.port_count - lib.XSEG_STATIC_PORTS} ports for clients of this instance are taken: "
                   f"{holders(counts)}; end some of these, "
                   + remedy("clients", lib.XSEG_PORTS - lib.XSEG_STATIC_PORTS))


def check_client(rc: int, what: str, segment: Segment) -> None:
    """check() for what a client takes when it joins: NoSlots says who has all there is."""
    if rc == -errno.EAGAIN:
        raise no_client_port(segment)
    check(rc, what)


def volume_holders(segment: Segment, opens: Counter[int], by_hand: int) -> Counter[str]:
    """How many volumes each role, or each client's process, has open, and how many are kept open by hand. `opens`: how
    many by port."""
    counts = Counter({"hand (`vlmc open`, `vlmc lock`)": by_hand} if by_hand else {})
    for port, count in opens.items():
        static = port < lib.XSEG_STATIC_PORTS
        counts[segment.role_of(port) if static else name_of(segment.c.ports[port].pid)] += count
    return counts


def no_volume_place(segment: Segment, held: Counter[str]) -> XsegError:
    """The table of open volumes is full. ENFILE."""
    return error(errno.ENFILE, f"{segment.c.volume_count} volumes are open, which is all that may be: "
                 f"{holders(held)}; close some, " + remedy("volumes", lib.XSEG_VOLUMES))


def no_lock_place(segment: Segment) -> XsegError:
    """The table of locks is full: of volumes that are open, and of verbs under way. ENOLCK."""
    return error(errno.ENOLCK, f"{segment.c.lock_count} volumes are locked by this instance, which is all that may be; "
                 "close some, " + remedy("volumes", lib.XSEG_VOLUMES))
