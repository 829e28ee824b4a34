# SPDX-License-Identifier: Apache-2.0
"""What tests of two instances over the same pools need, which stand for two hosts."""
from __future__ import annotations

import os
from typing import Any

from support import Instance

from xseg._native import lib
from xseg.client import Client
from xseg.request import Reply

SIZE = 64 << 20
BLOCK = 4 << 20


class Opened:
    """A volume that one client has open."""

    def __init__(self, node: Instance, name: str) -> None:
        self.client = Client(node.home)
        try:
            self.volume = self.client.open(name)
        except BaseException:
            self.client.close()
            raise

    def write(self, offset: int, data: bytes, **more: Any) -> Reply:
        return self.client.call("vlmc", lib.XOP_WRITE, volume=self.volume.handle, offset=offset, data=data, **more)

    def read(self, offset: int, size: int = 4096, **more: Any) -> Reply:
        return self.client.call("vlmc", lib.XOP_READ, volume=self.volume.handle, offset=offset, size=size,
                                room=size, **more)

    def flush(self, **more: Any) -> Reply:
        return self.client.call("vlmc", lib.XOP_FLUSH, volume=self.volume.handle, **more)

    def close(self) -> None:
        self.volume.close()
        self.client.close()


def signalled(node: Instance, number: int, *roles: str) -> None:
    """Sends a signal to the processes of these roles; to every process if none is named."""
    for pid in {peer["pid"] for role, peer in node.status().items() if role in roles or not roles}:
        os.kill(pid, number)
