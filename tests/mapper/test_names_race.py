# SPDX-License-Identifier: Apache-2.0
"""One name wanted on two nodes at once: two instances with stores in common, whose map stores answer late."""
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import pytest
from support import Instance, wait_until

from peers.mapper.names import pointer
from xseg._native import lib
from xseg.client import Client
from xseg.errors import Exists, XsegError
from xseg.segment import Segment, name_for

SEED = int(os.environ.get("ARCHIPELAGO_NAMES_SEED", "1"))
ROUNDS = int(os.environ.get("ARCHIPELAGO_NAMES_ROUNDS", "60"))
MIB = 1 << 20
CONFIG = """
layout = "{layout}"
[peers.blockerb]
type = "blocker-file"
path = "{store}/data"
sync = false
[peers.blockerm]
type = "blocker-file"
path = "{store}/map"
sync = false
[peers.late]
type = "delay"
target = "blockerm"
ops = "replace,delete"
us = {us}
order = false
[routes]
"mapper>blockerm" = "late"
"""


@pytest.fixture(scope="module")
def nodes():
    """Two instances on one store."""
    store, made = tempfile.mkdtemp(prefix="ar-", dir="/tmp"), []
    os.mkdir(os.path.join(store, "map"))
    os.mkdir(os.path.join(store, "data"))
    try:
        for us in (2000, 3000):
            home = tempfile.mkdtemp(prefix="ar-", dir="/tmp")
            made.append(Instance(home, CONFIG.format(layout="colocated", store=store, us=us)))
            made[-1].start()
        yield made
    finally:
        for instance in made:
            instance.finish()
            Segment.unlink(name_for(instance.home))
            shutil.rmtree(instance.home)
        shutil.rmtree(store)


