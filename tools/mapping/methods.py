# SPDX-License-Identifier: Apache-2.0
"""The ways a volume becomes a block device of this kernel, best first.

    nbd       the kernel's own NBD client, set up by nbd-client; needs /dev/nbd0 and nbd-client
    nbdfuse   nbdfuse (libnbd-bin) makes the export a file, losetup makes the file a device; needs
              /dev/fuse, /dev/loop-control, nbdfuse

Each reaches the volume through the instance's NBD socket like any other client, by an export name that holds its
id; nbdfuse by way of a keeper (keeper.py). Each has:

    keeps_on            whether its devices survive that the NBD server is restarted
    missing()           "", or a sentence that says what this machine lacks
    attach(entry, uri)  makes the device and fills in the entry; leaves nothing behind on failure
    alive(entry)        whether what attach() made works
    has_device(entry)   whether the device is still this entry's, though perhaps dead
    detach(entry, force)  undoes attach(), also when only a part of it is still there

qemu-storage-daemon's FUSE export is no third way: under a loop device with direct I/O version 7.2
returns wrong data.
"""
from __future__ import annotations

import contextlib
import errno
import glob
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from tools.instance.process import runs, send_signal, start_time
from tools.mapping import blockdev
from xseg import ours
from xseg.errors import error
from xseg.volume_name import by_id

if TYPE_CHECKING:
    from typing import Protocol

    from tools.mapping.mapping import Entry

    class Method(Protocol):
        """A class of this file, as it is used."""

        name: str
        keeps_on: bool

        def missing(self) -> str: ...
        def attach(self, entry: Entry, uri: str) -> None: ...
        def alive(self, entry: Entry) -> bool: ...
        def has_device(self, entry: Entry) -> bool: ...
        def detach(self, entry: Entry, force: bool) -> None: ...

READY_S = 20.0                  # that nbdfuse or the kernel may take to connect
END_S = 10.0                    # that a process may take to end, a device to be detached
POLL_S = 0.005
FILE = "disk"                   # name of the file that nbdfuse shows


def boot_id() -> str:
    """Changes with every boot: what was noted before is gone."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def socket_of(uri: str) -> str:
    """The path in an NBD URI."""
    return parse_qs(urlsplit(uri).query)["socket"][0]


class KernelNbd:
    """The kernel's NBD client, set up through netlink: nbd-client ends, the kernel keeps the connection."""

    name = "nbd"
    keeps_on = False

    @staticmethod
    def missing() -> str:
        if not os.path.exists("/dev/nbd0"):
            return "there is no /dev/nbd0 (`modprobe nbd`, if the kernel has that module)"
        return "" if shutil.which("nbd-client") else "nbd-client is missing (Debian package nbd-client)"

    @staticmethod
    def attach(entry: Entry, uri: str) -> None:
        device = KernelNbd._free()
        words = ["nbd-client", "-unix", socket_of(uri), device, "-name", by_id(entry.id), "-block-size", "512"]
        blockdev.run(*words, *(["-readonly"] if entry.readonly else []))
        if not blockdev.wait_for(lambda: KernelNbd._pid(device) != 0, READY_S):
            raise error(errno.EIO, f"{entry.name}: nbd-client connected {device}, but the kernel does not say so")
        entry.device = device
        entry.pid = KernelNbd._pid(device)

    @staticmethod
    def _free() -> str:
        """The first device that is not connected. EBUSY: all are."""
        devices = sorted(glob.glob("/sys/block/nbd[0-9]*"), key=lambda path: (len(path), path))
        free = [path for path in devices if not os.path.exists(path + "/pid")]
        if not free:
            raise error(errno.EBUSY, f"all {len(devices)} nbd devices of this kernel are in use: "
                                       "see its parameter nbds_max")
        return "/dev/" + os.path.basename(free[0])

    @staticmethod
    def _pid(device: str) -> int:
        """Who connected a device; 0: it is not connected."""
        with contextlib.suppress(OSError, ValueError), \
                open(f"/sys/block/{os.path.basename(device)}/pid", encoding="ascii") as file:
            return int(file.read())
        return 0

    @staticmethod
    def alive(entry: Entry) -> bool:
        if not entry.device or entry.boot != boot_id():
            return False
        return KernelNbd._pid(entry.device) == entry.pid != 0

    has_device = alive

    @staticmethod
    def detach(entry: Entry, force: bool) -> None:
        if not KernelNbd.alive(entry):
            return
        blockdev.run("nbd-client", "-d", entry.device)
        if not blockdev.wait_for(lambda: not KernelNbd.alive(entry), END_S):
            raise error(errno.EBUSY, f"{entry.device} is still connected after {END_S:g} s")


