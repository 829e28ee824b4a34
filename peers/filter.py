# SPDX-License-Identifier: Apache-2.0
"""What all filters have: a target, and options that say which requests they are about (native/filters/filter.h)."""
from __future__ import annotations

from typing import Any

from xseg.peer import Option, Peer

KINDS = ("any", "data", "content", "header", "name", "page", "journal", "lock")


class Filter(Peer):
    """Passes requests to its target, and answers back."""

    targets = ("target",)
    options: dict[str, Any] = {
        "target": Option("blockerb", "role", "the role that gets what is passed on"),
        "ops": Option("all", "str", 'names of operations with commas between, as "read,write", or "all"'),
        "kind": Option("any", "str", "only requests about objects of this kind", choices=KINDS),
    }
