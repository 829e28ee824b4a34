# SPDX-License-Identifier: Apache-2.0
"""The NBD server's commands at their edges, through libnbd."""
import errno
import os

import pytest
from nbd_support import BLOCK, MIB, SIZE
from support import libnbd

pytest_plugins = ["nbd_fixtures"]
nbd = libnbd()


def refused(number, call, *words, **more):
    with pytest.raises(nbd.Error) as caught:
        call(*words, **more)
    assert caught.value.errnum == number, str(caught.value)


def extents(handle, length, offset, flags=0):
    """[(length, state)] of base:allocation."""
    found = []

    def take(context, at, entries, error):
        found.extend(zip(entries[::2], entries[1::2], strict=True))

    handle.block_status(length, offset, take, flags)
    return found


# --- what the export offers

def test_a_volume_offers_all_that_is_served(handle):
    assert not handle.is_read_only()
    for can in ("flush", "fua", "trim", "zero", "fast_zero", "df", "cache", "multi_conn"):
        assert getattr(handle, f"can_{can}")(), can


def test_block_sizes(handle):
    sizes = [handle.get_block_size(n) for n in (nbd.SIZE_MINIMUM, nbd.SIZE_PREFERRED, nbd.SIZE_MAXIMUM)]
    assert sizes == [1, 4096, 32 * MIB]


def test_size_is_the_volumes(handle):
    assert handle.get_size() == SIZE


def test_a_snapshot_is_read_only(server, volume):
    server.instance.client.control("snapshot", name=volume, snapshot=f"{volume}-s")
    handle = server.connect(f"{volume}-s")
    assert handle.is_read_only()
    refused(errno.EPERM, handle.pwrite, b"x", 0)
    refused(errno.EPERM, handle.trim, 4096, 0)
    refused(errno.EPERM, handle.zero, 4096, 0)
    assert handle.pread(4096, 0) == bytes(4096)
    handle.shutdown()


# --- reads and writes

@pytest.mark.parametrize("structured", [True, False])
@pytest.mark.parametrize("offset, length", [(0, 1), (4095, 2), (1, 4096), (BLOCK - 3, 7),
                                            (BLOCK - 1, 3 * MIB + 2), (0, 32 * MIB), (5, 32 * MIB)])
def test_any_alignment_reads_back(server, volume, structured, offset, length):
    handle = server.connect(volume, structured)
    data = os.urandom(length)
    handle.pwrite(data, offset)
    assert handle.pread(length, offset) == data
    handle.shutdown()


def test_what_lies_around_a_write_is_untouched(handle):
    handle.pwrite(b"a" * 12288, BLOCK - 4096)
    handle.pwrite(b"b" * 100, BLOCK - 50)
    assert handle.pread(12288, BLOCK - 4096) == b"a" * 4046 + b"b" * 100 + b"a" * 8142


def test_the_last_byte(handle):
    handle.pwrite(b"z", SIZE - 1)
    assert handle.pread(2, SIZE - 2) == b"\0z"


def test_a_new_volume_reads_as_zeros(handle):
    assert handle.pread(4 * MIB, 3) == bytes(4 * MIB)


@pytest.mark.parametrize("structured", [True, False])
def test_nothing_is_read_of_zero_length(server, volume, structured):
    handle = server.connect(volume, structured)
    assert handle.pread(0, 4096) == b""
    handle.shutdown()


@pytest.mark.parametrize("verb", ["trim", "zero", "cache"])
def test_zero_length_does_nothing(handle, verb):
    handle.pwrite(b"k" * 4096, 0)
    getattr(handle, verb)(0, 0)
    assert handle.pread(4096, 0) == b"k" * 4096


def test_a_write_of_zero_length(handle):
    handle.pwrite(b"", 100)
    assert handle.pread(1, 100) == b"\0"


# --- beyond the end

@pytest.mark.parametrize("structured", [True, False])
@pytest.mark.parametrize("offset, length", [(SIZE, 1), (SIZE - 1, 2), (1 << 63, 4096), ((1 << 64) - 1, 2)])
def test_reads_beyond_the_end_are_invalid(server, volume, structured, offset, length):
    handle = server.connect(volume, structured)
    refused(errno.EINVAL, handle.pread, length, offset)
    assert handle.pread(1, 0) == b"\0"
    handle.shutdown()


