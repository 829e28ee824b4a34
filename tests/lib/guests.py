# SPDX-License-Identifier: Apache-2.0
"""Real guests for tests: user-mode Linux, and QEMU with TCG, each with disks of an instance."""
from __future__ import annotations

import functools
import glob
import gzip
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from typing import Any

import pytest
from support import WAIT_S, Instance, wait_until

HERE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "guests")
UML = "/usr/bin/linux.uml"
UML_DISK = "/usr/lib/uml/modules/*/kernel/drivers/block/virtio_blk.ko"
BUSYBOX = "/bin/busybox"
GUEST_S = 300.0                 # for a guest to end, on a busy machine
CONFIG = '[peers.vhost]\ntype = "vhost"\n[supervisor]\ndeaths = 1000\nback_off_ms = 50\n'


def lacks(*paths: str) -> str:
    """What is not there of these, as a reason to skip; ""."""
    missing = [path for path in paths if not glob.glob(path)]
    return f"{', '.join(missing)}: not installed here" if missing else ""


class Guest:
    """A guest that runs, and what it said on its console."""

    def __init__(self, command: list[str], console: str, env: dict[str, str] | None = None) -> None:
        self.console = console
        with open(console, "wb") as output:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                                            start_new_session=True, env={**os.environ, **(env or {})})

    @property
    def said(self) -> str:
        with open(self.console, encoding="utf-8", errors="replace") as file:
            return file.read()

    def wait_for(self, word: str, seconds: float = GUEST_S) -> str:
        """What it has said, with this in it."""
        wait_until(lambda: word in self.said or self.process.poll() is not None, f"the guest says {word}", seconds,
                   0.05)
        assert word in self.said, f"the guest has ended and did not say {word}:\n{self.said[-4000:]}"
        return self.said

    def finish(self, seconds: float = GUEST_S) -> str:
        """Waits for its end; what it said. It must have met no error."""
        try:
            self.process.wait(seconds)
        finally:
            said = self.said
            self.kill()
        assert "GUEST-BYE" in said, said[-4000:]
        assert "GUEST-ERROR" not in said, said[-4000:]
        return said

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(WAIT_S)


class Uml:
    """Starts guests of user-mode Linux. Their root is the host's file system, so that they have its programs."""

    def __init__(self, folder: str) -> None:
        if reason := lacks(UML, UML_DISK, BUSYBOX):
            pytest.skip(reason)
        if os.geteuid() != 0:
            pytest.skip("a guest with the host's file system as its root needs root")
        self.folder = folder
        self.preload = os.path.join(folder, "registers.so")
        source = os.path.join(HERE, "registers.c")
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", self.preload, source], check=True)
        self.guests: list[Guest] = []

    def boot(self, sockets: list[str], job: str, memory: str = "96M") -> Guest:
        """A guest with these disks, that runs a script."""
        name = f"g{len(self.guests)}"
        script = os.path.join(self.folder, name + ".job")
        with open(script, "w", encoding="utf-8") as file:
            file.write(job)
        init = os.path.join(HERE, "uml-init")
        guest = Guest([UML, f"mem={memory}", *(f"virtio_uml.device={path}:2" for path in sockets), "rootfstype=hostfs",
                       "rootflags=/", "rw", f"init={init}", f"job={script}", "con=null", "con0=null,fd:1", "quiet",
                       f"uml_dir={self.folder}", f"umid={name}"], os.path.join(self.folder, name + ".console"),
                      {"LD_PRELOAD": self.preload, "TMPDIR": "/dev/shm"})
        self.guests.append(guest)
        return guest

    def close(self) -> None:
        for guest in self.guests:
            guest.kill()


# --- QEMU

QEMU = "/usr/bin/qemu-system-x86_64"
KERNEL = "linux-image-cloud-amd64"
MODULES = ("virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk")
CACHE = os.path.join(os.path.dirname(os.path.dirname(HERE)), "build", "guests")


@functools.cache
def kernel() -> tuple[str, str]:
    """Debian's kernel for virtual machines, unpacked, and an initrd for it. Skips where the package cannot be had."""
    if reason := lacks(QEMU, BUSYBOX):
        pytest.skip(reason)
    os.makedirs(CACHE, exist_ok=True)
    if not glob.glob(f"{CACHE}/boot/vmlinuz-*"):
        told = subprocess.run(["apt-cache", "depends", KERNEL], capture_output=True, text=True)
        names = re.findall(r"Depends: (linux-image-\S+)", told.stdout)
        got = names and not subprocess.run(["apt-get", "download", names[0]], cwd=CACHE, capture_output=True).returncode
        packages = glob.glob(f"{CACHE}/linux-image-*.deb")
        if not got or not packages:
            pytest.skip(f"Debian's package {KERNEL} cannot be downloaded here")
        subprocess.run(["dpkg-deb", "-x", packages[0], CACHE], check=True)
    return glob.glob(f"{CACHE}/boot/vmlinuz-*")[0], initrd()


