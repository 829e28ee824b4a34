# SPDX-License-Identifier: Apache-2.0
"""What a dead connection had under way is done before anybody is served from its volume again: no write in doubt
lands over a later one that was answered, and nothing that was read changes. The store is slow, so that much is under
way when a process dies."""
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from load import BLOCK, READY_S, Killer
from numbered import PLACE, Numbered, data_of, number_in
from support import wait_until
from two_nodes import signalled

from xseg._native import lib
from xseg.client import Client

pytest_plugins = ["kill_fixtures"]

SEED = int(os.environ.get("ARCHIPELAGO_KILL_SEED", "1"))
KILLS = 8                           # of each pipeline in the ordinary suite
PLACES, DEPTH = 96, 24
SLOW = """
layout = "%s"
[peers.slow]
type = "delay"
target = "blockerb"
ops = "write"
ms = %d
order = false
[routes]
"vlmc>blockerb" = "slow"
"""
PROCESSES = {
    "colocated": ["nbd+vlmc+blockerb+slow", "mapper+blockerm"],
    "separate": ["nbd", "vlmc", "slow", "blockerb", "mapper", "blockerm"],
}


class Deaths:
    """Rounds of: writes are under way, something dies, the client is back at once, and looks again later."""

    def __init__(self, instance, pipeline, ms, seed):
        self.instance, self.pipeline, self.ms = instance, pipeline, ms
        self.dice = random.Random(seed)
        self.killer = Killer(instance, seed)
        ask = instance.client.control
        ask("create", name="base", size=PLACES * PLACE, block_size=BLOCK)
        ask("clone", name="base", names=["v"])
        self.client = Numbered(os.path.join(instance.home, "run", "nbd.sock"), "v", PLACES, seed)

    def lose(self):
        """The connection ends and its server lives on. The client goes on by a new one, or by one it has already."""
        self.client.begin(DEPTH, self.dice.random() * self.ms * 1.5e-3)
        self.client.drop(self.client.connect() if self.dice.random() < 0.5 else None)
        self.look_twice()

    def chosen(self):
        """Processes to kill: mostly the endpoint's, alone or with others."""
        endpoint, *others = PROCESSES[self.pipeline]
        chosen = self.dice.sample(others, self.dice.choice((0, 0, 1, 1, len(others))))
        return chosen + [endpoint] if not chosen or self.dice.random() < 0.7 else chosen

    def kill(self):
        chosen = self.chosen()
        self.client.begin(DEPTH, self.dice.random() * self.ms * 1.5e-3)
        for process in chosen:
            self.killer.kill(process)
        self.client.drop()
        self.look_twice()
        roles = [role for process in PROCESSES[self.pipeline] for role in process.split("+")]
        wait_until(lambda: self.killer.ready(roles), "all are back", READY_S)

    def look_twice(self):
        self.client.settle()
        time.sleep(2 * self.ms * 1e-3 + 0.02)           # long enough for what is left behind to land
        self.client.look()

    def run(self, kills):
        print(f"{self.pipeline}, {self.ms} ms")
        while self.killer.kills.total() < kills:
            self.kill()
        self.killer.report()
        print(f"{self.client.number} writes, {self.client.in_doubt_seen} in doubt")
        assert self.client.in_doubt_seen


@pytest.mark.parametrize("pipeline, ms", [("colocated", 5), ("separate", 60)])
def test_nothing_in_doubt_lands_once_the_client_was_served_again(supervised, pipeline, ms):
    Deaths(supervised(SLOW % (pipeline, ms)), pipeline, ms, SEED).run(KILLS)


@pytest.mark.parametrize("pipeline", PROCESSES)
def test_nothing_in_doubt_lands_after_a_connection_was_lost(supervised, pipeline):
    deaths = Deaths(supervised(SLOW % (pipeline, 20)), pipeline, 20, SEED)
    for _ in range(25):
        deaths.lose()
    assert deaths.client.in_doubt_seen


# --- other ports

def under_way(instance, role="slow"):
    """Writes that a peer has: the filter before the blocker, which holds them back."""
    port = instance.client.segment.port_of(role)
    return [c for c in instance.client.segment.busy() if c.op == lib.XOP_WRITE and c.owner == port]


def in_turn(instance, kill):
    """A write is under way when its sender is killed. Another port, which has the volume open, reads there."""
    with Client(instance.home) as other, other.open("v") as volume:
        kill(lambda: under_way(instance))
        assert number_in(volume.read(0, PLACE), 0) == 1
        assert not under_way(instance)


@pytest.mark.parametrize("pipeline", PROCESSES)
def test_other_ports_wait_for_what_a_dead_endpoint_left(supervised, pipeline):
    deaths = Deaths(supervised(SLOW % (pipeline, 400)), pipeline, 400, SEED)

    def kill(held):
        deaths.client.handle = deaths.client.connect()
        deaths.client.write(0)
        wait_until(held, "the write is under way")
        deaths.killer.kill(PROCESSES[pipeline][0])
        deaths.client.wait_for_end()

    in_turn(deaths.instance, kill)


def test_what_a_dead_endpoint_left_on_one_volume_holds_back_no_other(supervised):
    """The blocker hangs with a write of one; the other is empty, so reads of it need no blocker."""
    deaths = Deaths(supervised('layout = "separate"'), "separate", 0, SEED)
    hung = deaths.client
    other = Numbered(hung.socket, "base", PLACES, SEED)
    hung.handle = hung.connect()
    signalled(deaths.instance, signal.SIGSTOP, "blockerb")
    try:
        hung.write(0)
        wait_until(lambda: under_way(deaths.instance, "blockerb"), "the write is under way")
        deaths.killer.kill("nbd")
        hung.drop(hung.connect())
        other.handle = other.connect()
        hung.read(0)
        other.read(0)
        other.finish()
        hung.take()
        assert hung.away and under_way(deaths.instance, "blockerb")
    finally:
        signalled(deaths.instance, signal.SIGCONT, "blockerb")
    hung.finish()


WRITER = """
import sys
from xseg.client import Client
with Client(sys.argv[1]) as client, client.open("v") as volume:
    volume.write(0, bytes.fromhex(sys.stdin.read()))
"""


def test_other_ports_wait_for_what_a_dead_client_left(supervised):
    instance = Deaths(supervised(SLOW % ("separate", 400)), "separate", 400, SEED).instance

    def kill(held):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, instance.home], stdin=subprocess.PIPE)
        writer.stdin.write(data_of(0, 1).hex().encode())
        writer.stdin.close()
        wait_until(held, "the write is under way")
        writer.send_signal(signal.SIGKILL)
        writer.wait()

    in_turn(instance, kill)


@pytest.mark.soak
def test_for_long(supervised):
    end, seed = time.monotonic() + float(os.environ["ARCHIPELAGO_SOAK_MINUTES"]) * 60, SEED
    while time.monotonic() < end:
        pipeline, ms = random.Random(seed).choice(list(PROCESSES)), random.Random(seed).choice((3, 10, 20, 60, 200))
        deaths = Deaths(supervised(SLOW % (pipeline, ms)), pipeline, ms, seed)
        deaths.run(20)
        for _ in range(20):
            deaths.lose()
        deaths.instance.finish()
        seed += 1
