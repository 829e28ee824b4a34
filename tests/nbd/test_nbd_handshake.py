# SPDX-License-Identifier: Apache-2.0
"""The NBD handshake, byte by byte."""
import struct
import time

import pytest
from nbd_support import (
    CMD_READ,
    CMD_STATUS,
    EINVAL,
    ERR_INVALID,
    ERR_TOO_BIG,
    ERR_UNKNOWN,
    ERR_UNSUP,
    MIB,
    OPT_ABORT,
    OPT_EXPORT_NAME,
    OPT_GO,
    OPT_INFO,
    OPT_LIST,
    OPT_LIST_META,
    OPT_SET_META,
    OPT_STARTTLS,
    OPT_STRUCTURED,
    OPTION_MAGIC,
    REP_ACK,
    REP_INFO,
    REP_META,
    REP_SERVER,
    SIZE,
    go_data,
    meta_data,
    text,
)

pytest_plugins = ["nbd_fixtures"]


def test_abort_is_acknowledged_and_ends_the_connection(wire):
    assert wire.hello().option(OPT_ABORT)[-1].type == REP_ACK
    assert wire.ends()


def test_starttls_is_refused_and_the_handshake_goes_on(wire):
    assert wire.hello().option(OPT_STARTTLS)[-1].type == ERR_UNSUP
    assert wire.option(OPT_LIST)[-1].type == REP_ACK


@pytest.mark.parametrize("option", [0, 4, 11, 12345, 0xFFFFFFFF])
def test_an_unknown_option_is_refused_and_its_data_skipped(wire, option):
    assert wire.hello().option(option, b"x" * 1000)[-1].type == ERR_UNSUP
    assert wire.option(OPT_LIST)[-1].type == REP_ACK


@pytest.mark.parametrize("option", [OPT_LIST, OPT_STRUCTURED, OPT_STARTTLS])
def test_data_where_none_belongs_is_invalid(wire, option):
    assert wire.hello().option(option, b"x")[-1].type == ERR_INVALID


@pytest.mark.parametrize("name, answer", [
    ("", ERR_UNKNOWN), ("no-such", ERR_UNKNOWN), ("a/../b", ERR_UNKNOWN), (b"zero\0byte", ERR_UNKNOWN),
    (b"\xff\xfe", ERR_UNKNOWN), ("n" * 256, ERR_UNKNOWN), ("n" * 4096, ERR_UNKNOWN),
    ("n" * 4097, ERR_TOO_BIG)])
@pytest.mark.parametrize("option", [OPT_INFO, OPT_GO])
def test_names_that_no_volume_has(wire, option, name, answer):
    assert wire.hello().option(option, go_data(name))[-1].type == answer
    assert wire.option(OPT_LIST)[-1].type == REP_ACK


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\0\0\xff", text("v") + b"\0\2\0\1", text("v") + b"\0\0\0",
                                  struct.pack(">I", 0xFFFFFFFF) + b"v\0\0"])
def test_lengths_in_go_that_lie_are_invalid(wire, data):
    assert wire.hello().option(OPT_GO, data)[-1].type == ERR_INVALID


def test_an_option_of_more_than_64_kib_is_too_big(wire):
    assert wire.hello().option(OPT_GO, b"x" * 100_000)[-1].type == ERR_TOO_BIG
    assert wire.option(OPT_LIST)[-1].type == REP_ACK


def test_an_option_of_gigabytes_ends_the_connection(wire):
    wire.hello().send(OPTION_MAGIC, struct.pack(">II", OPT_LIST, 0xFFFFFFFF))
    assert wire.ends()


def test_info_tells_name_description_and_sizes(server, wire, volume):
    identity = server.instance.client.control("info", name=volume)["id"]
    answers = wire.hello().option(OPT_INFO, go_data(volume, (1, 2, 3, 99)))
    infos = {struct.unpack(">H", a.data[:2])[0]: a.data[2:] for a in answers if a.type == REP_INFO}
    assert struct.unpack(">QH", infos[0])[0] == SIZE
    assert infos[1] == volume.encode()
    assert infos[2] == f"volume {identity} in blocks of 1024 KiB".encode()
    assert struct.unpack(">III", infos[3]) == (1, 4096, 32 * MIB)


def test_info_opens_nothing(server, wire, volume):
    before, epoch = server.openings(), server.instance.client.control("info", name=volume)["epoch"]
    wire.hello()
    for _ in range(5):
        assert wire.option(OPT_INFO, go_data(volume))[-1].type == REP_ACK
    assert server.openings() == before
    assert server.instance.client.control("info", name=volume)["epoch"] == epoch
    server.instance.client.control("remove", name=volume)


def test_info_of_an_open_volume_tells_its_present_size(server, wire, volume):
    server.wire().go(volume)
    server.instance.client.control("resize", name=volume, size=2 * SIZE)
    export = wire.hello().option(OPT_INFO, go_data(volume))[0].data
    assert struct.unpack(">HQ", export[:10]) == (0, 2 * SIZE)


def test_info_of_a_snapshot_says_that_it_is_read_only(server, wire, volume):
    server.instance.client.control("snapshot", name=volume, snapshot=f"{volume}-s")
    export = wire.hello().option(OPT_INFO, go_data(f"{volume}-s"))[0].data
    assert struct.unpack(">H", export[10:12])[0] & 2


