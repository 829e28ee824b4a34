# SPDX-License-Identifier: Apache-2.0
"""The NBD server and clients that break the rules: each costs only its own connection."""
import os
import socket
import struct

import pytest
from nbd_support import (
    CHUNK_DATA,
    CHUNK_ERROR,
    CHUNK_NONE,
    CHUNK_STATUS,
    CMD_DISC,
    CMD_FLUSH,
    CMD_READ,
    CMD_STATUS,
    CMD_TRIM,
    CMD_WRITE,
    CMD_ZEROES,
    EINVAL,
    ENOSPC,
    MIB,
    OPT_GO,
    OPT_SET_META,
    OPT_STRUCTURED,
    SIZE,
    go_data,
    meta_data,
    request,
)
from support import wait_until

from xseg.errors import Busy

pytest_plugins = ["nbd_fixtures"]


# --- commands

def test_structured_reads_come_as_chunks(wire, volume):
    reply = wire.go(volume).ask(CMD_READ, 512, 1024)
    assert (reply.type, reply.done, reply.data) == (CHUNK_DATA, True, struct.pack(">Q", 512) + bytes(1024))


def test_an_empty_structured_read_is_one_empty_chunk(wire, volume):
    reply = wire.go(volume).ask(CMD_READ, 512, 0)
    assert (reply.type, reply.done, reply.data) == (CHUNK_NONE, True, b"")


def test_errors_say_why(wire, volume):
    reply = wire.go(volume).ask(CMD_READ, SIZE, 1)
    assert (reply.type, reply.error) == (CHUNK_ERROR, EINVAL)
    length = struct.unpack(">H", reply.data[4:6])[0]
    assert length == len(reply.data) - 6 > 10


def test_block_status_carries_its_context(wire, volume):
    wire.hello().option(OPT_STRUCTURED)
    context = wire.option(OPT_SET_META, meta_data(volume, "base:allocation"))[0].data[:4]
    wire.option(OPT_GO, go_data(volume))
    reply = wire.ask(CMD_STATUS, 0, 4096)
    assert (reply.type, reply.data[:4]) == (CHUNK_STATUS, context)


@pytest.mark.parametrize("command", [8, 100, 65535])
@pytest.mark.parametrize("structured", [True, False])
def test_an_unknown_command_is_invalid_and_the_next_is_served(wire, volume, command, structured):
    assert wire.go(volume, structured).ask(command, 0, 4096).error == EINVAL
    assert wire.ask(CMD_FLUSH).error == 0


@pytest.mark.parametrize("flags", [0x20, 0x8000, 0xFFFF])
def test_unknown_flags_are_invalid(wire, volume, flags):
    assert wire.go(volume).ask(CMD_READ, 0, 512, flags).error == EINVAL
    assert wire.ask(CMD_WRITE, 0, 512, flags, b"x" * 512).error == EINVAL
    assert wire.ask(CMD_READ, 0, 4).data[8:] == bytes(4)


def test_df_was_not_offered_without_structured_replies(wire, volume):
    assert wire.go(volume, structured=False).ask(CMD_READ, 0, 512, flags=4).error == EINVAL


@pytest.mark.parametrize("offset, length", [(1, 0), (0, 1)])
def test_a_flush_of_a_range_is_invalid(wire, volume, offset, length):
    assert wire.go(volume).ask(CMD_FLUSH, offset, length).error == EINVAL


@pytest.mark.parametrize("structured", [True, False])
def test_a_read_that_is_too_long_is_invalid(wire, volume, structured):
    assert wire.go(volume, structured).ask(CMD_READ, 0, 32 * MIB + 1).error == EINVAL
    assert wire.ask(CMD_FLUSH).error == 0


def test_a_write_that_is_too_long_is_invalid_and_skipped(wire, volume):
    assert wire.go(volume).ask(CMD_WRITE, 0, 33 * MIB, data=bytes(33 * MIB)).error == EINVAL
    assert wire.ask(CMD_FLUSH).error == 0


def test_a_write_of_gigabytes_ends_the_connection(wire, volume):
    wire.go(volume).send(request(CMD_WRITE, length=0xFFFFFFFF))
    assert wire.ends()


def test_the_data_of_a_refused_write_is_skipped(wire, volume):
    assert wire.go(volume).ask(CMD_WRITE, SIZE - 1, 5000, data=b"\x25\x60\x95\x13" * 1250).error == ENOSPC
    assert wire.ask(CMD_FLUSH).error == 0


@pytest.mark.parametrize("command", [CMD_TRIM, CMD_ZEROES])
def test_ranges_that_wrap_around_are_refused(wire, volume, command):
    assert wire.go(volume).ask(command, (1 << 64) - 4096, 8192).error in (EINVAL, ENOSPC)


