# SPDX-License-Identifier: Apache-2.0
"""archipelago route: filters come into the running pipeline and leave it, edges are turned, and no request fails."""
import json
import os
import signal

import pytest
from load import BLOCK, SIZE, finish_fio, fio
from support import config_of, wait_until

from tools.instance import config
from xseg._native import lib

pytest_plugins = ["kill_fixtures"]

PAIR = [("front", "delay", {"target": "back"}), ("back", "memory", {}), ("other", "memory", {})]
WRITE = {"object": (lib.XOBJ_DATA, 1, 1, 1), "data": b"x"}


def refused(instance, *words):
    """stderr of an `archipelago route` that fails and changes nothing."""
    before = instance.client.segment.routes()
    done = instance.archipelago("route", *words, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    now = instance.client.segment.routes()
    assert {edge: now[edge] for edge in before} == before and config.read_changes(instance.home)["filters"] == {}
    return done.stderr


@pytest.fixture
def pair(supervised):
    return supervised(config_of(PAIR))


def test_filters_come_and_go_under_load(supervised):
    instance = supervised('layout = "separate"')
    instance.client.control("create", name="v", size=SIZE, block_size=BLOCK)
    load = fio(instance.nbd_uri("v"), 12, 1)
    try:
        said = instance.archipelago("route", "--insert", "slow", "--before", "blockerb", "--type", "delay",
                                    "--option", "us=100").stdout
        before, after = said.split("now:")
        assert "vlmc --> blockerb, mapper" in before and "vlmc --> slow (for blockerb), mapper" in after
        assert "mapper --> blockerm, slow (for blockerb), vlmc" in after and "slow --> blockerb" in after
        instance.archipelago("route", "--insert", "slower", "--before", "blockerm", "--type", "delay")
        wait_until(lambda: instance.status()["slow"]["served"] > 100, "the load goes through it")
        instance.archipelago("restart", "slow")
        os.kill(instance.pid("slow"), signal.SIGKILL)
        instance.archipelago("route", "--remove", "slow")
        instance.archipelago("route", "--remove", "slower")
        assert load.poll() is None
        finish_fio(load)
    finally:
        load.kill()
    assert set(instance.status()) == {"nbd", "vlmc", "blockerb", "mapper", "blockerm"}
    assert config.read_changes(instance.home) == {"filters": {}, "routes": {}}


def test_a_filter_before_a_filter(pair):
    for name in ("one", "two"):
        pair.archipelago("route", "--insert", name, "--before", "back", "--type", "delay")
    assert "one --> two (for back)" in pair.archipelago("route").stdout
    pair.call("front", lib.XOP_WRITE, **WRITE)
    assert {role: peer["served"] for role, peer in pair.status().items()} == {
        "front": 1, "back": 1, "other": 0, "one": 1, "two": 1}
    pair.archipelago("route", "--remove", "one")
    assert "front --> two (for back)" in pair.archipelago("route").stdout
    pair.archipelago("route", "--remove", "two")
    assert "front --> back" in pair.archipelago("route").stdout


def test_what_a_filter_has_in_hand_is_finished_before_it_goes(pair):
    pair.archipelago("route", "--insert", "slow", "--before", "back", "--type", "delay", "--option", "ms=2000")
    client = pair.client
    request = client.port.get()
    client.port.send(client.segment.port_of("front"), [request])
    wait_until(lambda: pair.status()["slow"]["in_flight"] == 1, "it has it")
    pair.archipelago("route", "--remove", "slow")
    (came,) = client.port.receive(1)
    assert came.c.error == 0


def test_an_edge_is_turned_and_reset(pair):
    pair.archipelago("route", "front>back", "other")
    pair.call("front", lib.XOP_WRITE, **WRITE)
    pair.archipelago("restart", "front")
    pair.call("front", lib.XOP_WRITE, **WRITE)
    assert pair.status()["other"]["served"] >= 1 and pair.status()["back"]["served"] == 0
    pair.archipelago("route", "front>back", "--reset")
    pair.call("front", lib.XOP_WRITE, **WRITE)
    assert pair.status()["back"]["served"] == 1


def test_changes_end_with_the_pipeline(pair):
    pair.archipelago("route", "--insert", "slow", "--before", "back", "--type", "delay")
    pair.stop()
    pair.start()
    assert json.loads(pair.archipelago("status", "--json").stdout)["peers"][-1]["role"] == "other"
    assert "front --> back" in pair.archipelago("route").stdout


NONSENSE = [
    (["front>nobody", "back"], "there is no edge 'front>nobody'; there are: front>back"),
    (["front>back", "nobody"], "there is no role 'nobody'"),
    (["front>back"], "say EDGE ROLE"),
    (["--remove", "front"], "'front' is no filter that `archipelago route --insert` put in; there are: none"),
    (["--insert", "a", "--before", "nobody", "--type", "delay"], "there is no role 'nobody'"),
    (["--insert", "back", "--before", "front", "--type", "delay"], "there is a role 'back' in this pipeline already"),
    (["--insert", "a", "--before", "back", "--type", "smb"], "there is no peer type 'smb'"),
    (["--insert", "a", "--before", "back", "--type", "delay", "--option", "colour=red"], "colour is no option"),
    (["--insert", "a", "--before", "back", "--type", "error", "--option", 'errno=E_NONE'], "a (error) cannot start"),
]


def test_what_makes_no_sense_is_refused_and_changes_nothing(pair):
    for words, why in NONSENSE:
        assert why in refused(pair, *words), words
