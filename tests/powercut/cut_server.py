# SPDX-License-Identifier: Apache-2.0
"""An NBD server for one client whose disk has a volatile cache, and whose power can fail.

    python cut_server.py SOCKET IMAGE SEED

serves IMAGE, which it keeps in memory. SIGUSR1 is the power failing: the image becomes what survives (all that
was flushed or written with FUA; of the rest any subset, torn at 512 bytes, as SEED says) and is written to
IMAGE.left; from then on every request fails at once, so that nobody waits for a disk that is gone.
"""
import random
import select
import signal
import socket
import struct
import sys

from cut_disk import Stored

MAGIC, OPTION, REPLY, REQUEST, SIMPLE = b"NBDMAGIC", b"IHAVEOPT", 0x3e889045565a9, 0x25609513, 0x67446698
FIXED_NEWSTYLE, HAS_FLAGS, CAN_FLUSH, CAN_FUA = 3, 1, 4, 8
OPT_EXPORT, OPT_ABORT, OPT_INFO, OPT_GO = 1, 2, 6, 7
ACK, INFO, UNSUPPORTED, INFO_EXPORT = 1, 3, 0x80000001, 0
READ, WRITE, DISCONNECT, FLUSH = 0, 1, 2, 3
FUA, EIO, EINVAL = 1, 5, 22
POLL_S = 0.01


class Server:
    """One connection, request by request."""

    def __init__(self, path: str, image: str, seed: int) -> None:
        with open(image, "rb") as file:
            self.disk = Stored(file.read(), there=True)
        self.image, self.dice = image, random.Random(seed)
        self.size = self.disk.size
        self.failing = self.dead = False
        self.listen(path)

    def listen(self, path: str) -> None:
        """For one client."""
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(1)

    def take(self, size: int) -> bytes:
        """So many bytes; the power may fail while it waits for them."""
        data = b""
        while len(data) < size:
            if self.failing and not self.dead:
                self.fail()
            if select.select([self.peer], [], [], POLL_S)[0]:
                part = self.peer.recv(size - len(data))
                if not part:
                    raise ConnectionError
                data += part
        return data

    def fail(self) -> None:
        """The power fails."""
        self.dead = True
        left = self.disk.cut(self.dice)
        with open(self.image + ".left", "wb") as file:
            file.write(left.read(0, self.size))
        print("cut", flush=True)

    def negotiate(self) -> None:
        """Fixed newstyle; any name is this disk."""
        self.peer.sendall(MAGIC + OPTION + struct.pack(">H", FIXED_NEWSTYLE))
        self.take(4)
        while True:
            _magic, option, length = struct.unpack(">8sII", self.take(16))
            self.take(length)
            export = struct.pack(">QH", self.size, HAS_FLAGS | CAN_FLUSH | CAN_FUA)
            if option == OPT_EXPORT:
                self.peer.sendall(export)
                return
            if option in (OPT_INFO, OPT_GO):
                self.answer(option, INFO, struct.pack(">H", INFO_EXPORT) + export)
                self.answer(option, ACK)
                if option == OPT_GO:
                    return
            else:
                self.answer(option, ACK if option == OPT_ABORT else UNSUPPORTED)

    def answer(self, option: int, kind: int, data: bytes = b"") -> None:
        self.peer.sendall(struct.pack(">QIII", REPLY, option, kind, len(data)) + data)

    def serve(self) -> None:
        """Until the client goes."""
        self.peer, _address = self.listener.accept()
        self.negotiate()
        while True:
            magic, flags, kind, cookie, offset, length = struct.unpack(">IHHQQI", self.take(28))
            assert magic == REQUEST
            data = self.take(length) if kind == WRITE else b""
            if kind == DISCONNECT:
                return
            code, out = (EIO, b"") if self.dead else self.request(kind, flags, offset, length, data)
            self.peer.sendall(struct.pack(">IIQ", SIMPLE, code, cookie) + out)

    def request(self, kind: int, flags: int, offset: int, length: int, data: bytes) -> tuple[int, bytes]:
        """One request of a disk that lives: its error and data."""
        if kind == READ:
            return 0, self.disk.read(offset, length)
        if kind == WRITE:
            self.disk.write(offset, data, bool(flags & FUA))
            return 0, b""
        if kind == FLUSH:
            for change in self.disk.changes:
                change.durable = True
            self.disk.settle()
            return 0, b""
        return EINVAL, b""


def main() -> None:
    server = Server(sys.argv[1], sys.argv[2], int(sys.argv[3]))

    def fail(_number: int, _frame: object) -> None:
        server.failing = True

    signal.signal(signal.SIGUSR1, fail)
    print("ready", flush=True)
    try:
        server.serve()
    except ConnectionError:
        return


if __name__ == "__main__":
    main()
