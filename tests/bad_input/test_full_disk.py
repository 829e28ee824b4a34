# SPDX-License-Identifier: Apache-2.0
"""A disk that is full: ENOSPC reaches the client, nothing that was acknowledged is lost, and all goes on when
there is space again."""
import contextlib
import errno
import os
import subprocess

import pytest
from support import Instance

from xseg.errors import NoSpace, XsegError

BLOCK = 65536
DISK_MIB = 24
VOLUME = 1 << 30


@pytest.fixture
def disk(home):
    """A small file system that holds the data and map folders of an instance; its balloon fills it."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    folder = os.path.join(home, "store")
    os.mkdir(folder)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "archipelago-test", folder],
                             capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def full(home, disk):
    """A running instance whose stores lie on the small disk, made of the disk."""
    made = Instance(home, f"""
[peers.blockerb]
path = "{disk}/data"
[peers.blockerm]
path = "{disk}/map"
""")
    for name in ("data", "map"):
        os.mkdir(os.path.join(disk, name))
    made.start()
    yield made
    made.finish()


def inflate(disk, leave=0):
    """Takes all space of the disk but `leave` bytes."""
    with open(os.path.join(disk, "balloon"), "ab", buffering=0) as balloon:
        with contextlib.suppress(OSError):
            for size in (1 << 20, 4096):
                while os.statvfs(disk).f_bavail * 4096 > leave + size:
                    balloon.write(bytes(size))
            while not leave:
                balloon.write(bytes(4096))


def deflate(disk):
    os.unlink(os.path.join(disk, "balloon"))


def fill(volume, written):
    """Writes block after block until there is no space; notes in `written` what was acknowledged."""
    for block in range(max(written, default=0) + 1, VOLUME // BLOCK):
        try:
            volume.write(block * BLOCK, b"%08d" % block * (BLOCK // 8))
        except NoSpace:
            return
        written[block] = True
    raise AssertionError("the disk was never full")


def test_nothing_acknowledged_is_lost_when_the_disk_is_full(full, disk):
    full.client.control("create", name="v", size=VOLUME, block_size=BLOCK)
    inflate(disk, leave=4 << 20)
    written = {}
    with full.client.open("v") as volume:
        fill(volume, written)
        with pytest.raises(NoSpace):
            volume.write(900 * BLOCK, b"no room for this" * 4096)
        deflate(disk)
        for block in written:
            assert volume.read(block * BLOCK, 8) == b"%08d" % block
        volume.write(901 * BLOCK, b"but for this")
        volume.flush()
    with full.client.open("v") as volume:
        assert all(volume.read(block * BLOCK, BLOCK) == b"%08d" % block * (BLOCK // 8) for block in written)
        assert volume.read(901 * BLOCK, 12) == b"but for this"
    assert full.client.control("check", name="v")["problems"] == []


def test_overwriting_works_on_a_full_disk_and_a_flush_tells_the_truth(full, disk):
    full.client.control("create", name="v", size=VOLUME, block_size=BLOCK)
    with full.client.open("v") as volume:
        volume.write(0, b"a" * 4 * BLOCK)
        volume.flush()
        inflate(disk)
        volume.write(0, b"b" * 4 * BLOCK)
        volume.flush()                          # nothing to be recorded: no space is needed
        with pytest.raises(NoSpace):
            volume.write(10 * BLOCK, b"c" * BLOCK)
        deflate(disk)
        volume.write(10 * BLOCK, b"d" * BLOCK)
        inflate(disk)
        with contextlib.suppress(XsegError):    # the journal may or may not find its page in the file
            volume.flush()
        deflate(disk)
        volume.flush()
    with full.client.open("v") as volume:
        assert volume.read(0, 4 * BLOCK) == b"b" * 4 * BLOCK and volume.read(10 * BLOCK, BLOCK) == b"d" * BLOCK


def test_what_needs_space_is_refused_with_words_and_leaves_nothing(full, disk):
    full.client.control("create", name="v", size=VOLUME, block_size=BLOCK)
    inflate(disk)
    done = full.vlmc("create", "another", "--size", "1G", check=False)
    assert done.returncode == 1 and "No space left on device" in done.stderr and "another" in done.stderr
    with pytest.raises(XsegError) as caught:
        full.client.control("clone", name="v", names=["w"])
    assert caught.value.errno == errno.ENOSPC
    deflate(disk)
    assert set(full.client.names()) == {"v"}
    full.client.control("create", name="another", size=VOLUME)
    full.client.control("snapshot", name="v", snapshot="s")
    full.client.control("clone", name="s", names=["w"])
    assert full.client.control("check", name="w")["problems"] == []


def test_zeros_written_after_a_failure_stay_zeros(full, disk):
    """A write that ran out of space midway may leave a part in an object that no map names: it must not come
    to light when the block is first written later."""
    full.client.control("create", name="v", size=VOLUME, block_size=1 << 20)
    with full.client.open("v") as volume:
        for turn in range(8):
            offset = turn << 20
            inflate(disk, leave=4096 * (turn * 20 + 3))
            with contextlib.suppress(NoSpace):
                volume.write(offset, b"x" * (1 << 20))
            deflate(disk)
            volume.zeroes(offset, 1 << 20)
            volume.write(offset + 8192, b"y" * 10)
            assert volume.read(offset, 1 << 20) == bytes(8192) + b"y" * 10 + bytes((1 << 20) - 8202)


def test_a_shared_disk_full_of_clones_goes_on(full, disk):
    """First writes to blocks that are shared: chunks and layers run out of space, too."""
    full.client.control("create", name="v", size=VOLUME, block_size=BLOCK)
    with full.client.open("v") as volume:
        volume.write(0, b"base" * (BLOCK // 4) * 40)
    full.client.control("snapshot", name="v", snapshot="s")
    full.client.control("clone", name="s", names=["c"])
    with full.client.open("c") as clone:
        inflate(disk, leave=256 << 10)
        last = 0
        with pytest.raises(NoSpace):
            for block in range(40):
                clone.write(block * BLOCK + 1000, b"z" * 5000)
                last = block + 1
        assert 0 < last < 40
        deflate(disk)
        clone.write(last * BLOCK + 1000, b"z" * 5000)
        for block in range(40):
            expected = b"base" * (BLOCK // 4)
            if block <= last:
                expected = expected[:1000] + b"z" * 5000 + expected[6000:]
            assert clone.read(block * BLOCK, BLOCK) == expected
    assert full.client.control("check", name="c")["problems"] == []
