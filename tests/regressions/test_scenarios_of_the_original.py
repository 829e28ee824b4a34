# SPDX-License-Identifier: Apache-2.0
"""What the first Archipelago's own tests did, on today's pipeline."""
import errno
import random

import pytest

from xseg._native import lib
from xseg.errors import Exists, Invalid, NoSpace, NotFound, Stale, XsegError

pytestmark = pytest.mark.layout("colocated")
BLOCK, MIB, GIB = 4 << 20, 1 << 20, 1 << 30


def noise(seed, length):
    return random.Random(seed).randbytes(length)


def test_opening_and_closing(node, ask, name):
    with pytest.raises(NotFound):
        node.client.open(name)
    ask("create", name=name, size=GIB)
    first, second = node.client.open(name), node.client.open(name)
    first.close()
    second.write(0, b"open still")
    handle = second.handle
    second.close()
    with pytest.raises(Stale):
        node.client.call("mapper", lib.XOP_CLOSE, volume=handle)
    with pytest.raises(Stale):
        node.client.call("vlmc", lib.XOP_FLUSH, volume=handle)


def test_bytes_of_a_volume_that_is_not_open_are_refused(node, ask, name):
    for op in (lib.XOP_READ, lib.XOP_WRITE, lib.XOP_FLUSH):
        reply = node.client.call("vlmc", op, volume=1000, size=512, data=bytes(512), room=512, check=False)
        assert reply.error == errno.ESTALE


def test_thirteen_writes_a_flush_and_six_writes_at_once(node, ask, name):
    from xseg.request import Call
    ask("create", name=name, size=GIB)
    with node.client.open(name) as volume:
        port, vlmc = node.client.port, node.client.segment.port_of("vlmc")
        calls = [Call(lib.XOP_WRITE, volume=volume.handle, offset=n * 3 * MIB, data=noise(n, 5000))
                 for n in range(19)]
        calls.insert(13, Call(lib.XOP_FLUSH, volume=volume.handle))
        requests = []
        for call in calls:
            requests.append(port.get(call.buffer_size()))
            call.put(port.c, requests[-1].c)
        port.send(vlmc, requests)
        came = []
        while len(came) < 20:
            came += port.receive(10)
        assert all(request.c.error == 0 for request in came)
        for request in came:
            port.put(request)
        assert all(volume.read(n * 3 * MIB, 5000) == noise(n, 5000) for n in range(19))


def test_ten_mebibytes_at_ninety_gibibytes(node, ask, name):
    """Snapshot and clone of them; the clone is larger; nobody touches another's bytes."""
    place, old, new, other = 90 * GIB - 1000, noise(1, 10 * MIB), noise(2, 10 * MIB), noise(3, 5 * MIB)
    ask("create", name=name, size=100 * GIB)
    with node.client.open(name) as volume:
        volume.write(place, old)
        ask("snapshot", name=name, snapshot=name + "-s")
        volume.write(place, new)
        assert volume.read(place, 10 * MIB) == new
        ask("clone", name=name + "-s", names=[name + "-c"], size=200 * GIB)
        with node.client.open(name + "-s") as snapshot, node.client.open(name + "-c") as clone:
            assert snapshot.read(place, 10 * MIB) == clone.read(place, 10 * MIB) == old
            assert clone.size == 200 * GIB and clone.read(150 * GIB, MIB) == bytes(MIB)
            clone.write(place + MIB, other)
            clone.write(199 * GIB, b"beyond its parent")
            assert clone.read(place, 10 * MIB) == old[:MIB] + other + old[6 * MIB:]
            assert clone.read(199 * GIB, 17) == b"beyond its parent"
            assert snapshot.read(place, 10 * MIB) == old and volume.read(place, 10 * MIB) == new


@pytest.mark.parametrize("size", [0, -1, 100])
def test_sizes_that_cannot_be(ask, name, size):
    with pytest.raises(Invalid):
        ask("create", name=name, size=size)


def test_a_removed_volume_is_gone_and_its_successor_is_empty(node, ask, name):
    ask("create", name=name, size=GIB)
    with node.client.open(name) as volume:
        volume.write(MIB, b"the first")
    ask("remove", name=name)
    with pytest.raises(NotFound):
        ask("remove", name=name)
    with pytest.raises(NotFound):
        node.client.open(name)
    ask("create", name=name, size=GIB)
    with node.client.open(name) as volume:
        assert volume.read(MIB, 9) == bytes(9)


def test_clones_smaller_or_twice_are_refused(ask, name):
    ask("create", name=name, size=100 * GIB)
    ask("snapshot", name=name, snapshot=name + "-s")
    with pytest.raises(Exists):
        ask("snapshot", name=name, snapshot=name + "-s")
    with pytest.raises(Invalid):
        ask("clone", name=name + "-s", names=[name + "-c"], size=50 * GIB)
    ask("clone", name=name + "-s", names=[name + "-c"], size=101 * GIB)
    with pytest.raises(Exists):
        ask("clone", name=name + "-s", names=[name + "-c"])


def test_writes_across_block_edges_and_beyond_the_end(node, ask, name):
    ask("create", name=name, size=91 * GIB)
    data = noise(4, 3 * MIB)
    with node.client.open(name) as volume:
        for place in (90 * GIB - MIB - 13, 91 * GIB - 3 * MIB):
            volume.write(place, data)
            assert volume.read(place, 3 * MIB) == data
        with pytest.raises(NoSpace):
            volume.write(91 * GIB - 100, b"x" * 101)
        with pytest.raises(Invalid):
            volume.read(91 * GIB - 100, 101)
        assert volume.read(91 * GIB - 100, 100) == data[-100:]


def test_maps_survive_a_restart_of_the_mapper(node, ask, name):
    ask("create", name=name, size=100 * GIB)
    with node.client.open(name) as volume:
        volume.write(50 * GIB + 5, b"before the snapshot")
    ask("snapshot", name=name, snapshot=name + "-s")
    with node.client.open(name) as volume:
        volume.write(50 * GIB + 5, b"AFTER")
    node.restart("mapper")
    with node.client.open(name) as volume, node.client.open(name + "-s") as snapshot:
        assert volume.read(50 * GIB + 5, 19) == b"AFTERe the snapshot"
        assert snapshot.read(50 * GIB + 5, 19) == b"before the snapshot"


def test_rename(node, ask, name):
    with pytest.raises(NotFound):
        ask("rename", name=name, to=name + "-2")
    ask("create", name=name, size=GIB)
    with node.client.open(name) as volume:
        volume.write(7, b"kept")
    ask("rename", name=name, to=name + "-2")
    with pytest.raises(NotFound):
        ask("info", name=name)
    with node.client.open(name + "-2") as volume:
        assert volume.read(7, 4) == b"kept"


def test_a_restart_under_an_open_volume_loses_nothing(node, ask, name):
    """Twenty mebibytes survive a restart of every process, not flushed."""
    data = noise(5, 20 * MIB)
    ask("create", name=name, size=10 * GIB)
    with node.client.open(name) as volume:
        volume.write(3 * GIB - 77, data)
        for role in ("vlmc", "mapper"):
            node.restart(role)
        assert volume.read(3 * GIB - 77, 20 * MIB) == data
        volume.flush()


def test_hashing_is_answered(node):
    """It returned failure for eleven years: see objects/blocker.h for what it does today."""
    try:
        reply = node.call("blockerb", lib.XOP_HASH, object=(lib.XOBJ_DATA, 77, 1, 1), size=BLOCK, room=4096)
    except XsegError as failure:
        assert failure.errno == errno.ENOENT
    else:
        raise AssertionError(f"there is no such object: {reply}")
