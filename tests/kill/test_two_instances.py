# SPDX-License-Identifier: Apache-2.0
"""Two instances over one file store: whoever lost a lock can write no more before the next one has it, whichever of
its processes died or stand still."""
import os
import random
import shutil
import signal
import tempfile

import pytest
from numbered import data_of, number_in
from support import Instance, wait_until

from xseg._native import lib
from xseg.client import Client
from xseg.errors import Busy, XsegError
from xseg.segment import Segment, name_for

SIZE, PLACE = 16 << 20, 4096
SEED = int(os.environ.get("ARCHIPELAGO_KILL_SEED", "1"))
ROUNDS = int(os.environ.get("ARCHIPELAGO_ROUNDS", "3"))
CONFIG = """layout = "%s"
[peers.blockerb]
type = "blocker-file"
path = "%s/data"
[peers.blockerm]
type = "blocker-file"
path = "%s/map"
[supervisor]
deaths = 100000
"""


@pytest.fixture
def store():
    path = tempfile.mkdtemp(prefix="ar-", dir="/dev/shm" if os.path.isdir("/dev/shm") else "/tmp")
    for folder in ("data", "map"):
        os.mkdir(os.path.join(path, folder))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def node(store):
    """node(layout): starts an instance over the store."""
    made = []

    def start(layout="separate", supervised=False):
        home = tempfile.mkdtemp(prefix="ar-", dir=store)
        instance = Instance(home, CONFIG % (layout, store, store), supervised)
        made.append(instance)
        instance.start()
        return instance

    yield start
    for instance in made:
        instance.killed |= {peer["process"] for peer in instance.status().values()}
        instance.finish()
        Segment.unlink(name_for(instance.home))


class Open:
    """A volume open at a node by a client that stays."""

    def __init__(self, node, name="v"):
        self.client = Client(node.home)
        try:
            self.volume = self.client.open(name)
        except BaseException:
            self.client.close()
            raise

    def close(self):
        self.volume.close()
        self.client.close()


def pair(node, layout):
    """Two nodes; the first has the volume "v" open, with a block of its own."""
    a, b = node(layout), node(layout)
    a.client.control("create", name="v", size=SIZE)
    a.client.control("create", name="w", size=SIZE)
    held = Open(a)
    held.volume.write(0, b"a" * PLACE, fua=True)
    return a, b, held


def opened(node, name="v"):
    """What opening says; None: it is open (and closed again)."""
    try:
        Open(node, name).close()
    except Busy:
        with pytest.raises(Busy) as failure:
            node.client.control("open", name=name)
        return str(failure.value)
    return None


ROLES = ("nbd", "vlmc", "blockerb", "mapper", "blockerm")


@pytest.mark.parametrize("role", ROLES)
def test_while_one_process_lives_the_lock_stays(node, layout, role):
    """All but one of the first node's blockers' processes are killed, or just one of its processes."""
    a, b, held = pair(node, layout)
    process = a.kill(role)
    assert a.home in opened(b)
    a.restart(role)
    held.volume.write(PLACE, b"a" * PLACE, fua=True)
    assert held.volume.read(0, 2 * PLACE) == b"a" * 2 * PLACE, process
    held.close()
    assert opened(b) is None


@pytest.mark.parametrize("alive", ["blockerb", "blockerm"])
def test_one_blocker_that_lives_or_stands_still_keeps_the_lock(node, alive):
    a, b, _held = pair(node, "separate")
    pid = a.pid(alive)
    os.kill(pid, signal.SIGSTOP)
    for role in ROLES:
        if role != alive:
            a.kill(role)
    said = opened(b)
    assert a.home in said
    if alive == "blockerb":
        assert str(pid) in said and "data" in said
    with pytest.raises(Busy):
        b.client.control("unlock", name="v", force=True)
    os.kill(pid, signal.SIGCONT)
    a.kill(alive)
    assert opened(b) is None


