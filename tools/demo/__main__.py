# SPDX-License-Identifier: Apache-2.0
"""`make demo`: what Archipelago does, on a real disk image, each command shown with its time.

It runs an instance of its own in a scratch folder and leaves nothing behind, whether it ends well,
fails or is interrupted. Exit status: 0; 1 when a comparison did not come out as it should, or a
command failed; 130 when interrupted.

With `--backend rados` everything is kept in a private Ceph cluster that it makes for itself.
"""
from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from tools import cli, cluster, image_source
from tools.demo.image import cached
from tools.mapping import blockdev, mapping
from tools.vlmc._common import nbd_uri

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CACHE = os.path.join(REPOSITORY, ".cache")
CLONES = 200
FILE_BYTES = 32 << 20                   # of the file that is written into the mounted clone
FILE_SYSTEMS = ("ext4", "xfs", "btrfs", "ext3", "ext2")
IDENTICAL, DIFFERENT = 0, 1             # exit statuses of qemu-img compare
COMPARE_BYTES_MAX = 16 << 30            # of volumes that are compared block by block
COMMAND_TIMEOUT_S = 1800
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
MOUNT_FAILED = 32                       # exit status of mount
CLEANUP_TIMEOUT_S = 60
UNMOUNT_S = 10.0


class Failed(Exception):
    """A command did not end as it should."""


