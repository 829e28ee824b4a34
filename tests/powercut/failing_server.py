# SPDX-License-Identifier: Apache-2.0
"""An NBD server for one client whose disk can fail to take writes.

    python failing_server.py SOCKET BYTES

serves a disk that is kept in memory. Each line on stdin is a command, answered with "done": "fail HEX" has writes
fail that hold these bytes somewhere, "fail" without any all of them, "heal" none.
"""
import sys
import threading

from cut_server import EINVAL, EIO, FLUSH, READ, WRITE, Server


class FailingServer(Server):
    """Its disk has no cache."""

    def __init__(self, path: str, size: int) -> None:
        self.listen(path)
        self.size, self.now = size, bytearray(size)
        self.failing = self.dead = False
        self.mark: bytes | None = None      # what writes must not hold

    def request(self, kind: int, flags: int, offset: int, length: int, data: bytes) -> tuple[int, bytes]:
        if kind == READ:
            return 0, bytes(self.now[offset:offset + length])
        if kind == WRITE:
            if self.mark is not None and self.mark in data:
                return EIO, b""
            self.now[offset:offset + length] = data
        return (0 if kind in (WRITE, FLUSH) else EINVAL), b""

    def obey(self) -> None:
        """Commands, until there are no more."""
        for line in sys.stdin:
            word, _, mark = line.strip().partition(" ")
            self.mark = bytes.fromhex(mark) if word == "fail" else None
            print("done", flush=True)


def main() -> None:
    server = FailingServer(sys.argv[1], int(sys.argv[2]))
    threading.Thread(target=server.obey, daemon=True).start()
    print("ready", flush=True)
    try:
        server.serve()
    except ConnectionError:
        return


if __name__ == "__main__":
    main()
