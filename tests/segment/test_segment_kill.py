# SPDX-License-Identifier: Apache-2.0
"""kill -9 of senders and receivers at any instruction of the native code, and recovery.

A worker process is stepped to a chosen instruction and killed there. Whatever the instruction:
nobody else is held up, nothing comes twice or torn, and when the dead port is bound again all its
slots and buffers are there, and what it had in hand is done again.
"""
import os
import random

import pytest
from tracer import Worker, instructions, needs_tracer

from xseg._native import ffi, lib
from xseg.port import Port

BATCH = 4
KILLS = int(os.environ.get("ARCHIPELAGO_TEST_KILLS", "20"))


@pytest.fixture
def roles(segment):
    return {role: segment.declare(role, "test", "test") for role in ("server", "sender")}


@pytest.fixture
def seed(request):
    value = int(os.environ.get("ARCHIPELAGO_TEST_SEED", random.randrange(1 << 32)))
    print(f"ARCHIPELAGO_TEST_SEED={value}")
    return random.Random(value)


def killed(action, segment, at, before=lambda: None):
    """Runs a worker up to its `at`-th instruction and kills it there. `before` runs while it waits."""
    worker = Worker(action, segment.name, "server", BATCH)
    before()
    worker.run_native(at)
    worker.kill()


def free_slots(port):
    """Takes every slot of a port and gives it back; how many there were."""
    slots = ffi.new("uint32_t[]", port.c.shared.count)
    count = lib.export_get(port.c, slots, port.c.shared.count)
    assert len(set(slots[0:count])) == count, "a slot was given out twice"
    lib.export_put(port.c, slots, count)
    return count


def buffers_held(segment, number):
    """Buffers of each class that a port holds; those it kept for later went when it was closed."""
    return list(segment.c.ports[number].buffers_held)


def echo(client, server, count=3):
    """Sends requests and answers them; each comes once."""
    requests = [client.get(64) for _ in range(count)]
    client.send(server.number, requests)
    came = server.receive(1)
    for request in came:
        request.reply()
    server.ring()
    back = client.receive(1)
    assert len(came) == len(back) == count
    for request in back:
        client.put(request)


def take_all(server):
    """Receives and answers what waits; the slots it came in."""
    slots = []
    while came := server.receive():
        for request in came:
            slots.append(request.c.index)
            request.reply()
    server.ring()
    return slots


@needs_tracer
def test_a_sender_killed_at_any_instruction_harms_nobody_and_loses_no_slot(segment, roles, seed):
    total = instructions("send", segment.name, "server", BATCH)
    with Port(segment, number=roles["server"]) as server, Port(segment) as client:
        take_all(server)
        for at in sorted(seed.sample(range(total), min(KILLS, total))):
            print("instruction", at)
            killed("send", segment, at)
            echo_slots = take_all(server)
            assert len(set(echo_slots)) == len(echo_slots) <= BATCH
            echo(client, server)
            with Port(segment, number=roles["sender"]) as reborn:
                assert reborn.receive() == []
                assert free_slots(reborn) == reborn.c.shared.count
            assert buffers_held(segment, roles["sender"]) == [0, 0, 0]


def send_batch(client, number):
    """Sends BATCH requests; their slots."""
    requests = [client.get(64) for _ in range(BATCH)]
    client.send(number, requests)
    return {request.c.index for request in requests}


def check_all_answered(client, server, slots):
    """What was sent is answered by a new owner of the port, each once; then all is as new."""
    with Port(client.segment, number=server) as reborn:
        take_all(reborn)
        back = client.receive()
        assert {request.c.index for request in back} == slots
        assert len(back) == len(slots)
        for request in back:
            client.put(request)
        echo(client, reborn)
    assert free_slots(client) == client.c.shared.count


@needs_tracer
def test_a_receiver_killed_at_any_instruction_loses_no_request(segment, roles, seed):
    with Port(segment) as client:
        total = instructions("serve", segment.name, "server", BATCH,
                             before=lambda: send_batch(client, roles["server"]))
        for request in client.receive(1):
            client.put(request)
        for at in sorted(seed.sample(range(total), min(KILLS, total))):
            print("instruction", at)
            slots = set()
            killed("serve", segment, at, lambda slots=slots: slots.update(send_batch(client, roles["server"])))
            check_all_answered(client, roles["server"], slots)


