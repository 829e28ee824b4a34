# SPDX-License-Identifier: Apache-2.0
"""Stacks with as many layers as there may be, and what merging them costs."""
import os
import random

import pytest
from oracle import CHUNK
from test_kills import kill_and_restart
from world import Change

from benchmarks.merging import KEPT, rounds, space
from xseg._native import lib

pytestmark = pytest.mark.layout("colocated")
MIB = 1 << 20
BLOCKS, BLOCK, SNAPSHOTS = 4, 1 << 18, 300
STORED_MAX = 4                      # bytes of data objects by byte written


def test_what_is_stored_grows_with_what_is_written(shared_instance):
    """One chunk of each block is written between two snapshots, of which seven are kept."""
    client, data = shared_instance.client, os.path.join(shared_instance.home, "data", "data")
    client.control("create", name="grows", size=BLOCKS * BLOCK, block_size=BLOCK)
    with client.open("grows") as volume:
        volume.write(0, random.Random(1).randbytes(BLOCKS * BLOCK))
        volume.flush()
    before = space(data)
    taken = rounds(client, "grows", BLOCKS, BLOCK, 2)
    for _ in range(SNAPSHOTS):
        next(taken)
    stored = space(data) - before
    taken.close()
    for name in ("grows", *(f"grows-{number}" for number in range(SNAPSHOTS - KEPT, SNAPSHOTS))):
        client.control("remove", name=name)
    assert stored / (SNAPSHOTS * BLOCKS * CHUNK) <= STORED_MAX


def layered(world, block, layers, dice):
    """A volume of two blocks, full and then written here and there between snapshots, of which two are kept."""
    name = world.create(2 * block, block_size=block)
    world.batch(name, [Change("write", at, MIB, dice.randrange(1 << 32)) for at in range(0, 2 * block, MIB)])
    for number in range(layers):
        snap = world.snapshot(name)
        changes = [Change("write", dice.randrange(2 * block - 9000), dice.choice((512, CHUNK, 9000)),
                          dice.randrange(1 << 32)) for _ in range(3)]
        for change in changes:
            world.batch(name, [change])
        if number % 8:
            world.remove(snap)
    return name


def most_layers(world, name):
    return max(len(layers) for portion in world.portions("mapinfo", name) for _block, layers in portion["entries"])


@pytest.mark.parametrize("block", [4 * MIB, 16 * MIB])
def test_bytes_stay_what_they_are_through_many_merges(world, block):
    dice = random.Random(block)
    name = layered(world, block, 3 * lib.XMAP_LAYERS, dice)
    assert lib.XMAP_LAYERS // 4 < most_layers(world, name) <= lib.XMAP_LAYERS
    for each in list(world.images):
        world.compare(each)
    world.check(name)


@pytest.mark.parametrize("role", ["vlmc", "blockerb"])
def test_a_death_while_stacks_are_merged(world, shared_instance, role):
    """Stacks are full, so that the first writes after each snapshot merge; the peer dies among them."""
    dice = random.Random(3)
    name = layered(world, MIB, lib.XMAP_LAYERS + 2, dice)
    for _ in range(6):
        world.snapshot(name)
        changes = [Change("write", place * CHUNK, CHUNK, dice.randrange(1 << 32))
                   for place in dice.sample(range(2 * MIB // CHUNK), 20)]
        world.batch(name, changes, lambda: kill_and_restart(shared_instance, role))
        world.compare(name)
