# SPDX-License-Identifier: Apache-2.0
"""What blocker-rados stores where, seen by python-rados, which has nothing of ours."""
import errno
import hashlib
import os

import pytest
from loops import peers

from xseg._native import lib
from xseg.request import Call, Object

DATA = Object(lib.XOBJ_DATA, 42, 1, 7)
LOCK = Object(lib.XOBJ_LOCK, 42)
HEADER = Object(lib.XOBJ_HEADER, 42)


@pytest.fixture
def b(cluster, request):
    options = {"conf": cluster.conf, "pool": "volumes", "namespace": request.node.name[:80]}
    with peers(("b", "blocker-rados", options)) as made:
        made.namespace = options["namespace"]
        yield made


@pytest.fixture
def look(rados, b):
    """look(kind): an I/O context of python-rados for that kind's namespace."""
    contexts = []

    def opened(kind):
        context = rados.open_ioctx("volumes")
        contexts.append(context)
        context.set_namespace(f"{b.namespace}/{kind}")
        return context

    yield opened
    for context in contexts:
        context.close()


def test_each_kind_has_its_namespace_and_readable_names(b, look):
    digest = hashlib.sha256(b"name").digest()
    named = {"data": (Object(1, 0xabc, 0x10, 0xff), "0000000000000abc_00000010_00000000000000ff"),
             "content": (Object(2, digest=digest), digest.hex()), "header": (HEADER, "000000000000002a"),
             "name": (Object(4, digest=digest), digest.hex()),
             "page": (Object(5, 1, 2, 3), "0000000000000001_00000002_0000000000000003"),
             "journal": (Object(6, 1, 2, 3), "0000000000000001_00000002_0000000000000003")}
    for kind, (object, _) in named.items():
        b.write(object, kind.encode())
    for kind, (_, name) in named.items():
        context = look(kind)
        assert [found.key for found in context.list_objects()] == [name]
        assert context.read(name) == kind.encode()


def test_the_bytes_are_where_they_were_written(b, look):
    data = os.urandom(70000)
    b.write(DATA, data, 5000)
    b.call(lib.XOP_WRITE_ZEROES, DATA, offset=10000, size=1000)
    b.call(lib.XOP_DISCARD, DATA, offset=20000, size=1000)
    stored = look("data").read("000000000000002a_00000001_0000000000000007", 1 << 20)
    expected = bytearray(bytes(5000) + data)
    expected[10000:11000] = expected[20000:21000] = bytes(1000)
    assert stored == expected


def test_zeroes_make_an_object_of_full_length(b, look):
    b.call(lib.XOP_WRITE_ZEROES, DATA, offset=4096, size=8192)
    assert look("data").stat("000000000000002a_00000001_0000000000000007")[0] == 12288


@pytest.mark.parametrize("flags", [0, lib.XREQ_NO_HOLE])
@pytest.mark.parametrize("offset,size", [(4096, 8192), (8192, 4096), (2048, 8192), (4096, 1), (0, 9000), (4095, 1)])
def test_the_store_does_not_take_what_zeroes_made_longer_for_damaged(b, offset, size, flags):
    """It has a digest for an object written from its start, and checks it when all is read at once."""
    b.write(DATA, b"x" * 4096)
    b.call(lib.XOP_WRITE_ZEROES, DATA, offset=offset, size=size, flags=flags)
    length = max(4096, offset + size)
    expected = bytearray(b"x" * 4096 + bytes(length - 4096))
    expected[offset:offset + size] = bytes(size)
    assert b.read(DATA, 0, length) == expected


def test_what_others_put_there_is_not_listed(b, look):
    context = look("data")
    for name in ("something else", "000000000000002A_00000001_0000000000000007", "x" * 300):
        context.write(name, b"not ours")
    b.write(DATA, b"ours")
    assert list(b.names(lib.XOBJ_DATA)) == [DATA]


def test_list_agrees_with_python_rados(b, look):
    objects = {Object(lib.XOBJ_PAGE, i % 7, 1, i) for i in range(900)}
    b.batch([Call(lib.XOP_WRITE, object=o, data=b"x") for o in objects])
    seen = list(b.names(lib.XOBJ_PAGE, room=4096))
    assert sorted(f"{o.volume:016x}_{o.epoch:08x}_{o.index:016x}" for o in seen) \
        == sorted(found.key for found in look("page").list_objects())


