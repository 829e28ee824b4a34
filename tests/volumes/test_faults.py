# SPDX-License-Identifier: Apache-2.0
"""Stores that fail: errors reach the client, later requests work, nothing gets stuck, nothing is forgotten."""
import contextlib
import errno
import os
import random

import pytest
from oracle import CHUNK
from support import wait_until
from walk import Walk
from world import BLOCK, LEAF_BYTES, Change

from xseg.errors import XsegError

pytestmark = pytest.mark.layout("colocated")
CONFIG = """
[segment]
static_slots = 200
frames = 32
stacks = [128, 64, 64]
buffers = [200, 64, 24]

[peers]
mapper = { journal_limit = 16384 }
vlmc = { layers = 4 }
eio_write = { type = "error", target = "blockerb", ops = "write,write_zeroes,discard", errno = "EIO" }
full = { type = "error", target = "blockerb", ops = "write,write_zeroes", errno = "ENOSPC" }
half = { type = "error", target = "blockerb", ops = "write,write_zeroes", errno = "ENOSPC", every = 2 }
some = { type = "error", target = "blockerb", errno = "EIO", every = 5 }
no_read = { type = "error", target = "blockerb", ops = "read", errno = "EIO" }
no_sync = { type = "error", target = "blockerb", ops = "sync", errno = "EIO" }
slow = { type = "delay", target = "blockerb", ms = 20, order = false }
full_map = { type = "error", target = "blockerm", ops = "write", kind = "journal", errno = "ENOSPC" }
some_map = { type = "error", target = "blockerm", kind = "journal", errno = "EIO", every = 3 }
no_page = { type = "error", target = "blockerm", ops = "write", kind = "page", errno = "EIO" }
"""
SEEDS = [int(seed) for seed in os.environ.get("ARCHIPELAGO_FAULT_SEEDS", "21,22").split(",")]
DATA, MAP = "vlmc>blockerb", "mapper>blockerm"
FAULTS = ((DATA, "eio_write"), (DATA, "full"), (DATA, "half"), (DATA, "half"), (DATA, "some"), (DATA, "some"),
          (DATA, "no_read"), (DATA, "no_sync"), (MAP, "full_map"), (MAP, "some_map"))


@contextlib.contextmanager
def routed(instance, edge, role):
    """Turns an edge of the running pipeline to a filter, and back."""
    segment = instance.client.segment
    segment.set_route(edge, segment.port_of(role))
    try:
        yield
    finally:
        segment.set_route(edge, segment.port_of(edge.split(">")[1]))


@pytest.fixture
def volume(world):
    return world.volume(world.create(64 * BLOCK))


def failing(code, call, *args, **more):
    with pytest.raises(XsegError) as caught:
        call(*args, **more)
    assert caught.value.errno == code


def adopt(world, name, change):
    """After a change that failed: each byte is as before or as it was to be; it stays as it is now."""
    image = world.images[name]
    wanted = image.copy()
    if change.kind in ("write", "fua"):
        wanted.write(change.offset, random.Random(change.seed).randbytes(change.length)
                     if change.seed % 16 else bytes(change.length))
    else:
        wanted.zero(change.offset, change.length)
    before, after = image.read(change.offset, change.length), wanted.read(change.offset, change.length)
    found = world.volume(name).read(change.offset, change.length)
    assert all(f in (b, a) for f, b, a in zip(found, before, after, strict=True)), f"{name}: {change}"
    image.write(change.offset, found)


@pytest.mark.parametrize("role, code", [("eio_write", errno.EIO), ("full", errno.ENOSPC)])
def test_a_write_that_fails_is_reported_and_later_ones_work(world, volume, shared_instance, role, code):
    volume.write(0, b"a" * BLOCK)
    with routed(shared_instance, DATA, role):
        failing(code, volume.write, 100, b"b" * 300)            # a block that is there
        failing(code, volume.write, 3 * BLOCK - 10, b"c" * 20)  # two that are not
        failing(code, volume.zeroes, 5 * BLOCK, 4096, no_hole=True)
    assert volume.read(3 * BLOCK - 10, 20) == bytes(20)
    volume.write(3 * BLOCK - 10, b"d" * 20)
    assert volume.read(3 * BLOCK - 10, 20) == b"d" * 20
    assert volume.read(0, BLOCK) == b"a" * BLOCK
    image = world.images[volume.name]
    image.write(0, b"a" * BLOCK)
    image.write(3 * BLOCK - 10, b"d" * 20)


def test_a_first_write_to_a_shared_block_that_fails_changes_nothing(world, volume, shared_instance):
    name = volume.name
    world.batch(name, [Change("write", 0, 2 * BLOCK, 5)])
    world.snapshot(name)
    for role, code in (("full", errno.ENOSPC), ("no_read", errno.EIO)):
        with routed(shared_instance, DATA, role):
            failing(code, volume.write, 100, b"part of a chunk")
    world.compare(name)
    world.batch(name, [Change("write", 100, 300, 6)])
    world.compare(name)


def test_a_merge_that_fails_can_be_done_again(world, volume, shared_instance):
    name = volume.name
    for layer in range(4):
        world.batch(name, [Change("write", layer * 3 * CHUNK, 2 * CHUNK, layer + 1)])
        world.snapshot(name)
    for role, code in (("half", errno.ENOSPC), ("no_read", errno.EIO), ("full", errno.ENOSPC)):
        with routed(shared_instance, DATA, role):
            failing(code, volume.write, 50, b"x" * 10000)
        adopt(world, name, Change("zero", 50, 0, 1))
        world.images[name].write(50, volume.read(50, 10000))
    world.compare(name)
    world.batch(name, [Change("write", 50, 10000, 77)])
    world.compare(name)


