# SPDX-License-Identifier: Apache-2.0
"""Several nodes on one store, and a collector that is always at work: nothing goes that something reaches.

The seeds of CI are fixed; ARCHIPELAGO_CUT_SEED=N begins elsewhere. A failure names its seed, and
`python tests/powercut/collect_work.py --seed N` brings it back.
"""
import asyncio
import os
import random
import time
from contextlib import asynccontextmanager

import numpy as np
import pytest
from collect_work import BLOCK, History
from many_nodes import Cluster

from peers.mapper import names
from peers.mapper.collector import marks, roots, sweep
from peers.mapper.verbs import make
from xseg._native import lib
from xseg.errors import NotFound, XsegError

FIRST_SEED = int(os.environ.get("ARCHIPELAGO_CUT_SEED", "1"))
HISTORIES = 30                      # in one part
PARTS = 3
SOAK_MINUTES = float(os.environ.get("ARCHIPELAGO_SOAK_MINUTES", "1"))


def run(seed):
    history = History(seed)
    try:
        history.run()
    except BaseException:
        print(f"python tests/powercut/collect_work.py --seed {seed}")
        raise
    return history


@pytest.mark.parametrize("part", range(PARTS))
def test_nothing_that_is_reached_is_collected_and_all_else_is(part):
    first = FIRST_SEED + part * HISTORIES
    ended = [run(seed) for seed in range(first, first + HISTORIES)]
    print(f"seeds {first}..{first + HISTORIES - 1}: {sum(h.cycles for h in ended)} cycles beside the work, "
          f"{sum(h.freed for h in ended)} objects freed by them")
    assert sum(history.freed for history in ended)


def test_a_seed_brings_the_same_history():
    def end(seed):
        history = run(seed)
        return history.dice.random(), history.cycles, sorted(name.pack() for name in history.cluster.maps.objects)

    assert end(FIRST_SEED) == end(FIRST_SEED)


@pytest.mark.soak
def test_nothing_that_is_reached_is_collected_for_long():
    end, seed = time.monotonic() + SOAK_MINUTES * 60, random.randrange(1 << 32)
    while time.monotonic() < end:
        run(seed)
        seed += 1


# --- orders of events that matter, one by one, with what they are guarded by and without -------------------

class Scene(History):
    """One node, and a volume `v` of which the first block is A. What happens is told by `play`."""

    def __init__(self, play, monkeypatch):
        super().__init__(1)
        self.play, self.monkeypatch, self.grace_ms, self.collector_pauses = play, monkeypatch, 10_000, 0.0

    async def live(self, loop):
        self.cluster = Cluster(self.dice, loop, 1, 0.0, 1)
        self.cluster.journal_limit = 4096
        await self.cluster.drive(self.work())

    async def work(self):
        self.node = await self.cluster.add()
        await self.node.control("create", name="v", size=4 * BLOCK, block_size=BLOCK)
        await self.write(b"A")
        await self.play(self)

    async def write(self, letter):
        """The whole first block of the volume, which is closed then."""
        handle = await self.node.open("v")
        await self.write_by(handle, letter)
        await self.node.close_volume(handle)

    async def write_by(self, handle, letter):
        """The same by a handle."""
        await self.node.call(lib.XOP_WRITE, volume=handle, offset=0, size=BLOCK, data=letter * BLOCK)
        await self.node.call(lib.XOP_FLUSH, volume=handle)

    async def first(self, name):
        """The first letter of a volume."""
        handle = await self.node.open(name)
        reply = await self.node.call(lib.XOP_READ, volume=handle, offset=0, size=BLOCK, room=BLOCK)
        await self.node.close_volume(handle)
        return bytes(reply.data[:1])

    async def collected(self, count=2):
        for _ in range(count):
            await asyncio.sleep(0.01)
            await self.collect(self.node)

    def before(self, where, name, happens):
        """Has something happen once, right before a coroutine is called."""
        called, done = getattr(where, name), []

        async def late(*words):
            if not done:
                done.append(True)
                await happens()
            return await called(*words)

        self.monkeypatch.setattr(where, name, late)


async def a_snapshot_comes_after_the_list(scene):
    """The volume has lost by then what the snapshot has."""
    async def happens():
        await scene.node.control("snapshot", name="v", snapshot="s")
        await scene.write(b"B")

    scene.before(roots.MapRoots, "root", happens)
    await scene.collected()
    assert (await scene.first("s"), await scene.first("v")) == (b"A", b"B")


