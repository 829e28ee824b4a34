# SPDX-License-Identifier: Apache-2.0
"""What native/objects/blocker.h promises of contents: PUT, CLAIM, HASH, and DELETE of what is not claimed."""
import errno
import hashlib
import os
import time

import pytest
import test_blocker_contract as contract

from xseg._native import lib
from xseg.request import Call, Object

served, b = contract.served, contract.b

DATA = Object(lib.XOBJ_DATA, 42, 1, 7)
HEADER = Object(lib.XOBJ_HEADER, 42)
MIB = 1 << 20
CLOCK_STEP_S = 0.02             # longer than a file system's clock takes from one time to the next


def put(b, data):
    """Stores it; its name."""
    content = Object(lib.XOBJ_CONTENT, digest=hashlib.sha256(data.rstrip(b"\0")).digest())
    assert b.call(lib.XOP_PUT, content, data=data).done == len(data)
    return content


@pytest.mark.parametrize("data", [b"x", b"\0\0x" + bytes(9000), os.urandom(70000), b"a" + bytes(MIB - 2) + b"z"])
def test_put_stores_the_data_without_trailing_zeros(b, data):
    content = put(b, data)
    assert list(b.names(lib.XOBJ_CONTENT)) == [content]
    assert b.read(content, 0, len(data)) == data
    assert b.info(content).done == len(data.rstrip(b"\0"))


def test_put_of_zeros_stores_nothing(b):
    put(b, bytes(5000))
    assert list(b.names(lib.XOBJ_CONTENT)) == []


def test_put_again_changes_nothing_that_is_read(b):
    data = os.urandom(30000)
    content = put(b, data)
    assert b.read(content, 0, len(data)) == data
    assert put(b, data) == content
    assert b.read(content, 0, len(data)) == data
    assert list(b.names(lib.XOBJ_CONTENT)) == [content]


def test_put_under_a_name_that_is_not_its_digest_is_ebadmsg(b):
    content = Object(lib.XOBJ_CONTENT, digest=hashlib.sha256(b"this").digest())
    b.fails(errno.EBADMSG, lib.XOP_PUT, content, data=b"that")
    assert list(b.names(lib.XOBJ_CONTENT)) == []


def test_put_and_claim_are_of_contents_only(b):
    name = Object(lib.XOBJ_NAME, digest=hashlib.sha256(b"x").digest())
    for object in (DATA, HEADER, name):
        b.fails(errno.EINVAL, lib.XOP_PUT, object, data=b"x")
        b.fails(errno.EINVAL, lib.XOP_CLAIM, object)
    b.fails(errno.EINVAL, lib.XOP_PUT, Object(lib.XOBJ_CONTENT, digest=name.digest), size=4096)


def test_claim_of_nothing_is_enoent(b):
    b.fails(errno.ENOENT, lib.XOP_CLAIM, Object(lib.XOBJ_CONTENT, digest=os.urandom(32)))
    put(b, b"another")
    b.fails(errno.ENOENT, lib.XOP_CLAIM, Object(lib.XOBJ_CONTENT, digest=os.urandom(32)))


@pytest.mark.parametrize("by", ["put", "claim", "put again"])
def test_what_was_claimed_since_a_moment_is_not_deleted(b, by):
    before = time.time_ns()
    time.sleep(CLOCK_STEP_S)
    content = put(b, b"claimed")
    if by != "put":
        time.sleep(CLOCK_STEP_S)
        before = time.time_ns()
        time.sleep(CLOCK_STEP_S)
        b.call(lib.XOP_CLAIM, content) if by == "claim" else put(b, b"claimed")
    b.fails(errno.EBUSY, lib.XOP_DELETE, content, arg=before)
    assert b.read(content, 0, 7) == b"claimed"
    b.call(lib.XOP_DELETE, content, arg=time.time_ns() + 1000000000)
    b.fails(errno.ENOENT, lib.XOP_READ, content, size=1, room=1)
    b.fails(errno.ENOENT, lib.XOP_DELETE, content, arg=before)
    b.fails(errno.ENOENT, lib.XOP_CLAIM, content)


def test_a_content_is_deleted_without_a_condition(b):
    content = put(b, b"claimed")
    b.call(lib.XOP_DELETE, content)
    assert list(b.names(lib.XOBJ_CONTENT)) == []


def test_of_claims_and_deletes_at_once_none_is_forgotten(b):
    moment = time.time_ns()
    time.sleep(CLOCK_STEP_S)
    for _ in range(5):
        contents = [put(b, b"%d" % i) for i in range(12)]
        for content in contents:        # none of which a DELETE of `moment` may remove
            calls = [Call(lib.XOP_DELETE, object=content, arg=moment), Call(lib.XOP_CLAIM, object=content),
                     Call(lib.XOP_DELETE, object=content, arg=moment)]
            assert [r.error for r in b.batch(calls)] == [errno.EBUSY, 0, errno.EBUSY]
        future = time.time_ns() + 3600 * 1000000000
        calls = [Call(op, object=content, arg=arg) for content in contents
                 for op, arg in ((lib.XOP_CLAIM, 0), (lib.XOP_DELETE, future), (lib.XOP_CLAIM, 0))]
        errors = [r.error for r in b.batch(calls)]
        assert set(errors[1::3]) == {0}
        assert set(errors[0::3] + errors[2::3]) <= {0, errno.ENOENT}
        assert list(b.names(lib.XOBJ_CONTENT)) == []


def test_many_puts_at_once(b):
    data = [b"%d" % (i % 50) * 1000 for i in range(200)]
    contents = [Object(lib.XOBJ_CONTENT, digest=hashlib.sha256(d).digest()) for d in data]
    calls = [Call(lib.XOP_PUT, object=o, data=d) for o, d in zip(contents, data, strict=True)]
    assert {r.error for r in b.batch(calls)} == {0}
    assert sorted(b.names(lib.XOBJ_CONTENT)) == sorted(set(contents))
    claims = b.batch([Call(lib.XOP_CLAIM, object=o) for o in contents])
    assert {r.error for r in claims} == {0}


# --- HASH


@pytest.mark.parametrize("flags", [0, lib.XREQ_FROZEN])
def test_hash_of_what_is_stored_already_claims_it(b, flags):
    content = put(b, b"as stored")
    moment = time.time_ns()
    time.sleep(CLOCK_STEP_S)
    b.write(DATA, b"as stored" + bytes(100))
    assert b.call(lib.XOP_HASH, DATA, size=4096, room=32, flags=flags).data == content.digest
    b.fails(errno.EBUSY, lib.XOP_DELETE, content, arg=moment)


def test_hash_of_what_is_frozen_is_the_same(b):
    data = os.urandom(100000) + bytes(200000) + b"end" + bytes(5000)
    b.write(DATA, data)
    digest = hashlib.sha256(data.rstrip(b"\0")).digest()
    assert b.call(lib.XOP_HASH, DATA, size=4 * MIB, room=32, flags=lib.XREQ_FROZEN).data == digest
    b.call(lib.XOP_DELETE, DATA)
    assert b.read(Object(lib.XOBJ_CONTENT, digest=digest), 0, len(data)) == data
