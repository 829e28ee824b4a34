# SPDX-License-Identifier: Apache-2.0
"""MAP_LOAD and MAP_COMMIT by themselves: what vlmc may ask, and what it is answered."""
import errno

import pytest

from xseg._native import ffi, lib

GIB = 1 << 30
SHIFT = 16


def record(volume, seq, blocks, epoch=None, flags=0):
    """A journal record that puts blocks into objects of the volume's own."""
    shared = volume.shared
    out = ffi.new("uint8_t[]", 64 + 64 * len(blocks) + 512)
    rec, info = ffi.new("struct record *"), ffi.new("struct record_info *")
    info.kind, info.volume, info.epoch, info.seq = lib.RECORD_JOURNAL, shared.id, epoch or shared.epoch, seq
    info.block_shift, info.flags = SHIFT, flags
    lib.record_begin(rec, out, len(out), info)
    for block in sorted(blocks):
        entry = ffi.new("struct xentry *", {"volume": shared.id, "epoch": shared.epoch})
        assert lib.record_add(rec, block, entry, ffi.NULL) == 0
    return bytes(ffi.buffer(out, lib.record_end(rec, lib.RECORD_ALIGN)))


@pytest.fixture
def volume(request, node):
    """An open volume that vlmc has not been asked about."""
    name = request.node.name
    node.client.control("create", name=name, size=GIB, block_size=1 << SHIFT)
    with node.client.open(name) as opened:
        yield opened


@pytest.fixture
def commit(node, volume):
    return lambda data: node.call("mapper", lib.XOP_MAP_COMMIT, volume=volume.handle, data=data, check=False)


@pytest.fixture
def load(node, volume):
    def ask(first, count, room=65536):
        return node.call("mapper", lib.XOP_MAP_LOAD, volume=volume.handle, offset=first, size=count, room=room,
                         check=False)

    return ask


def blocks_of(reply):
    from peers.mapper.tree import items_of
    return [item.block for item in items_of(reply.data)]


def test_an_empty_map_loads_as_an_empty_record(load):
    reply = load(0, 1024)
    assert reply.error == 0 and reply.flags & lib.XREQ_MORE == 0 and blocks_of(reply) == []


def test_what_is_committed_can_be_loaded(volume, commit, load):
    reply = commit(record(volume, 1, [3, 5, 2000]))
    assert reply.error == 0 and reply.done == 512
    assert volume.shared.commit_seq == 1 and volume.shared.journal_offset == 512
    assert blocks_of(load(0, 1024)) == [3, 5]
    assert blocks_of(load(4, 1)) == [] and blocks_of(load(5, 1)) == [5]
    assert blocks_of(load(1024, 1024)) == [2000]


def test_a_repeated_commit_is_acknowledged_and_skipped(volume, commit, load):
    first = commit(record(volume, 1, [3]))
    again = commit(record(volume, 1, [3]))
    assert (again.error, again.done) == (0, first.done)
    assert commit(record(volume, 1, [4])).error == errno.EINVAL     # that number was another record's
    assert blocks_of(load(0, 1024)) == [3]


@pytest.mark.parametrize("seq", [2, 17])
def test_a_commit_out_of_order_is_refused(volume, commit, seq):
    assert commit(record(volume, seq, [3])).error == errno.EINVAL


@pytest.mark.parametrize("length", [0, 10, 63, 100])
def test_a_commit_cut_short_is_refused(volume, commit, length):
    assert commit(record(volume, 1, [3])[:length]).error == errno.EINVAL


def test_a_mark_begins_another_epoch(volume, commit, load):
    epoch = volume.shared.epoch
    assert commit(record(volume, 1, [3], flags=lib.RECORD_MARK)).error == 0
    assert commit(record(volume, 2, [4], epoch=epoch + 1)).error == 0
    assert blocks_of(load(0, 1024)) == [3, 4]


@pytest.mark.parametrize("first, count", [(0, 0), (0, 1025), (1000, 100), (1 << 63, 1 << 63)])
def test_a_load_across_leaves_is_refused(load, first, count):
    assert load(first, count).error == errno.EINVAL


def test_a_load_with_little_room_comes_in_portions(volume, commit, load):
    assert commit(record(volume, 1, range(1000))).error == 0
    found, first = [], 0
    while True:
        reply = load(first, 1024 - first, room=4096)
        found += blocks_of(reply)
        if not reply.flags & lib.XREQ_MORE:
            break
        assert reply.arg > first
        first = reply.arg
    assert found == list(range(1000))


def test_requests_on_volumes_that_are_not_open_are_refused(node):
    for handle in (0, 1000, 5000, 0xFFFFFFFF):
        for op in (lib.XOP_MAP_LOAD, lib.XOP_MAP_COMMIT, lib.XOP_CLOSE):
            reply = node.call("mapper", op, volume=handle, size=1, room=4096, check=False)
            assert reply.error == errno.ESTALE


def test_a_snapshot_takes_no_commits(node, volume):
    node.client.control("snapshot", name=volume.name, snapshot=volume.name + "-s")
    with node.client.open(volume.name + "-s") as snapshot:
        reply = node.call("mapper", lib.XOP_MAP_COMMIT, volume=snapshot.handle, data=record(snapshot, 1, [1]),
                          check=False)
    assert reply.error == errno.EROFS


def test_commits_survive_a_restart_of_the_mapper(node, volume, commit, load):
    for seq in range(1, 20):
        last = record(volume, seq, [seq], flags=lib.RECORD_MARK if seq % 5 == 0 else 0)
        assert commit(last).error == 0
    node.kill("mapper")
    node.restart("mapper")
    assert volume.shared.commit_seq == 19
    assert commit(last).error == 0
    assert commit(record(volume, 19, [99])).error == errno.EINVAL
    assert blocks_of(load(0, 1024)) == list(range(1, 20))
    assert commit(record(volume, 20, [20])).error == 0
    assert blocks_of(load(0, 1024)) == list(range(1, 21))
