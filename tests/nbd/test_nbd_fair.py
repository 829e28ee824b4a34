# SPDX-License-Identifier: Apache-2.0
"""Clients of the NBD server that take what they can leave others their share."""
import pytest
from nbd_support import CMD_READ, MIB, Server, request
from support import Instance

pytest_plugins = ["nbd_fixtures"]
FEW = "[segment]\nbuffers = [256, 64, 16]\n"    # of 1 MiB: the port of the server may hold twelve
IDLE = 6
READS = 8


@pytest.fixture
def few(memory_home):
    """A server with few large buffers."""
    instance = Instance(memory_home, FEW)
    try:
        instance.start()
        yield Server(instance)
    finally:
        instance.finish()


@pytest.mark.parametrize("structured", [True, False])
def test_clients_that_take_nothing_keep_no_buffers_from_others(few, structured):
    """Nobody has to be dropped for others to be served, on this volume or on another."""
    volume, other = few.make(), few.make()
    idle = [few.wire().go(volume, structured) for _ in range(IDLE)]
    for wire in idle:
        wire.send(*(request(CMD_READ, n, n * MIB, MIB) for n in range(READS)))
    for name in (other, volume):
        handle = few.connect(name)
        for _ in range(20):
            assert handle.pread(MIB, 0) == bytes(MIB)
        handle.shutdown()
    for wire in idle:
        replies = [wire.reply(MIB) for _ in range(READS)]
        assert sorted(reply.cookie for reply in replies) == list(range(READS))


@pytest.mark.parametrize("structured", [True, False])
def test_a_command_that_is_longer_than_the_share_is_served(few, structured):
    handle = few.connect(few.make(), structured)
    data = bytes(range(256)) * (20 * MIB // 256)
    handle.pwrite(data, 100)
    assert handle.pread(len(data), 100) == data
    handle.shutdown()
