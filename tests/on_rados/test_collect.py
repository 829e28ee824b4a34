# SPDX-License-Identifier: Apache-2.0
"""The collector on pools that two nodes share."""
import json

import pytest
from support import wait_until
from two_nodes import BLOCK, Opened

pytestmark = pytest.mark.config("[collector]\ngrace_s = 0\n")


def collect(node, *words):
    return json.loads(node.archipelago("collect", "--now", "--json", *words).stdout)


def freed(account):
    return sum(kind["freed_objects"] for kind in account["kinds"].values())


def test_what_one_node_removes_the_other_collects_while_volumes_are_open_on_both(nodes, volume):
    here = Opened(nodes[0], volume)
    for block in range(6):
        here.write(block * BLOCK, b"a" * 4096)
    here.flush()
    nodes[0].vlmc("snapshot", volume, "s")
    nodes[1].vlmc("clone", "s", "c")
    there = Opened(nodes[1], "c")
    there.write(0, b"c" * 4096)
    here.write(0, b"v" * 4096)
    here.flush()
    nodes[1].vlmc("remove", "s")
    assert collect(nodes[1], "--dry-run")["headers"] == 1
    assert freed(collect(nodes[1])) == 0, "both volumes reach it"
    here.close()
    nodes[0].vlmc("remove", volume)
    assert there.read(BLOCK).data == b"a" * 4096 and there.read(0).data == b"c" * 4096
    collect(nodes[0])
    assert [there.read(block * BLOCK).data for block in range(6)] == [b"c" * 4096] + [b"a" * 4096] * 5
    there.close()
    nodes[0].vlmc("remove", "c")
    wait_until(lambda: freed(collect(nodes[1])) == 0, "there is no garbage any more")
    checked = json.loads(nodes[0].archipelago("check", "--json").stdout)
    assert not any(checked["unreachable"].values()) and checked["leftover"] == checked["removed"] == 0
    shown = [json.loads(node.archipelago("df", "--json").stdout) for node in nodes]
    assert shown[0] == shown[1] and shown[0]["total_freed_objects"] >= 6
    assert not any(kind["objects"] for kind in shown[0]["kinds"].values())