def test_reads_that_fail_do_not_harm_later_ones(world, volume, shared_instance):
    world.batch(volume.name, [Change("write", 0, 3 * BLOCK, 3)])
    with routed(shared_instance, DATA, "no_read"):
        failing(errno.EIO, volume.read, 10, 2 * BLOCK)
    world.compare(volume.name)


@pytest.mark.parametrize("edge, role, code", [(DATA, "no_sync", errno.EIO), (MAP, "full_map", errno.ENOSPC)])
def test_a_flush_that_failed_leaves_all_for_the_next(world, volume, shared_instance, edge, role, code):
    name = volume.name
    world.batch(name, [Change("write", 0, 2 * BLOCK, 3)])
    with routed(shared_instance, edge, role):
        failing(code, volume.flush)
        failing(code, volume.write, 3 * BLOCK, b"durable", fua=True)
        failing(code, volume.flush)
    volume.flush()
    world.images[name].write(3 * BLOCK, b"durable")
    commits = world.client.control("info", name=name)["open"]["commits"]
    assert commits >= 1
    world.close(name)
    world.compare(name)


@pytest.mark.parametrize("edge, role", [(DATA, "no_sync"), (MAP, "full_map")])
def test_a_snapshot_that_failed_is_not_there_and_writers_go_on(world, volume, shared_instance, edge, role):
    name = volume.name
    world.batch(name, [Change("write", 0, 2 * BLOCK, 3)])
    with routed(shared_instance, edge, role):
        for _ in range(3):
            with pytest.raises(XsegError):
                world.snapshot(name)
        world.batch(name, [Change("write", 100, 5000, 4)])
    assert set(world.images) == {n for n in world.client.names() if n.startswith(world.prefix + "-")}
    world.snapshot(name)
    world.batch(name, [Change("write", 2000, 70000, 9)])
    world.compare(name)


def test_a_close_that_failed_can_be_repeated(world, volume, shared_instance):
    name = volume.name
    world.batch(name, [Change("write", 0, 2 * BLOCK, 3)])
    with routed(shared_instance, DATA, "no_sync"):
        with contextlib.suppress(XsegError):
            volume.close()
    world.open.pop(name)
    world.compare(name)


def test_pages_that_cannot_be_written_leave_the_journal_in_use(world, volume, shared_instance):
    name = volume.name
    with routed(shared_instance, MAP, "no_page"):
        for turn in range(12):
            world.batch(name, [Change("write", turn * 3000, 5000, turn + 1)])
            world.snapshot(name)
        world.close(name)
        world.compare(name)
    world.compare(name)


def test_a_volume_that_cannot_commit_leaves_room_for_the_others(world, volume, shared_instance):
    """Leaf pages with changes cannot be let go. One volume does not fill the cache with its own."""
    other = world.volume(world.create(200 * LEAF_BYTES))
    wide = world.volume(world.create(200 * LEAF_BYTES))
    with routed(shared_instance, MAP, "full_map"):
        with pytest.raises(XsegError):
            for leaf in range(200):
                wide.write(leaf * LEAF_BYTES, b"x")
                world.images[wide.name].write(leaf * LEAF_BYTES, b"x")
        for leaf in range(0, 200, 3):
            assert other.read(leaf * LEAF_BYTES, 10) == bytes(10)
    world.flush(wide.name)
    for leaf in range(0, 200, 7):
        assert wide.read(leaf * LEAF_BYTES, 1) == world.images[wide.name].read(leaf * LEAF_BYTES, 1)
    for name in (wide.name, other.name):        # their extents alone would take long
        world.close(name)
        world.check(name)
        world.remove(name)


def test_slow_stores_change_the_order_and_nothing_else(world, volume, shared_instance):
    walk = Walk(world, 11)
    with routed(shared_instance, DATA, "slow"):
        for _ in range(60):
            walk.bytes()
        walk.snapshot_under_load()
        walk.bytes()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_walk_over_failing_stores(world, shared_instance, seed):
    """What fails may have changed its own range, and nothing else; what is read then stays so."""
    print(f"seed {seed}")
    walk, dice = Walk(world, seed), random.Random(seed)
    for _ in range(3):
        world.create(40 * BLOCK)
    for _ in range(60):
        fault = dice.choice(FAULTS)
        if all(image.readonly for image in world.images.values()):
            world.create(40 * BLOCK)
        name = walk.any(writable=True)
        world.volume(name)
        changes = [c for c in walk.changes(name) if c.kind in ("write", "fua", "zero", "no_hole")]
        with routed(shared_instance, *fault):
            replies = attempt(world, name, changes)
        for change, error in zip(changes, replies, strict=True):
            if error:
                adopt(world, name, change)
        with routed(shared_instance, *fault), contextlib.suppress(XsegError):
            if dice.random() < 0.3:
                world.flush(name)
            elif dice.random() < 0.3 and len(world.images) < 12:
                world.snapshot(name)
        world.compare(name)
        if dice.random() < 0.2:
            walk.reopen()
        if dice.random() < 0.2:
            walk.remove() if len(world.images) > 9 else walk.snapshot()
    wait_until(lambda: not world.under_way(), "no request is under way")
    assert "Traceback" not in shared_instance.logs()


def attempt(world, name, changes):
    """Sends the changes; applies those that worked. Their errors."""
    from world import apply, call_of
    replies = world.submit(name, [("vlmc", call_of(world.volume(name), change)) for change in changes])
    for change, reply in zip(changes, replies, strict=True):
        if not reply.error:
            apply(world.images[name], change)
    return [reply.error for reply in replies]
