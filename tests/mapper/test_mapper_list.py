# SPDX-License-Identifier: Apache-2.0
"""A list reads no header that it has read before, and is true whoever changes one."""
import time

import msgpack
import pytest

from peers.mapper.header import pack_frame, unpack_frame
from xseg._native import lib
from xseg.request import objects

GIB = 1 << 30
COUNT = 200
FEW = COUNT // 2                    # requests, some of which may be the mapper's housekeeping
PATIENCE_S = 60


@pytest.fixture(scope="module")
def many(node):
    """Volumes whose rows the mapper keeps: it does once they are two seconds old."""
    node.client.control("create", name="base", size=GIB)
    node.client.control("snapshot", name="base", snapshot="snap")
    node.client.control("clone", name="snap", pattern="vm-{}", count=COUNT)
    end = time.monotonic() + PATIENCE_S
    while requests_of(node, listed) >= FEW:
        assert time.monotonic() < end, "each list reads all headers again"
        time.sleep(0.1)
    return node


def requests_of(node, work):
    """How many requests the map blocker serves meanwhile."""
    served = node.client.segment.c.ports[node.client.segment.port_of("blockerm")]
    before = served.served
    work(node)
    return served.served - before


def listed(node):
    found, cursor = [], 0
    while True:
        answer = node.client.control("list", cursor=cursor)
        found += answer["volumes"]
        if (cursor := answer["cursor"]) == 0:
            return {row["name"]: row for row in found}


def names(node):
    return set(node.client.names())


def test_a_second_list_reads_no_header(many):
    assert requests_of(many, listed) < FEW
    assert requests_of(many, names) < FEW
    assert len(listed(many)) == COUNT + 2 and names(many) == set(listed(many))


def test_what_this_node_changes_is_listed(many):
    many.client.control("rename", name="vm-1", to="other")
    assert "other" in listed(many) and "vm-1" not in listed(many)
    many.client.control("resize", name="vm-2", size=2 * GIB)
    assert listed(many)["vm-2"]["size"] == 2 * GIB
    many.client.control("remove", name="vm-3")
    assert "vm-3" not in listed(many) and names(many) == set(listed(many))
    with many.client.open("vm-4"):
        assert listed(many)["vm-4"]["open"]
    assert not listed(many)["vm-4"]["open"]


def test_what_another_node_changes_is_listed(many):
    header = (lib.XOBJ_HEADER, int(listed(many)["vm-5"]["id"], 16))
    data = many.call("blockerm", lib.XOP_READ, object=header, size=4096, room=4096).data
    generation, payload = unpack_frame(b"ARCH", data)
    for size in (3 * GIB, 4 * GIB, 5 * GIB):
        generation += 1
        changed = pack_frame(b"ARCH", generation, msgpack.packb(payload | {"size": size}))
        many.call("blockerm", lib.XOP_REPLACE, object=header, data=changed, arg=generation - 1)
        assert listed(many)["vm-5"]["size"] == size


def test_versions_are_told_of_what_is_old_enough(many):
    found = objects(many.call("blockerm", lib.XOP_LIST, object=(lib.XOBJ_HEADER,), flags=lib.XREQ_VERSIONS,
                              room=65536).data)
    assert len({header.index for header in found if header.index}) > COUNT // 2
    plain = objects(many.call("blockerm", lib.XOP_LIST, object=(lib.XOBJ_HEADER,), room=65536).data)
    assert {header.index for header in plain} == {0} and {h.volume for h in plain} == {h.volume for h in found}