class Nbdfuse:
    """nbdfuse and a loop device."""

    name = "nbdfuse"
    keeps_on = True

    @staticmethod
    def missing() -> str:
        for path in ("/dev/fuse", "/dev/loop-control"):
            if not os.path.exists(path):
                return f"there is no {path} (the kernel's {path[5:].partition('-')[0]} driver)"
        for program, package in (("nbdfuse", "libnbd-bin"), ("fusermount3", "fuse3"), ("losetup", "mount")):
            if not shutil.which(program):
                return f"{program} is missing (Debian package {package})"
        return ""

    @staticmethod
    def attach(entry: Entry, uri: str) -> None:
        try:
            Nbdfuse._serve_file(entry, uri)
            entry.save()
            words = ["losetup", "--find", "--show", "--partscan", "--direct-io=on"]
            entry.device = blockdev.run(*words, *(["--read-only"] if entry.readonly else []),
                                        os.path.join(entry.mountpoint, FILE))
        except BaseException:
            Nbdfuse.detach(entry, True)
            raise

    @staticmethod
    def _serve_file(entry: Entry, uri: str) -> None:
        """Starts nbdfuse, detached, and waits until the file is there. What it says is in entry.log."""
        ours.make_folder(entry.mountpoint)
        ready = entry.mountpoint + ".pid"
        with ours.opened(entry.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, "wb") as log:
            child = subprocess.Popen(
                ["nbdfuse", *(["--readonly"] if entry.readonly else []), "--pidfile", ready,
                 os.path.join(entry.mountpoint, FILE),
                 "--command", sys.executable, "-P", "-m", "tools.mapping.keeper", socket_of(uri), entry.id],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/")
        entry.pid, entry.start_time = child.pid, start_time(child.pid)
        end = time.monotonic() + READY_S
        try:
            while not os.path.exists(ready):
                if child.poll() is not None:
                    raise error(errno.EIO, f"{entry.name}: nbdfuse: {Nbdfuse._last_words(entry.log)}")
                if time.monotonic() > end:
                    raise error(errno.ETIMEDOUT, f"{entry.name}: nbdfuse is not ready after {READY_S:g} s; "
                                                   f"see {entry.log}")
                time.sleep(POLL_S)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(ready)

    @staticmethod
    def _last_words(log: str) -> str:
        lines = [line.strip() for line in ours.read(log, "replace").splitlines() if line.strip()]
        return lines[-1] if lines else f"ended without a word; see {log}"

    @staticmethod
    def alive(entry: Entry) -> bool:
        return Nbdfuse._runs(entry) and Nbdfuse.has_device(entry)

    @staticmethod
    def _runs(entry: Entry) -> bool:
        return entry.boot == boot_id() and runs(entry.pid, entry.start_time, Nbdfuse.name)

    @staticmethod
    def has_device(entry: Entry) -> bool:
        """A loop device that stands on another file now was given its name later."""
        if not entry.device or entry.boot != boot_id():
            return False
        path = f"/sys/block/{os.path.basename(entry.device)}/loop/backing_file"
        with contextlib.suppress(OSError), open(path, encoding="utf-8") as file:
            return file.read().rstrip("\n") == os.path.join(os.path.realpath(entry.mountpoint), FILE)
        return False

    @staticmethod
    def detach(entry: Entry, force: bool) -> None:
        """Loop device, mount, process, in this order. With force, whatever still uses them gets errors."""
        if Nbdfuse.has_device(entry):
            blockdev.run("losetup", "--detach", entry.device)
            gone = blockdev.wait_for(lambda: not Nbdfuse.has_device(entry), 0 if force else END_S)
            if not gone and not force:
                raise error(errno.EBUSY, f"{entry.device} is still attached after {END_S:g} s: "
                                         "somebody opened it")
        if Nbdfuse._mounted(entry):
            blockdev.run("fusermount3", "-u", *(["-z"] if force else []), entry.mountpoint)
        Nbdfuse._end(entry, force)
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(entry.mountpoint)

    @staticmethod
    def _mounted(entry: Entry) -> bool:
        """Also true of a mount whose nbdfuse is dead, which os.path.ismount() cannot look at."""
        return os.path.realpath(entry.mountpoint) in [point for _, point, _ in blockdev.mount_table()]

    @staticmethod
    def _end(entry: Entry, force: bool) -> None:
        """Waits until nbdfuse has ended; kills it if it does not, or at once if things use it no more."""
        signals = (signal.SIGTERM, signal.SIGKILL) if force else (None, signal.SIGTERM, signal.SIGKILL)
        for number in signals:
            if number and Nbdfuse._runs(entry):
                send_signal(entry.pid, entry.start_time, number)
            if blockdev.wait_for(lambda: not Nbdfuse._runs(entry), END_S):
                return
        raise error(errno.EBUSY, f"nbdfuse (pid {entry.pid}) does not end, even by SIGKILL: "
                                 "it waits in the kernel")


METHODS: tuple[Method, ...] = (KernelNbd, Nbdfuse)
