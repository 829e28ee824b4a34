# SPDX-License-Identifier: Apache-2.0
"""Names by which a volume is meant: its own, or one that holds its id and so stays its own for ever.

    disk                        the volume that has this name now
    /id/0123456789abcdef        the volume of this id, whatever it is called
    /id/0123456789abcdef/7f     the same for who makes it, who knows the token: it is nobody else's until it is made

No volume can be called by a name of the second kind: its own must not hold a '/'. Both are export names of the NBD
server, and names for OPEN and for the verbs of the mapper that only look. Whatever stays attached to a volume is
attached by the second: a name may be another volume's by the time a connection is made again.
"""
from __future__ import annotations

import re

BY_ID = "/id/"
ID_TEXT = re.compile("[0-9a-f]{16}")
SECOND = re.compile("/id/([0-9a-f]{16})(?:/([0-9a-f]{1,16}))?")


def by_id(volume: str, token: int = 0) -> str:
    """The name that holds an id, which is given as people see it."""
    return f"{BY_ID}{volume}/{token:x}" if token else BY_ID + volume


def id_in(name: str) -> int | None:
    """The id in a name of the second kind; 0 if it holds none. None: it is one of the first kind."""
    if not name.startswith(BY_ID):
        return None
    found = SECOND.fullmatch(name)
    return int(found[1], 16) if found else 0


def token_in(name: str) -> int:
    """The token in a name, or 0."""
    found = SECOND.fullmatch(name)
    return int(found[2], 16) if found and found[2] else 0