def test_a_client_that_goes_on_has_time_for_each_step(server, wire, volume):
    """Together its steps take longer than `handshake_s` of the fixture, each by itself far less."""
    wire.hello()
    for _ in range(6):
        time.sleep(1)
        assert wire.option(OPT_INFO, go_data(volume))[-1].type == REP_ACK


def test_go_after_info(wire, volume):
    wire.hello().option(OPT_INFO, go_data(volume))
    assert wire.option(OPT_GO, go_data(volume))[-1].type == REP_ACK
    assert wire.ask(CMD_READ, 0, 10).data == bytes(10)


@pytest.mark.parametrize("flags, zeros", [(3, 0), (1, 124), (0, 124)])
def test_export_name(wire, volume, flags, zeros):
    wire.hello(flags).send(OPTION_MAGIC, struct.pack(">II", OPT_EXPORT_NAME, len(volume)), volume.encode())
    size, _ = struct.unpack(">QH", wire.get(10))
    assert size == SIZE and wire.get(zeros) == bytes(zeros)
    assert wire.ask(CMD_READ, 0, 4096).data == bytes(4096)


@pytest.mark.parametrize("name", [b"", b"no-such", b"n" * 5000])
def test_export_name_of_nothing_ends_the_connection(wire, name):
    wire.hello().send(OPTION_MAGIC, struct.pack(">II", OPT_EXPORT_NAME, len(name)), name)
    assert wire.ends()


@pytest.mark.parametrize("flags", [4, 0x80000003])
def test_unknown_client_flags_end_the_connection(wire, flags):
    assert wire.hello(flags).ends()


def test_options_in_one_packet_are_all_answered(wire):
    wire.hello().send((OPTION_MAGIC + struct.pack(">II", 999, 3) + b"abc") * 500)
    assert {wire.answer().type for _ in range(500)} == {ERR_UNSUP}


def test_a_handshake_byte_by_byte(wire, volume):
    for byte in struct.pack(">I", 3) + OPTION_MAGIC + struct.pack(">II", OPT_STRUCTURED, 0):
        wire.send(bytes([byte]))
    wire.get(18)
    assert wire.answer().type == REP_ACK


def test_a_handshake_that_is_not_finished_is_cut_off(wire):
    wire.hello().send(OPTION_MAGIC[:5])
    assert wire.ends()


# --- metadata contexts

@pytest.mark.parametrize("option, queries, found", [
    (OPT_LIST_META, (), 1), (OPT_LIST_META, ("base:",), 1), (OPT_LIST_META, ("base:allocation",), 1),
    (OPT_LIST_META, ("x-other:thing",), 0), (OPT_LIST_META, ("base:unknown",), 0),
    (OPT_SET_META, (), 0), (OPT_SET_META, ("base:",), 0), (OPT_SET_META, ("base:allocation",), 1),
    (OPT_SET_META, ("x-other:a", "base:allocation", "base:allocation"), 1)])
def test_metadata_contexts(wire, volume, option, queries, found):
    wire.hello().option(OPT_STRUCTURED)
    answers = wire.option(option, meta_data(volume, *queries))
    assert [a.type for a in answers] == [REP_META] * found + [REP_ACK]
    assert all(a.data[4:] == b"base:allocation" for a in answers[:-1])


@pytest.mark.parametrize("data", [b"", text("v"), text("v") + struct.pack(">I", 1),
                                  text("v") + struct.pack(">II", 1, 0xFFFFFFFF), meta_data("v", "q") + b"x"])
def test_lengths_in_queries_that_lie_are_invalid(wire, data):
    wire.hello().option(OPT_STRUCTURED)
    assert wire.option(OPT_SET_META, data)[-1].type == ERR_INVALID


def test_contexts_need_structured_replies(wire, volume):
    assert wire.hello().option(OPT_SET_META, meta_data(volume, "base:allocation"))[-1].type == ERR_INVALID


def test_a_context_counts_for_its_own_export_only(server, wire, volume):
    wire.hello().option(OPT_STRUCTURED)
    wire.option(OPT_SET_META, meta_data(server.make(), "base:allocation"))
    wire.option(OPT_GO, go_data(volume))
    assert wire.ask(CMD_STATUS, 0, 4096).error == EINVAL


def test_a_second_selection_replaces_the_first(wire, volume):
    wire.hello().option(OPT_STRUCTURED)
    wire.option(OPT_SET_META, meta_data(volume, "base:allocation"))
    wire.option(OPT_SET_META, meta_data(volume))
    wire.option(OPT_GO, go_data(volume))
    assert wire.ask(CMD_STATUS, 0, 4096).error == EINVAL


# --- the list

def test_list_names_volumes_and_snapshots(server, wire, volume):
    server.instance.client.control("snapshot", name=volume, snapshot=f"{volume}-s")
    names = [a.data[4:].decode() for a in wire.hello().option(OPT_LIST) if a.type == REP_SERVER]
    assert {volume, f"{volume}-s"} <= set(names)
    assert len(names) == len(set(names))


def test_a_list_longer_than_a_page(server):
    made = {f"long-{n:03}-" + "x" * 200 for n in range(150)}
    for name in made:
        server.instance.client.control("create", name=name, size=MIB)
    names = {a.data[4:].decode() for a in server.wire().hello().option(OPT_LIST) if a.type == REP_SERVER}
    for name in made:
        server.instance.client.control("remove", name=name)
    assert made <= names
