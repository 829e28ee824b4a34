# SPDX-License-Identifier: Apache-2.0
"""Random walks over several volumes, compared with plain byte arrays.

CI takes the same walks every time (derandomize), so that a failure there is never a matter of luck;
`make soak` takes new ones for as long as it is told. Hypothesis shrinks what fails, and
prints the steps. ARCHIPELAGO_RANDOM=1 makes these walks new ones, too.
"""
import os

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from world import BLOCK, LEAF_BYTES, SCANTY, Change, World

CONFIG = SCANTY
VOLUMES_MAX = 9
KINDS = ("write", "write", "write", "fua", "zero", "no_hole", "discard", "read", "own")
EDGES = (512, 4096, BLOCK)
pick = st.integers(0, 2**16)
seeds = st.integers(0, 2**32)


@st.composite
def change(draw, size, most=3 * BLOCK):
    """A change within a volume of that size, often at the edges of chunks, blocks and leaves."""
    unit = draw(st.sampled_from((1, 1, *EDGES)))
    length = min(size, max(1, draw(st.integers(1, most)) // unit * unit))
    if size > LEAF_BYTES and draw(st.booleans()):
        offset = LEAF_BYTES - 2 * BLOCK + draw(st.integers(0, 4 * BLOCK))
    else:
        offset = draw(st.integers(0, min(size, 8 * BLOCK) if draw(st.booleans()) else size))
    offset = min(offset // unit * unit, size - length)
    return Change(draw(st.sampled_from(KINDS)), offset, length, draw(seeds))


@st.composite
def changes(draw, size):
    """Changes on ranges that do not overlap but often share chunks and blocks."""
    start = draw(st.integers(0, max(0, size - 4 * BLOCK)))
    if size > LEAF_BYTES and draw(st.booleans()):
        start = LEAF_BYTES - 2 * BLOCK
    spots = st.integers(start, min(size, start + 4 * BLOCK))
    cuts = sorted(draw(st.sets(spots.map(lambda x: x // 512 * 512) if draw(st.booleans()) else spots,
                               min_size=2, max_size=24)))
    return [Change(draw(st.sampled_from(KINDS)), begin, end - begin, draw(seeds))
            for begin, end in zip(cuts, cuts[1:], strict=False)]


class Volumes(RuleBasedStateMachine):
    """Rules choose, World does."""

    instance = None
    walks = 0

    def __init__(self):
        super().__init__()
        Volumes.walks += 1
        self.world = World(self.instance, f"w{Volumes.walks}")

    def teardown(self):
        try:
            self.world.check_all()
        finally:
            self.world.remove_all()

    def room(self):
        return len(self.world.images) < VOLUMES_MAX

    @initialize(size=st.integers(1, 40).map(lambda n: n * 16384 + 512 * (n % 3)), wide=st.booleans())
    def begin(self, size, wide):
        self.world.create(size)
        if wide:
            self.world.create(LEAF_BYTES + 3 * BLOCK + 512)

    @precondition(room)
    @rule(size=st.integers(1, 2000).map(lambda n: n * 512))
    def create(self, size):
        self.world.create(size)

    @rule(name=pick, data=st.data())
    def one(self, name, data):
        name = self.world.chosen(name)
        self.world.batch(name, [data.draw(change(self.world.images[name].size))])

    @rule(name=pick, data=st.data())
    def many(self, name, data):
        name = self.world.chosen(name)
        self.world.batch(name, data.draw(changes(self.world.images[name].size)))

    @rule(name=pick, data=st.data())
    def many_on_a_writable_one(self, name, data):
        name = self.world.chosen(name, writable=True)
        self.world.batch(name, data.draw(changes(self.world.images[name].size)))

    @rule(name=pick, block=pick, kind=st.sampled_from(("zero", "discard", "write")), count=st.integers(1, 3),
          seed=seeds)
    def whole_blocks(self, name, block, kind, count, seed):
        name = self.world.chosen(name, writable=True)
        size = self.world.images[name].size
        offset = block % -(-size // BLOCK) * BLOCK
        self.world.batch(name, [Change(kind, offset, min(count * BLOCK, size - offset), seed)])

    @rule(name=pick)
    def flush(self, name):
        self.world.flush(self.world.chosen(name))

    @precondition(room)
    @rule(name=pick)
    def snapshot(self, name):
        self.world.snapshot(self.world.chosen(name, writable=True))

    @precondition(room)
    @rule(name=pick, data=st.data())
    def snapshot_under_load(self, name, data):
        name = self.world.chosen(name, writable=True)
        writes = [c for c in data.draw(changes(self.world.images[name].size)) if c.kind != "read"]
        self.world.snapshot_under_load(name, writes)

    @precondition(room)
    @rule(name=pick, more=st.sampled_from((0, 0, 512, BLOCK, 5 * BLOCK)))
    def clone(self, name, more):
        self.world.clone(self.world.chosen(name), more)

    @precondition(room)
    @rule(name=pick)
    def adopt(self, name):
        self.world.adopt(self.world.chosen(name))

    @rule(name=pick)
    def hash(self, name):
        self.world.hash(self.world.chosen(name))

    @rule(name=pick, seed=seeds, depth=st.integers(1, 7), offset=st.integers(0, 3 * BLOCK))
    def stack(self, name, seed, depth, offset):
        """Layers on one block: each snapshot is written over and removed."""
        name = self.world.chosen(name, writable=True)
        for layer in range(depth):
            snap = self.world.snapshot(name)
            offset = (offset + layer * 5000) % self.world.images[name].size
            length = min(1 + seed % 9000, self.world.images[name].size - offset)
            self.world.batch(name, [Change("write", offset, length, seed + layer)])
            self.world.remove(snap)

    @rule(name=pick, size=st.integers(1, 2000).map(lambda n: n * 512))
    def resize(self, name, size):
        self.world.resize(self.world.chosen(name, writable=True), size)

    @precondition(room)
    @rule(name=pick, to=pick, keep=st.booleans())
    def rollback(self, name, to, keep):
        self.world.rollback(self.world.chosen(name, writable=True), to, keep)

    @rule(name=pick)
    def flatten(self, name):
        self.world.flatten(self.world.chosen(name, writable=True))

    @rule(name=pick)
    def rename(self, name):
        self.world.rename(self.world.chosen(name))

    @precondition(lambda self: len(self.world.images) > 1)
    @rule(name=pick, keep=pick)
    def remove(self, name, keep):
        name = self.world.chosen(name)
        if any(not image.readonly for other, image in self.world.images.items() if other != name):
            self.world.remove(name)

    @rule(name=pick)
    def reopen(self, name):
        name = self.world.chosen(name)
        self.world.close(name)
        self.world.compare(name)

    @rule(name=pick)
    def compare(self, name):
        self.world.compare(self.world.chosen(name))

    @rule(name=pick)
    def beyond_the_end(self, name):
        self.world.beyond_the_end(self.world.chosen(name))

    @precondition(lambda self: self.world.made % 16 == 15)
    @rule(role=st.sampled_from(("vlmc", "mapper", "blockerb", "blockerm")))
    def restart(self, role):
        self.world.restart(role)


@pytest.mark.timeout(600)
def test_volumes_are_what_byte_arrays_are(shared_instance):
    Volumes.instance = shared_instance
    random = bool(os.environ.get("ARCHIPELAGO_RANDOM"))
    run_state_machine_as_test(Volumes, settings=settings(
        max_examples=int(os.environ.get("ARCHIPELAGO_EXAMPLES", "35")), stateful_step_count=50, deadline=None,
        derandomize=not random, database=None, print_blob=True,
        suppress_health_check=list(HealthCheck), phases=(Phase.generate, Phase.shrink)))
