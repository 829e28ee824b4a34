# SPDX-License-Identifier: Apache-2.0
"""The segment: requests, ports, buffers, doorbells; joining; exhaustion; scribbled links."""
import contextlib
import errno
import os
import threading

import numpy
import pytest
from support import SMALL_SEGMENT, segments_of, wait_until

from xseg import errors
from xseg._native import ffi, lib
from xseg.dtypes import dtype_of
from xseg.port import Port
from xseg.segment import SHM, Segment, name_for, text


@pytest.fixture
def server(segment):
    segment.declare("server", "test", "test")
    with Port(segment, number=segment.port_of("server")) as port:
        yield port


@pytest.fixture
def client(segment):
    with Port(segment) as port:
        yield port


def answer(port, count, error=0):
    """Answers `count` requests that wait at a port."""
    left = count
    while left:
        came = port.receive(5)
        assert came, "nothing came"
        for request in came:
            request.reply(error)
        left -= len(came)
    port.ring()


# --- requests


def test_a_request_reaches_its_port_and_the_answer_its_sender(server, client):
    request = client.get(100)
    request.data[:5] = b"hello"
    request.c.op, request.c.size = lib.XOP_WRITE, 5
    client.send(server.number, [request])
    (came,) = server.receive(1)
    assert (came.payload, came.c.src, came.c.op) == (b"hello", client.number, lib.XOP_WRITE)
    came.reply(errno.ENOSPC, done=3)
    (back,) = client.receive(1)
    assert client.is_reply(back)
    assert (back.c.error, back.c.done) == (-errno.ENOSPC, 3)


def test_requests_of_one_sender_arrive_in_order(server, client):
    requests = [client.get() for _ in range(50)]
    for number, request in enumerate(requests):
        request.c.arg = number
    client.send(server.number, requests[:20])
    client.send(server.number, requests[20:])
    assert [came.c.arg for came in server.receive(1)] == list(range(50))


def test_a_fresh_request_carries_nothing_of_its_former_use(server, client):
    request = client.get(64)
    request.c.arg, request.c.flags, request.c.object.epoch = 7, 3, 9
    client.put(request)
    fresh = client.get()
    assert (fresh.c.index, fresh.c.arg, fresh.c.flags, fresh.c.object.epoch, fresh.c.buffer) == (
        request.c.index, 0, 0, 0, 0)


def test_requests_wait_for_a_peer_that_is_not_there_yet(segment, client):
    number = segment.declare("late", "test", "test")
    client.send(number, [client.get()])
    with Port(segment, number=number) as late:
        assert len(late.receive(1)) == 1


def test_a_call_that_nobody_answers_times_out_and_leaks_no_slot(server, client):
    free = client.c.free_count
    with pytest.raises(errors.TimedOut, match="server did not answer ping"):
        client.call(server.number, lib.XOP_PING, timeout=0.05, room=4096)
    assert client.c.free_count == free - 1
    answer(server, 1)
    assert client.receive(1) == []
    assert client.c.free_count == free


def test_an_error_is_raised_with_its_errno(server, client):
    thread = threading.Thread(target=answer, args=(server, 1, errno.EROFS))
    thread.start()
    with pytest.raises(errors.ReadOnly) as caught:
        client.call(server.number, lib.XOP_WRITE, data=b"x", timeout=5)
    thread.join()
    assert caught.value.errno == errno.EROFS


def test_data_is_an_array_without_a_copy(segment, client):
    request = client.get(4096)
    request.array("<u4")[:3] = [1, 2, 3]
    assert bytes(request.data[:12]) == numpy.array([1, 2, 3], "<u4").tobytes()
    assert request.c.data % 4096 == 0


def test_a_batch_is_filled_in_through_the_array_of_all_requests(server, client):
    requests = [client.get() for _ in range(8)]
    slots = [request.c.index for request in requests]
    client.requests["offset"][slots] = numpy.arange(8) * 4096
    client.requests["object"]["index"][slots] = 5
    client.send(server.number, requests)
    came = server.receive(1)
    assert [(request.c.offset, request.object.index) for request in came] == [(i * 4096, 5) for i in range(8)]


def test_data_that_lie_outside_the_segment_are_refused(segment, server, client):
    request = client.get(64)
    data = request.c.data
    request.c.data = segment.c.size - 10
    client.send(server.number, [request])
    (came,) = server.receive(1)
    with pytest.raises(errors.Invalid, match="outside the segment"):
        came.data  # noqa: B018
    request.c.data = data


