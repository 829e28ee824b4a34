# SPDX-License-Identifier: Apache-2.0
"""Power cuts under everything that is real: processes, page cache, ext4, a loop device, and below it a disk whose
cache is lost (cut_server.py). At a cut the disk fails, all processes are killed, and the survivors are mounted.
"""
import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest
from cut_oracle import SECTOR, Image, Op, Snap
from support import Instance, processes_of, run, wait_until

from tools.mapping import blockdev, mapping
from xseg._native import lib
from xseg.errors import XsegError
from xseg.segment import Segment, name_for

HERE = os.path.dirname(os.path.abspath(__file__))
pytestmark = pytest.mark.skipif(bool(mapping.why_not()) or os.geteuid() != 0,
                                reason=mapping.why_not() or "mounting needs root")
DISK_BYTES = 96 << 20
BLOCK = 65536
VOLUME_BYTES = 40 * BLOCK + 512
CUTS = 4
SEED = int(os.environ.get("ARCHIPELAGO_CUT_SEED", "1"))
WORK_S = 2.5                        # until the cut, at most
ANSWER_S = 3.0                      # that a request may take before the cut is taken for its end
SOAK_MINUTES = float(os.environ.get("ARCHIPELAGO_SOAK_MINUTES", "1"))


class Machine:
    """A store on ext4 on a disk that may fail; one instance on it."""

    def __init__(self, home, seed):
        self.home, self.dice = home, random.Random(seed)
        self.image, self.point = os.path.join(home, "disk"), os.path.join(home, "ext4")
        self.file = os.path.join(home, "fuse")
        for folder in (self.point, self.file):
            os.makedirs(folder)
        with open(self.image, "wb") as disk:
            disk.truncate(DISK_BYTES)
        run("mkfs.ext4", "-q", self.image)
        self.device, self.boots = "", 0

    # --- the disk

    def power_on(self):
        """Mounts the disk, begins an instance on it."""
        self.boots += 1
        socket, ready = os.path.join(self.home, f"s{self.boots}"), os.path.join(self.home, f"p{self.boots}")
        self.server = subprocess.Popen([sys.executable, os.path.join(HERE, "cut_server.py"), socket, self.image,
                                        str(self.dice.getrandbits(30))], stdout=subprocess.PIPE, text=True)
        assert self.server.stdout.readline() == "ready\n"
        self.fuse = subprocess.Popen(["nbdfuse", "--pidfile", ready, os.path.join(self.file, "disk"),
                                      f"nbd+unix:///?socket={socket}"])
        wait_until(lambda: os.path.exists(ready), "nbdfuse is ready")
        self.device = run("losetup", "--find", "--show", "--direct-io=on",
                          os.path.join(self.file, "disk")).stdout.strip()
        run("mount", self.device, self.point)
        paths = {role: os.path.join(self.point, role) for role in ("blockerb", "blockerm")}
        for path in paths.values():
            os.makedirs(path, exist_ok=True)
        node = os.path.join(self.home, f"n{self.boots}")
        os.makedirs(node)
        self.instance = Instance(node, "".join(f'[peers.{role}]\npath = "{path}"\n' for role, path in paths.items())
                                 + '[peers.mapper]\njournal_limit = 8192\n')
        self.instance.start()

    def cut(self):
        """The power fails: what survives is the disk from now on."""
        self.server.send_signal(signal.SIGUSR1)
        assert self.server.stdout.readline() == "cut\n"
        os.replace(self.image + ".left", self.image)

    def clear_away(self):
        """After a cut: kills what is left of the node, takes the dead disk away."""
        for pid in processes_of(self.instance.home):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not processes_of(self.instance.home), "all processes are dead")
        self.instance.disconnect()
        Segment.unlink(name_for(self.instance.home))
        self.take_disk_away()

    def power_off(self):
        """In order."""
        self.instance.finish()
        self.take_disk_away()

    def take_disk_away(self):
        if self.point in [point for _, point, _ in blockdev.mount_table()]:
            wait_until(lambda: run("umount", self.point, check=False).returncode == 0, "nobody uses the disk")
        if self.device:
            run("losetup", "--detach", self.device)
            wait_until(lambda: not os.path.exists(f"/sys/block/{os.path.basename(self.device)}/loop/backing_file"),
                       "the loop device is gone")
            self.device = ""
        run("fusermount3", "-u", self.file, check=False)
        self.fuse.wait(20)
        self.server.kill()
        self.server.wait()


