# SPDX-License-Identifier: Apache-2.0
"""Random histories of volumes, snapshots and clones: what `diff` tells covers every byte that differs, and is exact
where layers tell."""
import random

import pytest
from oracle import CHUNK, ZERO_CHUNK
from walk import Walk
from world import BLOCK, SCANTY, Change, World

from tools.vlmc._ranges import differing
from xseg._native import lib
from xseg.errors import NotFound

CONFIG = SCANTY
EXTENTS_ROOM = 512                  # bytes: some answers do not reach the end of what was asked for


def wanted(before, after):
    """Chunks of an image whose bytes differ from another's, or from zeros."""
    found = set()
    for chunk in (before.chunks.keys() if before else set()) | after.chunks.keys():
        length = min(CHUNK, after.size - chunk * CHUNK)
        if length > 0 and (before.chunks.get(chunk, ZERO_CHUNK) if before else ZERO_CHUNK)[:length] \
                != after.chunks.get(chunk, ZERO_CHUNK)[:length]:
            found.add(chunk)
    return found


def chunks_of(ranges, size):
    """Chunks of ranges that are ascending, apart from each other, and within a volume's size."""
    found, at = set(), -1
    for offset, length in ranges:
        assert at < offset and length > 0 and offset % CHUNK == 0 and offset + length <= size
        at = offset + length
        found |= set(range(offset // CHUNK, -(-at // CHUNK)))
    return found


def told(world, before, after):
    """Chunks that differ by what the verb says."""
    return chunks_of(differing(world.client, before, after), world.images[after].size)


def told_to_endpoints(world, before, after):
    """The same by XOP_DIFF."""
    volume, size = world.volume(after), world.images[after].size
    base, at, ranges = int(world.client.control("info", name=before)["id"], 16) if before else 0, 0, []
    while at < size:
        reply = world.client.call("mapper", lib.XOP_DIFF, volume=volume.handle, generation=volume.generation,
                                  offset=at, size=min(size - at, 1 << 30), arg=base, room=EXTENTS_ROOM)
        for length, flags in zip(*[iter(memoryview(reply.data).cast("I"))] * 2, strict=True):
            if flags and ranges and sum(ranges[-1]) == at:
                ranges[-1] = ranges[-1][0], ranges[-1][1] + length
            elif flags:
                ranges.append((at, length))
            at += length
    assert at == size
    return chunks_of(ranges, size)


class Comparing(Walk):
    """A walk that compares two of its volumes now and then."""

    def __init__(self, world, seed):
        super().__init__(world, seed)
        self.weights = {**self.weights, "diff": 12}

    def diff(self):
        after, before = self.any(), self.dice.choice((self.any(), self.any(), None))
        images = self.world.images
        must = wanted(images[before] if before else None, images[after])
        assert must <= told(self.world, before, after), f"{before} -> {after}"
        assert must <= told_to_endpoints(self.world, before, after), f"{before} -> {after}, for endpoints"


@pytest.mark.parametrize("seed", [1, 2])
def test_a_walk_whose_volumes_are_compared(shared_instance, seed):
    walk = Comparing(World(shared_instance, f"d{seed}"), seed)
    try:
        walk.run(300)
    finally:
        print(f"seed {seed} ended after {walk.steps} steps")


def history(world, dice, name, count):
    """Writes of any alignment into blocks that are there, none of them whole; the chunks they touch."""
    touched, size = set(), world.images[name].size
    for _ in range(count):
        offset = dice.randrange(size - 3 * CHUNK)
        length = min(dice.choice((1, 512, CHUNK, dice.randrange(1, 3 * CHUNK))), BLOCK - offset % BLOCK)
        world.batch(name, [Change(dice.choice(("write", "write", "no_hole")), offset, length,
                                  16 * dice.randrange(1 << 20) + 1)])
        touched |= set(range(offset // CHUNK, (offset + length - 1) // CHUNK + 1))
    return touched


@pytest.mark.parametrize("is_open", [True, False])
def test_it_is_exact_where_layers_tell(node, request, is_open):
    """What was written between any two snapshots of a row, and of a clone of one of them."""
    dice, world = random.Random(5 + is_open), World(node, request.node.name.split("[")[0][5:] + str(is_open))
    name = world.create(40 * BLOCK)
    world.batch(name, [Change("write", block * BLOCK, BLOCK, 16 * block + 1) for block in range(40)])
    row, steps = [world.snapshot(name)], []
    for _ in range(6):
        steps.append(history(world, dice, name, 12))
        if not is_open:
            world.close(name)
        row.append(world.snapshot(name))
    for first in range(len(row)):
        for last in range(first, len(row)):
            exact = set().union(*steps[first:last])
            assert told(world, row[first], row[last]) == told(world, row[last], row[first]) == exact
            assert told_to_endpoints(world, row[first], row[last]) == exact
    clone = world.clone(row[3])
    mine = history(world, dice, clone, 12)
    assert told(world, row[3], clone) == told_to_endpoints(world, row[3], clone) == mine
    assert told(world, row[6], clone) == mine.union(*steps[3:])
    world.check_all()
    world.remove_all()


def test_what_was_written_and_not_flushed_is_in_it(world):
    name = world.create(4 * BLOCK)
    snap = world.snapshot(name)
    world.batch(name, [Change("write", BLOCK + 5, 10, 1)])
    assert told(world, snap, name) >= {BLOCK // CHUNK}
    world.batch(name, [Change("write", 3 * BLOCK, 10, 1)])
    assert told_to_endpoints(world, snap, name) >= {BLOCK // CHUNK, 3 * BLOCK // CHUNK}


def test_a_volume_beside_itself_has_no_difference(world):
    name = world.create(4 * BLOCK)
    world.batch(name, [Change("write", 0, BLOCK, 1)])
    assert told(world, name, name) == told_to_endpoints(world, name, name) == set()


def test_one_that_was_removed_is_no_longer_compared_with(world):
    name = world.create(4 * BLOCK)
    snap = world.snapshot(name)
    volume, base = world.volume(name), int(world.client.control("info", name=snap)["id"], 16)
    world.remove(snap)
    with pytest.raises(NotFound):
        world.client.call("mapper", lib.XOP_DIFF, volume=volume.handle, size=BLOCK, arg=base, room=EXTENTS_ROOM)
    with pytest.raises(NotFound):
        told(world, snap, name)