def test_a_request_is_answered_only_once(server, client):
    client.send(server.number, [client.get()])
    (came,) = server.receive(1)
    came.reply()
    with pytest.raises(RuntimeError, match="answered already"):
        came.reply()


# --- ports and exhaustion


def test_a_port_that_a_live_process_serves_cannot_be_bound(segment, server):
    with pytest.raises(errors.Busy):
        Port(segment, number=server.number)


def test_a_role_is_declared_once(segment):
    number = segment.declare("role", "a", "p")
    assert segment.declare("role", "b", "q") == number
    assert (segment.port_of("role"), text(segment.c.ports[number].type)) == (number, "b")


def test_more_roles_than_static_ports_are_refused(segment):
    for i in range(lib.XSEG_STATIC_PORTS):
        segment.declare(f"role{i}", "t", "p")
    with pytest.raises(errors.NoSpace):
        segment.declare("one-more", "t", "p")


def test_a_port_that_runs_out_of_slots_does_not_harm_another(segment, client):
    while True:
        try:
            client.get()
        except errors.NoSlots:
            break
    assert client.c.shared.no_request == 1
    with Port(segment) as other:
        other.put(other.get())


def test_a_port_that_runs_out_of_buffers_does_not_harm_another(segment, client):
    held = 0
    with pytest.raises(errors.NoBuffers):
        for held in range(client.c.shared.count):  # noqa: B007
            client.get(lib.XSEG_IO_MAX)
    assert held == client.c.shared.buffers_max[2] > 0
    with Port(segment) as other:
        other.put(other.get(lib.XSEG_IO_MAX))


def test_a_small_request_takes_a_larger_buffer_when_small_ones_have_run_out(client):
    quota = client.c.shared.buffers_max[0]
    sizes = [client.get(100).c.data_size for _ in range(quota + 2)]
    assert sizes == [4096] * quota + [65536] * 2


def test_more_data_than_one_request_carries_is_refused(server, client):
    with pytest.raises(errors.Invalid, match="1048576 at most"):
        client.call(server.number, lib.XOP_WRITE, data=bytes(lib.XSEG_IO_MAX + 1))


def test_clients_that_are_too_many_learn_the_limit_who_is_there_and_what_to_do(segment):
    ports = []
    with pytest.raises(errors.NoSlots) as caught:
        for _ in range(segment.c.port_count):
            ports.append(Port(segment))
    assert len(ports) == segment.c.port_count - lib.XSEG_STATIC_PORTS == SMALL_SEGMENT["clients"]
    with open("/proc/self/comm") as file:
        me = f"{len(ports)} by process {os.getpid()} ({file.read().strip()})"
    for words in (f"all {len(ports)} ports for clients", me, "`clients`", "archipelago.toml"):
        assert words in str(caught.value)
    for port in ports:
        port.close()
    with Port(segment):
        pass


# --- doorbells


def test_a_batch_wakes_a_sleeping_receiver_once(server, client):
    thread = threading.Thread(target=answer, args=(server, 8))
    thread.start()
    requests = [client.get() for _ in range(8)]
    client.send(server.number, requests)
    back = 0
    while back < 8:
        back += len(client.receive(5))
    thread.join()
    assert client.c.shared.rings <= 1


def test_a_receiver_that_does_not_sleep_is_not_rung(server, client):
    client.send(server.number, [client.get()])
    assert client.c.shared.rings == 0
    assert len(server.receive()) == 1


# --- joining


def scratch(size):
    """A shared-memory object that no segment was made in; its name."""
    name = f"/ar-{os.getpid()}"
    with open(SHM + name, "wb") as file:
        file.truncate(size)
    return name


def poke(segment, field, value):
    """Writes another number into a field of the header, as another version would have."""
    setattr(segment.c.header, field, value)


@pytest.mark.parametrize(("field", "value", "words"), [
    ("version", 99, f"is of version 99, these programs need {lib.XSEG_VERSION}"),
    ("layout", 1, "another build of version"),
    ("magic", 1, "is not a segment of Archipelago"),
    ("size", 4096, "another build of version"),
])
def test_a_segment_of_another_version_is_refused_with_a_clear_message(segment, field, value, words):
    poke(segment, field, value)
    with pytest.raises(errors.WrongVersion, match=words):
        Segment.open(segment.name)


