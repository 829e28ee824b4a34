# SPDX-License-Identifier: Apache-2.0
"""Seeded random walks: short ones with fixed seeds, and long ones with new seeds under `make soak`."""
import os
import random
import time

import pytest
from walk import Walk
from world import SCANTY, World

CONFIG = SCANTY
SOAK_MINUTES = float(os.environ.get("ARCHIPELAGO_SOAK_MINUTES", "1"))
SOAK_STEPS = 2000                   # of one walk


def walk(instance, seed, steps, restarts=0):
    print(f"seed {seed}, {steps} steps, restarts {restarts}")
    walk = Walk(World(instance, f"s{seed}"), seed, restarts)
    try:
        walk.run(steps)
    finally:
        print(f"seed {seed} ended after {walk.steps} steps")


@pytest.mark.parametrize("seed", [1, 2])
def test_a_walk_over_volumes(shared_instance, seed):
    walk(shared_instance, seed, 700)


def test_a_walk_with_restarts(shared_instance):
    walk(shared_instance, 3, 400, restarts=80)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_walks_for_long(shared_instance):
    end = time.monotonic() + SOAK_MINUTES * 60 / 2      # on each of two layouts
    while time.monotonic() < end:
        walk(shared_instance, random.SystemRandom().randrange(1 << 32), SOAK_STEPS, restarts=random.choice((0, 100)))
