# SPDX-License-Identifier: Apache-2.0
"""kill -9 of a peer while contents are put and a snapshot is hashed, with a writer on a clone of it meanwhile."""
import hashlib
import os
import random
import subprocess

import pytest
from support import BIN
from test_kills import kill_and_restart
from walk import Walk
from world import BLOCK, Change

from xseg._native import lib
from xseg.contents import digest_of, named
from xseg.request import Call, Object, objects

pytestmark = pytest.mark.layout("separate")
BLOCKS, PUTS, ROUNDS = 200, 60, 2


@pytest.mark.parametrize("role", ["mapper", "blockerb", "vlmc"])
def test_hashing_goes_on_over_deaths(world, shared_instance, role):
    walk = Walk(world, 11)
    name = world.create(BLOCKS * BLOCK)
    world.batch(name, [Change("write", block * BLOCK, BLOCK, 7 * block + 1) for block in range(BLOCKS)])
    snap = world.snapshot(name)
    clone = world.clone(snap)
    for _ in range(ROUNDS):
        hashing = subprocess.Popen([os.path.join(BIN, "vlmc"), "hash", snap], stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE, env={**os.environ, **shared_instance.env})
        changes = [c for c in walk.changes(clone) if c.kind != "read"]
        world.batch(clone, changes, lambda: kill_and_restart(shared_instance, role))
        world.compare(snap)
        _out, said = hashing.communicate(timeout=60)
        assert hashing.returncode == 0, said
    world.hash(snap)
    entries = [entry for portion in world.portions("mapinfo", snap) for entry in portion["entries"]]
    assert {layer[0] for _block, layers in entries for layer in layers} == {"content"}


def contents_of(world):
    """All contents there are: name and bytes."""
    cursor = 0
    while True:
        reply = world.client.call("blockerb", lib.XOP_LIST, object=Object(lib.XOBJ_CONTENT), arg=cursor, room=65536)
        for name in objects(reply.data):
            yield name, world.client.call("blockerb", lib.XOP_READ, object=name, size=2 * BLOCK, room=2 * BLOCK).data
        if not (cursor := reply.arg):
            return


def test_what_has_a_name_is_whole(world, shared_instance):
    dice = random.Random(3)
    for _ in range(ROUNDS):
        blocks = [dice.randbytes(dice.randrange(1, BLOCK)) + b"x" for _ in range(PUTS)]
        calls = [("blockerb", Call(lib.XOP_PUT, object=named(digest_of(block)), data=block)) for block in blocks]
        replies = world.submit("put", calls, lambda: kill_and_restart(shared_instance, "blockerb"))
        assert {reply.error for reply in replies} == {0}
        found = dict(contents_of(world))
        assert {digest_of(block) for block in blocks} <= {name.digest for name in found}
        for name, data in found.items():
            assert hashlib.sha256(data.rstrip(b"\0")).digest() == name.digest
