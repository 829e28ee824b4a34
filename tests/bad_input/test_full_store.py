# SPDX-License-Identifier: Apache-2.0
"""A store that is full to the last block, or has no place for one file more: what leads out of that needs no space.
Volumes are opened, closed and removed, peers die and come back, the node stops and starts."""
import contextlib
import os
import shutil
import signal
import subprocess

import pytest
from support import Instance, run, wait_until

from tools.mapping import blockdev
from xseg.errors import NoSpace

BLOCK = 65536
SIZE = 1 << 28
FILES_MAX = 30000                   # of a size, that fill the disk
MAKE = {"ext4": ["mkfs.ext4", "-q", "-m", "0"], "few inodes": ["mkfs.ext4", "-q", "-m", "0", "-N", "2048"],
        "xfs": ["mkfs.xfs", "-q"], "btrfs": ["mkfs.btrfs", "-q"]}
MIB = {"ext4": 64, "few inodes": 128, "xfs": 320, "btrfs": 256, "tmpfs": 64}


@pytest.fixture(params=["ext4", "few inodes", "xfs", "btrfs", "tmpfs"])
def disk(request, home):
    """A small file system."""
    kind, point, image = request.param, os.path.join(home, "disk"), os.path.join(home, "image")
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    os.mkdir(point)
    if kind == "tmpfs":
        words = ["-t", "tmpfs", "-o", f"size={MIB[kind]}m", "archipelago-test"]
    elif shutil.which(MAKE[kind][0]):
        with open(image, "wb") as file:
            file.truncate(MIB[kind] << 20)
        run(*MAKE[kind], image)
        words = ["-o", "loop", image]
    else:
        pytest.skip(f"{MAKE[kind][0]} is missing")
    mounted = subprocess.run(["mount", *words, point], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no {kind} can be mounted here: {mounted.stderr.strip()}")
    shutil.rmtree(os.path.join(point, "lost+found"), ignore_errors=True)
    yield point
    wait_until(lambda: run("umount", point, check=False).returncode == 0, "nobody uses the disk")
    assert point not in [there for _, there, _ in blockdev.mount_table()]


@pytest.fixture
def instance(home, disk):
    paths = {role: os.path.join(disk, role) for role in ("blockerb", "blockerm")}
    for path in paths.values():
        os.mkdir(path)
    os.mkdir(os.path.join(home, "n"))
    made = Instance(os.path.join(home, "n"), 'layout = "separate"\n' + "".join(
        f'[peers.{role}]\npath = "{path}"\n' for role, path in paths.items()), supervised=True)
    made.start()
    yield made
    shutil.rmtree(os.path.join(disk, "balloon"), ignore_errors=True)
    made.finish()


def inflate(disk):
    """Takes all space, that for names, too, and all files where there can be but few."""
    folder = os.path.join(disk, "balloon")
    os.makedirs(folder, exist_ok=True)
    for size in (1 << 20, 1 << 16, 4096, 512, 0):
        with contextlib.suppress(OSError):
            for number in range(FILES_MAX):
                with open(os.path.join(folder, f"{number:0240}-{size}"), "xb", buffering=0) as file:
                    if file.write(bytes(size)) < size:
                        break
        fd = os.open(folder, os.O_RDONLY)
        with contextlib.suppress(OSError):
            os.fsync(fd)
        os.close(fd)
    with contextlib.suppress(OSError), open(os.path.join(folder, "grows"), "ab", buffering=0) as file:
        while file.write(bytes(4096)):
            os.fsync(file)


def kind_of(disk):
    return run("stat", "-f", "-c", "%T", disk).stdout.strip()


def die(instance, role):
    pid = instance.pid(role)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: instance.pid(role) not in (0, pid) and instance.status()[role]["state"] == "running",
               f"{role} is there again")


def data(number):
    return b"%08d" % number * (BLOCK // 8)


def test_a_full_store_can_be_used_and_emptied_from_inside(instance, disk):
    client = instance.client
    for name in ("kept", "open", "gone", "other"):
        client.control("create", name=name, size=SIZE, block_size=BLOCK)
        with client.open(name) as volume:
            for block in range(16):
                volume.write(block * BLOCK, data(block))
            volume.flush()
    client.control("snapshot", name="gone", snapshot="snap")
    opened = client.open("open")
    opened.write(20 * BLOCK, data(20))          # not yet in any record
    inflate(disk)
    first = 99
    try:
        opened.write(BLOCK, data(first))
    except NoSpace:
        assert kind_of(disk) == "btrfs"         # which writes elsewhere what is written over
        first = 1
    opened.flush()
    for role in ("blockerb", "blockerm", "mapper"):
        die(instance, role)
        assert opened.read(BLOCK, BLOCK) == data(first)
    opened.close()
    instance.disconnect()
    instance.archipelago("restart")
    instance.archipelago("stop")
    instance.archipelago("start")
    for name in ("kept", "snap"):
        with instance.client.open(name) as volume:
            assert volume.read(3 * BLOCK, BLOCK) == data(3)
    run("nbdinfo", instance.nbd_uri("kept"))
    for name in ("gone", "other"):
        instance.vlmc("remove", name)
    with instance.client.open("kept") as volume:
        for block in range(30, 34):
            volume.write(block * BLOCK, data(block))
        volume.flush()
    with instance.client.open("open") as volume:
        for block, number in ((1, first), (2, 2), (20, 20)):
            assert volume.read(block * BLOCK, BLOCK) == data(number)
    assert all(instance.client.control("check", name=name)["problems"] == [] for name in ("kept", "open", "snap"))


VERBS = {"hash": ["hash", "s"], "flatten": ["flatten", "c"], "rollback": ["rollback", "v", "s", "--keep", "was"],
         "receive": ["receive", "r"]}


def test_what_moves_maps_fails_whole_on_a_full_store_and_is_done_when_there_is_room(instance, disk):
    instance.vlmc("create", "v", "--size", "16M", "--block-size", "64K")
    with instance.client.open("v") as volume:
        for block in range(8):
            volume.write(block * BLOCK, data(block))
        volume.flush()
    instance.vlmc("snapshot", "v", "s")
    instance.vlmc("clone", "s", "c")
    with instance.client.open("v") as volume:
        volume.write(0, data(77))
        volume.flush()
    stream = instance.vlmc("send", "s", text=False).stdout
    inflate(disk)
    todo = {}
    for verb, words in VERBS.items():
        done = instance.run("vlmc", *words, input=stream, text=False, check=False)
        if done.returncode:
            todo[verb] = words
            assert b"No space" in done.stderr or b"full" in done.stderr, (verb, done.stderr)
    assert "receive" in todo or kind_of(disk) == "btrfs"        # which keeps small objects where there is room
    wanted = {"s": data(0), "c": data(0), "v": data(77) if "rollback" in todo else data(0)}
    for name, first in wanted.items():
        with instance.client.open(name) as volume:
            assert [volume.read(block * BLOCK, BLOCK) for block in (0, 7)] == [first, data(7)]
    shutil.rmtree(os.path.join(disk, "balloon"))
    run("sync", "-f", disk)                     # btrfs gives space back with its next commit
    for words in todo.values():
        instance.run("vlmc", *words, input=stream, text=False)
    for name in ("s", "c", "v", "r"):
        with instance.client.open(name) as volume:
            assert [volume.read(block * BLOCK, BLOCK) for block in (0, 7)] == [data(0), data(7)]
    with instance.client.open("was") as volume:
        assert volume.read(0, BLOCK) == data(77)
    assert instance.archipelago("check").returncode == 0
