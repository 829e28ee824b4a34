# SPDX-License-Identifier: Apache-2.0
"""The peers that tests are built from: error and delay before a memory blocker, null."""
import errno
import time

import pytest
from loops import peers

from xseg._native import lib
from xseg.errors import XsegError
from xseg.request import Call, Object

DATA = Object(lib.XOBJ_DATA, 42, 1, 7)
HEADER = Object(lib.XOBJ_HEADER, 42)
LOCK = Object(lib.XOBJ_LOCK, 42)


def behind(filter_type, **options):
    """A memory blocker behind a filter."""
    return peers(("f", filter_type, {"target": "m", **options}), ("m", "memory", {}))


def errors(f, count, op=lib.XOP_WRITE, object=DATA):
    return [f.call(op, object, data=b"x", check=False).error for _ in range(count)]


# --- what both do


@pytest.mark.parametrize("filter_type", ["error", "delay"])
def test_a_filter_passes_on_what_is_not_its_business(filter_type):
    with behind(filter_type, ops="open") as f:
        f.write(DATA, b"0123456789", 5)
        assert f.read(DATA, 0, 20) == bytes(5) + b"0123456789" + bytes(5)
        assert list(f.names(lib.XOBJ_DATA)) == [DATA]
        f.fails(errno.ENOENT, lib.XOP_INFO, HEADER)
        assert f.info(DATA).done == 15


def test_a_filter_passes_back_what_comes_with_an_error():
    with behind("error", ops="open") as f:
        f.call(lib.XOP_ACQUIRE, LOCK, arg=1, data=b"somebody")
        reply = f.fails(errno.EBUSY, lib.XOP_ACQUIRE, LOCK, arg=2, data=b"me", room=4096)
        assert reply.data[:reply.done] == b"somebody"


@pytest.mark.parametrize("filter_type", ["error", "delay"])
def test_a_filter_with_few_slots_serves_many_requests(filter_type):
    objects = [Object(lib.XOBJ_DATA, 1, 1, i) for i in range(500)]
    with peers(("f", filter_type, {"target": "m", "ops": "open"}), ("m", "memory", {}), static_slots=4) as f:
        assert {r.error for r in f.batch([Call(lib.XOP_WRITE, object=o, data=b"x") for o in objects])} == {0}


def test_filters_stack():
    with peers(("d", "delay", {"target": "e", "ms": 1}),
               ("e", "error", {"target": "m", "ops": "write", "every": 2}), ("m", "memory", {})) as f:
        assert errors(f, 4) == [0, errno.EIO, 0, errno.EIO]


@pytest.mark.parametrize("filter_type,options,words", [
    ("error", {"ops": "reed"}, "there is no operation reed"),
    ("error", {"errno": "EWRONG"}, "there is no error EWRONG"),
    ("delay", {"ops": "read,,write"}, "there is no operation"),
])
def test_a_wrong_option_is_named(filter_type, options, words):
    with pytest.raises(XsegError, match=words), behind(filter_type, **options):
        pass


# --- error


def test_error_fails_all_of_an_operation():
    with behind("error", ops="write,delete", errno="ENOSPC") as f:
        assert errors(f, 3) == [errno.ENOSPC] * 3
        f.fails(errno.ENOSPC, lib.XOP_DELETE, DATA)
        f.fails(errno.ENOENT, lib.XOP_READ, DATA, size=1, room=1)


def test_error_fails_every_third():
    with behind("error", ops="write", every=3) as f:
        assert errors(f, 7) == [0, 0, errno.EIO, 0, 0, errno.EIO, 0]


def test_error_lets_some_through_first_and_ends_after_some():
    with behind("error", ops="write", after=2, count=2) as f:
        assert errors(f, 6) == [0, 0, errno.EIO, errno.EIO, 0, 0]


def test_error_fails_one_kind_of_object():
    with behind("error", ops="write", kind="header") as f:
        assert errors(f, 1, object=DATA) == [0]
        assert errors(f, 1, object=HEADER) == [errno.EIO]


def test_what_error_fails_does_not_reach_the_target():
    with behind("error", ops="write", after=1) as f:
        f.write(DATA, b"first")
        f.fails(errno.EIO, lib.XOP_WRITE, DATA, data=b"other")
        assert f.read(DATA, 0, 5) == b"first"


# --- delay


def answers(f, calls):
    """Sends all at once; the positions of the calls in the order in which they were answered."""
    requests = [f.port.get(call.buffer_size()) for call in calls]
    for call, request in zip(calls, requests, strict=True):
        call.put(f.port.c, request.c)
    position = {request.c.index: i for i, request in enumerate(requests)}
    f.port.send(f.number, requests)
    order = []
    while len(order) < len(calls):
        for request in f.port.receive(5.0):
            order.append(position[request.c.index])
            f.port.put(request)
    return order


READ = Call(lib.XOP_READ, object=DATA, size=1, room=1)
WRITE = Call(lib.XOP_WRITE, object=DATA, data=b"x")


def test_delay_holds_at_least_as_long_as_it_says():
    with behind("delay", ops="write", ms=50) as f:
        began = time.monotonic()
        f.write(DATA, b"x")
        assert time.monotonic() - began >= 0.05


def test_delay_keeps_the_order():
    with behind("delay", ops="write", ms=20) as f:
        assert answers(f, [WRITE, READ, WRITE, READ]) == [0, 1, 2, 3]


def test_without_order_others_overtake():
    with behind("delay", ops="write", ms=20, order=False) as f:
        assert answers(f, [WRITE, READ, WRITE, READ]) == [1, 3, 0, 2]


# --- null


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


# --- memory


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
