# SPDX-License-Identifier: Apache-2.0
"""The blocker in memory: what it has beside the contract."""
import errno

from loops import peers

from xseg._native import lib
from xseg.request import Object

DATA = Object(lib.XOBJ_DATA, 42, 1, 7)
HEADER = Object(lib.XOBJ_HEADER, 42)


def test_memory_has_a_bound():
    with peers(("m", "memory", {"size": "256K"})) as m:
        m.write(DATA, b"x" * 200000)
        m.fails(errno.ENOSPC, lib.XOP_WRITE, HEADER, data=b"y" * 1000)
        m.fails(errno.ENOSPC, lib.XOP_WRITE, DATA, data=b"y" * 200000, offset=100000)
        assert m.read(DATA, 0, 300000) == b"x" * 200000 + bytes(100000)


def test_memory_has_room_again_after_delete_and_discard():
    with peers(("m", "memory", {"size": "128K"})) as m:
        for op in (lib.XOP_DELETE, lib.XOP_DISCARD):
            m.write(DATA, b"x" * 131072)
            m.fails(errno.ENOSPC, lib.XOP_WRITE, HEADER, data=b"y")
            m.call(op, DATA, size=131072)
            m.write(HEADER, b"y")
            m.call(lib.XOP_DELETE, HEADER)