class Work:
    """What is done on the machine, and what may be there afterwards."""

    def __init__(self, machine):
        self.machine, self.dice = machine, machine.dice
        self.images, self.volumes = {}, {}
        self.made = self.changes = 0
        self.maybe = None                       # a snapshot under way at the cut

    @property
    def client(self):
        return self.machine.instance.client

    def look(self):
        """After a cut: everything is what it may be; the whole store is good."""
        self.volumes = {}
        names = set(self.client.names())
        if self.maybe and self.maybe[0] in names:
            self.images[self.maybe[0]] = self.maybe[1].image()
        self.maybe = None
        assert names == set(self.images)
        for name, image in self.images.items():
            image.after_cut()
            image.name = name
            self.volumes[name] = volume = self.client.open(name)
            for extent in volume.extents():
                if extent.zero:
                    image.settle_zeros(extent.offset, extent.length)
                else:
                    image.settle(extent.offset, volume.read(extent.offset, extent.length))
        self.machine.instance.archipelago("check")

    def step(self):
        writable = [name for name, image in self.images.items() if not image.readonly]
        if len(writable) < 2:
            self.create()
            return
        name, kind = self.dice.choice(writable), self.dice.random()
        if kind < 0.05 and len(self.images) < 14:
            self.snapshot(name)
        elif kind < 0.12:
            since = Image.tick()
            self.volumes[name].call(lib.XOP_FLUSH, timeout=ANSWER_S)
            self.images[name].flushed(since)
        else:
            self.write(name)

    def create(self):
        self.made += 1
        name = f"v{self.made}"
        self.client.control("create", name=name, size=VOLUME_BYTES, block_size=BLOCK)
        self.images[name] = Image(VOLUME_BYTES)
        self.images[name].name = name
        self.volumes[name] = self.client.open(name)

    def snapshot(self, name):
        self.made += 1
        made, snap = f"s{self.made}", Snap(self.images[name])
        self.maybe = made, snap
        self.client.control("snapshot", name=name, snapshot=made, timeout=ANSWER_S)
        self.maybe = None
        self.images[made] = snap.image()
        clone = self.dice.random() < 0.5
        if clone:
            self.client.control("clone", name=made, names=[f"v{self.made}"], timeout=ANSWER_S)
            self.images[f"v{self.made}"] = snap.image().copy(VOLUME_BYTES)
            self.volumes[f"v{self.made}"] = self.client.open(f"v{self.made}")

    def write(self, name):
        image, op, dice = self.images[name], Op(), self.dice
        offset = dice.randrange(dice.choice((BLOCK, 4 * BLOCK, VOLUME_BYTES)))
        unit = dice.choice((1, 512, 4096))
        offset = offset // unit * unit
        length = min(VOLUME_BYTES - offset, max(unit, dice.randrange(1, dice.choice((9000, 2 * BLOCK))) // unit * unit))
        self.changes += 1
        tag = b"%07d," % self.changes
        data, fua = (tag * (length // 8 + 1))[:length], dice.random() < 0.1
        image.write(offset, data, op)
        self.volumes[name].call(lib.XOP_WRITE, offset, length, data=data, flags=lib.XREQ_FUA * fua, timeout=ANSWER_S)
        op.acked = Image.tick()
        if fua:
            image.flushed(Image.tick(), [s for s in range(offset // SECTOR, -(-(offset + length) // SECTOR))
                                         if s in image.open_sectors])


def one_cut(machine, work):
    """Power on, look, work until the power fails."""
    machine.power_on()
    work.look()
    failing = threading.Event()

    def fail():
        failing.set()
        machine.cut()

    timer = threading.Timer(machine.dice.uniform(0.2, WORK_S), fail)
    timer.start()
    try:
        while True:
            work.step()
            assert timer.is_alive() or failing.is_set()
            if failing.is_set() and not timer.is_alive():
                break
    except XsegError as failure:
        assert failing.is_set(), f"before the cut: {failure}"
    timer.join()
    machine.clear_away()


@pytest.fixture
def machine(home):
    made = Machine(home, SEED)
    yield made
    if made.device:                             # the test failed: nothing of it may stay
        for pid in processes_of(made.instance.home):
            os.kill(pid, signal.SIGKILL)
        made.server.send_signal(signal.SIGUSR1)
        time.sleep(0.5)
        made.instance.disconnect()
        made.take_disk_away()


def test_flushed_data_survives_the_failure_of_a_real_file_systems_disk(machine):
    work = Work(machine)
    for number in range(CUTS):
        one_cut(machine, work)
        print(f"cut {number}: {work.changes} writes so far, {len(work.images)} volumes")
    machine.power_on()
    work.look()
    machine.power_off()


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_a_real_disk_fails_for_long(machine):
    end, work = time.monotonic() + SOAK_MINUTES * 60, Work(machine)
    while time.monotonic() < end:
        one_cut(machine, work)
    machine.power_on()
    work.look()
    machine.power_off()
