# SPDX-License-Identifier: Apache-2.0
"""Power cuts at any instant: flushed data is there, every other sector old or new, maps and snapshots whole.

The seeds of CI are fixed; ARCHIPELAGO_CUT_SEED=N begins elsewhere. A failure names its seed and cut, and
`python tests/powercut/cut_work.py --seed N` (with --kills where it says so) brings it back.
"""
import os
import random
import time

import pytest
from cut_disk import DiskPeer, Stored
from cut_work import CUTS, KILLS, History

from peers.mapper import store, volume

FIRST_SEED = int(os.environ.get("ARCHIPELAGO_CUT_SEED", "1"))
HISTORIES = 20                      # of 13 cuts each, in one part
PARTS = 8                           # with cuts alone
KILL_PARTS = 3                      # with kill -9 of mapper and vlmc, too
CATCH_MOST = 40                     # histories in which a fault that is put in must be found
SOAK_MINUTES = float(os.environ.get("ARCHIPELAGO_SOAK_MINUTES", "1"))


def run(seed, kills=(0,)):
    history = History(seed, kills)
    try:
        history.run(CUTS)
    except BaseException:
        print(f"cut {history.cuts}: python tests/powercut/cut_work.py --seed {seed}{' --kills' if any(kills) else ''}")
        raise
    return history.cuts


@pytest.mark.parametrize("part", range(PARTS))
def test_power_cuts_lose_nothing_that_was_flushed_and_tear_nothing_else(part):
    first = FIRST_SEED + part * HISTORIES
    cuts = sum(run(seed) for seed in range(first, first + HISTORIES))
    print(f"seeds {first}..{first + HISTORIES - 1}: {cuts} cuts")


@pytest.mark.parametrize("part", range(KILL_PARTS))
def test_power_cuts_amid_kills_of_mapper_and_vlmc(part):
    """A kill is a pause: no request fails, and the store is right whenever the cut comes."""
    first = FIRST_SEED + part * HISTORIES
    cuts = sum(run(seed, KILLS) for seed in range(first, first + HISTORIES))
    print(f"seeds {first}..{first + HISTORIES - 1}: {cuts} cuts")


def test_a_seed_brings_the_same_history():
    def end(seed):
        history = History(seed)
        history.run(4)
        bytes_of = [(name.pack(), bytes(stored.now)) for name, stored in sorted(history.data.objects.items())]
        return history.dice.random(), bytes_of

    assert end(FIRST_SEED) == end(FIRST_SEED)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_power_cuts_for_long():
    end, cuts = time.monotonic() + SOAK_MINUTES * 60, 0
    while time.monotonic() < end:
        cuts += run(random.SystemRandom().randrange(1 << 32), random.choice(((0,), KILLS)))
    print(f"{cuts} cuts")


# --- would they find a fault?

def no_sync(monkeypatch):
    """Data are not synced before the journal says where they are."""
    monkeypatch.setattr(DiskPeer, "sync", lambda self, covered: 0)


def no_fua(monkeypatch):
    """Journal records are acknowledged before they are durable."""
    write = store.MapStore.write

    async def weak(self, name, offset, data, durable=False):
        await write(self, name, offset, data)

    monkeypatch.setattr(store.MapStore, "write", weak)


def no_page_sync(monkeypatch):
    """A header names pages that are not durable yet."""
    async def nothing(self, volume):
        pass

    monkeypatch.setattr(store.MapStore, "sync", nothing)


def same_epoch(monkeypatch):
    """A new life uses the epoch of the last: it meets objects that were lost."""
    load, start = volume.Volume.load_as_it_is, volume.Volume.start_life

    async def note(self):
        await load(self)
        self.epoch_of_last = self.epoch

    def again(self):
        start(self)
        self.epoch = self.epoch_of_last
        self.current = volume.fresh(self.id, self.epoch, self.header.next_journal)
        self.current.first_seq = 1

    monkeypatch.setattr(volume.Volume, "load_as_it_is", note)
    monkeypatch.setattr(volume.Volume, "start_life", again)


@pytest.mark.parametrize("fault", [no_sync, no_fua, no_page_sync, same_epoch])
def test_a_fault_in_the_order_of_things_is_found(monkeypatch, fault):
    fault(monkeypatch)
    with pytest.raises((AssertionError, OSError)):
        for seed in range(CATCH_MOST):
            History(seed).run(CUTS)


# --- the disk itself

def test_a_cut_keeps_each_sector_as_some_write_left_it():
    seen = set()
    for seed in range(200):
        stored = Stored(b"a" * 1536, there=True)
        stored.write(0, b"b" * 1024, durable=False)
        stored.write(512, b"c" * 256, durable=False)
        left = stored.cut(random.Random(seed))
        sectors = [left.read(at, 512) for at in (0, 512, 1024)]
        assert sectors[0] in (b"a" * 512, b"b" * 512) and sectors[2] == b"a" * 512
        assert sectors[1] in (b"a" * 512, b"b" * 512, b"c" * 256 + b"b" * 256)
        seen.add(tuple(sectors))
    assert len(seen) == 6


def test_what_is_durable_survives_a_cut_and_what_was_before_it_cannot_come_back():
    for seed in range(100):
        stored = Stored()
        stored.write(0, b"a" * 512, durable=False)
        stored.write(0, b"b" * 512, durable=True)
        stored.write(1024, b"c" * 512, durable=False)
        left = stored.cut(random.Random(seed))
        assert left.read(0, 512) == b"b" * 512
        assert left.read(1024, 512) in (b"c" * 512, bytes(512))


def test_an_object_that_was_made_and_not_synced_may_be_gone_or_empty():
    def left(seed):
        stored = Stored()
        stored.write(0, b"a" * 512, durable=False)
        kept = stored.cut(random.Random(seed))
        return None if kept is None else kept.read(0, 512)

    assert {left(seed) for seed in range(200)} == {None, bytes(512), b"a" * 512}
