# SPDX-License-Identifier: Apache-2.0
"""While a loop waits for one client alone (native/loop/poll.h), all else is served as ever."""

import pytest
from nbd_support import CMD_READ, CMD_WRITE, MIB, Server, request
from support import Instance

pytest_plugins = ["nbd_fixtures"]
ENOUGH = 100                    # commands of one client on end, after which it is alone
READS = 8


@pytest.fixture
def tuned(memory_home, request):
    """A server with every mechanism of its loops on, or off."""
    names = ("naps", "alone", "hold", "reads", "writes")
    instance = Instance(memory_home, "[tuning]\n" + "".join(f'{name} = "{request.param}"\n' for name in names)
                        + f"[peers.nbd]\nspin_us = {50 if request.param == 'on' else 0}\n")
    try:
        instance.start()
        yield Server(instance)
    finally:
        instance.finish()


@pytest.fixture
def alone(server, volume):
    """A client that the server waits for by itself."""
    wire = server.wire().go(volume)
    for n in range(ENOUGH):
        wire.ask(CMD_WRITE, n * 4096, 4096, data=bytes([n]) * 4096)
    yield wire
    wire.close()


def test_another_client_is_served(server, volume, alone):
    other = server.wire().go(volume)
    for n in range(ENOUGH):
        assert other.ask(CMD_READ, n * 4096, 4096).data[8:] == bytes([n]) * 4096
    for n in range(ENOUGH):
        for wire in (alone, other):
            assert wire.ask(CMD_READ, n * 4096, 4096).data[8:] == bytes([n]) * 4096
    other.close()


def test_another_process_is_answered(server, alone):
    for _ in range(5):
        assert server.make()
        alone.ask(CMD_READ, 0, 4096)


def test_one_that_takes_no_answers_gets_them_later(alone):
    alone.send(*(request(CMD_READ, n, n * MIB, MIB) for n in range(READS)))
    assert sorted(alone.reply().cookie for n in range(READS)) == list(range(READS))
    assert alone.ask(CMD_READ, 4096, 4096).data[8:] == bytes([1]) * 4096


def test_its_end_is_seen(server, volume, alone):
    """The last connection closes the volume, which cannot be removed before."""
    alone.close()
    other = server.wire().go(volume)
    assert other.ask(CMD_READ, 0, 4096).data[8:] == bytes(4096)
    other.close()


def test_it_ends_with_the_server(memory_home):
    instance = Instance(memory_home, "")
    try:
        instance.start()
        server = Server(instance)
        wire = server.wire().go(server.make())
        for n in range(ENOUGH):
            wire.ask(CMD_READ, n * 4096, 4096)
        instance.archipelago("stop", "--force")
        assert wire.ends()
    finally:
        instance.finish()


@pytest.mark.parametrize("tuned", ["on", "off"], indirect=True)
def test_all_mechanisms_serve_the_same_bytes(tuned):
    size = 16 * MIB
    handle = tuned.connect(tuned.make(size))
    data = b"".join(n.to_bytes(4, "big") for n in range(size // 4))
    for offset in range(0, size, MIB):
        handle.aio_pwrite(data[offset:offset + MIB], offset)
    while handle.aio_in_flight():
        handle.poll(-1)
    assert handle.pread(size, 0) == data
    for offset in range(0, size, size // ENOUGH // 4 * 4):
        length = min(4096, size - offset)
        assert handle.pread(length, offset) == data[offset:offset + length]
    handle.shutdown()