@pytest.mark.parametrize("size", [0, 100, 1 << 20])
def test_what_is_no_segment_is_refused(size):
    name = scratch(size)
    try:
        with pytest.raises(errors.WrongVersion, match="not completely made"):
            Segment.open(name)
    finally:
        Segment.unlink(name)


def test_a_segment_that_is_not_there_is_said_to_be_not_running(home):
    with pytest.raises(errors.NotRunning, match="start it with `archipelago start`"):
        Segment.open(name_for(home))


def test_a_segment_is_made_only_once(segment):
    with pytest.raises(errors.Exists, match=segment.name):
        Segment.create(segment.name, "/tmp")


def test_a_segment_larger_than_shared_memory_names_the_remedy(home):
    with pytest.raises(errors.NoSpace, match=r"/dev/shm has \d+ MiB free.*\[segment\]"):
        Segment.create(name_for(home), home, buffers=[4096, 4096, 4_000_000])
    assert not segments_of(home)


def test_a_segment_is_for_its_owner_alone_whatever_the_umask(segment, home):
    assert os.stat(SHM + segment.name).st_mode & 0o777 == 0o600
    before = os.umask(0)
    try:
        with Segment.create(name_for(home), home, **SMALL_SEGMENT) as other:
            assert os.stat(SHM + other.name).st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


def test_all_memory_of_a_segment_is_taken_when_it_is_made(segment):
    st = os.stat(SHM + segment.name)
    assert st.st_blocks * 512 >= st.st_size


@pytest.mark.parametrize("struct", ["struct xreq", "struct xslot", "struct xport", "struct xvolume", "struct xheader",
                                    "struct xobj"])
def test_arrays_have_the_layout_of_the_compiler(struct):
    dtype = dtype_of(struct)
    assert dtype.itemsize == ffi.sizeof(struct)
    for name, field in ffi.typeof(struct).fields:
        if name:
            assert dtype.fields[name][1] == field.offset


# --- routes


def test_an_edge_leads_to_its_role_until_it_is_turned(segment):
    first, second = segment.declare("b", "t", "p"), segment.declare("c", "t", "p")
    edge = segment.route("a", "b")
    assert lib.export_route(segment.c, edge) == first
    segment.set_route("a>b", second)
    assert lib.export_route(segment.c, edge) == second
    assert segment.routes() == {"a>b": second}


def test_a_route_to_no_role_is_refused(segment):
    with pytest.raises(errors.NotFound, match="a>nobody"):
        segment.route("a", "nobody")


# --- scribbling


def waiting(client, server, count):
    requests = [client.get() for _ in range(count)]
    client.send(server.number, requests)
    return requests


def received(server, client, count):
    """What comes until there were so many: the sender looks after what is away for a second."""
    came = []
    wait_until(lambda: client.receive() or came.extend(server.receive()) or len(came) >= count, f"{count} requests")
    return came


@pytest.mark.parametrize("link", [0x51, 2**31, 2**32 - 1], ids=["a slot of another", "out of bounds", "the largest"])
def test_what_is_behind_a_scribbled_link_is_found_again(segment, server, client, link):
    requests = waiting(client, server, 5)
    segment.c.slots[requests[2].c.index].next = link
    assert len(server.receive()) == 3
    assert sorted(request.c.index for request in received(server, client, 2)) == [r.c.index for r in requests[:2]]
    assert client.c.shared.bad == 2
    client.send(server.number, [client.get()])
    assert len(server.receive(1)) == 1


def test_a_ring_of_links_does_not_hang_the_receiver(segment, server, client):
    requests = waiting(client, server, 5)
    segment.c.slots[requests[0].c.index].next = requests[4].c.index + 1
    assert len(received(server, client, 5)) == 5


def test_a_slot_that_is_served_and_comes_again_is_not_served_twice(segment, server, client):
    (request,) = waiting(client, server, 1)
    (served,) = server.receive(1)
    segment.c.slots[request.c.index].state = lib.XREQ_QUEUED
    server.c.shared.head = request.c.index + 1
    assert server.receive() == []
    served.reply(done=7)
    (answer,) = client.receive(1)
    assert answer.c.done == 7


