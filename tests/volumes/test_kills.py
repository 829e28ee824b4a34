# SPDX-License-Identifier: Apache-2.0
"""kill -9 of any peer under load: requests wait for its restart, then all of them succeed, and nothing is lost."""
import os
import random
import threading
import time

import pytest
from walk import Walk
from world import BLOCK

ROLES = ("vlmc", "mapper", "blockerb", "blockerm")
CONFIG = "[peers.vlmc]\nlayers = 4\n"      # so that stacks are merged often
SEED = int(os.environ.get("ARCHIPELAGO_KILL_SEED", "5"))
KILLS = int(os.environ.get("ARCHIPELAGO_KILLS", "4"))


def kill_and_restart(instance, role):
    instance.kill(role)
    instance.restart(role)


@pytest.mark.parametrize("role", ROLES)
def test_writes_under_way_survive_the_death_of_a_peer(world, shared_instance, role):
    """Over blocks that are new, own and shared, with stacks that must be merged, and flushes."""
    print(f"seed {SEED}")
    walk, dice = Walk(world, SEED), random.Random(SEED)
    name = world.create(40 * BLOCK)
    for _ in range(KILLS):
        walk.bytes_of(name)
        walk.deepen()
        changes = walk.changes(name)
        while len(changes) < 12:
            changes = walk.changes(name)
        changes[0] = changes[0]._replace(kind="fua")
        world.batch(name, changes, lambda: kill_and_restart(shared_instance, role))
        world.compare(name)
        if dice.random() < 0.5:
            world.flush(name)
        if dice.random() < 0.5:
            world.clone(name)


@pytest.mark.parametrize("role", ("vlmc", "mapper"))
def test_a_snapshot_under_way_survives_the_death_of_a_peer(world, shared_instance, role):
    walk = Walk(world, SEED)
    name = world.create(40 * BLOCK)
    for _ in range(2):
        walk.bytes_of(name)
        killer = threading.Thread(target=kill_and_restart, args=(shared_instance, role))
        killer.start()
        while killer.is_alive():
            world.snapshot_under_load(name, [c for c in walk.changes(name) if c.kind != "read"])
            time.sleep(0.01)
            if len(world.images) > 10:
                break
        killer.join()


def test_operations_under_way_survive_the_death_of_the_mapper(world, shared_instance):
    """Volumes are made, cloned, renamed, resized and removed while it is killed again and again."""
    walk, kills = Walk(world, SEED), 0
    walk.weights = {"bytes": 6, "create": 2, "clone": 3, "snapshot": 3, "rename": 4, "resize": 4, "remove": 4,
                    "reopen": 3, "flush": 1, "adopt": 2, "hash": 4}

    def killer():
        nonlocal kills
        while kills < KILLS and not over.wait(0.2):
            kill_and_restart(shared_instance, "mapper")
            kills += 1

    over = threading.Event()
    thread = threading.Thread(target=killer)
    thread.start()
    try:
        while thread.is_alive():
            walk.step()
    finally:
        over.set()
        thread.join()
    assert kills == KILLS and walk.steps


def test_flushed_writes_survive_all_peers_at_once(world, shared_instance):
    walk = Walk(world, SEED)
    for _ in range(4):
        name = world.create(40 * BLOCK)
        for _ in range(10):
            walk.bytes()
        world.snapshot(name)
    for name in list(world.images):
        world.flush(name)
    for role in ROLES:
        shared_instance.kill(role) if shared_instance.status()[role]["state"] != "dead" else None
    for role in ("blockerb", "blockerm", "mapper", "vlmc"):
        shared_instance.restart(role)
    for name in world.images:
        world.compare(name)
