# SPDX-License-Identifier: Apache-2.0
"""Makes the disk that `make demo` uses when it is given none: a Debian root disk.

A partition table with one bootable ext4 partition, and in it what mmdebstrap's variant `minbase`
installs: the shape of a virtual machine's disk, less kernel and boot loader. Needs root and Debian's
packages; made once and kept.
"""
from __future__ import annotations

import errno
import os
import subprocess
import tempfile
from collections.abc import Callable

from xseg.errors import XsegError

SUITE = "bookworm"
SIZE = 2 << 30                          # bytes of the disk
START = 1 << 20                         # bytes before the partition
NAME = f"debian-{SUITE}-minbase.raw"
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*")

Run = Callable[..., object]             # runs the command that its arguments are, and shows it


def cached(folder: str, run: Run) -> str:
    """Path of the disk, which is made in `folder` if it is not there yet. EPERM: that needs root."""
    path = os.path.join(folder, NAME)
    if os.path.exists(path):
        return path
    if os.geteuid() != 0:
        raise XsegError(errno.EPERM, "making a Debian root disk needs root; `make demo IMAGE=path` takes yours")
    os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="making-", dir=folder) as work:
        make(work, run)
        os.rename(os.path.join(work, NAME), path)
    return path


def make(work: str, run: Run) -> None:
    """Makes work/NAME."""
    root, disk = os.path.join(work, "root"), os.path.join(work, NAME)
    without = [f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT]
    run("mmdebstrap", "--quiet", "--variant=minbase", "--mode=root", *without, SUITE, root)
    configure(root)
    with open(disk, "wb") as file:
        file.truncate(SIZE)
    table = f"label: dos\nstart={START // 512}, type=83, bootable\n"
    subprocess.run(["sfdisk", "--quiet", disk], input=table.encode(), check=True)
    run("mke2fs", "-q", "-t", "ext4", "-L", "root", "-E", f"offset={START}", "-d", root, disk,
        f"{(SIZE - START) >> 10}k")


def configure(root: str) -> None:
    """What an installation is asked for."""
    for name, text in (("fstab", "LABEL=root / ext4 errors=remount-ro 0 1\n"), ("hostname", "debian\n")):
        with open(os.path.join(root, "etc", name), "w", encoding="ascii") as file:
            file.write(text)
