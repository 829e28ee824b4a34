# SPDX-License-Identifier: Apache-2.0
"""Several nodes on one store, and a collector that is always at work: nothing goes that something reaches.

The seeds of CI are fixed; ARCHIPELAGO_CUT_SEED=N begins elsewhere. A failure names its seed, and
`python tests/powercut/collect_work.py --seed N` brings it back.
"""
import os
import random
import time

import numpy as np
import pytest
from collect_work import History

from peers.mapper.collector import marks, roots

FIRST_SEED = int(os.environ.get("ARCHIPELAGO_CUT_SEED", "1"))
HISTORIES = 40                      # in one part
PARTS = 3
CATCH_MOST = 150                    # histories in which a fault that is put in must be found
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


# --- faults that are put in -------------------------------------------------------------------------------

async def nothing(*_words):
    """In the place of something that matters."""


def all_old(_known, names, _kind):
    """As if nobody could be about to make anything."""
    return np.ones(len(names), bool), np.zeros(len(names), bool)


FAULTS = {
    "not listed again": (roots.MapRoots, "mark_again", nothing),
    "epochs not looked at": (roots.Known, "old", all_old),
    "range not final": (marks.Marks, "covers", lambda self, hashes: np.ones(len(hashes), bool)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_is_put_in_is_found(monkeypatch, fault):
    monkeypatch.setattr(*FAULTS[fault])
    for seed in range(FIRST_SEED, FIRST_SEED + CATCH_MOST):
        try:
            History(seed).run()
        except Exception as failure:
            print(f"seed {seed}: {failure}")
            return
    pytest.fail(f"{CATCH_MOST} histories do not show it")