def test_an_answer_that_nobody_gave_is_none(segment, server, client):
    """A slot in one's inbox that is still away, and one that was never sent."""
    (request,) = waiting(client, server, 1)
    for index in (request.c.index, request.c.index + 1):
        client.c.shared.head = index + 1
        assert client.receive() == []
    (served,) = server.receive(1)
    served.reply(done=7)
    assert client.receive(1)[0].c.done == 7


SLOT = dict(ffi.typeof("struct xslot").fields)


@pytest.mark.parametrize("field", SLOT)
@pytest.mark.parametrize("value", [0, 1, 2, 3, -1])
def test_a_scribbled_slot_is_answered_all_the_same(segment, server, client, field, value):
    """Any word of a request on its way, and those before and behind it in the list."""
    before, request, after = waiting(client, server, 3)
    word = ffi.addressof(segment.c.slots[request.c.index], field)
    ffi.memmove(word, ffi.new("int64_t *", value), min(8, ffi.sizeof(SLOT[field].type)))
    answered = set()

    def serve():
        for came in server.receive():
            came.reply()
        answered.update(reply.c.index for reply in client.receive())
        return answered == {before.c.index, request.c.index, after.c.index}

    wait_until(serve, "the answers")


def test_a_request_sent_to_nowhere_comes_back_as_failed(segment, client):
    for nowhere in (segment.c.port_count, 2**32 - 1, client.number):
        request = client.get()
        client.send(nowhere, [request])
        (back,) = client.receive(1)
        assert back.c == request.c and back.c.error == -errno.EHOSTUNREACH
        client.put(back)


@pytest.mark.parametrize("field", ["slots", "static_slots", "dynamic_slots", "ports", "bells", "volumes", "locks",
                                   "frames", "buffers", "stacks", "contents",
                                   "reqs_offset", "ports_offset", "volumes_offset", "buffers_offset"])
def test_a_header_that_contradicts_itself_is_refused(segment, field):
    words = ffi.cast("uint32_t *", ffi.addressof(segment.c.header, field))
    words[0] += 8
    with pytest.raises(errors.WrongVersion):
        Segment.open(segment.name)


def test_bounds_are_those_of_the_time_of_joining(segment, server, client):
    """A header that is scribbled over later changes nothing for those who have joined."""
    ffi.memmove(segment.c.header, b"\xff" * ffi.sizeof("struct xheader"), ffi.sizeof("struct xheader"))
    for port in range(segment.c.port_count):
        segment.c.ports[port].first = segment.c.ports[port].count = 2**32 - 1
    client.send(server.number, [client.get(4096)])
    (came,) = server.receive(1)
    came.reply(data=b"ok")
    assert bytes(client.receive(1)[0].data[:2]) == b"ok"


def test_a_scribbled_head_does_not_fault(segment, server, client):
    server.c.shared.head = 2**32 - 1
    assert server.receive() == []
    client.send(server.number, [client.get()])
    assert len(server.receive(1)) == 1


@pytest.mark.parametrize("parameter, most", [("clients", lib.XSEG_PORTS - lib.XSEG_STATIC_PORTS),
                                             ("volumes", lib.XSEG_VOLUMES)])
def test_more_than_the_tables_may_hold_is_refused(tmp_path, parameter, most):
    with pytest.raises(errors.Invalid):
        Segment.create(name_for(str(tmp_path)), str(tmp_path), **SMALL_SEGMENT | {parameter: most + 1})


def test_the_last_of_many_clients_is_served(tmp_path):
    """Bells beyond the first word of those that are to be rung."""
    most = lib.XSEG_PORTS - lib.XSEG_STATIC_PORTS
    name = name_for(str(tmp_path))
    with Segment.create(name, str(tmp_path), **SMALL_SEGMENT | {"clients": most, "dynamic_slots": 4}) as made:
        Segment.unlink(name)
        server = made.declare("server", "test", "test")
        with contextlib.ExitStack() as clients, Port(made, number=server) as served:
            ports = [clients.enter_context(Port(made)) for _ in range(most)]
            lib.bell_arm(ports[-1].c.bell)
            ports[-1].send(server, [ports[-1].get()])
            (came,) = served.receive(1)
            came.reply()
            served.ring()
            assert len(ports[-1].receive(1)) == 1
            assert served.c.shared.rings == 1