def test_an_instance_that_was_robbed_writes_no_more_when_it_is_started_again(node, layout):
    a, b, held = pair(node, layout)
    other = Open(a, "w")
    for process in {peer["process"]: role for role, peer in a.status().items()}.values():
        a.kill(process)
    mine = Open(b)
    mine.volume.write(0, b"b" * PLACE, fua=True)
    for role in ("blockerm", "mapper", "blockerb", "vlmc", "nbd"):
        if a.status()[role]["state"] == "dead":
            a.restart(role)
    with pytest.raises(XsegError):
        held.volume.write(0, b"A" * PLACE, fua=True)
    other.volume.write(0, b"w" * PLACE, fua=True)
    assert mine.volume.read(0, PLACE) == b"b" * PLACE
    mine.close()
    other.close()
    a.client.control("close", name="v", force=True)
    again = Open(a)
    again.volume.write(PLACE, b"c" * PLACE, fua=True)
    assert again.volume.read(0, 2 * PLACE) == b"b" * PLACE + b"c" * PLACE
    again.close()


def test_a_supervisor_that_lives_keeps_the_locks(node):
    a, b = node("colocated", supervised=True), node("colocated")
    a.client.control("create", name="v", size=SIZE)
    held = Open(a)
    held.volume.write(0, b"a" * PLACE)
    for _ in range(5):
        for pid in {peer["pid"] for peer in a.status().values() if peer["pid"]}:
            os.kill(pid, signal.SIGKILL)
        assert opened(b)
    held.volume.flush()
    assert held.volume.read(0, PLACE) == b"a" * PLACE
    held.close()
    assert opened(b) is None


def test_a_restart_of_the_map_blocker_gives_no_lock_away(node):
    a, b, held = pair(node, "separate")
    for _ in range(5):
        a.kill("blockerm")
        assert opened(b)
        a.restart("blockerm")
        assert opened(b)
    held.volume.write(0, b"A" * PLACE, fua=True)
    held.close()
    assert opened(b) is None


def test_a_lock_taken_before_the_data_blocker_ever_ran_guards_it(node):
    a, b = node(), node()
    a.client.control("create", name="v", size=SIZE)
    a.kill("blockerb")
    held = Open(a)
    a.kill("blockerm")
    a.kill("mapper")
    mine = Open(b)
    mine.volume.write(0, b"b" * PLACE, fua=True)
    for role in ("blockerm", "mapper", "blockerb"):
        a.restart(role)
    with pytest.raises(XsegError):
        held.volume.write(0, b"A" * PLACE)
    assert wait_until(lambda: mine.volume.read(0, PLACE), "it is read") == b"b" * PLACE
    mine.close()


# --- any of it, in any order

def disturb(a, dice):
    """Kills some processes of a node and stops others; what was stopped."""
    stopped = []
    for role in {peer["process"]: role for role, peer in a.status().items()}.values():
        what = dice.choice(("kill", "kill", "kill", "stop", "leave"))
        if what == "kill":
            a.kill(role)
        elif what == "stop":
            stopped.append(a.pid(role))
            os.kill(stopped[-1], signal.SIGSTOP)
    return stopped


def mend(a, stopped):
    """Everything of the node runs again."""
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    for role in reversed(a.status()):       # blockers first: others wait for them
        if a.status()[role]["state"] == "dead":
            a.restart(role)


def take_turns(a, b, dice, number):
    """The first node has the volume and is disturbed while it writes; if the second gets the volume, the first is
    mended, and its writes must not land. Did the second get it?"""
    held = Open(a)
    held.volume.write(0, b"a" * PLACE, fua=True)
    request = held.client.port.get(PLACE)
    request.c.op, request.c.volume, request.c.size = lib.XOP_WRITE, held.volume.handle, PLACE
    held.client.port.send(held.client.segment.port_of("vlmc"), [request])
    stopped = disturb(a, dice)
    robbed = opened(b) is None
    if robbed:
        mine = Open(b)
        mine.volume.write(0, data_of(0, number), fua=True)
        mend(a, stopped)
        with pytest.raises(XsegError):
            held.volume.write(0, b"A" * PLACE)
        assert number_in(mine.volume.read(0, PLACE), 0) == number
        mine.close()
        a.client.control("close", name="v", force=True)
        held.client.close()
    else:
        mend(a, stopped)
        held.volume.write(0, b"a" * PLACE, fua=True)
        held.close()
    assert opened(b) is None
    return robbed


def test_any_processes_killed_or_stopped(node):
    dice = random.Random(SEED)
    a, b = node("separate"), node("colocated")
    a.client.control("create", name="v", size=SIZE)
    print("robbed:", [take_turns(a, b, dice, number) for number in range(1, ROUNDS + 1)])