def at_once(first, second, between_s):
    """Does both on threads of their own, the second so much later (or earlier): what each raised, or None."""
    raised = [None, None]

    def one(place, instance, verb, arguments, wait_s):
        with Client(instance.home) as client:
            ready.wait()
            time.sleep(max(0.0, wait_s))
            try:
                client.control(verb, **arguments)
            except XsegError as failure:
                raised[place] = failure

    ready = threading.Barrier(2)
    threads = [threading.Thread(target=one, args=(place, *what, wait_s)) for place, (what, wait_s)
               in enumerate(((first, -between_s), (second, between_s)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def reachable(instance):
    """{name: id} of all volumes. Fails if one's name leads elsewhere."""
    rows = {}
    for row in instance.vlmc_json("list"):
        assert row["name"] not in rows, f"two volumes are called {row['name']}"
        rows[row["name"]] = row["id"]
    for name, identity in rows.items():
        assert instance.client.control("info", name=name)["id"] == identity, f"{name} leads to another volume"
    return rows


def rival(verb, number, name):
    """What the other node does to get a name."""
    return {"create": ("create", {"name": name, "size": MIB, "token": 1000 + number}),
            "rename": ("rename", {"name": f"r-{number}", "to": name, "token": 1000 + number}),
            "rename snapshot": ("rename", {"name": f"s-{number}", "to": name, "token": 1000 + number}),
            "snapshot": ("snapshot", {"name": f"r-{number}", "snapshot": name, "token": 1000 + number}),
            "clone": ("clone", {"name": f"s-{number}", "names": [name], "token": 1000 + number})}[verb]


@pytest.mark.parametrize("kind", ["volume", "open volume", "snapshot"])
@pytest.mark.parametrize("verb", ["create", "rename", "rename snapshot", "snapshot", "clone"])
def test_of_a_rename_and_another_claim_of_the_name_one_wins(nodes, verb, kind, request):
    here, there = nodes
    dice, tag, wins = random.Random(f"{SEED} {request.node.name}"), f"{verb}-{kind}".replace(" ", "_"), [0, 0]
    print("seed", SEED)
    for number in range(ROUNDS // 5):
        old, new = f"{tag}-old-{number}", f"{tag}-new-{number}"
        here.client.control("create", name=old, size=MIB)
        if kind == "open volume":
            here.client.control("open", name=old)
        if kind == "snapshot":
            here.client.control("snapshot", name=old, snapshot=old + "-s")
            old += "-s"
        if verb != "create":
            there.client.control("create", name=f"r-{number}", size=MIB)
            there.client.control("snapshot", name=f"r-{number}", snapshot=f"s-{number}")
        raised = at_once((here, "rename", {"name": old, "to": new, "token": 7}), (there, *rival(verb, number, new)),
                         dice.uniform(-0.02, 0.02))
        assert [failure is None for failure in raised].count(True) == 1, raised
        loser = next(failure for failure in raised if failure)
        assert loser.errno in (errno.EEXIST, errno.ESTALE), loser
        wins[raised[0] is not None] += 1
        names = reachable(there)
        assert new in names and (old in names) == (raised[0] is not None)
        for name in names:
            with_force = {"name": name, "force": True}
            if here.client.control("info", name=name)["open"]:
                here.client.control("close", **with_force)
            here.client.control("remove", name=name)
    print("won:", wins)


def test_a_name_that_is_given_back_while_another_takes_it_stays_his(nodes):
    here, there = nodes
    dice = random.Random(SEED)
    for number in range(ROUNDS):
        name = f"back-{number}"
        here.client.control("create", name=name, size=MIB)
        verb, arguments = ("rename", {"to": name + "-away"}) if number % 2 else ("remove", {})
        first, second = at_once((here, verb, {"name": name, "token": 5, **arguments}),
                                (there, "create", {"name": name, "size": MIB, "token": 6}), dice.uniform(-0.005, 0.03))
        assert first is None and (second is None or isinstance(second, Exists))
        names = reachable(here)
        assert (name in names) == (second is None)
        for left in names:
            here.client.control("remove", name=left)


RENAMER = """
import sys
from xseg.client import Client
with Client(sys.argv[1]) as client:
    print("ready", flush=True)
    sys.stdin.readline()
    client.control("rename", name=sys.argv[2], to=sys.argv[3], token=9)
"""


@pytest.mark.parametrize("wait_ms", range(0, 16, 2))
def test_a_rename_whose_mapper_and_client_died_is_settled(nodes, wait_ms):
    here, there = nodes
    old, new = f"cut-{wait_ms}", f"cut-{wait_ms}-new"
    identity = here.client.control("create", name=old, size=MIB)["id"]
    mapper = here.pid("mapper")
    with subprocess.Popen([sys.executable, "-c", RENAMER, here.home, old, new], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as renamer:
        assert renamer.stdout.readline() == b"ready\n"
        renamer.stdin.write(b"\n")
        renamer.stdin.flush()
        time.sleep(wait_ms / 1000)
        renamer.kill()
        os.kill(mapper, signal.SIGKILL)
    wait_until(lambda: here.status()["mapper"]["state"] == "dead", "the mapper is dead")
    here.archipelago("restart", "mapper")
    taken = there.client.control("info", name=new)["id"] == identity if new in reachable(there) else False
    if not taken:
        there.client.control("create", name=new, size=MIB)
    names = reachable(there)
    assert names[new if taken else old] == identity and new in names
    assert not json.loads(there.archipelago("check", "--json").stdout)["problems"]
    for name in names:
        there.client.control("remove", name=name)


@pytest.mark.parametrize("other", [False, True], ids=["free", "another's"])
def test_check_gives_a_volume_that_lost_its_name_one_again(nodes, other):
    """As older versions left them: the header says a name that leads nowhere, or to another volume."""
    here, there = nodes
    identity = here.client.control("create", name="lost", size=MIB)["id"]
    with here.client.open("lost") as volume:
        volume.write(0, b"not lost")
        volume.flush()
    here.call("blockerm", lib.XOP_DELETE, object=pointer("lost"))
    if other:
        there.client.control("create", name="lost", size=MIB)
    found = there.archipelago("check", check=False)
    assert found.returncode == 1 and "'lost' leads" in found.stdout
    mended = there.archipelago("check", "--repair")
    name = f"lost-{identity}" if other else "lost"
    assert name in mended.stderr and reachable(there)[name] == identity
    with here.client.open(name) as volume:
        assert volume.read(0, 8) == b"not lost"
    there.archipelago("check")
    for left in reachable(there):
        there.client.control("remove", name=left)
