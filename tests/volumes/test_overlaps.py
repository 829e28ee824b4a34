# SPDX-License-Identifier: Apache-2.0
"""Requests on the same bytes at the same time: in which order they land is open, but each byte is then what one of
them wrote, and stays so."""
import random

import numpy
import pytest
from oracle import CHUNK, Image
from world import BLOCK, SCANTY, Change, apply, call_of

CONFIG = SCANTY
KINDS = ("write", "write", "write", "fua", "zero", "no_hole", "discard")


def overlap(world, name, changes):
    """Sends all at once; adopts what is found, if each byte is as one of the changes alone would leave it."""
    volume, image = world.volume(name), world.images[name]
    replies = world.submit(name, [("vlmc", call_of(volume, change)) for change in changes])
    assert not any(reply.error for reply in replies)
    found = volume.read(0, image.size)
    right = numpy.zeros(image.size, bool)
    touched = numpy.zeros(image.size, bool)
    for change in changes:
        covered, wanted = alone(change, image.size)
        right |= covered & (wanted == array(found))
        touched |= covered
    right |= ~touched & (array(image.read(0, image.size)) == array(found))
    assert right.all(), f"{name}: byte {int(right.argmin())} after {changes}"
    image.write(0, found)
    world.compare(name)


def array(data):
    return numpy.frombuffer(data, "u1")


def alone(change, size):
    """Which bytes a change sets, and all bytes as it leaves them."""
    results = []
    for before in (b"\0", b"\xff"):
        image = Image(size)
        image.write(0, before * size)
        apply(image, change)
        results.append(array(image.read(0, size)))
    return results[0] == results[1], results[0]


def layers(world, name, count):
    """Puts so many layers on blocks 0 and 1, each with some chunks of its own."""
    for layer in range(count):
        world.batch(name, [Change("write", (layer * 3 + 1) * CHUNK + block * BLOCK, 2 * CHUNK, layer * 2 + block + 1)
                           for block in range(2)])
        world.snapshot(name)


@pytest.mark.parametrize("depth", [0, 1, 4])
def test_small_writes_and_zeros_of_whole_blocks(world, depth):
    """While a stack is merged or a chunk filled up, all of the block is zeroed or written over."""
    dice = random.Random(depth)
    for turn in range(5):
        name = world.create(2 * BLOCK)
        layers(world, name, depth)
        changes = [Change("write", 100, 50, turn * 16 + 1),
                   Change(dice.choice(("zero", "discard", "write")), 0, BLOCK, turn * 16 + 2),
                   Change("write", 3 * CHUNK + 7, 5000, turn * 16 + 3)]
        dice.shuffle(changes)
        overlap(world, name, changes)
        for made in list(world.images):
            world.remove(made)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_crowd_of_requests_on_two_blocks(world, seed):
    dice = random.Random(seed)
    name = world.create(2 * BLOCK)
    for turn in range(15):
        if turn % 2:
            world.remove(world.snapshot(name))
        changes = []
        for _ in range(12):
            length = dice.choice((dice.randrange(1, 3 * CHUNK), BLOCK))
            offset = dice.choice((dice.randrange(2 * BLOCK - length), 0 if length < BLOCK else BLOCK))
            changes.append(Change(dice.choice(KINDS), offset, length, dice.randrange(1, 1 << 32)))
        overlap(world, name, changes)
