# SPDX-License-Identifier: Apache-2.0
"""The peer that stores nothing, in C and in Python."""
import errno

from loops import peers

from xseg._native import lib
from xseg.request import Object

DATA = Object(lib.XOBJ_DATA, 42, 1, 7)


def serves_as_null(call):
    assert call(lib.XOP_READ, object=DATA, size=5000, room=5000).data == bytes(5000)
    assert call(lib.XOP_WRITE, object=DATA, data=b"gone").done == 4
    assert call(lib.XOP_READ, object=DATA, size=4, room=4).data == bytes(4)
    assert call(lib.XOP_DISCARD, object=DATA, size=1 << 30).done == 1 << 30
    assert call(lib.XOP_SYNC, object=(0,)).error == 0
    assert call(lib.XOP_LIST, object=(1,), room=4096).data == b""
    assert call(lib.XOP_READ, object=DATA, size=5000, check=False).error == errno.EINVAL
    assert call(lib.XOP_HASH, object=DATA, size=5, room=32, check=False).error == errno.EOPNOTSUPP


def test_null_in_c():
    with peers(("n", "null", {})) as n:
        serves_as_null(n.call)


def test_null_in_python_is_the_same(host):
    instance = host([("n", "null", {"native": False})])
    serves_as_null(lambda op, **fields: instance.call("n", op, **fields))