@pytest.mark.parametrize("offset, length", [(SIZE, 1), (SIZE - 1, 2), (1 << 63, 4096), (SIZE - MIB, 2 * MIB)])
def test_writes_beyond_the_end_find_no_space(handle, offset, length):
    refused(errno.ENOSPC, handle.pwrite, b"x" * length, offset)
    assert handle.pread(1, SIZE - 1) == b"\0"


def test_zeroes_beyond_the_end_find_no_space(handle):
    refused(errno.ENOSPC, handle.zero, 2, SIZE - 1)


@pytest.mark.parametrize("verb", ["trim", "cache"])
def test_hints_beyond_the_end_are_invalid(handle, verb):
    refused(errno.EINVAL, getattr(handle, verb), 2, SIZE - 1)


def test_block_status_beyond_the_end_is_invalid(handle):
    refused(errno.EINVAL, extents, handle, 2, SIZE - 1)


# --- flags

def test_df_gets_one_chunk(handle):
    chunks = []
    handle.pwrite(b"d" * MIB, 5)
    handle.pread_structured(MIB, 5, lambda data, at, status, error: chunks.append((at, len(data))),
                            nbd.CMD_FLAG_DF)
    assert chunks == [(5, MIB)]


def test_df_of_more_than_one_piece_overflows(handle):
    refused(errno.EOVERFLOW, handle.pread_structured, MIB + 1, 0, lambda *_: None, nbd.CMD_FLAG_DF)
    assert handle.pread(1, 0) == b"\0"


def test_without_df_a_long_read_comes_in_chunks_that_cover_it(handle):
    chunks = []
    handle.pread_structured(4 * MIB, 17, lambda data, at, status, error: chunks.append((at, len(data))))
    assert len(chunks) > 1
    at = 17
    for offset, length in sorted(chunks):
        assert offset == at
        at += length
    assert at == 17 + 4 * MIB


def test_fua_is_taken_by_all_that_write(handle):
    handle.pwrite(b"f" * 8192, 4096, nbd.CMD_FLAG_FUA)
    handle.zero(4096, 4096, nbd.CMD_FLAG_FUA)
    handle.trim(4096, 8192, nbd.CMD_FLAG_FUA)
    assert handle.pread(4096, 4096) == bytes(4096)


@pytest.mark.parametrize("flags", [0, nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_FAST_ZERO,
                                   nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FAST_ZERO])
def test_zeroes_read_as_zeros_whatever_the_flags(handle, flags):
    handle.pwrite(b"o" * 3 * MIB, 0)
    handle.zero(2 * MIB + 100, 100, flags)
    assert handle.pread(3 * MIB, 0) == b"o" * 100 + bytes(2 * MIB + 100) + b"o" * (MIB - 200)


def test_zeroes_without_holes_are_allocated(handle):
    handle.zero(BLOCK, 0, nbd.CMD_FLAG_NO_HOLE)
    assert extents(handle, BLOCK, 0)[0][1] & nbd.STATE_HOLE == 0


@pytest.mark.parametrize("verb, flags", [("flush", nbd.CMD_FLAG_NO_HOLE), ("trim", nbd.CMD_FLAG_DF),
                                         ("cache", nbd.CMD_FLAG_REQ_ONE), ("zero", nbd.CMD_FLAG_DF)])
def test_a_flag_of_another_command_is_invalid(handle, verb, flags):
    words = () if verb == "flush" else (4096, 0)
    refused(errno.EINVAL, getattr(handle, verb), *words, flags)


# --- trim, zeroes, cache, flush

def test_trim_of_everything_frees_it(handle):
    handle.pwrite(b"t" * 4 * MIB, 0)
    handle.trim(SIZE, 0)
    assert handle.pread(4 * MIB, 0) == bytes(4 * MIB)


def test_zeroes_longer_than_the_longest_write(handle):
    handle.pwrite(b"t", 40 * MIB)
    handle.zero(SIZE, 0)
    assert handle.pread(1, 40 * MIB) == b"\0"


def test_cache_of_everything(handle):
    handle.cache(SIZE, 0)


def test_flush_after_writes(handle):
    handle.pwrite(b"w" * 4096, 0)
    handle.flush()