def test_disconnect_answers_what_came_before(wire, volume):
    wire.go(volume).send(*(request(CMD_READ, n, 0, 4096) for n in range(50)), request(CMD_DISC))
    assert sorted(wire.reply().cookie for _ in range(50)) == list(range(50))
    assert wire.ends()


def test_a_client_that_only_stops_sending_gets_its_answers(wire, volume):
    wire.go(volume).send(*(request(CMD_READ, n, 0, 4096) for n in range(300)))
    wire.socket.shutdown(socket.SHUT_WR)
    assert sorted(wire.reply().cookie for _ in range(300)) == list(range(300))
    assert wire.ends()


@pytest.mark.parametrize("command, data", [(CMD_WRITE, b"abcdefgh"), (CMD_READ, b"")])
def test_a_command_byte_by_byte(wire, volume, command, data):
    wire.go(volume)
    for byte in request(command, 5, 3, 8) + data:
        wire.send(bytes([byte]))
    assert (wire.reply().cookie, wire.ask(CMD_READ, 3, 8).data[8:]) == (5, data or bytes(8))


# --- those who harm only themselves

def still_served(server, volume):
    handle = server.connect(volume)
    handle.pwrite(b"alive", 0)
    assert handle.pread(5, 0) == b"alive"
    handle.shutdown()


@pytest.mark.parametrize("junk", [b"\0" * 28, b"GET / HTTP/1.1\r\nHost: disk\r\n\r\n",
                                  request(CMD_READ, magic=0x12345678)])
def test_what_is_no_command_ends_the_connection(server, wire, volume, junk):
    wire.go(volume).send(junk)
    assert wire.ends()
    still_served(server, volume)


def test_what_is_no_option_ends_the_connection(server, wire, volume):
    wire.hello().send(os.urandom(64))
    assert wire.ends()
    still_served(server, volume)


def test_a_flood_of_ten_thousand_commands_is_answered(wire, volume):
    wire.go(volume)
    sent, seen, batch = 0, set(), 100
    while sent < 10_000:                    # more than the server takes at once, yet no deadlock
        wire.send(*(request(CMD_READ, n, n * 512, 512) for n in range(sent, sent + batch)))
        sent += batch
        while len(seen) < sent - 2000:
            seen.add(wire.reply().cookie)
    while len(seen) < sent:
        seen.add(wire.reply().cookie)
    assert seen == set(range(10_000))


def test_a_flood_that_reads_nothing_back_is_held_at_bay(server, wire, volume):
    wire.go(volume)
    wire.socket.settimeout(1)
    with pytest.raises(TimeoutError):
        for n in range(10_000):
            wire.send(request(CMD_READ, n, 0, MIB))
    still_served(server, volume)


def test_many_that_read_nothing_back_starve_nobody(server, volume):
    idle = []
    for _ in range(8):
        idle.append(server.wire().go(volume, structured=False))
        idle[-1].send(*(request(CMD_READ, n, 0, 8 * MIB) for n in range(8)))
    still_served(server, volume)
    for wire in idle:
        wire.close()


def test_disconnects_in_the_middle_of_writes_write_nothing_wrong(server, volume):
    for part in (1, 100, 4096, 65536, 100_000, 300_000):
        wire = server.wire().go(volume)
        wire.send(request(CMD_WRITE, 1, 0, 400_000), b"w" * part)
        wire.close()
    handle = server.connect(volume)
    assert handle.pread(400_000, 0) == bytes(400_000)
    handle.shutdown()


def test_disconnects_with_commands_under_way(server, volume):
    for n in range(30):
        wire = server.wire().go(volume)
        wire.send(*(request(CMD_READ, m, 0, MIB) for m in range(n)), request(CMD_WRITE, 99, 0, 4096))
        wire.send(bytes(4096))
        wire.close()
    still_served(server, volume)


def removed(server, volume):
    """Removes the volume; False if it is open."""
    try:
        server.instance.client.control("remove", name=volume)
    except Busy:
        return False
    return True


def test_connections_that_ended_hold_no_volume_open(server, volume):
    for _ in range(20):
        server.wire().go(volume).close()
    wait_until(lambda: removed(server, volume), "the volume is closed")


def test_a_volume_in_use_is_open(server, wire, volume):
    wire.go(volume)
    assert not removed(server, volume)


def test_half_open_handshakes_do_not_keep_others_out(server, volume):
    idle = [server.wire() for _ in range(100)]
    still_served(server, volume)
    assert all(wire.ends() for wire in idle)