def test_a_write_with_an_object_size_gives_the_store_a_hint(cluster, rados):
    options = {"conf": cluster.conf, "pool": "volumes", "namespace": "hint", "object_size": 4 << 20}
    with peers(("b", "blocker-rados", options)) as b:
        b.write(DATA, b"x" * 4096)
        assert b.read(DATA, 0, 4096) == b"x" * 4096


# --- locks


def lock_text(look):
    head, _, owner = look("lock").read("000000000000002a").decode().partition("\n\n")
    lines = head.splitlines()
    return lines[0], dict(line.split(" ", 1) for line in lines[1:]), owner


def test_a_lock_tells_who_has_it(b, look, rados):
    b.call(lib.XOP_ACQUIRE, LOCK, arg=0xbeef, data=b"host a, pid 1", room=64)
    first, lines, owner = lock_text(look)
    assert first == "archipelago lock 1 0000000000000001"
    assert (lines["number"], lines["token"], owner) == ("1", "000000000000beef", "host a, pid 1")
    assert lines["locker"].startswith("client.")
    node = look("node").read(lines["registry"].split()[1]).decode()
    assert f"client b {lines['locker'].split()[1]}\n" in node


def test_a_lease_is_a_lock_of_ceph_on_the_registry(cluster, rados, request):
    import rados as module
    namespace = request.node.name[:60]
    options = {"conf": cluster.conf, "pool": "volumes", "namespace": namespace, "lease_s": 30}
    with rados.open_ioctx("volumes") as context, peers(("b", "blocker-rados", options)) as b:
        context.set_namespace(f"{namespace}/node")
        name = next(context.list_objects()).key
        context.lock_exclusive(name, "archipelago", "other")        # nobody has one yet
        context.unlock(name, "archipelago", "other")
        b.call(lib.XOP_ACQUIRE, LOCK, arg=1, data=b"x", room=64)
        with pytest.raises(module.ObjectBusy):
            context.lock_exclusive(name, "archipelago", "other")


def test_locks_that_hang_are_in_the_way_of_nothing_else(cluster, request):
    """Many ACQUIREs wait for a blocker of the segment that does not come; what other workers do goes on."""
    options = {"conf": cluster.conf, "pool": "volumes", "namespace": request.node.name, "connect_timeout_s": 2}
    with peers(("b", "blocker-rados", options)) as b:
        b.segment.declare("late", "blocker-rados", "nowhere")
        waiting = [b.port.get(64) for _ in range(32)]
        for i, slot in enumerate(waiting):
            call = Call(lib.XOP_ACQUIRE, object=Object(lib.XOBJ_LOCK, i + 1), arg=1, data=b"x", room=64)
            call.put(b.port.c, slot.c)
        b.port.send(b.number, waiting)
        b.write(DATA, b"x" * 4096)
        b.copy(DATA, Object(lib.XOBJ_DATA, 43, 1, 0), 4096)
        assert len(list(b.names(lib.XOBJ_DATA))) == 2
        came = b.port.receive()
        assert len(came) < len(waiting)
        while len(came) < len(waiting):
            came += b.port.receive(60.0)
        assert {slot.c.error for slot in came} == {-errno.ENOTCONN}


def test_numbers_go_on_growing_after_a_release(b, look):
    for n in range(1, 4):
        assert b.call(lib.XOP_ACQUIRE, LOCK, arg=n, data=b"x", room=64).done == n
        b.call(lib.XOP_RELEASE, LOCK, arg=n)
    _, lines, owner = lock_text(look)
    assert (lines["number"], lines["token"], owner) == ("3", "0" * 16, "")
    assert "locker" not in lines


def test_a_damaged_lock_is_refused(b, look):
    look("lock").write_full("000000000000002a", b"archipelago lock 2 0000000000000001\n\n")
    b.fails(74, lib.XOP_ACQUIRE, LOCK, arg=1, data=b"x", room=64)     # EBADMSG


@pytest.mark.parametrize("ending", (0, 1))
def test_a_clean_stop_takes_the_client_out_of_the_registry_if_the_segment_is_ending(cluster, rados, ending):
    options = {"conf": cluster.conf, "pool": "volumes", "namespace": f"gone{ending}"}
    with rados.open_ioctx("volumes") as context:
        context.set_namespace(f"gone{ending}/node")
        with peers(("b", "blocker-rados", options)) as b:
            name = next(context.list_objects()).key
            b.segment.c.header.ending = ending
        left = [context.read(one.key).decode().splitlines()[1:] for one in context.list_objects()]
        assert left == ([] if ending else [["client b -"]]), name
