# SPDX-License-Identifier: Apache-2.0
"""Which folder a file store lies in, and of which mount of its file system: a number for the segment's header.

What the segment knows of writes that were not synced holds only while the page cache does that has them. So a life that
finds the folder replaced, or its file system mounted anew, must not go on from there.
"""
from __future__ import annotations

import contextlib
import hashlib
import os
import struct

FILE_SYSTEMS = ("ext4", "xfs", "f2fs")          # which have a folder in sysfs for each mount, with a new inode number


def identity(path: str) -> int:
    """64 bits, never 0, of a folder and its mount; 0: there is no such folder."""
    try:
        st = os.stat(path)
    except OSError:
        return 0
    said = struct.pack("=QQQ", st.st_dev, st.st_ino, _mount(st.st_dev))
    return int.from_bytes(hashlib.sha256(said).digest()[:8], "little") | 1


def _mount(device: int) -> int:
    """A number that a block device's mounted file system keeps until it is unmounted; 0: none is known. The same from
    wherever it is looked at, other than a mount's id."""
    name = os.path.basename(os.path.realpath(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"))
    for kind in FILE_SYSTEMS:
        with contextlib.suppress(OSError):
            return os.stat(f"/sys/fs/{kind}/{name}").st_ino
    return 0
