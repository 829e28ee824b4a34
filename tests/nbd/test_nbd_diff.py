# SPDX-License-Identifier: Apache-2.0
"""Metadata contexts that compare an export with another volume, as backup programs read them."""
import json
import os
import struct

import pytest
from nbd_support import (
    BLOCK,
    CHUNK_ERROR,
    CHUNK_STATUS,
    CMD_STATUS,
    EIO,
    ERR_TOO_BIG,
    OPT_GO,
    OPT_LIST_META,
    OPT_SET_META,
    OPT_STRUCTURED,
    REP_ACK,
    REP_META,
    SIZE,
    go_data,
    meta_data,
    request,
)
from support import libnbd, run

pytest_plugins = ["nbd_fixtures"]
CHUNK = 4096
PREFIXES = ("archipelago:diff:", "qemu:dirty-bitmap:")
# What the fixture `pair` leaves different, as (offset, length).
DIFFERENT = [(CHUNK, CHUNK), (3 * BLOCK - CHUNK, 3 * CHUNK), (20 * BLOCK, BLOCK)]


@pytest.fixture
def pair(server, volume):
    """A volume, and a snapshot of it after which it was written to."""
    with server.instance.client.open(volume) as opened:
        for block in (0, 2, 3, 9):
            opened.write(block * BLOCK, os.urandom(BLOCK))
        server.instance.client.control("snapshot", name=volume, snapshot=f"{volume}-s")
        opened.write(CHUNK + 10, b"new")
        opened.write(3 * BLOCK - 100, b"n" * (CHUNK + 200))
        opened.write(20 * BLOCK, b"new")
    return volume, f"{volume}-s"


def runs(ranges, size=SIZE):
    """What a map of these ranges says: (offset, length, whether they differ)."""
    found, at = [], 0
    for offset, length in ranges:
        if offset > at:
            found.append((at, offset - at, False))
        found.append((offset, length, True))
        at = offset + length
    return [*found, (at, size - at, False)]


def structured(wire):
    assert wire.hello().option(OPT_STRUCTURED)[-1].type == REP_ACK
    return wire


def served(wire, name, *contexts):
    """The handshake with these contexts; their numbers."""
    answers = structured(wire).option(OPT_SET_META, meta_data(name, *contexts))
    assert answers[-1].type == REP_ACK
    assert wire.option(OPT_GO, go_data(name))[-1].type == REP_ACK
    return {answer.data[4:].decode(): struct.unpack(">I", answer.data[:4])[0] for answer in answers[:-1]}


def statuses(wire, offset, length, flags=0):
    """The chunks of one BLOCK_STATUS: context -> [(length, state)]; and the error at its end."""
    wire.send(request(CMD_STATUS, 5, offset, length, flags))
    found = {}
    while True:
        chunk = wire.reply()
        assert chunk.cookie == 5
        if chunk.type == CHUNK_ERROR:
            assert chunk.done
            return found, chunk
        assert chunk.type == CHUNK_STATUS
        context, *words = struct.unpack(f">{len(chunk.data) // 4}I", chunk.data)
        assert context not in found
        found[context] = list(zip(words[::2], words[1::2], strict=True))
        if chunk.done:
            return found, None


# --- the handshake

@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_context_is_there_for_a_volume_that_is_there(wire, pair, prefix):
    volume, snap = pair
    structured(wire)
    for option in (OPT_LIST_META, OPT_SET_META):
        answers = wire.option(option, meta_data(volume, f"{prefix}no-such", f"{prefix}{snap}", prefix, "x:y"))
        assert [a.type for a in answers] == [REP_META, REP_ACK]
        assert answers[0].data[4:].decode() == f"{prefix}{snap}"


def test_more_than_eight_are_refused_and_the_handshake_goes_on(wire, pair):
    volume, snap = pair
    structured(wire)
    assert wire.option(OPT_SET_META, meta_data(volume, *[PREFIXES[0] + snap] * 9))[-1].type == ERR_TOO_BIG
    assert len(wire.option(OPT_SET_META, meta_data(volume, *[PREFIXES[0] + snap] * 8))) == 9
    assert wire.option(OPT_SET_META, meta_data(volume))[-1].type == REP_ACK
    assert wire.option(OPT_GO, go_data(volume))[-1].type == REP_ACK


def test_a_context_of_another_export_is_not_for_this_one(server, wire, pair):
    volume, snap = pair
    structured(wire).option(OPT_SET_META, meta_data(server.make(), PREFIXES[0] + snap))
    assert wire.option(OPT_GO, go_data(volume))[-1].type == REP_ACK
    assert wire.ask(CMD_STATUS, 0, BLOCK).type == CHUNK_ERROR


# --- BLOCK_STATUS

def test_several_contexts_are_answered_at_once(server, wire, pair):
    volume, snap = pair
    server.instance.client.control("snapshot", name=volume, snapshot=f"{volume}-t")
    names = [PREFIXES[0] + snap, "base:allocation", PREFIXES[1] + f"{volume}-t", PREFIXES[1] + snap]
    numbers = served(wire, volume, *names)
    assert set(numbers) == set(names) and len(set(numbers.values())) == 4
    found, error = statuses(wire, 0, 4 * BLOCK)
    assert error is None and set(found) == set(numbers.values())
    changed = [(CHUNK, 0), (CHUNK, 1), (3 * BLOCK - 3 * CHUNK, 0), (3 * CHUNK, 1), (BLOCK - 2 * CHUNK, 0)]
    assert found[numbers[names[0]]] == found[numbers[names[3]]] == changed
    assert found[numbers[names[2]]] == [(4 * BLOCK, 0)]
    assert found[numbers[names[1]]] == [(BLOCK, 0), (BLOCK, 3), (2 * BLOCK, 0)]


