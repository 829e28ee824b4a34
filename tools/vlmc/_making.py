# SPDX-License-Identifier: Apache-2.0
"""Giving up a volume that is made bit by bit."""
from __future__ import annotations

from typing import TYPE_CHECKING

from tools.vlmc._common import token

if TYPE_CHECKING:
    from xseg.client import Client

REMOVE_S = 60.0                 # how long the NBD server is given to notice that qemu-img is gone
POLL_S = 0.05


def remove(client: Client, name: str, key: int) -> None:
    """Removes the half-made volume, and no other of that name, as soon as nobody has it open. Says so if that cannot
    be."""
    import sys
    import time

    from xseg.errors import Busy, NotFound
    end = time.monotonic() + REMOVE_S
    while True:
        try:
            client.control("cancel", token=key, timeout=REMOVE_S)
            client.control("remove", name=name, token=token(), making=key, timeout=REMOVE_S)
            return
        except NotFound:                # it was not made, or another has the name
            return
        except Busy as failure:
            if time.monotonic() < end:
                time.sleep(POLL_S)
                continue
            left: OSError = failure
        except OSError as failure:
            left = failure
        print(f"vlmc: the half-made volume {name} is still there: {left}; `vlmc remove {name}` removes it",
              file=sys.stderr)
        return
