# SPDX-License-Identifier: Apache-2.0
"""A file system on a loop device, and below it a disk that fails writes when it is told to (failing_server.py)."""
import contextlib
import os
import shutil
import subprocess
import sys

import pytest
from support import run, wait_until

from tools.mapping import blockdev, mapping

HERE = os.path.dirname(os.path.abspath(__file__))
MAKE = {"ext4": ["mkfs.ext4", "-q", "-E", "lazy_itable_init=0"], "xfs": ["mkfs.xfs", "-q"]}
BYTES = {"ext4": 96 << 20, "xfs": 320 << 20}


def why_not(kind):
    """Why there can be no such disk here, or ""."""
    if os.geteuid() != 0:
        return "mounting needs root"
    missing = [tool for tool in (MAKE[kind][0], "nbdfuse") if not shutil.which(tool)]
    with open("/proc/filesystems", encoding="ascii") as file:
        known = kind in file.read().split()
    return mapping.why_not() or (f"{missing[0]} is missing" if missing else "" if known else f"no {kind} here")


class FailingDisk:
    """Mounted at `point` until close()."""

    def __init__(self, home, kind):
        self.home, self.point, self.fuse_point = home, os.path.join(home, kind), os.path.join(home, "fuse")
        self.device = ""
        for folder in (self.point, self.fuse_point):
            os.mkdir(folder)
        socket, ready = os.path.join(home, "disk.sock"), os.path.join(home, "fuse.pid")
        self.server = subprocess.Popen([sys.executable, os.path.join(HERE, "failing_server.py"), socket,
                                        str(BYTES[kind])], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.server.stdout.readline() == "ready\n"
        self.fuse = subprocess.Popen(["nbdfuse", "--pidfile", ready, os.path.join(self.fuse_point, "disk"),
                                      f"nbd+unix:///?socket={socket}"])
        wait_until(lambda: os.path.exists(ready), "nbdfuse is ready")
        self.device = run("losetup", "--find", "--show", "--direct-io=on",
                          os.path.join(self.fuse_point, "disk")).stdout.strip()
        run(*MAKE[kind], self.device)
        self.mount()

    def mount(self):
        run("mount", self.device, self.point)

    def remount(self):
        """What is there afterwards is what the disk has: nothing stays in the page cache."""
        self.unmount()
        self.mount()

    def unmount(self):
        wait_until(lambda: run("umount", self.point, check=False).returncode == 0, "nobody uses the disk")

    def tell(self, command):
        print(command, file=self.server.stdin, flush=True)
        assert self.server.stdout.readline() == "done\n"

    def fail(self, mark=b""):
        """From now on writes fail, all or those that hold these bytes."""
        self.tell(f"fail {mark.hex()}".strip())

    def heal(self):
        self.tell("heal")

    def write_back(self):
        """Has the system write all it has, and takes what error there is."""
        fd = os.open(self.point, os.O_RDONLY)
        with contextlib.suppress(OSError):
            os.fsync(fd)
        run("sync", "-f", self.point, check=False)
        os.close(fd)

    def close(self):
        if self.point in [point for _, point, _ in blockdev.mount_table()]:
            self.unmount()
        if self.device:
            run("losetup", "--detach", self.device)
            wait_until(lambda: not os.path.exists(f"/sys/block/{os.path.basename(self.device)}/loop/backing_file"),
                       "the loop device is gone")
        run("fusermount3", "-u", self.fuse_point, check=False)
        self.fuse.wait(20)
        self.server.kill()
        self.server.wait()


@pytest.fixture(params=["ext4", "xfs"])
def failing_disk(request, home):
    """A file system of each kind on such a disk."""
    if reason := why_not(request.param):
        pytest.skip(reason)
    disk = FailingDisk(home, request.param)
    yield disk
    disk.heal()
    disk.close()
