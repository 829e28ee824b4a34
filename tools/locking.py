# SPDX-License-Identifier: Apache-2.0
"""One command at a time: a lock file."""
import contextlib
import fcntl
import os
import time
from collections.abc import Iterator

from xseg import ours
from xseg.errors import Busy

TIMEOUT_S = 60.0
POLL_S = 0.02


@contextlib.contextmanager
def locked(path: str, busy: str) -> Iterator[None]:
    """Holds the file, which is made if need be, and never changed. Busy, with the sentence `busy`: somebody else did
    for TIMEOUT_S. NotOurs. The lock goes with its process."""
    with ours.opened(path, os.O_RDWR | os.O_CREAT, "r+b", buffering=0) as file:
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
