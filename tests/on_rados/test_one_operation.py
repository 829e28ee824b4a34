# SPDX-License-Identifier: Apache-2.0
"""One I/O is one RADOS operation: counted by the OSD.

The blocker looks at its registry twice a second all the while: FEW such operations may be among those
counted; a second one for each I/O would be COUNT more.
"""
import pytest
from loops import peers

from xseg._native import lib
from xseg.request import Call, Object

COUNT = 200
FEW = 20
DATA = [Object(lib.XOBJ_DATA, 42, 1, i) for i in range(COUNT)]
HEADERS = [Object(lib.XOBJ_HEADER, i + 1) for i in range(COUNT)]


@pytest.fixture(scope="module")
def b(cluster):
    options = {"conf": cluster.conf, "pool": "volumes", "namespace": "count"}
    with peers(("b", "blocker-rados", options)) as made:
        yield made


@pytest.fixture
def operations(cluster, b):
    """operations(calls): how many operations the OSD did for them; all must succeed, or fail with `error`.

    The OSD does not count one that fails. What is above a multiple of COUNT by FEW at most is left out."""
    def run(calls, error=0):
        before = cluster.daemon("osd.0", "perf", "dump")["osd"]["op"]
        assert {reply.error for reply in b.batch(calls)} == {error}
        counted = cluster.daemon("osd.0", "perf", "dump")["osd"]["op"] - before
        return counted - counted % COUNT if counted % COUNT <= FEW else counted

    return run


def test_first_write_read_overwrite_discard_delete(operations):
    for call in (dict(op=lib.XOP_WRITE, data=b"x" * 4096), dict(op=lib.XOP_WRITE, data=b"x" * 4096, offset=8192),
                 dict(op=lib.XOP_READ, size=4096, room=4096), dict(op=lib.XOP_READ, size=65536, room=65536),
                 dict(op=lib.XOP_WRITE_ZEROES, size=4096),
                 dict(op=lib.XOP_WRITE_ZEROES, size=5000, flags=lib.XREQ_NO_HOLE),
                 dict(op=lib.XOP_DISCARD, size=4096), dict(op=lib.XOP_INFO), dict(op=lib.XOP_DELETE)):
        assert operations([Call(object=o, **call) for o in DATA]) == COUNT, call


def test_what_is_not_there(operations):
    assert operations([Call(lib.XOP_READ, object=o, size=512, room=512) for o in DATA], error=2) == 0
    assert operations([Call(lib.XOP_DISCARD, object=o, size=512) for o in DATA]) == 0


def test_compare_and_swap_of_headers(operations):
    create = [Call(lib.XOP_REPLACE, object=o, data=b"version1", flags=lib.XREQ_CREATE) for o in HEADERS]
    expected = int.from_bytes(b"version1", "little")
    assert operations(create) == COUNT
    assert operations(create, error=17) == 0
    swap = [Call(lib.XOP_REPLACE, object=o, data=b"version2", arg=expected) for o in HEADERS]
    assert operations(swap) == COUNT
    assert operations(swap, error=116) == 0


def test_sync_asks_nothing(operations):
    assert operations([Call(lib.XOP_SYNC, object=Object(0, 42)) for _ in range(COUNT)]) == 0
