# SPDX-License-Identifier: Apache-2.0
"""Which segment and which store an instance goes on with: those it had, and no others."""
import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress

import pytest
from support import BIN, Instance, processes_of, run, wait_until

from xseg.segment import Segment, name_for

pytest_plugins = ["kill_fixtures"]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")


def kill_all(instance):
    instance.disconnect()
    for pid in processes_of(instance.home, b"tools.supervisor") + processes_of(instance.home):
        with suppress(ProcessLookupError):      # a spare ends with its supervisor
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not processes_of(instance.home), "all are dead")


def write(instance, data, flush=False):
    with instance.client.open("v") as volume:
        volume.write(0, data)
        if flush:
            volume.flush()


def read(instance, length):
    with instance.client.open("v") as volume:
        return volume.read(0, length)


# --- the segment


def test_all_goes_on_when_the_segments_file_was_removed(supervised, layout):
    instance = supervised(f'layout = "{layout}"')
    instance.vlmc("create", "v", "--size", "1M")
    instance.vlmc("open", "v")
    write(instance, b"before")
    os.unlink("/dev/shm" + name_for(instance.home))
    assert "v" in instance.vlmc("list").stdout
    assert "somebody has removed /dev/shm/archipelago-" in instance.archipelago("status").stdout
    assert "already running" in instance.archipelago("start", check=False).stderr
    instance.archipelago("restart", "vlmc")
    write(instance, b"after ")
    instance.disconnect()
    instance.archipelago("stop")
    assert processes_of(instance.home) == []
    instance.start()
    assert read(instance, 6) == b"after "


def test_a_home_whose_segment_went_with_all_processes_has_its_own_volumes(supervised, layout):
    instance = supervised(f'layout = "{layout}"')
    instance.vlmc("create", "v", "--size", "1M")
    instance.vlmc("open", "v")
    write(instance, b"before", flush=True)
    segment = name_for(instance.home)
    kill_all(instance)
    os.unlink("/dev/shm" + segment)
    instance.start()
    assert read(instance, 6) == b"before"


def empty(home):
    for name in os.listdir(home):
        path = os.path.join(home, name)
        (shutil.rmtree if os.path.isdir(path) else os.unlink)(path)


def test_an_emptied_home_does_not_go_on_with_the_old_segment(home):
    instance = Instance(home)
    instance.start()
    instance.vlmc("create", "v", "--size", "1M")
    instance.vlmc("open", "v")
    old = name_for(home)
    kill_all(instance)
    empty(home)
    instance.start()
    instance.vlmc("create", "v", "--size", "1M")
    write(instance, b"new", flush=True)
    assert read(instance, 3) == b"new" and not Segment.exists(old)
    instance.finish()


@pytest.mark.parametrize("stores", [("data", "map"), ("data",)])
def test_replaced_stores_are_not_gone_on_with(home, stores):
    instance = Instance(home)
    instance.start()
    instance.vlmc("create", "v", "--size", "1M")
    instance.vlmc("open", "v")
    write(instance, b"old")
    kill_all(instance)
    for store in stores:
        os.rename(os.path.join(home, store), os.path.join(home, "old-" + store))
    said = instance.archipelago("start", "--unsupervised").stderr
    assert "is not the one that the segment knows" in said and "lost is what was written" in said
    instance.vlmc("create", "w", "--size", "1M")
    with instance.client.open("w") as volume:
        volume.write(0, b"new")
        volume.flush()
    instance.finish()


def test_processes_of_an_emptied_home_keep_another_start_out(home):
    instance = Instance(home)
    instance.start()
    pids = processes_of(home)
    empty(home)
    done = instance.archipelago("start", check=False)
    assert done.returncode == 1 and all(str(pid) in done.stderr for pid in pids)
    kill_all(instance)
    instance.start()
    instance.finish()


@as_root
def test_a_home_is_the_same_through_a_bind_mount(home):
    instance = Instance(home)
    instance.start()
    instance.vlmc("create", "v", "--size", "1M")
    with tempfile.TemporaryDirectory(prefix="ar-", dir="/tmp") as other:
        run("mount", "--bind", home, other)
        try:
            there = Instance(other)
            assert "v" in there.vlmc("list").stdout
            assert {peer["state"] for peer in there.status().values()} == {"running"}
            assert "already running" in there.archipelago("start", "--unsupervised", check=False).stderr
            there.archipelago("stop")
        finally:
            run("umount", other)
    assert processes_of(home) == [] and not Segment.exists(name_for(home))


@as_root
def test_where_the_segment_is_not_seen_all_commands_say_so(home):
    """As from another container."""
    instance = Instance(home, supervised=True)
    instance.start()
    tool = os.path.join(BIN, "archipelago")
    for words in (f"{tool} start", f"{tool} stop", f"{tool} status", f"{os.path.join(BIN, 'vlmc')} list"):
        done = run("unshare", "--mount", "sh", "-c", f"mount -t tmpfs none /dev/shm -o mode=1777 && exec {words}",
                   check=False, env=instance.env)
        assert "runs elsewhere" in done.stdout + done.stderr and done.returncode in (1, 3), words
    assert {peer["state"] for peer in instance.status().values()} == {"running"}
    instance.finish()


# --- the store


@pytest.fixture
def disk(home):
    """A file system of its own for a home: (its mount point, its image)."""
    image, point = os.path.join(home, "image"), os.path.join(home, "m")
    os.mkdir(point)
    with open(image, "wb") as file:
        file.truncate(64 << 20)
    run("mkfs.ext4", "-q", image)
    run("mount", "-o", "loop", image, point)
    yield point, image
    subprocess.run(["umount", "--lazy", point], check=False)


@as_root
def test_a_store_that_was_mounted_anew_is_as_after_a_power_cut(disk):
    point, image = disk
    instance = Instance(point)
    instance.start()
    instance.vlmc("create", "v", "--size", "1M")
    instance.vlmc("open", "v")
    write(instance, b"flushed", flush=True)
    run("sync", "-f", point)
    shutil.copy(image, image + ".then")
    with instance.client.open("v") as volume:
        volume.write(65536, b"never flushed")
    kill_all(instance)
    wait_until(lambda: run("umount", point, check=False).returncode == 0, "nobody uses the disk")
    os.replace(image + ".then", image)          # what the page cache had is gone
    run("mount", "-o", "loop", image, point)
    assert "mounted anew" in instance.archipelago("start", "--unsupervised").stderr
    assert read(instance, 7) == b"flushed"
    with instance.client.open("v") as volume:
        assert volume.read(65536, 13) == bytes(13)
    instance.finish()


@as_root
@pytest.mark.parametrize("flushed", [True, False])
def test_a_home_that_takes_no_writes_can_be_stopped(disk, flushed):
    point, _ = disk
    instance = Instance(point)
    instance.start()
    instance.vlmc("create", "v", "--size", "1M")
    instance.vlmc("open", "v")
    write(instance, b"data", flush=flushed)
    name = name_for(point)
    instance.disconnect()
    subprocess.run(["mount", "-o", "remount,abort", point], check=False, capture_output=True)
    run("touch", os.path.join(point, "x"), check=False)
    done = instance.archipelago("stop", check=False)
    if not flushed:
        assert done.returncode == 1 and "'v' would lose" in done.stderr
        done = instance.archipelago("stop", "--force", check=False)
        assert "lost: what was written to 'v'" in done.stdout
    assert done.returncode == 0, done.stderr
    assert processes_of(point) == [] and not Segment.exists(name)
