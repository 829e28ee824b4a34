# SPDX-License-Identifier: Apache-2.0
"""A disk that fails to write back, for a while: no flush says OK for data that are gone, whoever heard of the error
and whoever died since. What a flush has vouched for is there after the next mount.
"""
import errno
import os
import signal

import pytest
from failing_disk import failing_disk  # noqa: F401
from support import Instance, processes_of, segments_of, wait_until

from xseg._native import lib
from xseg.errors import XsegError

BLOCK = 65536
SIZE = 64 * BLOCK
MARK = b"the guest's data"              # every sector of a guest holds it


def sectors(number, length=4096):
    """Numbered data."""
    return (MARK + b"%016d" % number).ljust(512, b".") * (length // 512)


class Node:
    """An instance whose stores lie on the failing disk; a volume `v` of it, and what a flush vouched for."""

    def __init__(self, home, disk, more=""):
        self.disk = disk
        paths = {role: os.path.join(disk.point, role) for role in ("blockerb", "blockerm")}
        for path in paths.values():
            os.makedirs(path, exist_ok=True)
        self.config = 'layout = "separate"\n' + "".join(
            f'[peers.{role}]\npath = "{path}"\n' for role, path in paths.items()) + more
        self.instance = Instance(home, self.config, supervised=True)
        self.instance.start()
        self.written, self.flushed = {}, {}
        self.instance.client.control("create", name="v", size=SIZE, block_size=BLOCK)
        self.open()

    def open(self):
        self.volume = self.instance.client.open("v")

    def write(self, blocks, number):
        for block in blocks:
            self.volume.write(block * BLOCK, sectors(number))
            self.written[block] = number

    def flush(self):
        """0 or an errno; what it vouches for is noted."""
        code = -self.volume.call(lib.XOP_FLUSH, check=False).error
        if code == 0:
            self.flushed |= self.written
        return abs(code)

    def tops(self):
        """The uppermost object of each block, as far as they are committed."""
        found = self.instance.client.control("mapinfo", name="v", cursor=0)["entries"]
        return {block: tuple(layers[0][1:3]) for block, layers in found}

    def replace(self, role="blockerb"):
        """kill -9, and wait for the successor."""
        pid = self.instance.pid(role)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: self.instance.pid(role) not in (0, pid)
                   and self.instance.status()[role]["state"] == "running", f"{role} is there again")

    def look(self):
        """What was vouched for is there, now and after a mount."""
        self.instance.stop()
        self.disk.remount()
        self.instance.start()
        self.open()
        for block, number in self.flushed.items():
            assert self.volume.read(block * BLOCK, 4096) == sectors(number), f"block {block}"
        self.volume.close()
        assert self.instance.client.control("check", name="v")["problems"] == []


@pytest.fixture
def node(home, failing_disk, request):  # noqa: F811
    """Its parameter, if it has one, is the mapper's `journal_limit`."""
    limit = getattr(request, "param", None)
    os.mkdir(os.path.join(home, "n"))
    made = Node(os.path.join(home, "n"), failing_disk, f"[peers.mapper]\njournal_limit = {limit}\n" if limit else "")
    yield made
    made.disk.heal()
    made.instance.finish()


FEW, MANY = range(4), range(40)


@pytest.mark.parametrize("blocks", [FEW, MANY], ids=["few", "many"])
@pytest.mark.parametrize("before", [True, False], ids=["overwritten", "first written"])
def test_after_a_flush_that_failed_none_succeeds_until_the_volume_is_opened_anew(node, blocks, before):
    if before:
        node.write(blocks, 1)
        assert node.flush() == 0
    node.disk.fail(MARK)
    node.write(blocks, 2)
    assert node.flush() == errno.EIO
    node.disk.heal()
    assert [node.flush() for _ in range(3)] == [errno.EIO] * 3
    node.flushed = {}                       # in doubt now
    assert "may be gone" in node.instance.client.control("info", name="v")["open"]["lost"]
    node.volume.close()
    node.open()
    node.write(blocks, 3)
    assert node.flush() == 0
    node.volume.close()
    node.look()