def initrd() -> str:
    """An archive (cpio, "newc") of busybox, the modules of the disk, and qemu-init."""
    files = {"init": (os.path.join(HERE, "qemu-init"), 0o100755), "bin/busybox": (BUSYBOX, 0o100755)}
    for name in MODULES:
        found = glob.glob(f"{CACHE}/lib/modules/*/kernel/drivers/**/{name}.ko", recursive=True)
        files[f"mod/{name}.ko"] = found[0], 0o100644
    data = b"".join(record(folder, b"", 0o40755) for folder in ("bin", "mod", "dev", "proc", "sys"))
    for name, (path, mode) in files.items():
        with open(path, "rb") as file:
            data += record(name, file.read(), mode)
    path = os.path.join(CACHE, f"initrd-{os.getpid()}.gz")
    with gzip.open(path, "wb", 1) as out:
        out.write(data + record("TRAILER!!!", b"", 0))
    return path


def record(name: str, data: bytes, mode: int) -> bytes:
    """A file in such an archive."""
    head = "070701" + "".join(f"{n:08x}" for n in (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0))
    named = head.encode() + name.encode() + b"\0"
    return named + bytes(-len(named) % 4) + data + bytes(-len(data) % 4)


class Qemu:
    """Starts guests of QEMU, which interprets them (TCG)."""

    def __init__(self, folder: str) -> None:
        self.kernel, self.initrd = kernel()
        self.folder = folder
        self.guests: list[Guest] = []

    def boot(self, disk: list[str], loops: int, *more: str) -> Guest:
        """A guest with this disk: arguments of QEMU."""
        name = f"q{len(self.guests)}"
        words = [QEMU, "-accel", "tcg,tb-size=32", "-cpu", "max", "-smp", "1", "-nodefaults", "-display", "none",
                 "-serial", "stdio", "-no-reboot", "-kernel", self.kernel, "-initrd", self.initrd, "-append",
                 f"console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable random.trust_cpu=on loops={loops}",
                 "-qmp", f"unix:{self.folder}/{name}.qmp,server=on,wait=off", *disk, *more]
        guest = Guest(words, os.path.join(self.folder, name + ".console"))
        self.guests.append(guest)
        return guest

    def ask(self, guest: Guest) -> Qmp:
        return Qmp(f"{self.folder}/q{self.guests.index(guest)}.qmp")

    def close(self) -> None:
        for guest in self.guests:
            guest.kill()
        os.unlink(self.initrd)
        kernel.cache_clear()


class Qmp:
    """Talks to a QEMU that runs."""

    def __init__(self, path: str) -> None:
        made = socket.socket(socket.AF_UNIX)
        wait_until(lambda: os.path.exists(path), "QEMU listens")
        made.connect(path)
        self.file = made.makefile("rw")
        self.file.readline()
        self.ask("qmp_capabilities")

    def ask(self, command: str, **arguments: Any) -> Any:
        self.file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.file.flush()
        while True:
            answer = json.loads(self.file.readline())
            assert "error" not in answer, answer
            if "return" in answer:
                return answer["return"]


# --- their servers

def kill_again_and_again(instance: Instance, guest: Guest, until: str, every_s: float, most: int) -> int:
    """Kills the process that serves the guest's disk, until the guest has said a word; how often."""
    kills = 0
    while kills < most and until not in guest.said and guest.process.poll() is None:
        pid = serving(instance)
        if pid:
            os.kill(pid, signal.SIGKILL)
            kills += 1
        time.sleep(every_s)
    return kills


def serving(instance: Instance) -> int:
    """The pid of the process that serves vhost, once that is ready; else 0."""
    peer: dict[str, Any] = instance.status().get("vhost", {})
    return int(peer["pid"]) if peer.get("state") == "running" else 0


def survived(instance: Instance) -> int:
    """How many deaths the connection to the only attached volume has come through."""
    ends = instance.vlmc_json("attached")[0]["front_ends"]
    return int(ends[0]["survived"]) if ends else 0


def fio_numbers(said: str) -> list[int]:
    """Errors that jobs of fio end with."""
    return [int(n) for n in re.findall(r"err= *(\d+)", said)]


def remove(folder: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
