# SPDX-License-Identifier: Apache-2.0
"""Names by which a volume is meant: its own, or one that holds its id and so stays its own for ever.

    disk                        the volume that has this name now
    /id/0123456789abcdef        the volume of this id, whatever it is called

No volume can be called by a name of the second kind: its own must not hold a '/'. Both are export names of the NBD
server, and names for OPEN and for the verbs of the mapper that only look. Whatever stays attached to a volume is
attached by the second: a name may be another volume's by the time a connection is made again.
"""
from __future__ import annotations

import re

BY_ID = "/id/"
ID_TEXT = re.compile("[0-9a-f]{16}")


def by_id(volume: str) -> str:
    """The name that holds an id, which is given as people see it."""
    return BY_ID + volume


def id_in(name: str) -> int | None:
    """The id in a name of the second kind; 0 if it holds none. None: it is one of the first kind."""
    if not name.startswith(BY_ID):
        return None
    text = name.removeprefix(BY_ID)
    return int(text, 16) if ID_TEXT.fullmatch(text) else 0
