# SPDX-License-Identifier: Apache-2.0
"""vlmc flatten: a clone comes to share nothing with what it is from, while it is written to, and holds what it held."""
import os
import random
import signal
import subprocess
import threading

import pytest
from support import BIN, wait_until
from world import BLOCK, LEAF_BYTES, Change, World, refused

from xseg._native import lib
from xseg.client import Client

CONFIG = "[peers.vlmc]\nlayers = 4\n[peers.mapper]\njournal_limit = 16384\n"
BLOCKS = 24


def filled(world, size=BLOCKS * BLOCK, seed=1):
    """A volume with blocks that are whole, that are partly written, and that are zeros."""
    name = world.create(size)
    dice = random.Random(seed)
    for block in range(0, size // BLOCK, 2):
        length = BLOCK if block % 4 else dice.randrange(1, BLOCK)
        world.batch(name, [Change("write", block * BLOCK, length, 1 + 16 * block)])
    return name


def used(world, name):
    """Bytes that are exclusive, and shared, of what is committed."""
    portions = world.portions("du", name)
    return sum(p["exclusive"] for p in portions), sum(p["shared"] for p in portions)


def space(world, name):
    return sum(used(world, name))


def test_a_clone_shares_nothing_afterwards_and_holds_what_it_held(world):
    origin = filled(world)
    clone = world.clone(world.snapshot(origin))
    world.batch(clone, [Change("write", 5000, 9000, 3), Change("write", 4 * BLOCK, 100, 5)])
    world.flatten(clone)
    assert used(world, clone)[1] == 0
    world.compare(clone)
    world.check(clone)


def test_what_it_came_from_can_go(world):
    origin = filled(world)
    snap = world.snapshot(origin)
    clone = world.clone(snap)
    world.flatten(clone)
    world.remove(snap)
    world.remove(origin)
    world.compare(clone)
    world.check(clone)


def test_zeros_take_no_space(world):
    """Of a block of which one chunk was ever written, one is stored; blocks of zeros stay zeros."""
    origin = world.create(64 * BLOCK)
    for block in range(0, 64, 8):
        world.batch(origin, [Change("write", block * BLOCK + 8192, 4096, 7)])
    clone = world.clone(world.snapshot(origin))
    before = space(world, clone)
    world.flatten(clone)
    assert space(world, clone) <= before
    assert sum(p["blocks"] for p in world.portions("du", clone)) == 8


def test_blocks_that_are_named_by_their_content_become_its_own(world):
    adopted = world.adopt(filled(world))
    world.batch(adopted, [Change("write", 5000, 9000, 3)])
    world.flatten(adopted)
    world.compare(adopted)
    world.check(adopted)


def test_stacks_of_many_layers_become_one(world):
    name = filled(world)
    for layer in range(9):
        world.snapshot(name)
        world.batch(name, [Change("write", (layer * 4096 + 100) % (2 * BLOCK), 5000, 100 + layer)])
    world.flatten(name)
    world.compare(name)
    for portion in world.portions("mapinfo", name):
        assert all(len(layers) == 1 for _block, layers in portion["entries"])


def test_a_volume_that_ends_within_a_block_or_chunk_is_flattened_to_its_end(world):
    origin = world.create(3 * BLOCK + 512 * 13)
    world.batch(origin, [Change("write", 3 * BLOCK, 512 * 13, 9)])
    clone = world.clone(world.snapshot(origin))
    world.flatten(clone)
    world.compare(clone)
    assert used(world, clone)[1] == 0


def test_it_grows_while_it_is_flattened(world):
    origin = filled(world)
    clone = world.clone(world.snapshot(origin), more=LEAF_BYTES)
    world.volume(clone)
    first = world.client.control("flatten", name=clone)
    assert first["cursor"] == 0 and first["blocks"] == BLOCKS // 2
    assert world.client.control("flatten", name=clone)["blocks"] == 0        # nothing is left to be done


def test_guests_that_write_meanwhile_have_all_of_it_written(world):
    origin = filled(world, size=64 * BLOCK)
    clone = world.clone(world.snapshot(origin))
    image, volume, stop, failures = world.images[clone], world.volume(clone), threading.Event(), []

    def write():
        dice = random.Random(4)
        try:
            with Client(world.instance.home) as client, client.open(clone) as mine:
                while not stop.is_set():
                    offset, length = dice.randrange(63 * BLOCK), dice.choice((1, 100, 512, 4096, 9000))
                    data = dice.randbytes(length)
                    mine.write(offset, data)
                    image.write(offset, data)
        except OSError as failure:
            failures.append(failure)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        world.flatten(clone)
        snap = world.clone(world.snapshot(origin))
        world.flatten(snap)
    finally:
        stop.set()
        writer.join()
    assert not failures and volume.size == image.size
    world.compare(clone)
    assert used(world, clone)[1] == 0


def test_a_snapshot_that_is_taken_meanwhile_does_not_make_it_begin_again(world):
    origin = filled(world)
    clone = world.clone(world.snapshot(origin))
    world.volume(clone)
    since = world.client.control("flatten", name=clone)["since"]
    snap = world.snapshot(clone)
    assert world.client.control("flatten", name=clone, since=since)["blocks"] == 0
    assert world.client.control("flatten", name=clone)["blocks"] == BLOCKS // 2       # all is shared with that snapshot
    world.remove(snap)
    world.compare(clone)


@pytest.mark.parametrize("role", ["vlmc", "mapper"])
def test_a_restart_amid_it_is_a_pause(world, role):
    origin = filled(world)
    clone = world.clone(world.snapshot(origin))
    done = threading.Thread(target=lambda: flatten_quietly(world, clone))
    world.volume(clone)
    done.start()
    world.restart(role)
    done.join()
    world.flatten(clone)
    world.compare(clone)


def flatten_quietly(world, name):
    with Client(world.instance.home) as client:
        client.control("flatten", name=name)


def test_an_own_at_vlmc_is_refused_beyond_the_end_and_of_a_snapshot(world):
    name = filled(world)
    snap = world.snapshot(name)
    image = world.images[name]
    past, within = world.submit(name, [("vlmc", call) for call in (
        own(world, name, image.size - 512, 4096), own(world, snap, 0, 4096))])
    assert (past.error, within.error) == (28, 30)       # ENOSPC, EROFS


def own(world, name, offset, size):
    from xseg.request import Call
    return Call(lib.XOP_OWN, volume=world.volume(name).handle, offset=offset, size=size)


# --- what is refused

def test_snapshots_and_what_is_not_open_are_refused(world):
    name = filled(world)
    snap = world.snapshot(name)
    world.close(name)
    assert "must be open" in refused(world, 22, "flatten", name=name)
    assert "never changes" in refused(world, 30, "flatten", name=snap)
    assert "no volume" in refused(world, 2, "flatten", name="nothing")


# --- the command

def test_the_command_flattens_and_says_how_many_blocks(world):
    origin = filled(world)
    clone = world.clone(world.snapshot(origin))
    assert world.instance.vlmc_json("flatten", clone)["blocks"] == BLOCKS // 2
    assert world.instance.vlmc_json("flatten", clone)["blocks"] == 0
    assert world.instance.vlmc_json("info", clone)["parent"] is None
    refused_by = world.instance.vlmc("flatten", world.snapshot(origin), check=False)
    assert refused_by.returncode == 1 and refused_by.stderr.count("\n") == 1
    assert "100%" in world.instance.vlmc("flatten", clone, "--progress").stderr
    world.compare(clone)


@pytest.mark.layout("colocated")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_command_that_is_stopped_is_gone_on_with(instance, number):
    """(An instance of its own: what a dead client had under way stays until a supervisor sweeps it.)"""
    world = World(instance, "v")
    origin = filled(world, size=3000 * BLOCK, seed=2)
    clone = world.clone(world.snapshot(origin))
    environment = {**os.environ, **instance.env}
    running = subprocess.Popen([os.path.join(BIN, "vlmc"), "flatten", clone], env=environment, stderr=subprocess.PIPE,
                               text=True)
    wait_until(lambda: world.client.control("info", name=clone)["open"] or running.poll() is not None, "it has begun")
    running.send_signal(number)
    running.communicate()               # it may have been done already
    world.flatten(clone)
    world.compare(clone)
    world.check(clone)
