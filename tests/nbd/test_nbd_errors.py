# SPDX-License-Identifier: Apache-2.0
"""How errors from below reach an NBD client: a filter stands between the server and vlmc."""
import errno

import pytest
from nbd_support import MIB, Server
from support import Instance, libnbd

pytest_plugins = ["nbd_fixtures"]
nbd = libnbd()


@pytest.fixture
def failing(memory_home):
    """failing(options): a libnbd handle's maker, behind a filter `error` with these options."""
    made = []

    def start(options):
        made.append(Instance(memory_home, f'layout = "colocated"\n[peers.faulty]\ntype = "error"\ntarget = "vlmc"\n'
                                          f'{options}\n[routes]\n"nbd>vlmc" = "faulty"\n'))
        made[0].start()
        server = Server(made[0])
        name = server.make()
        return lambda structured=True: server.connect(name, structured)

    yield start
    for instance in made:
        instance.finish()


def number_of(call, *words):
    with pytest.raises(nbd.Error) as caught:
        call(*words)
    return caught.value.errnum


@pytest.mark.parametrize("below, client", [
    ("EIO", errno.EIO), ("ENOSPC", errno.ENOSPC), ("EDQUOT", errno.ENOSPC), ("EFBIG", errno.ENOSPC),
    ("EROFS", errno.EPERM), ("ESTALE", errno.EIO), ("ENOMEM", errno.ENOMEM), ("ESHUTDOWN", errno.ESHUTDOWN)])
def test_a_failed_write(failing, below, client):
    handle = failing(f'ops = "write"\nerrno = "{below}"\ncount = 1')()
    assert number_of(handle.pwrite, b"x" * 4096, 0) == client
    handle.pwrite(b"y" * 4096, 0)
    assert handle.pread(4096, 0) == b"y" * 4096


@pytest.mark.parametrize("structured", [True, False])
def test_a_read_that_fails_in_part_fails_and_the_next_is_served(failing, structured):
    handle = failing('ops = "read"\nerrno = "EIO"\nafter = 2\ncount = 1')(structured)
    assert number_of(handle.pread, 4 * MIB, 0) == errno.EIO
    assert handle.pread(4 * MIB, 0) == bytes(4 * MIB)


@pytest.mark.parametrize("verb", ["flush", "trim", "cache", "zero"])
def test_failures_of_what_carries_no_data(failing, verb):
    handle = failing('ops = "flush,discard,cache,write_zeroes"\nerrno = "EIO"\ncount = 1')()
    words = () if verb == "flush" else (4096, 0)
    assert number_of(getattr(handle, verb), *words) == errno.EIO
    getattr(handle, verb)(*words)


def test_a_failed_block_status(failing):
    handle = failing('ops = "block_status"\nerrno = "EIO"\ncount = 1')()
    assert number_of(handle.block_status, 4096, 0, lambda *_: None) == errno.EIO
    handle.block_status(4096, 0, lambda *_: None)


def test_only_a_client_that_asked_for_fast_zeroes_is_told_they_are_not(failing):
    handle = failing('ops = "write_zeroes"\nerrno = "EOPNOTSUPP"')()
    assert number_of(handle.zero, 4096, 0, nbd.CMD_FLAG_FAST_ZERO) == errno.ENOTSUP
    assert number_of(handle.zero, 4096, 0, 0) == errno.EIO
