# SPDX-License-Identifier: Apache-2.0
"""kill -9 of any peer but the endpoint, at random moments, under fio: it notices a pause and no error."""
import os
import threading
import time

import pytest
from load import BLOCK, SIZE, Killer, finish_fio, fio

from xseg.client import Client

pytest_plugins = ["kill_fixtures"]

SEED = int(os.environ.get("ARCHIPELAGO_KILL_SEED", "1"))
SECONDS = 12.0
PIPELINES = {
    "colocated": ('layout = "colocated"', ["mapper+blockerm"]),
    "separate": ('layout = "separate"', ["vlmc", "mapper", "blockerb", "blockerm"]),
    "endpoint-alone": ('layout = [["nbd"], ["vlmc", "blockerb"], ["mapper", "blockerm"]]',
                       ["vlmc+blockerb", "mapper+blockerm"]),
}


class Snapshots(threading.Thread):
    """Takes one snapshot of a volume after the other, so that the mapper is never idle."""

    def __init__(self, home, name):
        super().__init__()
        self.home, self.name_of_volume, self.stop, self.taken, self.failure = home, name, threading.Event(), 0, None

    def run(self):
        with Client(self.home) as client:
            while not self.stop.wait(0.02):
                snapshot = f"{self.name_of_volume}-{self.taken}"
                try:
                    client.control("snapshot", name=self.name_of_volume, snapshot=snapshot, token=self.taken + 1)
                except OSError as failure:
                    self.failure = failure
                    return
                self.taken += 1


def under_load(instance, processes, seconds, seed):
    """Kills these processes for so long, under fio and snapshots of what it writes to."""
    ask = instance.client.control
    ask("create", name=f"base-{seed}", size=SIZE, block_size=BLOCK)
    ask("clone", name=f"base-{seed}", names=[f"v-{seed}"])
    load, killer = fio(instance.nbd_uri(f"v-{seed}"), seconds, seed), Killer(instance, seed)
    snapshots, end = Snapshots(instance.home, f"v-{seed}"), time.monotonic() + seconds
    snapshots.start()
    try:
        killer.run(processes, lambda: load.poll() is None and time.monotonic() < end)
        snapshots.stop.set()
        done = finish_fio(load)
    finally:
        snapshots.stop.set()
        snapshots.join()
        load.kill()
    print(f"seed {seed}: {done}, {snapshots.taken} snapshots")
    assert snapshots.failure is None, snapshots.failure
    assert snapshots.taken > 0
    for name in (f"v-{seed}", f"v-{seed}-0", f"v-{seed}-{snapshots.taken - 1}"):
        assert ask("check", name=name)["problems"] == []
    return killer.report(), done


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_fio_sees_a_pause_and_no_error(supervised, pipeline):
    config, processes = PIPELINES[pipeline]
    instance = supervised(config)
    kills, done = under_load(instance, processes, SECONDS, SEED)
    assert kills and all(done.values())
    shown = instance.status().values()
    assert sum(peer["restarts"] for peer in shown) > 0
    assert sum(peer["recovered"] for peer in shown) > 0


def test_every_peer_at_once_again_and_again(supervised):
    """All but the endpoint die together, as when memory runs out."""
    config, processes = PIPELINES["separate"]
    instance = supervised(config)
    instance.client.control("create", name="v", size=SIZE, block_size=BLOCK)
    load, killer = fio(instance.nbd_uri("v"), 6, SEED), Killer(instance, SEED)
    for _ in range(4):
        time.sleep(0.3)
        for process in processes:
            killer.kill(process)
        assert load.poll() is None
    finish_fio(load)
    killer.report()


@pytest.mark.soak
@pytest.mark.parametrize("pipeline", PIPELINES)
def test_for_long(supervised, pipeline):
    config, processes = PIPELINES[pipeline]
    end = time.monotonic() + float(os.environ["ARCHIPELAGO_SOAK_MINUTES"]) * 60 / len(PIPELINES)
    seed = SEED
    while time.monotonic() < end:
        instance = supervised(config)
        under_load(instance, processes, 60, seed)
        instance.finish()
        seed += 1
