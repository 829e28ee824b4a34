# SPDX-License-Identifier: Apache-2.0
"""Limits of a volume: what a guest may have of it a second. They are a text in its header, and numbers in the segment.

A text is "iops=500 write_bps=1048576 burst_ms=2000": requests and bytes a second, of all, of reads, of writes; and what
was not used in so many milliseconds may come at once. Numbers are whole. "": no limits.
"""
from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from xseg.errors import XsegError
from xseg.peer import parse_size

KINDS = ("iops", "read_iops", "write_iops", "bps", "read_bps", "write_bps")     # as enum xquota in segment/layout.h
BURST, BURST_MS = "burst_ms", 1000          # if it is not said
BURST_MAX = 3_600_000
MOST = 1 << 53                              # of a limit
PART = re.compile("([a-z_]+)=(.*)", re.DOTALL)

Limits = dict[str, int]


def parse(words: Iterable[str]) -> Limits:
    """Limits out of their parts; bytes may have K, M, G... behind them. ValueError, with a sentence."""
    found: Limits = {}
    for word in words:
        part = PART.fullmatch(word)
        if not part or part[1] not in (*KINDS, BURST):
            raise ValueError(f"{word!r} is no limit: there are {', '.join(f'{kind}=N' for kind in (*KINDS, BURST))}")
        key, most = part[1], BURST_MAX if part[1] == BURST else MOST
        try:
            value = parse_size(part[2]) if key.endswith("bps") else int(part[2]) if part[2].isascii() else -1
        except (ValueError, XsegError):
            value = -1
        if not (0 if key == BURST else 1) <= value <= most:
            raise ValueError(f"{word!r}: it must be a whole number from {0 if key == BURST else 1} to {most}")
        if key in found:
            raise ValueError(f"{key} is there twice")
        found[key] = value
    if found and not found.keys() & set(KINDS):
        raise ValueError(f"{BURST} alone limits nothing: say {' or '.join(f'{kind}=N' for kind in KINDS)} as well")
    return {key: found[key] for key in (*KINDS, BURST) if key in found}


def text_of(limits: Limits) -> str:
    """Limits as the header has them."""
    return " ".join(f"{key}={value}" for key, value in limits.items())


def limits_of(text: str) -> Limits:
    """Those of a header's text. ValueError."""
    return parse(text.split(" ") if text else [])


def good_text(text: object) -> bool:
    """True for what text_of() returns."""
    try:
        return isinstance(text, str) and text_of(limits_of(text)) == text
    except ValueError:
        return False


def share(text: str, shared: Any) -> None:
    """Has the segment say what a header's text does: in a struct xvolume. ValueError."""
    limits = limits_of(text)
    for place, kind in enumerate(KINDS):
        shared.quota[place] = limits.get(kind, 0)
    shared.burst_ms = limits.get(BURST, BURST_MS)