async def a_snapshot_is_slow(scene):
    """The volume, which is open, loses what it is about to have."""
    handle = await scene.node.open("v")

    async def happens():
        await scene.write_by(handle, b"B")
        await scene.collected(1)

    scene.before(names.Names, "make", happens)
    await scene.node.control("snapshot", name="v", snapshot="s")
    assert (await scene.first("s"), await scene.first("v")) == (b"A", b"B")


async def a_slow_snapshot_meets_a_checkpoint(scene):
    """Which would give up the journal that the snapshot is about to name."""
    handle = await scene.node.open("v")
    volume = scene.node.mapper.hand.handles[handle]
    folding = []

    async def happens():
        folding.append(asyncio.ensure_future(volume.checkpoint()))
        await asyncio.wait(folding, timeout=0.02)
        await scene.collected(1)

    scene.before(names.Names, "make", happens)
    await scene.node.control("snapshot", name="v", snapshot="s")
    await asyncio.gather(*folding)
    assert (await scene.first("s"), await scene.first("v")) == (b"A", b"A")


async def a_clone_is_slow(scene):
    """What it is made from is removed and collected before it is there; so it is not made."""
    scene.grace_ms = 0
    await scene.node.control("snapshot", name="v", snapshot="s")
    await scene.write(b"B")

    async def happens():
        await scene.node.control("remove", name="s", token=5)
        await scene.collected()

    scene.before(names.Names, "make", happens)
    with pytest.raises(NotFound):
        await scene.node.control("clone", name="s", names=["c"], token=6)
    assert await scene.node.names() == {"v"}


async def a_volume_is_opened_while_objects_are_listed(scene):
    """What it writes was not there to be marked."""
    async def happens():
        await scene.write_by(await scene.node.open("v"), b"B")
        await scene.node.control("create", name="w", size=BLOCK, block_size=BLOCK)

    await scene.node.control("snapshot", name="v", snapshot="s")
    scene.before(sweep.Sweep, "objects", happens)
    await scene.collected(1)
    assert (await scene.first("s"), await scene.first("v"), await scene.first("w")) == (b"A", b"B", bytes(1))


async def nothing(*_words):
    """In the place of something that matters."""


@asynccontextmanager
async def fixed_and_let_go(hand, volume):
    """A snapshot whose volume may be folded before its header is there."""
    yield await make.fix_open(hand, volume)


def all_old(_known, names, _kind):
    """As if nobody could be about to make anything."""
    return np.ones(len(names), bool), np.zeros(len(names), bool)


GUARDED = [
    (a_snapshot_comes_after_the_list, (roots.MapRoots, "mark_again", nothing)),
    (a_snapshot_is_slow, (roots.Walk, "everything", roots.Walk.present)),
    (a_slow_snapshot_meets_a_checkpoint, (make, "fixed", fixed_and_let_go)),
    (a_clone_is_slow, (make, "confirm", nothing)),
    (a_volume_is_opened_while_objects_are_listed, (roots.Known, "old", all_old)),
]


@pytest.mark.parametrize("play, guard", GUARDED, ids=lambda value: getattr(value, "__name__", ""))
def test_an_order_of_events_that_matters_is_guarded(monkeypatch, play, guard):
    Scene(play, monkeypatch).run()


@pytest.mark.parametrize("play, guard", GUARDED, ids=lambda value: getattr(value, "__name__", ""))
def test_without_its_guard_it_is_found(monkeypatch, play, guard):
    monkeypatch.setattr(*guard)
    with pytest.raises((XsegError, AssertionError, pytest.fail.Exception)):
        Scene(play, monkeypatch).run()


# --- marks in too little memory -----------------------------------------------------------------------------

def test_marks_give_up_what_they_have_no_room_for_and_nothing_else():
    dice = np.random.default_rng(1)
    hashes, others = (dice.integers(0, 1 << 64, count, dtype=np.uint64) for count in (5000, 500))
    low, found = 0, 0
    while low < marks.HASH_END:
        kept = marks.Marks(1 << 14, low)
        for at in range(0, len(hashes), 100):
            kept.put(hashes[at:at + 100])
        kept.settle()
        assert len(kept.sorted) * marks.HASH_BYTES * marks.HASH_COPIES <= 1 << 14
        assert kept.have(hashes[kept.covers(hashes)]).all() and not kept.have(others).any()
        found += int(kept.covers(hashes).sum())
        low = kept.high
    assert found == len(hashes), "each hash is of one range"
