# SPDX-License-Identifier: Apache-2.0
"""What a dead blocker still has in the kernel ends before its successor does anything again.

The store lies on a disk that can be made to stand still: nbdkit's pause filter, as a file by nbdfuse, as a loop
device with a file system on it.
"""
import os
import shutil
import socket
import subprocess
import tempfile

import pytest
from support import config_of, run, wait_until

from xseg._native import lib
from xseg.request import Call

pytest_plugins = ["kill_fixtures"]

OBJECT = (lib.XOBJ_DATA, 1, 1, 1)


class Disk:
    """A mounted file system whose disk can be paused."""

    def __init__(self, folder):
        self.folder, self.mount = folder, os.path.join(folder, "mnt")
        self.processes, self.loop = [], ""

    def path(self, name):
        return os.path.join(self.folder, name)

    def start(self):
        os.mkdir(self.mount)
        with open(self.path("disk"), "wb"):
            pass
        self.background("nbdkit", "-f", "-U", self.path("nbd"), "--filter=pause", "memory", "64M",
                        f"pause-control={self.path('pause')}")
        wait_until(lambda: os.path.exists(self.path("nbd")), "nbdkit serves")
        self.background("nbdfuse", self.path("disk"), "--unix", self.path("nbd"))
        wait_until(lambda: os.path.getsize(self.path("disk")), "nbdfuse serves")
        self.loop = run("losetup", "-f", "--show", self.path("disk")).stdout.strip()
        run("mkfs.ext4", "-q", self.loop)
        run("mount", self.loop, self.mount)

    def background(self, *command):
        self.processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                               stderr=subprocess.DEVNULL))

    def control(self, word):
        """p: stand still. r: go on."""
        with socket.socket(socket.AF_UNIX) as made:
            made.connect(self.path("pause"))
            made.send(word)
            assert made.recv(1) == word.upper()

    def stop(self):
        if self.loop:
            self.control(b"r")
            run("umount", self.mount, check=False)
            run("losetup", "-d", self.loop, check=False)
        run("umount", self.path("disk"), check=False)
        for process in reversed(self.processes):
            process.terminate()
            process.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture
def disk():
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse") or not os.path.exists("/dev/loop-control"):
        pytest.skip("needs root, /dev/fuse and loop devices")
    made = Disk(tempfile.mkdtemp(prefix="ar-fence-", dir="/tmp"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.mark.parametrize("op", [lib.XOP_WRITE, lib.XOP_READ])
def test_direct_io_of_a_dead_blocker_ends_before_its_successor_is_ready(disk, supervised, op):
    store = os.path.join(disk.mount, "store")
    os.mkdir(store)
    instance = supervised(config_of([("back", "blocker-file", {"path": store, "direct": True, "sync": False})]))
    client = instance.client
    number = client.segment.port_of("back")
    instance.call("back", lib.XOP_WRITE, object=OBJECT, data=b"a" * 8192)
    os.sync()
    disk.control(b"p")
    try:
        request = client.port.get(4096)
        Call(op, object=OBJECT, data=b"b" * 4096 if op == lib.XOP_WRITE else None, size=4096).put(
            client.port.c, request.c)
        client.port.send(number, [request])
        wait_until(lambda: client.segment.c.slots[request.c.index].state == lib.XREQ_HELD, "it is at work")
        assert client.port.receive(0.3) == []
        pid = instance.pid("back")
        os.kill(pid, 9)
        wait_until(lambda: instance.status()["back"]["restarts"] == 1, "it is started again")
        wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "the dead process is gone")
        assert client.port.receive(2.0) == []
        assert not client.segment.c.ports[number].ready
    finally:
        disk.control(b"r")
    (came,) = client.port.receive(60)
    assert came.c.error == 0
    assert instance.call("back", lib.XOP_READ, object=OBJECT, size=4096, room=4096).data == (
        b"b" if op == lib.XOP_WRITE else b"a") * 4096
    assert instance.status()["back"]["recovered"] == 1