def test_parts_of_any_alignment_are_asked_for(wire, pair):
    volume, snap = pair
    number = served(wire, volume, PREFIXES[0] + snap)[PREFIXES[0] + snap]
    assert statuses(wire, CHUNK + 1, 10)[0] == {number: [(10, 1)]}
    assert statuses(wire, 4000, 200)[0] == {number: [(96, 0), (104, 1)]}
    assert statuses(wire, 4000, 20_000, 8)[0] == {number: [(96, 0)]}      # REQ_ONE
    assert statuses(wire, 20 * BLOCK + 5, SIZE - 20 * BLOCK - 5)[0] == {number: [
        (BLOCK - 5, 1), (SIZE - 21 * BLOCK, 0)]}


def test_more_extents_than_one_answer_holds(server, volume):
    client = server.instance.client
    with client.open(volume) as opened:
        for block in range(8):
            opened.write(block * BLOCK, b"x" * BLOCK)
        client.control("snapshot", name=volume, snapshot=f"{volume}-s")
        for chunk in range(0, 8 * BLOCK, 2 * CHUNK):
            opened.write(chunk, b"y")
    shown = json.loads(run("nbdinfo", "--json", f"--map=qemu:dirty-bitmap:{volume}-s", server.uri(volume)).stdout)
    ranges = [(chunk, CHUNK) for chunk in range(0, 8 * BLOCK, 2 * CHUNK)]
    assert [(part["offset"], part["length"], part["type"] == 1) for part in shown] == runs(ranges)


def test_one_that_was_removed_is_an_error_and_not_a_lie(server, wire, pair):
    volume, snap = pair
    names = [PREFIXES[1] + snap, "base:allocation"]
    served(wire, volume, *names)
    assert statuses(wire, 0, BLOCK)[1] is None
    server.instance.client.control("remove", name=snap)
    for _ in range(2):
        error = statuses(wire, 0, BLOCK)[1]
        assert error.error == EIO and b"was removed" in error.data
    server.instance.client.control("snapshot", name=volume, snapshot=snap)
    assert statuses(wire, 0, BLOCK)[1].error == EIO, "another of the same name is not what was chosen"


def test_a_name_is_looked_up_once(server, wire, pair):
    volume, snap = pair
    number = served(wire, volume, PREFIXES[0] + snap)[PREFIXES[0] + snap]
    server.instance.client.control("rename", name=snap, to=f"{snap}-renamed")
    assert statuses(wire, 0, 3 * CHUNK)[0] == {number: [(CHUNK, 0), (CHUNK, 1), (CHUNK, 0)]}


# --- real clients

@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("of_snapshot", [False, True])
def test_nbdinfo_maps_it(server, pair, prefix, of_snapshot):
    volume, snap = pair
    if of_snapshot:
        server.instance.client.control("snapshot", name=volume, snapshot=f"{volume}-t")
        volume = f"{volume}-t"
    shown = json.loads(run("nbdinfo", "--json", f"--map={prefix}{snap}", server.uri(volume)).stdout)
    assert [(part["offset"], part["length"], part["type"] == 1) for part in shown] == runs(DIFFERENT)


def bitmap(server, volume, name):
    """An export with a dirty bitmap, as qemu's programs are told of it."""
    return f"driver=nbd,server.type=unix,server.path={server.socket},export={volume}," \
           f"x-dirty-bitmap=qemu:dirty-bitmap:{name}"


def test_qemu_img_maps_it(server, pair):
    """As backup programs do that use qemu: what is dirty is shown as if it was no data."""
    volume, snap = pair
    shown = json.loads(run("qemu-img", "map", "--output=json", "--image-opts", bitmap(server, volume, snap)).stdout)
    assert [(part["start"], part["length"], not part["data"]) for part in shown] == runs(DIFFERENT)


def test_qemu_img_fails_where_there_is_no_such_bitmap(server, pair):
    done = run("qemu-img", "map", "--image-opts", bitmap(server, pair[0], "no-such"), check=False)
    assert done.returncode != 0 and "Could not open image" in done.stderr, done.stderr


def test_libnbd_reads_the_differences_and_nothing_else(server, pair, tmp_path):
    """An incremental backup: what differs is read through NBD, and put onto a copy of the older state."""
    nbd, (volume, snap), client = libnbd(), pair, server.instance.client
    copy = tmp_path / "copy.raw"
    run("nbdcopy", server.uri(snap), copy)
    client.control("snapshot", name=volume, snapshot=f"{volume}-t")
    context, changed = PREFIXES[1] + snap, []
    handle = nbd.NBD()
    handle.add_meta_context(context)
    handle.set_export_name(f"{volume}-t")
    handle.connect_unix(server.socket)
    assert handle.can_meta_context(context)

    def extent(name, offset, entries, _error):
        assert name == context
        for length, state in zip(entries[::2], entries[1::2], strict=True):
            if state:
                changed.append((offset, length))
            offset += length

    handle.block_status(SIZE, 0, extent)
    assert changed == DIFFERENT
    with open(copy, "r+b") as file:
        for offset, length in changed:
            file.seek(offset)
            file.write(handle.pread(length, offset))
    handle.shutdown()
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", copy, server.uri(f"{volume}-t"))
