# SPDX-License-Identifier: Apache-2.0
"""Snapshots of a volume that a database works on: each is what a power cut would have left, and recovers.

SQLite on ext4 on a mapped volume. What was committed before a snapshot was asked for must be in it.
"""
import os
import subprocess
import sys
import time

import pytest
from support import run, wait_until

from tools.mapping import blockdev, mapping

pytestmark = [pytest.mark.skipif(bool(mapping.why_not()), reason=mapping.why_not()), pytest.mark.layout("colocated")]
BANK = os.path.join(os.path.dirname(__file__), "bank.py")
SIZE = 96 << 20
SNAPSHOTS = 5
SOAK_MINUTES = float(os.environ.get("ARCHIPELAGO_SOAK_MINUTES", "1"))


@pytest.fixture
def instance(instance):
    yield instance
    for point in sorted(blockdev.mounts_below(instance.home), reverse=True):
        if "/mnt-" in point:
            run("umount", "--lazy", point, check=False)
    for entry in mapping.entries(instance.home):
        instance.vlmc("unmap", "--force", entry.id, check=False)
    assert not blockdev.mounts_below(instance.home)


def attach(instance, name, make=False):
    """Maps and mounts; the mount point."""
    device, point = instance.vlmc("map", name).stdout.strip(), os.path.join(instance.home, f"mnt-{name}")
    os.makedirs(point)
    if make:
        run("mkfs.ext4", "-q", device)
    run("mount", device, point)
    return point


def detach(instance, name):
    """Unmounts, has the file system checked, unmaps."""
    point = os.path.join(instance.home, f"mnt-{name}")
    device = next(entry.device for entry in mapping.entries(instance.home) if entry.name == name)
    run("umount", point)
    os.rmdir(point)
    run("e2fsck", "-fn", device)
    instance.vlmc("unmap", name)


class Bank:
    """The working database, in a process of its own."""

    def __init__(self, instance):
        self.instance = instance
        instance.vlmc("create", "bank", "--size", str(SIZE), "--block-size", "1M")
        point = attach(instance, "bank", make=True)
        self.log = os.path.join(instance.home, "transfers")
        with open(self.log, "w") as log:
            self.process = subprocess.Popen([sys.executable, BANK, "work", os.path.join(point, "bank.db")], stdout=log)

    def committed(self):
        """Number of the last transfer that is known to be durable."""
        assert self.process.poll() is None, "the database ended"
        with open(self.log) as log:
            lines = log.read().split("\n")
        return int(lines[-2]) if len(lines) > 1 else 0

    def snapshot(self, number):
        """Takes one amid the work; what its clone holds after recovery is right."""
        before = self.committed()
        self.instance.vlmc("snapshot", "bank", f"at-{number}")
        after = self.committed()
        self.instance.vlmc("clone", f"at-{number}", f"copy-{number}")
        point = attach(self.instance, f"copy-{number}")
        last = int(run(sys.executable, BANK, "audit", os.path.join(point, "bank.db")).stdout)
        assert last >= before, f"transfer {before} was committed before the snapshot, which ends with {last}"
        print(f"snapshot {number}: asked for after transfer {before}, done by {after}, holds {last}")
        detach(self.instance, f"copy-{number}")
        self.instance.vlmc("remove", f"copy-{number}")
        return last

    def stop(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def bank(instance):
    made = Bank(instance)
    yield made
    made.stop()


def test_each_snapshot_under_a_database_recovers_with_all_that_was_committed(instance, bank):
    seen = []
    for number in range(SNAPSHOTS):
        more = (seen[-1] if seen else 0) + 20
        wait_until(lambda: bank.committed() >= more, "transfers go on", 120)    # noqa: B023
        seen.append(bank.snapshot(number))
    assert seen == sorted(set(seen))
    bank.stop()
    detach(instance, "bank")
    instance.archipelago("check")


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_snapshots_under_a_database_for_long(instance, bank):
    end, number = time.monotonic() + SOAK_MINUTES * 60, 0
    while time.monotonic() < end:
        bank.snapshot(number)
        instance.vlmc("remove", f"at-{number}")
        number += 1
