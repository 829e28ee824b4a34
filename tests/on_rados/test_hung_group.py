# SPDX-License-Identifier: Apache-2.0
"""A placement group that serves nothing, as its OSD hangs, holds up what is in it and nothing else."""
import os
import shutil
import signal
import tempfile
from concurrent.futures import ThreadPoolExecutor

import pytest
from support import Instance, libnbd, wait_until

from tools.cluster import Cluster, instance_config
from xseg.segment import Segment, name_for

MIB = 1 << 20
BLOCK, BLOCKS = 4 * MIB, 16
SIZE = BLOCK * BLOCKS
PATIENCE_S = 100.0
NAMESPACE = "hung"
LEASE_RATIO = 100                   # an OSD that hung for longer than its lease may never serve what it was asked
NEXT_TO_NOTHING = "0.0001"          # an OSD's weight, that of no placement group but those it is given by name


@pytest.fixture
def cluster():
    """Two OSDs, of which the second has no placement group. It is not marked down while it hangs."""
    made = Cluster(tempfile.mkdtemp(prefix="arc-", dir="/tmp"))
    try:
        made.up(osds=2)
        made.ceph("osd", "crush", "reweight", "osd.1", NEXT_TO_NOTHING)
        made.ceph("osd", "set", "nodown")
        made.ceph("config", "set", "osd", "osd_pool_default_read_lease_ratio", LEASE_RATIO)
        made.ceph("osd", "set-require-min-compat-client", "luminous")
        for name in ("volumes", "maps"):
            made.pool(name)
        yield made
    finally:
        if made.pid("osd.1"):
            made.kill("osd.1", signal.SIGCONT)
        made.destroy()


@pytest.fixture
def node(cluster, request):
    home = tempfile.mkdtemp(prefix="ar-", dir="/tmp")
    made = Instance(home, 'layout = "colocated"\n' + instance_config(cluster.conf, namespace=NAMESPACE))
    try:
        made.start()
        yield made
        if getattr(request.node, "failed", False):
            print(made.logs())
    finally:
        made.stop()
        Segment.unlink(name_for(home))
        shutil.rmtree(home)


def group_of(cluster, kind, name):
    return cluster.ceph("osd", "map", "volumes", name, f"{NAMESPACE}/{kind}")


def registry(node):
    with open(os.path.join(node.home, "run", "blockerb.rados"), encoding="ascii") as file:
        return file.read().split()[1]


def give_away(cluster, node, volume):
    """Has the second OSD serve the group of a block of the volume, which has no other's; the block's number."""
    names = cluster.run("rados", "-p", "volumes", "-N", f"{NAMESPACE}/data", "ls").split()
    groups = {name: group_of(cluster, "data", name)["pgid"] for name in names}
    needed = [*groups.values(), group_of(cluster, "node", registry(node))["pgid"]]
    volume_id = node.vlmc_json("info", volume)["id"]
    name = next(name for name in names if name.startswith(volume_id) and needed.count(groups[name]) == 1)
    cluster.ceph("osd", "pg-upmap", groups[name], "1")
    wait_until(lambda: group_of(cluster, "data", name)["acting"] == [1], "the other OSD has it", PATIENCE_S)
    return int(name.split("_")[2], 16)


@pytest.mark.slow
def test_a_hung_placement_group_holds_up_its_own_objects_alone(cluster, node):
    """Other blocks of the volume, other volumes and all commands go on."""
    nbd = libnbd()
    handles = {}
    for name in ("v", "w"):
        node.vlmc("create", name, "--size", str(SIZE))
        handles[name] = nbd.NBD()
        handles[name].connect_uri(node.nbd_uri(name))
    for n in range(BLOCKS):
        handles["v"].pwrite(b"a" * 4096, n * BLOCK)
    for handle in handles.values():
        handle.pwrite(b"a" * 4096, 0)
        handle.flush()
    block = give_away(cluster, node, "v")
    cluster.kill("osd.1", signal.SIGSTOP)
    hung = nbd.Buffer.from_bytearray(bytearray(b"b" * 4096))
    cookie = handles["v"].aio_pwrite(hung, block * BLOCK)
    with ThreadPoolExecutor(1) as pool:
        try:
            pool.submit(go_on, node, handles, block).result(PATIENCE_S)
            assert not handles["v"].aio_command_completed(cookie)
        finally:
            cluster.kill("osd.1", signal.SIGCONT)
    wait_until(lambda: handles["v"].poll(100) >= 0 and handles["v"].aio_command_completed(cookie), "it is written",
               PATIENCE_S)
    assert handles["v"].pread(4096, block * BLOCK) == b"b" * 4096


def go_on(node, handles, hung_block):
    """All that must not wait."""
    for n in range(BLOCKS):
        if n != hung_block:
            handles["v"].pwrite(b"c" * 4096, n * BLOCK)
            assert handles["v"].pread(4096, n * BLOCK) == b"c" * 4096
    handles["w"].pwrite(b"d" * 4096, 0)
    handles["w"].flush()
    node.vlmc("snapshot", "w", "w-then")
    node.vlmc("clone", "w-then", "x")
    node.vlmc("rename", "x", "y")
    node.vlmc("remove", "y")
    assert {"v", "w"} <= {volume["name"] for volume in node.vlmc_json("list")}
