# SPDX-License-Identifier: Apache-2.0
"""Deep chains, many clones, large volumes, every block size, many leaf pages."""
import random

import pytest
from oracle import CHUNK
from world import BLOCK, Change

from xseg._native import lib

pytestmark = pytest.mark.layout("colocated")
MIB, TIB = 1 << 20, 1 << 40
RSS_GROWTH_MAX_MIB = 64             # of the mapper while 2,000 leaves are touched; its cache may hold 32


def rss_mib(instance, role):
    with open(f"/proc/{instance.pid(role)}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) // 1024


def test_a_chain_of_a_hundred_clones(world):
    """Each is written to, snapshot and cloned; the last sees what each has left it."""
    dice = random.Random(1)
    name, size = world.create(12 * BLOCK), 12 * BLOCK
    kept = []
    for depth in range(100):
        world.batch(name, [Change("write", offset, dice.randrange(1, 9000), dice.randrange(1 << 32))
                           for offset in dice.sample(range(0, size - 9000, 9000), 3)])
        snap = world.snapshot(name)
        world.close(name)
        kept.append(snap)
        name = world.clone(snap)
        if depth % 10:
            world.remove(snap)
            kept.pop()
    world.compare(name)
    assert all(len(layers) <= lib.XMAP_LAYERS for portion in world.portions("mapinfo", name)
               for _block, layers in portion["entries"])
    for gone in [n for n in world.images if n != name and n not in kept]:
        world.remove(gone)
    world.compare(name)


def test_a_hundred_snapshots_of_a_volume_under_writes(world):
    dice = random.Random(2)
    name = world.create(4 * BLOCK)
    for turn in range(100):
        offset = dice.randrange(4 * BLOCK - 20000)
        world.snapshot_under_load(name, [Change("write", offset, 3000, turn * 2 + 1),
                                         Change("write", offset + 5000, 15000, turn * 2 + 2)])
    world.compare(name)


def test_a_thousand_clones_of_a_snapshot(world):
    name = world.create(3 * BLOCK)
    world.batch(name, [Change("write", 1000, 2 * BLOCK, 1)])
    snap = world.snapshot(name)
    result = world.client.control("clone", name=snap, pattern=world.prefix + "-many-{}", count=1000)
    assert result["count"] == 1000
    for number in range(1, 1001):
        world.images[f"{world.prefix}-many-{number}"] = world.images[snap].copy()
    for number in (1, 500, 1000):
        world.batch(f"{world.prefix}-many-{number}", [Change("write", number, 5000, number)])
    for number in (1, 2, 500, 999, 1000):
        world.compare(f"{world.prefix}-many-{number}")
    gone = [f"{world.prefix}-many-{number}" for number in range(1, 1001) if number not in (1, 2, 500)]
    for clone in gone:
        world.close(clone)
        del world.images[clone]
    world.remove_at_once(gone)
    world.compare(snap)


def test_a_volume_of_64_tebibytes(world):
    dice = random.Random(3)
    name = world.create(64 * TIB, block_size=4 * MIB)
    for _ in range(3):
        places = [dice.randrange(64 * TIB - 10000) for _ in range(60)]
        for place in places:
            world.batch(name, [Change("write", place, dice.randrange(1, 10000), place)])
        snap = world.snapshot(name)
        clone = world.clone(snap)
        for place in places[:20]:
            world.batch(clone, [Change("write", place + 100, 500, place + 1)])
        for each in (name, snap, clone):
            for place in places:
                world.same(each, place, world.volume(each).read(place, 10000), world.images[each].read(place, 10000))
            world.close(each)
    for each in list(world.images):             # their extents alone would take minutes
        world.check(each)
        world.remove(each)


@pytest.mark.parametrize("block", [65536, 4 * MIB, 16 * MIB])
def test_every_block_size_has_its_layers(world, block):
    """More snapshots than a stack has layers, under writes at the edges of chunks and blocks."""
    dice = random.Random(block)
    size = 2 * block + 3 * CHUNK + 512
    name = world.create(size, block_size=block)
    for turn in range(7):
        edge = dice.choice((0, block, 2 * block))
        changes, at = [], max(0, edge - 40000)
        while at < min(size - 1, edge + 40000):
            length = min(size - at, dice.choice((1, 511, CHUNK, 2 * CHUNK, 20000)))
            changes.append(Change(dice.choice(("write", "write", "write", "zero", "discard")), at, length,
                                  dice.randrange(1 << 32)))
            at += length + dice.choice((0, 1, CHUNK))
        world.batch(name, changes)
        if turn == 3:
            world.batch(name, [Change("zero", block, block, 1)])
        world.snapshot(name)
    for each in world.images:
        world.compare(each)


def test_the_mappers_memory_does_not_grow_with_the_leaves_touched(world, shared_instance):
    name = world.create(4 * TIB, block_size=65536)
    volume, leaf = world.volume(name), 65536 * lib.XMAP_LEAF
    for turn in range(100):
        volume.write(turn * leaf, b"x")
    volume.flush()
    before = rss_mib(shared_instance, "mapper")
    for turn in range(2000):
        volume.write(turn * 3 * leaf, b"leaf %d" % turn)
        if turn % 100 == 99:
            volume.flush()
    world.close(name)
    volume = world.volume(name)
    assert all(volume.read(turn * 3 * leaf, 6) == b"leaf %d" % turn for turn in range(0, 10))
    assert volume.read(1999 * 3 * leaf, 9) == b"leaf 1999"
    assert rss_mib(shared_instance, "mapper") - before < RSS_GROWTH_MAX_MIB
    world.check(name)
    world.remove(name)
