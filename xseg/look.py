# SPDX-License-Identifier: Apache-2.0
"""Reading ports and requests out of a segment. Everything here only looks: it joins no port."""
from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from xseg._native import ffi, lib
from xseg.segment import KINDS, OPS, STATES, Segment, text

COUNTERS = ("received", "served", "errors", "sent", "bytes_read", "bytes_written", "rings", "wakes", "no_request",
            "no_buffer", "recovered", "dropped", "bad", "refused")
LATENCY_KINDS = ("read", "write", "other")
NEARLY_ALL = 0.9                # a share of what a port may have, from which on it is worth a word


def ports(segment: Segment) -> Iterator[tuple[int, Any]]:
    """Numbers and structures of the ports that have a role or a client."""
    for number in range(segment.c.port_count):
        port = segment.c.ports[number]
        if port.role[0] != b"\0":
            yield number, port


def roles_of_type(segment: Segment, peer_type: str) -> list[str]:
    """The roles that peers of a type serve now."""
    return [text(port.role) for number, port in ports(segment)
            if number < lib.XSEG_STATIC_PORTS and text(port.type) == peer_type and segment.alive(number)]


def counters(port: Any) -> dict[str, int]:
    return {name: getattr(port, name) for name in COUNTERS}


def latency(port: Any) -> dict[str, list[int]]:
    """For reads, writes and others: how many of the requests sent came back in [2^i, 2^(i+1)) us."""
    return {kind: list(port.latency_us[i]) for i, kind in enumerate(LATENCY_KINDS)}


def percentile(buckets: list[int], share: float) -> int:
    """Microseconds within which this share (0..1) of requests came back; 0: there were none.

    It is the upper bound of a bucket, so up to twice the true figure.
    """
    total = sum(buckets)
    if total == 0:
        return 0
    seen = 0
    for i, count in enumerate(buckets):
        seen += count
        if seen >= share * total:
            return 2 << i
    return 2 << len(buckets)


def in_flight(segment: Segment) -> list[int]:
    """For each port, the requests that wait for it or that it serves."""
    held = ffi.new("uint32_t[]", lib.XSEG_PORTS)
    lib.export_in_flight(segment.c, held)
    return list(held)


def is_frozen(pid: int) -> bool:
    """True if a signal or a debugger has stopped the process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] in "Tt"
    except (FileNotFoundError, ProcessLookupError):
        return False


def culprits(segment: Segment) -> list[str]:
    """Who others may suffer from: a sentence for each client that is frozen, dead with requests under way, or
    has taken NEARLY_ALL of the requests or buffers it may, and for each peer that is frozen, has so many, or has
    refused connections."""
    return [f"{port_name(segment, number)} (pid {port.pid}) {why}"
            for number, port in ports(segment) if (why := _complaint(segment, number, port))]


def _complaint(segment: Segment, number: int, port: Any) -> str:
    slots = segment.slots_of(number)
    taken = sum(segment.c.slots[slot].state != lib.XREQ_FREE for slot in slots)
    said = []
    if port.tag and not segment.alive(number):
        if taken:
            said.append(f"is dead, with {taken} requests under way")
    elif is_frozen(port.pid):
        said.append(f"is frozen by a signal and holds {in_flight(segment)[number]} requests of others")
    if taken >= NEARLY_ALL * len(slots):
        said.append(f"has taken {taken} of the {len(slots)} requests it may")
    for i in range(lib.XSEG_CLASSES):
        if port.buffers_max[i] and port.buffers_held[i] >= NEARLY_ALL * port.buffers_max[i]:
            said.append(f"has {port.buffers_held[i]} of the {port.buffers_max[i]} buffers of "
                        f"{lib.xbuffer_size(i) >> 10} KiB it may")
    if port.refused:
        said.append(f"has refused {port.refused} connections: its log says whose and why")
    return " and ".join(said)


def port_name(segment: Segment, number: int) -> str:
    """A port's role with its number; the number alone where it has none."""
    role = text(segment.c.ports[number].role) if number < segment.c.port_count else ""
    return f"{role}:{number}" if role else str(number)


def object_name(c: Any) -> str:
    """An object in a few words: data 12ab.3/7 is block 7 of volume 0x12ab, epoch 3."""
    kind = KINDS.get(c.kind, str(c.kind))
    if c.kind in (lib.XOBJ_CONTENT, lib.XOBJ_NAME):
        return f"{kind} {bytes(c.digest).hex()[:16]}"
    return f"{kind} {c.volume:x}.{c.epoch}/{c.index}"


def target(segment: Segment, c: Any) -> str:
    """What a request is about: a volume's name, or an object."""
    if c.volume == 0:
        return object_name(c.object) if c.object.kind else "-"
    if c.volume > segment.c.volume_count:
        return f"volume slot {c.volume}?"
    return text(segment.c.volumes[c.volume - 1].name) or f"volume slot {c.volume}"


def request(segment: Segment, c: Any) -> dict[str, Any]:
    """A request that is not free, for people."""
    age_us = max(0, time.monotonic_ns() - c.sent_ns) // 1000 if c.sent_ns else 0
    return {"slot": c.index, "op": OPS.get(c.op, str(c.op)), "state": STATES.get(c.state, str(c.state)),
            "from": port_name(segment, c.src), "to": port_name(segment, c.dst),
            "owner": port_name(segment, c.owner), "age_us": age_us, "target": target(segment, c),
            "offset": c.offset, "size": c.size, "flow": c.flow, "parent": c.parent - 1 if c.parent else None,
            "orphan": bool(c.orphan)}