# --- block status

def test_block_status_tells_data_from_holes(handle):
    handle.pwrite(b"s" * BLOCK, 2 * BLOCK)
    hole = nbd.STATE_HOLE | nbd.STATE_ZERO
    assert extents(handle, 5 * BLOCK, 0) == [(2 * BLOCK, hole), (BLOCK, 0), (2 * BLOCK, hole)]


def test_block_status_in_the_middle_of_blocks(handle):
    handle.pwrite(b"s" * BLOCK, BLOCK)
    assert extents(handle, BLOCK, BLOCK // 2)[:2] == [(BLOCK // 2, 3), (BLOCK // 2, 0)]


def test_a_block_that_was_zeroed_as_a_whole_is_a_hole_again(handle):
    hole = nbd.STATE_HOLE | nbd.STATE_ZERO
    handle.pwrite(b"s" * 4 * BLOCK, BLOCK)
    handle.trim(BLOCK, BLOCK)
    handle.zero(BLOCK, 3 * BLOCK)
    assert extents(handle, 6 * BLOCK, 0) == [(2 * BLOCK, hole), (BLOCK, 0), (BLOCK, hole), (BLOCK, 0), (BLOCK, hole)]
    handle.pwrite(b"s", 2 * BLOCK - 1)
    assert extents(handle, 3 * BLOCK, 0) == [(BLOCK, hole), (2 * BLOCK, 0)]


def test_req_one_gets_one(handle):
    handle.pwrite(b"s" * BLOCK, 2 * BLOCK)
    assert extents(handle, 5 * BLOCK, 0, nbd.CMD_FLAG_REQ_ONE) == [(2 * BLOCK, 3)]


def test_block_status_of_zero_length_is_invalid(handle):
    refused(errno.EINVAL, extents, handle, 0, 0)


def test_block_status_needs_structured_replies(server, volume):
    handle = server.connect(volume, structured=False)
    assert not handle.can_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
    refused(errno.EINVAL, extents, handle, 4096, 0)
    handle.shutdown()


# --- several connections

def test_two_connections_see_one_anothers_writes(server, volume):
    one, two = server.connect(volume), server.connect(volume)
    one.pwrite(b"1" * 5000, 100)
    two.flush()
    assert two.pread(5000, 100) == b"1" * 5000
    one.shutdown()
    assert two.pread(5000, 100) == b"1" * 5000
    two.shutdown()


def test_many_commands_under_way_come_back_to_their_own(handle):
    buffers = [nbd.Buffer.from_bytearray(bytearray([n]) * 4096) for n in range(200)]
    for n, buffer in enumerate(buffers):
        handle.aio_pwrite(buffer, n * 8192, lambda error: 1)
    while handle.aio_in_flight():
        handle.poll(1000)
    assert all(handle.pread(4096, n * 8192) == bytes([n]) * 4096 for n in range(200))


# --- names

def test_an_unknown_name_is_refused(server):
    with pytest.raises(nbd.Error) as caught:
        server.connect("no-such-volume")
    assert caught.value.errnum == errno.ENOENT


def test_there_is_no_default_export(server):
    with pytest.raises(nbd.Error):
        server.connect("")


def test_a_volume_that_grows_is_served_at_its_new_size(server, volume):
    handle = server.connect(volume)
    server.instance.client.control("resize", name=volume, size=2 * SIZE)
    handle.pwrite(b"g" * 4096, SIZE + 4096)
    assert handle.pread(4096, SIZE + 4096) == b"g" * 4096
    handle.shutdown()


def test_a_connection_whose_volume_was_closed_by_force_does_not_reach_the_next_in_its_place(server):
    ask = server.instance.client.control
    first, second = server.make(), server.make()
    stale = server.connect(first)
    place = ask("close", name=first, force=True) and server.instance.client.open(second)
    fresh = server.connect(second)
    for offset in (0, BLOCK):
        with pytest.raises(libnbd().Error):
            stale.pwrite(b"x" * 4096, offset)
    place.close()
    stale.shutdown()
    fresh.pwrite(b"y" * 4096, BLOCK)
    assert fresh.pread(4096, 0) == bytes(4096) and fresh.pread(1, BLOCK) == b"y"
    fresh.shutdown()
