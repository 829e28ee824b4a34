# SPDX-License-Identifier: Apache-2.0
"""One command at a time: a lock file."""
import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from typing import IO

from xseg import ours
from xseg.errors import Busy

TIMEOUT_S = 60.0
POLL_S = 0.02


def lock_file(path: str) -> IO[bytes]:
    """It, open; on a file system that takes no writes the one that is there."""
    try:
        return ours.opened(path, os.O_RDWR | os.O_CREAT, "r+b", buffering=0)
    except OSError as failure:
        if failure.errno != errno.EROFS:
            raise
        return ours.opened(path, os.O_RDONLY, "rb", buffering=0)


@contextlib.contextmanager
def locked(path: str, busy: str) -> Iterator[None]:
    """Holds the file, which is made if need be, and never changed. Busy, with the sentence `busy`: somebody else did
    for TIMEOUT_S. NotOurs. The lock goes with its process."""
    with lock_file(path) as file:
        end = time.monotonic() + TIMEOUT_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise Busy(busy) from None
                time.sleep(POLL_S)
        yield
