# SPDX-License-Identifier: Apache-2.0
"""Headers and name pointers whose checksum is right and whose payload is anything: refused with ValueError, or
taken for what they are; never another exception."""
import msgpack
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peers.mapper.header import HEADER_MAGIC, NAME_MAGIC, STORED, Header, pack_frame, unpack_header, unpack_name

GOOD = Header(id=5, name="volume", kind="volume", size=1 << 30, block_shift=16, root=[5, 1, 3], level=1,
              journals=[[5, 1, 1, 512], [5, 2, 2, None]])
KEYS = sorted(STORED)
numbers = st.integers(-(1 << 63), (1 << 64) - 1)
leaves = st.none() | st.booleans() | numbers | st.floats() | st.text(max_size=20) | st.binary(max_size=40)
anything = st.recursive(leaves, lambda inner: st.lists(inner, max_size=6) | st.dictionaries(
    st.text(max_size=8) | numbers, inner, max_size=5), max_leaves=20)
many = settings(max_examples=150, deadline=None, derandomize=True, database=None,
                suppress_health_check=list(HealthCheck))


def payload_of(header):
    return {key: getattr(header, key) for key in STORED}


def check_header(payload):
    try:
        header = unpack_header(pack_frame(HEADER_MAGIC, 1, msgpack.packb(payload)), 5)
    except ValueError as refusal:
        assert str(refusal)
        return
    assert header.blocks >= 0 and header.block_size in range(65536, (16 << 20) + 1)
    assert isinstance(header.readonly, bool)
    assert unpack_header(header.pack(), 5) == header


@many
@given(anything)
def test_a_payload_that_is_anything(payload):
    check_header(payload)


@many
@given(st.sampled_from(KEYS), anything)
def test_a_header_with_one_key_that_is_anything(key, value):
    check_header({**payload_of(GOOD), key: value})


@many
@given(st.lists(st.sampled_from(KEYS), max_size=4), st.lists(anything, min_size=4, max_size=4))
def test_a_header_with_some_keys_that_are_anything(keys, values):
    check_header({**payload_of(GOOD), **dict(zip(keys, values, strict=False))})


@many
@given(st.binary(max_size=200))
def test_a_payload_that_is_no_msgpack(data):
    for magic, unpack, wanted in ((HEADER_MAGIC, unpack_header, 5), (NAME_MAGIC, unpack_name, "v")):
        try:
            unpack(pack_frame(magic, 1, data), wanted)
        except ValueError as refusal:
            assert str(refusal)


@many
@given(anything)
def test_a_name_pointer_to_anything(value):
    try:
        _generation, volume = unpack_name(pack_frame(NAME_MAGIC, 1, msgpack.packb({"name": "v", "id": value})), "v")
    except ValueError as refusal:
        assert str(refusal)
    else:
        assert 0 < volume < 1 << 64