@pytest.mark.parametrize("before", [True, False], ids=["overwritten", "first written"])
def test_what_is_read_after_a_loss_is_what_the_disk_has(node, before):
    if before:
        node.write(MANY, 1)
        assert node.flush() == 0
    node.disk.fail(MARK)
    node.write(MANY, 2)
    assert node.flush() == errno.EIO
    node.disk.heal()
    node.volume.close()
    node.written, node.flushed = {}, {}     # in doubt now
    node.open()
    found = [node.volume.read(block * BLOCK, BLOCK) for block in range(SIZE // BLOCK)]
    lost = node.tops()
    node.write(range(2, 64, 3), 3)
    assert node.flush() == 0
    now = node.tops()
    assert all(now[block] != lost.get(block) for block in range(2, 64, 3)), "an object of then was written again"
    node.volume.close()
    node.look()
    node.open()
    for block in set(range(SIZE // BLOCK)) - set(node.flushed):
        assert node.volume.read(block * BLOCK, BLOCK) == found[block], f"block {block}"
    for block in range(2, 64, 3):
        assert node.volume.read(block * BLOCK + 4096, BLOCK - 4096) == found[block][4096:], f"block {block}"


def test_an_error_that_a_snapshot_was_told_is_told_to_flushes(node):
    node.write(FEW, 1)
    assert node.flush() == 0
    node.disk.fail(MARK)
    node.write(range(8, 12), 2)
    with pytest.raises(XsegError):
        node.instance.client.control("snapshot", name="v", snapshot="s")
    node.disk.heal()
    assert node.flush() == errno.EIO
    node.volume.close()
    node.look()


def restart(node):
    node.instance.archipelago("restart", "blockerb")


@pytest.mark.parametrize("end", [lambda node: None, Node.replace, restart], ids=["alive", "killed", "restarted"])
def test_an_error_that_another_has_taken_is_told_to_the_next_flush(node, end):
    node.write(FEW, 1)
    assert node.flush() == 0
    node.disk.fail(MARK)
    node.write(range(2, 12), 2)
    node.disk.write_back()
    node.disk.heal()
    end(node)
    assert node.flush() == errno.EIO
    assert node.flush() == errno.EIO
    node.flushed = {0: 1, 1: 1}
    node.volume.close()
    node.look()


def test_an_error_outlives_whoever_was_told_of_it(node):
    node.write(FEW, 1)
    assert node.flush() == 0
    node.disk.fail(MARK)
    node.write(range(2, 12), 2)
    assert node.flush() == errno.EIO
    node.disk.heal()
    for role in ("blockerb", "vlmc", "mapper"):
        node.replace(role)
        assert node.flush() == errno.EIO
    node.flushed = {0: 1, 1: 1}
    node.volume.close()
    node.look()


def test_a_volume_that_did_not_lose_anything_goes_on(node):
    client = node.instance.client
    client.control("create", name="w", size=SIZE, block_size=BLOCK)
    with client.open("w") as other:
        other.write(0, b"w" * 4096)
        other.flush()
        node.disk.fail(MARK)
        node.write(FEW, 1)
        other.write(0, b"x" * 4096)
        assert node.flush() == errno.EIO
        other.flush()
        node.disk.heal()
        other.write(0, b"y" * 4096)
        other.flush()
        restart(node)
        other.write(4096, b"z" * 4096)
        other.flush()
    node.volume.close()
    node.look()
    with node.instance.client.open("w") as other:
        assert other.read(0, 8192) == b"y" * 4096 + b"z" * 4096


def test_what_nobody_was_told_of_is_not_given_up_by_closing(node):
    """Who wrote it has never asked: the volume stays open, and says why, until an operator decides."""
    node.write(FEW, 1)
    assert node.flush() == 0
    node.disk.fail(MARK)
    node.write(range(2, 8), 2)
    with pytest.raises(XsegError):
        node.volume.close()
    node.disk.heal()
    assert "`vlmc close --force v`" in node.instance.vlmc("info", "v").stdout
    node.instance.vlmc("close", "--force", "v")
    assert node.instance.client.control("info", name="v")["open"] is None
    node.flushed = {0: 1, 1: 1}
    node.look()


RECORD = b"ARCR"                        # every journal record and map page begins so


@pytest.mark.parametrize("node", [4096, 1 << 20], ids=["pages, too", "journal"], indirect=True)
def test_a_map_that_could_not_be_written_for_a_while_can_be_read_after_a_mount(node):
    client, number = node.instance.client, 0
    for turn in range(3):
        for _ in range(4):
            number += 1
            node.write(range(number % 7, 60, 7), number)
            assert node.flush() == 0
        node.disk.fail(RECORD)
        for _ in range(3):
            number += 1
            node.write(range(number % 5, 60, 5), number)
            assert node.flush() == errno.EIO
            with pytest.raises(XsegError):
                client.control("snapshot", name="v", snapshot="no")
        if turn == 1:
            node.replace("mapper")
        node.disk.heal()
        if node.flush():                    # the data lie on the same file system, and may share the error
            node.volume.close()
            node.open()
            node.write(range(60), number)
            assert node.flush() == 0
        client.control("snapshot", name="v", snapshot=f"s{turn}")
    node.volume.close()
    node.look()
    assert all(node.instance.client.control("check", name=f"s{turn}")["problems"] == [] for turn in range(3))


def move_to_another_instance(node):
    """kill -9 of all there is of the instance; its segment goes, too, and another takes its place."""
    node.instance.disconnect()
    for pid in processes_of(node.instance.home, b"tools.supervisor") + processes_of(node.instance.home):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not processes_of(node.instance.home), "all are gone")
    for path in segments_of(node.instance.home):
        os.unlink(path)
    home = node.instance.home + "2"
    os.mkdir(home)
    node.instance = Instance(home, node.config, supervised=True)
    node.instance.start()


@pytest.mark.parametrize("verb", ["open", "snapshot"])
def test_a_record_that_only_memory_has_is_not_counted_upon(node, verb):
    node.write(FEW, 1)
    assert node.flush() == 0
    node.disk.fail(RECORD)
    node.write(range(4, 8), 2)
    assert node.flush() == errno.EIO
    node.disk.heal()
    node.disk.write_back()
    move_to_another_instance(node)
    if verb == "snapshot":
        node.instance.client.control("snapshot", name="v", snapshot="s")
        node.instance.stop()
        node.disk.remount()
        node.instance.start()
    node.open()
    node.write(range(8, 12), 3)
    assert node.flush() == 0
    node.volume.close()
    node.flushed = {block: number for block, number in node.flushed.items() if number != 2}
    node.look()