@needs_tracer
def test_a_successor_killed_at_any_instruction_of_its_recovery_loses_no_request(segment, roles, seed):
    with Port(segment) as client:
        send_batch(client, roles["server"])
        dies(segment, roles["server"], lambda port: port.receive())
        total = instructions("recover", segment.name, "server", BATCH)
        with Port(segment, number=roles["server"]) as reborn:
            take_all(reborn)
        for request in client.receive():
            client.put(request)
        for at in sorted(seed.sample(range(total), min(KILLS // 2, total))):
            print("instruction", at)
            slots = send_batch(client, roles["server"])
            dies(segment, roles["server"], lambda port: port.receive())
            killed("recover", segment, at)
            check_all_answered(client, roles["server"], slots)


def dies(segment, number, do):
    """A child process binds a port, does something with it, and is killed by SIGKILL."""
    child = os.fork()
    if child == 0:
        do(Port(segment, number=number))
        os.kill(os.getpid(), 9)
    os.waitpid(child, 0)


def test_requests_that_a_dead_peer_held_are_done_again(segment, roles):
    with Port(segment) as client:
        requests = [client.get() for _ in range(3)]
        client.send(roles["server"], requests)
        dies(segment, roles["server"], lambda port: port.receive())
        with Port(segment, number=roles["server"]) as reborn:
            assert {request.c.index for request in reborn.receive()} == {request.c.index for request in requests}
            assert reborn.c.shared.recovered == 3


@pytest.mark.parametrize("op, arg", [(lib.XOP_LIST, 7), (lib.XOP_NAMES, 7), (lib.XOP_CONTROL, 99)])
def test_a_cursor_that_a_dead_peer_had_moved_on_is_where_it_was(segment, roles, op, arg):
    """So that no page is left out. What it noted in other requests is its successor's to read."""
    def answer_half(port):
        (request,) = port.receive(1)
        request.c.arg = 99
        lib.xreq_note(port.c, request.c)

    with Port(segment) as client:
        request = client.get()
        request.c.op, request.c.arg = op, 7
        client.send(roles["server"], [request])
        dies(segment, roles["server"], answer_half)
        with Port(segment, number=roles["server"]) as reborn:
            (again,) = reborn.receive(1)
            assert again.c.arg == arg


def test_what_a_dead_peer_held_waits_until_its_children_have_come_back(segment, roles):
    store = segment.declare("store", "test", "test")

    def serve_half(port):
        (parent,) = port.receive(1)
        child = port.get(4096)
        child.c.parent = parent.c.index + 1
        port.send(store, [child])

    with Port(segment) as client, Port(segment, number=store) as blocker:
        client.send(roles["server"], [client.get()])
        dies(segment, roles["server"], serve_half)
        with Port(segment, number=roles["server"]) as reborn:
            assert reborn.receive() == [], "replayed while a child write is still under way"
            (child,) = blocker.receive(1)
            child.reply()
            assert len(reborn.receive(1)) == 1
            assert reborn.c.shared.dropped == 1
        assert buffers_held(segment, roles["server"]) == [0, 0, 0]


def test_a_dead_clients_answers_are_dropped_and_its_successor_works(segment, roles):
    with Port(segment, number=roles["server"]) as server:
        dies(segment, lib.XPORT_ANY, lambda port: port.send(roles["server"], [port.get(64)]))
        with Port(segment) as successor:
            echo_started = successor.get()
            successor.send(roles["server"], [echo_started])
            take_all(server)
            assert [request.c.index for request in successor.receive(1)] == [echo_started.c.index]


def test_a_client_is_served_though_an_answer_to_its_dead_predecessor_never_comes(segment, roles):
    deaf = segment.declare("deaf", "test", "test")
    with Port(segment, number=roles["server"]) as server:
        dies(segment, lib.XPORT_ANY, lambda port: port.send(deaf, [port.get()]))
        with Port(segment) as successor:
            echo(successor, server)


def test_a_bell_of_a_dead_process_is_taken_over(segment):
    for _ in range(segment.c.bell_count + 2):
        dies(segment, lib.XPORT_ANY, lambda port: None)
    with Port(segment) as port:
        assert port.c.bell.number == 0