class Demo:
    """The story, and what it has to clear away."""

    def __init__(self, home: str, image: str, clones: int, backend: str = "files") -> None:
        self.home = home
        self.cluster = cluster.Cluster(os.path.join(home, "ceph")) if backend == "rados" else None
        self.image = image
        self.clones = clones
        self.mountpoint = os.path.join(home, "mnt")
        self.times: list[tuple[str, float]] = []
        self.wrong: list[str] = []

    # --- how commands are run

    def run(self, *words: str, note: str = "", statuses: tuple[int, ...] = (0,)) -> int:
        """Runs a command and shows it with its time, kept under `note`. Failed: another status."""
        return self._run(words, note, statuses, None).returncode

    def ask(self, *words: str, note: str = "") -> str:
        """As run(), for a command whose output is wanted; it is shown, too."""
        done = self._run(words, note, (0,), subprocess.PIPE)
        return str(done.stdout, "utf-8").strip()

    def _run(self, words: tuple[str, ...], note: str, statuses: tuple[int, ...],
             stdout: int | None) -> subprocess.CompletedProcess[bytes]:
        say("$ " + shlex.join(words))
        begin = time.monotonic()
        done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=stdout, timeout=COMMAND_TIMEOUT_S)
        took = time.monotonic() - begin
        if stdout:
            say(done.stdout.decode(errors="replace").rstrip())
        say(f"{'':60}{took:8.2f} s")
        if note:
            self.times.append((note, took))
        if done.returncode not in statuses:
            raise Failed(f"{words[0]}: exit status {done.returncode}")
        return done

    def uri(self, name: str) -> str:
        return nbd_uri(self.home, name)

    # --- chapters

    def tell(self) -> None:
        if self.cluster:
            self.start_cluster(self.cluster)
        chapter("The pipeline starts, on " + ("the cluster" if self.cluster else "files below " + self.home))
        self.run("archipelago", "start", note="start the pipeline")
        self.run("archipelago", "status")
        chapter("A disk image becomes a volume, and the volume a snapshot")
        self.run("vlmc", "import", self.image, "original", "--progress", note="import the image")
        self.run("vlmc", "snapshot", "original", "golden", note="snapshot")
        chapter(f"{self.clones} clones of the snapshot, and one of them over NBD")
        self.run("vlmc", "clone", "golden", "vm-{}", "--count", str(self.clones),
                 note=f"{self.clones} clones")
        self.run("nbdinfo", self.uri("vm-2"))
        chapter("One is written to, and snapshotted meanwhile")
        if not self.write_mounted():
            self.write_served()
        chapter("Who is equal to whom")
        self.compare_all()
        chapter("Space")
        self.space()
        chapter("The pipeline")
        self.run("archipelago", "status", "--picture")
        self.run("vlmc", "check", "original", "golden", "vm-1", "vm-1-live", "twin", note="check 5 maps")

    def start_cluster(self, ceph: cluster.Cluster) -> None:
        """A Ceph cluster, and a configuration that keeps everything in it."""
        chapter("A private Ceph cluster, in " + ceph.folder)
        began = time.monotonic()
        ceph.up(("volumes", "maps"))
        with open(os.path.join(self.home, "archipelago.toml"), "w", encoding="utf-8") as file:
            file.write(cluster.instance_config(ceph.conf))
        say(ceph.run("ceph", "-s") + f"up in {time.monotonic() - began:.1f} s")
        say("$ cat " + file.name + "\n" + cluster.instance_config(ceph.conf))

    def write_mounted(self) -> bool:
        """Maps, mounts and writes, with a snapshot between. False: not possible, here or with this image."""
        if reason := mapping.why_not():
            say(f"The device, mount and file steps are left out: {reason}.")
            return False
        with self.mapped("vm-1") as devices:
            if not self.mount(devices):
                say("The image holds no file system that mounts here: it is written to over NBD instead.")
                return False
            digest = self.write_file("before")
            self.snapshot_live()
            self.write_file("after")
            self.run("umount", self.mountpoint)
        self.compare("twin", "vm-1-live", IDENTICAL)
        with self.mapped("twin") as devices:
            if not self.mount(devices):
                raise Failed("the clone of the snapshot cannot be mounted")
            self.read_back(digest)
            self.run("umount", self.mountpoint)
        return True

    def write_served(self) -> None:
        """Without a file system: writes a pattern over NBD, before and after the snapshot."""
        write = ["qemu-io", "-f", "raw", "-c", "write -P 0x5a 512k 64k", "-c", "flush", self.uri("vm-1")]
        self.run(*write)
        self.snapshot_live()
        self.run(*[word.replace("0x5a", "0xa5") for word in write])
        self.compare("twin", "vm-1-live", IDENTICAL)

    def snapshot_live(self) -> None:
        self.run("vlmc", "snapshot", "vm-1", "vm-1-live", note="snapshot while it is in use")
        self.run("vlmc", "clone", "vm-1-live", "twin", note="1 clone of that")

    def write_file(self, name: str) -> str:
        """Writes a file of random bytes into the mounted file system; its SHA-256."""
        path = os.path.join(self.mountpoint, name)
        state = os.statvfs(self.mountpoint)
        size = min(FILE_BYTES, state.f_bavail * state.f_frsize // 4)
        self.run("dd", "if=/dev/urandom", f"of={path}", "bs=64K", f"count={max(size >> 16, 1)}", "conv=fsync",
                 "status=none", note=f"write {cli.human(size)} into the file system, and fsync")
        self.run("sync", "-f", self.mountpoint)
        return self.ask("sha256sum", path).split()[0]

    def read_back(self, digest: str) -> None:
        """In the clone of the live snapshot: the file from before is there, the one from after is not."""
        found = self.ask("sha256sum", os.path.join(self.mountpoint, "before")).split()[0]
        self.judge("the file written before the snapshot has the same checksum in its clone", found == digest)
        gone = not os.path.exists(os.path.join(self.mountpoint, "after"))
        self.judge("the file written after the snapshot is not in its clone", gone)

    def compare_all(self) -> None:
        self.compare(self.image, "original", IDENTICAL)
        self.compare("original", "golden", IDENTICAL)
        self.compare("vm-2", "golden", IDENTICAL)
        self.compare("vm-1", "golden", DIFFERENT)
        self.compare("vm-1-live", "golden", DIFFERENT)
        self.compare("vm-1", "vm-1-live", DIFFERENT)
        self.compare_blocks("vm-1", "golden")

    def compare(self, one: str, other: str, expected: int) -> None:
        """Compares two volumes, or the image and a volume."""
        first = [image_source.format_of(one), one] if one == self.image else ["raw", self.uri(one)]
        status = self.run("qemu-img", "compare", "-f", *first, "-F", "raw", self.uri(other),
                          statuses=(IDENTICAL, DIFFERENT))
        what = "equal" if expected == IDENTICAL else "different"
        self.judge(f"{os.path.basename(one)} and {other} are {what}", status == expected)

    def compare_blocks(self, clone: str, snapshot: str) -> None:
        """Whether they differ only in blocks for which the clone has objects of its own."""
        info = self.json("info", clone)
        if info["size"] > COMPARE_BYTES_MAX:
            say(f"Block by block they are not compared: that is done up to {cli.human(COMPARE_BYTES_MAX)}.")
            return
        maps = [{entry["block"]: entry["layers"] for entry in self.json("mapinfo", name)}
                for name in (clone, snapshot)]
        mapped = maps[0].keys() | maps[1].keys()
        own = {block for block in mapped if maps[0].get(block) != maps[1].get(block)}
        differ = self.differing_blocks(clone, snapshot, info["block_size"])
        count, size = -(-info["size"] // info["block_size"]), cli.human(info["block_size"])
        say(f"{clone} and {snapshot}: {len(differ)} of {count} blocks of {size} differ; "
            f"{len(own)} are mapped differently")
        self.judge(f"{clone} and {snapshot} differ only where {clone} was written to", differ <= own)

    def json(self, *words: str) -> Any:
        """What a verb of vlmc says to programs. Not shown."""
        done = subprocess.run(["vlmc", *words, "--json"], stdout=subprocess.PIPE, check=True,
                              timeout=COMMAND_TIMEOUT_S)
        return json.loads(done.stdout)

    def differing_blocks(self, one: str, other: str, block_size: int) -> set[int]:
        """Numbers of the blocks that are not equal, by reading all of both over NBD."""
        for name in (one, other):
            say(f"$ nbdcopy {shlex.quote(self.uri(name))} - | ...")
        streams = [subprocess.Popen(["nbdcopy", self.uri(name), "-"], stdout=subprocess.PIPE)
                   for name in (one, other)]
        found, number, end = set(), 0, False
        while not end:
            first, second = (stream.stdout.read(block_size) for stream in streams if stream.stdout)
            if first != second:
                found.add(number)
            number, end = number + 1, not first and not second
        for stream in streams:
            if stream.wait(COMMAND_TIMEOUT_S):
                raise Failed(f"nbdcopy: exit status {stream.returncode}")
        return found

    def judge(self, sentence: str, true: bool) -> None:
        say(f"  {'as it should be' if true else 'WRONG, it should be so'}: {sentence}")
        if not true:
            self.wrong.append(sentence)

    def space(self) -> None:
        """What the volumes look like, and what is stored for them."""
        self.run("vlmc", "du", "original", "golden", "vm-1", "vm-1-live", "vm-2", "twin",
                 note="du of 6 volumes")
        sizes = [volume["size"] for volume in self.json("list")]
        if self.cluster:
            objects = {pool: self.cluster.run("rados", "-p", pool, "--all", "ls").count("\n")
                       for pool in ("volumes", "maps")}
            say(f"\n{len(sizes)} volumes and snapshots of {cli.human(sum(sizes))} in all (logical)\n"
                f"stored: {objects['volumes']} objects of data (unique) and {objects['maps']} of maps")
            return
        stored = {name: stored_bytes(os.path.join(self.home, name)) for name in ("data", "map")}
        say(f"\n{len(sizes)} volumes and snapshots of {cli.human(sum(sizes))} in all (logical)\n"
            f"stored: {cli.human(stored['data'])} of data (unique) and {cli.human(stored['map'])} of maps")

    # --- devices

    @contextlib.contextmanager
    def mapped(self, name: str) -> Iterator[list[str]]:
        """A mapped volume: its device and partitions."""
        device = self.ask("vlmc", "map", name, note=f"map {name}")
        yield [device, *blockdev.partitions(device)]
        self.run("vlmc", "unmap", name, note=f"unmap {name}")

    def mount(self, devices: list[str]) -> bool:
        """Mounts the file system on one of these devices. False: there is none, or it cannot be mounted."""
        os.makedirs(self.mountpoint, exist_ok=True)
        found = file_system(devices)
        if not found or self.run("mount", found, self.mountpoint, statuses=(0, MOUNT_FAILED)):
            return False
        self.run("df", "-h", self.mountpoint)
        return True

    # --- the end

    def summary(self) -> None:
        chapter("Times")
        for note, took in self.times:
            say(f"{took * 1000:10.0f} ms  {note}")

    def unmount(self) -> None:
        """Unmounts the file system; a command that was interrupted may still use it for a moment."""
        def free() -> bool:
            return subprocess.run(["umount", self.mountpoint], stderr=subprocess.DEVNULL).returncode == 0

        if os.path.ismount(self.mountpoint) and not blockdev.wait_for(free, UNMOUNT_S):
            subprocess.run(["umount", "--lazy", self.mountpoint])

    def clean_up(self) -> None:
        """Stops and removes everything; says what cannot be, and goes on."""
        commands = [["vlmc", "unmap", "--force", entry.id] for entry in mapping.entries(self.home)]
        self.unmount()
        if os.path.isdir(os.path.join(self.home, "run")):
            commands.append(["archipelago", "stop", "--force"])
        for command in commands:
            say("$ " + shlex.join(command))
            try:
                subprocess.run(command, timeout=CLEANUP_TIMEOUT_S, stdin=subprocess.DEVNULL, check=True)
            except (OSError, subprocess.SubprocessError) as failure:
                say(f"not cleaned up: {failure}")
        if self.cluster:
            self.cluster.destroy()
        for late in blockdev.mounts_below(self.home):   # a mount that was interrupted has ended since
            subprocess.run(["umount", "--lazy", late])
        if blockdev.mounts_below(self.home):
            say(f"{self.home} is left in place: something is still mounted there")
        else:
            shutil.rmtree(self.home, ignore_errors=True)


def say(text: str) -> None:
    print(text, flush=True)


def chapter(title: str) -> None:
    say(f"\n=== {title}\n")


def file_system(devices: list[str]) -> str | None:
    """The device of these with the largest file system that is likely to be mountable."""
    found = []
    for device in devices:
        kind = subprocess.run(["blkid", "-p", "-o", "value", "-s", "TYPE", device],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout.strip()
        if kind in FILE_SYSTEMS and kernel_knows(kind):
            with open(device, "rb") as file:
                found.append((file.seek(0, os.SEEK_END), device))
    return max(found)[1] if found else None


def kernel_knows(kind: str) -> bool:
    """Whether this kernel has a file system, perhaps as a module that is loaded now."""
    with contextlib.suppress(FileNotFoundError):
        subprocess.run(["modprobe", "--quiet", kind])
    with open("/proc/filesystems", encoding="ascii") as file:
        return kind in {line.split()[-1] for line in file}


def stored_bytes(folder: str) -> int:
    """Bytes that the files of a folder take on the disk."""
    return sum(os.stat(os.path.join(path, name)).st_blocks * 512
               for path, _, names in os.walk(folder) for name in names)


class Interrupted(BaseException):
    """A signal asks it to end. Not KeyboardInterrupt, at which subprocess leaves a command behind that does not
    end at once, such as a mount."""


def stop_on_signal(number: int, frame: object) -> None:
    raise Interrupted


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", help="a disk image, raw or qcow2 (default: a Debian root disk is made)")
    parser.add_argument("--clones", type=int, default=CLONES, help="how many clones are made, at least 2")
    parser.add_argument("--backend", choices=("files", "rados"), default="files", help="what it is kept in")
    args = parser.parse_args()
    for number in STOP_SIGNALS:
        signal.signal(number, stop_on_signal)
    home = tempfile.mkdtemp(prefix="demo-", dir="/tmp")     # unix sockets need a short path
    os.environ["ARCHIPELAGO_HOME"] = home
    os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
    demo = Demo(home, os.path.abspath(args.image) if args.image else "", max(args.clones, 2),
                args.backend)
    try:
        if not demo.image:
            chapter("A Debian root disk, kept in " + CACHE)
            demo.image = cached(CACHE, demo.run)
        demo.tell()
        demo.summary()
    except (Failed, OSError, subprocess.SubprocessError) as failure:
        demo.wrong.append(str(failure))
    except Interrupted:
        say("\ninterrupted")
        return 130
    finally:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)           # clearing away takes moments
        chapter("Clearing away")
        demo.clean_up()
    for sentence in demo.wrong:
        say(f"FAILED: {sentence}")
    return 1 if demo.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
