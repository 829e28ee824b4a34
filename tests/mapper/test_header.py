# SPDX-License-Identifier: Apache-2.0
"""Headers and name pointers on the store, names, sizes, ids."""
import random

import pytest

from peers.mapper.header import (
    SIZE_MAX,
    Header,
    Ids,
    check_block_size,
    check_name,
    check_new_name,
    check_size,
    depth_for,
    pack_name,
    unpack_header,
    unpack_name,
)
from xseg.errors import XsegError

FULL = Header(id=7 << 22, name="vol-ü", kind="volume", size=3 << 40, block_shift=22, epoch=9, writable_since=4,
              parent=5, root=[3, 2, 11], level=2, journals=[[3, 2, 1, 512], [7 << 22, 9, 2, None]], seq=17,
              next_page=12, next_journal=3, created=1700000000000, token=99, auto=True, in_place_since=8,
              protected=True, schedule="hourly=24 daily=7", origin=9,
              limits="iops=5 burst_ms=0", generation=6)


def test_a_header_comes_back_as_it_was():
    assert unpack_header(FULL.pack(), FULL.id) == FULL


def test_a_header_begins_with_its_generation():
    assert int.from_bytes(FULL.pack()[:8], "little") == 6


def test_zeros_behind_a_header_do_not_matter():
    assert unpack_header(FULL.pack() + bytes(1000), FULL.id) == FULL


def test_every_flipped_bit_of_a_header_is_noticed():
    data = FULL.pack()
    for place in range(len(data)):
        broken = bytearray(data)
        broken[place] ^= 1 << place % 8
        with pytest.raises(ValueError):
            unpack_header(bytes(broken), FULL.id)


def test_every_cut_header_is_noticed():
    data = FULL.pack()
    for length in range(len(data)):
        with pytest.raises(ValueError):
            unpack_header(data[:length], FULL.id)


def test_garbage_is_no_header():
    seed = 4711
    dice = random.Random(seed)
    for _ in range(2000):
        with pytest.raises(ValueError):
            unpack_header(dice.randbytes(dice.randrange(300)), 1)


def test_another_volumes_header_is_refused():
    with pytest.raises(ValueError, match="another volume"):
        unpack_header(FULL.pack(), 1)


@pytest.mark.parametrize("change", [
    {"kind": "disk"}, {"block_shift": 40}, {"size": SIZE_MAX + 1}, {"epoch": -1}, {"level": 9}, {"name": 3},
    {"root": [1, 2]}, {"root": "x"}, {"journals": [[1, 2, 3]]}, {"journals": [[1, 2, 3, None], [1, 2, 4, 5]]},
    {"journals": [[1, 2, 3, 4]] * 100}, {"protected": 1}, {"schedule": "hourly=0"}, {"schedule": 3},
    {"origin": -1}, {"origin": "x"},
    {"schedule": "daily-2026-11-26"}, {"schedule": "daily=7 hourly=24"},
    {"limits": "iops=0"}, {"limits": "burst_ms=5"}, {"limits": 7},
    {"kind": "snapshot", "journals": [], "schedule": "daily=7"}])
def test_a_header_with_impossible_values_is_refused(change):
    values = {key: getattr(FULL, key) for key in Header.__slots__} | change
    with pytest.raises((ValueError, OverflowError)):
        unpack_header(Header(**values).pack(), FULL.id)


def test_a_version_of_the_future_is_named():
    data = bytearray(FULL.pack())
    data[12] = 2
    with pytest.raises(ValueError, match="version 2"):
        unpack_header(bytes(data), FULL.id)


def test_a_name_pointer_comes_back():
    assert unpack_name(pack_name("a", 12, 3), "a") == (3, 12)


def test_a_pointer_of_another_name_is_refused():
    with pytest.raises(ValueError, match="another name"):
        unpack_name(pack_name("a", 12), "b")


@pytest.mark.parametrize("name", ["a", "vm-1", "ä" * 127, "x" * 255, "with space", "a@b", "日本", "a.b"])
def test_good_names(name):
    assert check_new_name(name) == check_name(name) == name


@pytest.mark.parametrize("name", ["", "a/b", "-x", ".x", "a\nb", "a\x00", "x" * 256, "ä" * 128, "\udc80", "a\x7f",
                                  None, 7])
def test_bad_names(name):
    with pytest.raises(XsegError):
        check_name(name)


@pytest.mark.parametrize("name", [
    "disk\u200b", "\u202edisk", "disk\u00a0", " disk", "disk ", "\uff44isk", "\u212aelvin", "a\u0308", "d\u0456sk",
    "\u0430lpha", "\u0391lpha", "a\u00adb", "\ufb01le"], ids=ascii)
def test_no_volume_gets_a_name_that_looks_like_another(name):
    assert check_name(name) == name
    with pytest.raises(XsegError) as caught:
        check_new_name(name)
    assert str(caught.value).isascii()


@pytest.mark.parametrize("size", [0, -512, 511, 513, SIZE_MAX + 512, "1G", None, 1.5])
def test_bad_sizes(size):
    with pytest.raises(XsegError):
        check_size(size)


@pytest.mark.parametrize("size", [512, 1 << 50, SIZE_MAX])
def test_good_sizes(size):
    assert check_size(size) == size


@pytest.mark.parametrize("size", [0, 1, 4096, 65535, 3 << 20, 32 << 20, -65536])
def test_bad_block_sizes(size):
    with pytest.raises(XsegError, match="power of two"):
        check_block_size(size)


def test_ids_differ_and_grow():
    ids = Ids()
    made = [ids.next() for _ in range(10000)]
    assert len(set(made)) == len(made) and made == sorted(made) and made[-1] < 1 << 64


@pytest.mark.parametrize("blocks, level", [(1, 0), (1024, 0), (1025, 1), (1 << 20, 1), ((1 << 20) + 1, 2)])
def test_levels_of_a_tree(blocks, level):
    assert depth_for(blocks) == level
