# SPDX-License-Identifier: Apache-2.0
"""One instance hashes a snapshot that another has open and read: old objects may go at once."""
import random

import test_two_instances as two

from xseg._native import lib
from xseg.request import Object, objects

store, node = two.store, two.node
BLOCK, BLOCKS = 65536, 30


def listed(instance, kind):
    cursor = 0
    while True:
        reply = instance.client.call("blockerb", lib.XOP_LIST, object=Object(kind), arg=cursor, room=65536)
        yield from objects(reply.data)
        if not (cursor := reply.arg):
            return


def test_another_instance_finds_the_new_names(node):
    data = random.Random(1).randbytes(BLOCKS * BLOCK)
    first, second = node("colocated"), node("colocated")
    first.client.control("create", name="v", size=len(data), block_size=BLOCK)
    with first.client.open("v") as volume:
        volume.write(0, data[:1 << 20])
        volume.write(1 << 20, data[1 << 20:])
    first.client.control("snapshot", name="v", snapshot="s")
    with second.client.open("s") as opened:
        assert opened.read(0, 5 * BLOCK) == data[:5 * BLOCK]
        first.vlmc("hash", "s")
        first.client.control("remove", name="v")
        for name in list(listed(first, lib.XOBJ_DATA)):
            first.client.call("blockerb", lib.XOP_DELETE, object=name)
        assert opened.read(0, len(data)) == data
