# SPDX-License-Identifier: Apache-2.0
"""What native/objects/blocker.h promises, of every peer that keeps objects."""
import errno
import hashlib
import os
import random
import subprocess
import tempfile
import threading

import pytest
from loops import peers, store

from xseg._native import lib
from xseg.request import Call, Object
from xseg.request import objects as objects_of

DATA = Object(lib.XOBJ_DATA, 42, 1, 7)
OTHER = Object(lib.XOBJ_DATA, 42, 1, 8)
HEADER = Object(lib.XOBJ_HEADER, 42)
LOCK = Object(lib.XOBJ_LOCK, 42)
KIB, MIB = 1 << 10, 1 << 20
BLOCKERS = {"buffered": {}, "direct": {"direct": True}, "memory": None}


@pytest.fixture(scope="module", params=BLOCKERS)
def served(request):
    options = BLOCKERS[request.param]
    if options is None:
        with peers(("b", "memory", {})) as made:
            yield made
    else:
        with store() as path, peers(("b", "blocker-file", {"path": path, **options})) as made:
            yield made


@pytest.fixture
def b(served):
    """A blocker without objects."""
    yield served
    left = [object for kind in range(1, lib.XOBJ_KINDS) for object in served.names(kind)]
    served.batch([Call(lib.XOP_DELETE, object=object) for object in left])


def first8(data):
    return int.from_bytes(data[:8], "little")


# --- parts of objects


def test_what_was_written_is_read(b):
    data = os.urandom(8192)
    b.write(DATA, data)
    assert b.read(DATA, 0, 8192) == data


def test_a_missing_object_is_enoent(b):
    b.fails(errno.ENOENT, lib.XOP_READ, DATA, size=4096, room=4096)


@pytest.mark.parametrize("kind", range(1, lib.XOBJ_LOCK))
def test_every_kind_of_object_is_stored(b, kind):
    digest = kind in (lib.XOBJ_CONTENT, lib.XOBJ_NAME)
    numbers = (0, 0) if kind == lib.XOBJ_HEADER else (3, 9)
    object = Object(kind, digest=os.urandom(32)) if digest else Object(kind, 5, *numbers)
    b.write(object, b"of this kind")
    assert b.read(object, 0, 12) == b"of this kind"
    assert list(b.names(kind)) == [object]


@pytest.mark.parametrize("offset,size", [(0, 1), (1, 4096), (4095, 2), (511, 513), (4096, 4096), (65535, 2),
                                         (4 * MIB - 1, 1), (512, 512), (123457, MIB - 3)])
def test_any_alignment_is_served(b, offset, size):
    data = os.urandom(size)
    b.write(DATA, b"\xff" * MIB)
    b.write(DATA, data, offset)
    assert b.read(DATA, offset, size) == data
    if offset:
        before = min(offset, 4096)
        expected = b"".join(b"\xff" if at < MIB else b"\0" for at in range(offset - before, offset))
        assert b.read(DATA, offset - before, before) == expected


def test_past_the_end_are_zeros(b):
    b.write(DATA, b"abc")
    assert b.read(DATA, 1, 10) == b"bc" + bytes(8)
    assert b.read(DATA, 10 * MIB, 4096) == bytes(4096)


def test_a_hole_is_zeros_and_takes_no_space(b):
    b.write(DATA, b"x", 64 * MIB)
    assert b.read(DATA, 32 * MIB, 8192) == bytes(8192)
    info = b.info(DATA)
    assert info.done == 64 * MIB + 1
    assert info.arg < MIB


def test_a_read_of_nothing_is_served(b):
    b.write(DATA, b"abc")
    assert b.call(lib.XOP_READ, DATA, size=0, room=1).done == 0


def test_an_empty_write_makes_the_object(b):
    b.call(lib.XOP_WRITE, DATA, size=0, room=1)
    assert b.info(DATA).done == 0


@pytest.mark.parametrize("op", [lib.XOP_WRITE, lib.XOP_WRITE_ZEROES])
def test_a_hint_of_the_size_changes_nothing_that_is_read(b, op):
    for hint in (MIB, 1, 1 << 60):    # what comes, too little, more than can be
        object = Object(lib.XOBJ_DATA, 1, 1, hint)
        data = {"data": b"\xff" * 8192} if op == lib.XOP_WRITE else {"size": 8192}
        assert b.call(op, object, offset=4096, flags=lib.XREQ_CREATE, arg=hint, **data).done == 8192
        expected = data.get("data", bytes(8192))
        assert b.read(object, 0, MIB) == bytes(4096) + expected + bytes(MIB - 12288)
        assert b.info(object).arg <= MIB


@pytest.mark.parametrize("flags", [0, lib.XREQ_NO_HOLE, lib.XREQ_FUA])
def test_zeroes_are_zeros_and_nothing_else_is(b, flags):
    b.write(DATA, b"\xff" * 65536)
    assert b.call(lib.XOP_WRITE_ZEROES, DATA, offset=4097, size=20000, flags=flags).done == 20000
    assert b.read(DATA, 0, 65536) == b"\xff" * 4097 + bytes(20000) + b"\xff" * (65536 - 24097)


@pytest.mark.parametrize("flags", [0, lib.XREQ_NO_HOLE])
def test_zeroes_make_the_object(b, flags):
    b.call(lib.XOP_WRITE_ZEROES, DATA, offset=4096, size=4096, flags=flags)
    assert b.read(DATA, 0, 8192) == bytes(8192)


def test_zeroes_without_a_hole_take_space(b):
    b.call(lib.XOP_WRITE_ZEROES, DATA, size=MIB, flags=lib.XREQ_NO_HOLE)
    info = b.info(DATA)
    assert info.done == MIB
    assert info.arg >= MIB


def test_discard_gives_space_back(b):
    b.write(DATA, os.urandom(MIB))
    b.call(lib.XOP_DISCARD, DATA, offset=0, size=16 * MIB)
    assert b.info(DATA).arg == 0
    assert b.read(DATA, 0, 4096) == bytes(4096)


# Other file systems are not believed (native/blocker_file/list.c).
TELLS_HOLES = subprocess.run(["stat", "-f", "-c", "%T", tempfile.gettempdir()], capture_output=True, text=True,
                             check=True).stdout.strip() in ("ext2/ext3", "xfs", "tmpfs")


def test_info_tells_on_demand_that_all_is_zeros(b):
    """It may keep silent, but what is not zeros is never said to be."""
    def zeros(flags=lib.XREQ_ZEROS):
        return bool(b.call(lib.XOP_INFO, DATA, flags=flags).flags & lib.XREQ_ZEROS)

    b.write(DATA, os.urandom(MIB))
    assert not zeros()
    b.call(lib.XOP_DISCARD, DATA, offset=4096, size=16 * MIB)
    assert not zeros()
    b.call(lib.XOP_DISCARD, DATA, offset=0, size=16 * MIB)
    assert not zeros(0)
    assert zeros() or not TELLS_HOLES
    b.write(DATA, b"x", 300000)
    assert not zeros()


def test_discard_of_a_part_leaves_the_rest(b):
    b.write(DATA, b"\xff" * 200000)
    b.call(lib.XOP_DISCARD, DATA, offset=1, size=199998)
    assert b.read(DATA, 0, 200000) == b"\xff" + bytes(199998) + b"\xff"


def test_discard_of_what_is_not_there_succeeds(b):
    b.call(lib.XOP_DISCARD, DATA, size=4096)
    b.fails(errno.ENOENT, lib.XOP_INFO, DATA)


def test_a_write_with_fua_is_there(b):
    b.write(DATA, b"durable", flags=lib.XREQ_FUA)
    b.write(DATA, b"d", 100, flags=lib.XREQ_FUA)
    assert b.read(DATA, 0, 7) == b"durable"


def test_many_at_once_each_get_their_own_answer(b):
    rng = random.Random(1)
    objects = [Object(lib.XOBJ_DATA, 1, 1, i) for i in range(40)]
    parts = [(o, at * 4096, rng.randbytes(4096)) for o in objects for at in range(10)]
    written = b.batch([Call(lib.XOP_WRITE, object=o, offset=at, data=data) for o, at, data in parts])
    assert {(r.error, r.done) for r in written} == {(0, 4096)}
    rng.shuffle(parts)
    read = b.batch([Call(lib.XOP_READ, object=o, offset=at, size=4096, room=4096) for o, at, _ in parts])
    assert [r.data for r in read] == [data for _, _, data in parts]


def test_writes_side_by_side_in_one_object(b):
    pieces = [bytes([i]) * 1000 for i in range(200)]
    b.batch([Call(lib.XOP_WRITE, object=DATA, offset=1000 * i, data=piece) for i, piece in enumerate(pieces)])
    assert b.read(DATA, 0, 200000) == b"".join(pieces)


def test_random_operations_agree_with_a_byte_array(b):
    seed = random.randrange(1 << 32)
    rng, model = random.Random(seed), bytearray(300000)
    for step in range(300):
        offset = rng.randrange(len(model))
        size = rng.randrange(min(len(model) - offset, 70000)) + 1
        op = rng.choice([lib.XOP_WRITE, lib.XOP_WRITE, lib.XOP_WRITE_ZEROES, lib.XOP_DISCARD])
        data = rng.randbytes(size) if op == lib.XOP_WRITE else None
        flags = rng.choice([0, lib.XREQ_NO_HOLE]) if op == lib.XOP_WRITE_ZEROES else 0
        b.call(op, DATA, offset=offset, size=size, data=data, flags=flags)
        model[offset:offset + size] = data or bytes(size)
        offset = rng.randrange(len(model))
        size = rng.randrange(min(len(model) - offset, 70000)) + 1
        if b.call(lib.XOP_READ, DATA, offset=offset, size=size, room=size, check=False).error != errno.ENOENT:
            assert b.read(DATA, offset, size) == model[offset:offset + size], f"seed {seed}, step {step}"


# --- what is refused


@pytest.mark.parametrize("object", [Object(0, 1), Object(lib.XOBJ_KINDS, 1), Object(lib.XOBJ_HEADER, 1, 1),
                                    Object(lib.XOBJ_HEADER, 1, 0, 1), Object(lib.XOBJ_LOCK, 1)])
def test_what_is_no_name_is_einval(b, object):
    b.fails(errno.EINVAL, lib.XOP_WRITE, object, data=b"x")
    b.fails(errno.EINVAL, lib.XOP_READ, object, size=1, room=1)


def test_more_bytes_than_there_is_room_for_is_einval(b):
    b.fails(errno.EINVAL, lib.XOP_WRITE, DATA, size=8192, data=b"x")
    b.fails(errno.EINVAL, lib.XOP_WRITE, DATA, size=4096)


def test_beyond_all_bounds_is_efbig(b):
    b.fails(errno.EFBIG, lib.XOP_WRITE, DATA, offset=(1 << 64) - 1, data=b"xx")
    b.fails(errno.EFBIG, lib.XOP_DISCARD, DATA, offset=1, size=(1 << 64) - 1)


def test_what_no_blocker_does_is_eopnotsupp(b):
    b.fails(errno.EOPNOTSUPP, lib.XOP_FLUSH, DATA)
    b.fails(errno.EOPNOTSUPP, lib.XOP_CONTROL, DATA)


# --- whole objects


def test_delete(b):
    b.write(DATA, b"x")
    b.call(lib.XOP_DELETE, DATA)
    b.fails(errno.ENOENT, lib.XOP_READ, DATA, size=1, room=1)
    b.fails(errno.ENOENT, lib.XOP_DELETE, DATA)


def test_after_delete_an_object_begins_empty(b):
    b.write(DATA, b"old and long")
    b.call(lib.XOP_DELETE, DATA)
    b.write(DATA, b"new")
    assert b.read(DATA, 0, 12) == b"new" + bytes(9)


def test_many_deletes_at_once(b):
    objects = [Object(lib.XOBJ_DATA, 3, 1, i) for i in range(300)]
    b.batch([Call(lib.XOP_WRITE, object=o, data=b"x") for o in objects])
    assert {r.error for r in b.batch([Call(lib.XOP_DELETE, object=o) for o in objects])} == {0}
    assert list(b.names(lib.XOBJ_DATA)) == []


def test_copy(b):
    data = os.urandom(100000)
    b.write(DATA, data)
    b.write(OTHER, b"\xff" * 200000)
    assert b.copy(DATA, OTHER, 100000).done == 100000
    assert b.read(OTHER, 0, 200000) == data + bytes(100000)
    assert b.read(DATA, 0, 100000) == data


def test_copy_of_a_part(b):
    b.write(DATA, b"0123456789")
    b.copy(DATA, OTHER, 4)
    assert b.read(OTHER, 0, 10) == b"0123" + bytes(6)


def test_copy_past_the_end_gives_zeros(b):
    b.write(DATA, b"0123456789")
    b.copy(DATA, OTHER, 11)
    assert b.read(OTHER, 0, 12) == b"0123456789\0\0"
    assert b.info(OTHER).done == 11


def test_copy_keeps_holes(b):
    b.write(DATA, b"x" * 65536, 8 * MIB)
    b.copy(DATA, OTHER, 16 * MIB)
    assert b.info(OTHER).arg <= 128 * KIB
    assert b.read(OTHER, 8 * MIB, 65536) == b"x" * 65536


def test_copy_of_nothing_is_enoent_and_harms_nothing(b):
    b.write(OTHER, b"kept")
    b.fails(errno.ENOENT, lib.XOP_COPY, OTHER, data=DATA.pack(), size=10)
    assert b.read(OTHER, 0, 4) == b"kept"


def test_info_of_nothing_is_enoent(b):
    b.fails(errno.ENOENT, lib.XOP_INFO, DATA)


def test_sync_of_volume_kind_or_all(b):
    for i in range(40):
        b.write(Object(lib.XOBJ_DATA, 42, 1, i), b"x")
    b.sync(42, lib.XOBJ_DATA)
    b.write(DATA, b"y")
    b.sync(42)
    b.sync(42)
    b.sync(4711)
    b.sync()


def test_syncs_and_writes_of_several_volumes_at_once(b):
    calls = []
    for i in range(300):
        volume = i % 3 + 1
        calls.append(Call(lib.XOP_WRITE, object=Object(lib.XOBJ_DATA, volume, 1, i % 50), data=b"x" * 100))
        calls.append(Call(lib.XOP_SYNC, object=Object(0, volume if i % 7 else 0)))
    assert {r.error for r in b.batch(calls)} == {0}


# --- LIST


def test_list_of_nothing(b):
    assert list(b.names(lib.XOBJ_DATA)) == []


def test_list_goes_on_until_all_are_seen_once(b):
    objects = {Object(lib.XOBJ_PAGE, i % 5, i % 3, i) for i in range(700)}
    b.batch([Call(lib.XOP_WRITE, object=o, data=b"x") for o in objects])
    b.write(DATA, b"of another kind")
    seen = list(b.names(lib.XOBJ_PAGE))
    assert len(seen) == len(objects) and set(seen) == objects


def test_list_brings_no_more_than_are_wanted(b):
    objects = {Object(lib.XOBJ_PAGE, 1, 1, i) for i in range(50)}
    b.batch([Call(lib.XOP_WRITE, object=o, data=b"x") for o in objects])
    seen, cursor, most = [], 0, 7
    for _ in range(len(objects)):
        reply = b.call(lib.XOP_LIST, (lib.XOBJ_PAGE,), arg=cursor, size=most, room=4096)
        assert reply.done <= most
        seen += objects_of(reply.data)
        if (cursor := reply.arg) == 0:
            break
    assert len(seen) == len(objects) and set(seen) == objects


def test_list_while_others_come_and_go(b):
    stay = {Object(lib.XOBJ_DATA, 1, 1, i) for i in range(300)}
    go = [Object(lib.XOBJ_DATA, 2, 1, i) for i in range(300)]
    b.batch([Call(lib.XOP_WRITE, object=o, data=b"x") for o in [*stay, *go]])
    walk, seen = b.names(lib.XOBJ_DATA), []
    for i, name in enumerate(walk):
        seen.append(name)
        if i % 2 == 0 and go:
            b.call(lib.XOP_DELETE, go.pop())
            b.write(Object(lib.XOBJ_DATA, 3, 1, i), b"new")
    assert sorted(o for o in seen if o.volume == 1) == sorted(stay)


def test_list_needs_room(b):
    b.fails(errno.EINVAL, lib.XOP_LIST, (lib.XOBJ_DATA,))
    b.fails(errno.EINVAL, lib.XOP_LIST, (0,), room=4096)


# --- REPLACE


def replace(b, data, **more):
    return b.call(lib.XOP_REPLACE, HEADER, data=data, check=False, **more).error


def test_replace_needs_an_object(b):
    assert replace(b, b"version 1") == errno.ENOENT


def test_replace_creates_once(b):
    assert replace(b, b"version 1", flags=lib.XREQ_CREATE) == 0
    assert replace(b, b"version 2", flags=lib.XREQ_CREATE) == errno.EEXIST
    assert b.read(HEADER, 0, 9) == b"version 1"


def test_replace_of_whatever_there_is(b):
    replace(b, b"a long first version", flags=lib.XREQ_CREATE)
    assert replace(b, b"short") == 0
    assert b.info(HEADER).done == 5
    assert b.read(HEADER, 0, 20) == b"short" + bytes(15)


def test_replace_of_what_is_expected(b):
    replace(b, b"version 1, a", flags=lib.XREQ_CREATE)
    assert replace(b, b"version 2, b", arg=first8(b"versions")) == errno.ESTALE
    assert replace(b, b"VERSION 2, b", arg=first8(b"version 1")) == 0
    assert b.read(HEADER, 0, 12) == b"VERSION 2, b"


def test_replace_of_something_too_short_to_compare_is_stale(b):
    replace(b, b"abc", flags=lib.XREQ_CREATE)
    assert replace(b, b"abcd", arg=first8(b"abc\0\0\0\0\0")) == errno.ESTALE


def test_delete_of_what_is_expected(b):
    replace(b, b"version 1, a", flags=lib.XREQ_CREATE)
    def delete(arg):
        return b.call(lib.XOP_DELETE, HEADER, arg=arg, check=False).error

    assert delete(first8(b"versions")) == errno.ESTALE
    assert b.read(HEADER, 0, 12) == b"version 1, a"
    assert delete(first8(b"version 1")) == 0
    assert delete(first8(b"version 1")) == errno.ENOENT
    assert replace(b, b"version 3", flags=lib.XREQ_CREATE) == 0


def test_of_a_delete_and_a_replace_that_expect_the_same_one_wins(b):
    for _ in range(20):
        replace(b, b"expected", flags=lib.XREQ_CREATE)
        calls = [Call(lib.XOP_DELETE, object=HEADER, arg=first8(b"expected")),
                 Call(lib.XOP_REPLACE, object=HEADER, data=b"replaced", arg=first8(b"expected"))]
        deleted, replaced = [r.error for r in b.batch(calls)]
        assert (deleted, replaced) in ((0, errno.ENOENT), (errno.ESTALE, 0))
        if not replaced:
            b.call(lib.XOP_DELETE, HEADER)


def test_replace_up_to_its_limit(b):
    data = os.urandom(65536)
    assert replace(b, data, flags=lib.XREQ_CREATE) == 0
    assert b.read(HEADER, 0, 65536) == data
    assert replace(b, data + b"x") == errno.EINVAL


def test_of_many_that_expect_the_same_one_wins(b):
    replace(b, b"expected content", flags=lib.XREQ_CREATE)
    calls = [Call(lib.XOP_REPLACE, object=HEADER, data=b"%08d" % i, arg=first8(b"expected"))
             for i in range(50)]
    errors = [r.error for r in b.batch(calls)]
    assert sorted(errors) == [0] + [errno.ESTALE] * 49
    assert b.read(HEADER, 0, 8) == b"%08d" % errors.index(0)


def test_many_replaces_at_once(b):
    objects = [Object(lib.XOBJ_NAME, digest=hashlib.sha256(b"%d" % i).digest()) for i in range(400)]
    calls = [Call(lib.XOP_REPLACE, object=o, data=o.digest, flags=lib.XREQ_CREATE) for o in objects]
    assert {r.error for r in b.batch(calls)} == {0}
    read = b.batch([Call(lib.XOP_READ, object=o, size=32, room=32) for o in objects])
    assert [r.data for r in read] == [o.digest for o in objects]


# --- locks


def acquire(b, token, owner=b"owner", **more):
    return b.call(lib.XOP_ACQUIRE, LOCK, arg=token, data=owner, room=4096, **more)


def test_a_lock_is_taken_and_released(b):
    number = acquire(b, 1).done
    b.call(lib.XOP_RELEASE, LOCK, arg=1)
    assert acquire(b, 2).done > number
    b.call(lib.XOP_RELEASE, LOCK, arg=2)


def test_a_lock_taken_again_by_its_token_is_the_same(b):
    assert acquire(b, 1).done == acquire(b, 1, b"other words").done


def test_a_lock_taken_by_another_is_busy_and_says_by_whom(b):
    acquire(b, 1, b"mapper on node-7")
    reply = acquire(b, 2, b"me", check=False)
    assert (reply.error, reply.data[:reply.done]) == (errno.EBUSY, b"mapper on node-7")


def test_release_of_what_is_not_locked_is_enoent(b):
    b.fails(errno.ENOENT, lib.XOP_RELEASE, LOCK, arg=1)
    acquire(b, 1)
    b.call(lib.XOP_RELEASE, LOCK, arg=1)
    b.fails(errno.ENOENT, lib.XOP_RELEASE, LOCK, arg=1)


def test_release_by_another_is_eperm(b):
    acquire(b, 1)
    b.fails(errno.EPERM, lib.XOP_RELEASE, LOCK, arg=2)


def test_a_lock_held_in_this_process_is_taken_away_by_force(b):
    number = acquire(b, 1).done
    b.call(lib.XOP_RELEASE, LOCK, arg=2, flags=lib.XREQ_FORCE)
    assert acquire(b, 2).done == number + 1


def test_of_many_that_want_a_lock_one_gets_it(b):
    calls = [Call(lib.XOP_ACQUIRE, object=LOCK, arg=i + 1, data=b"%d" % (i + 1), room=64) for i in range(30)]
    replies = b.batch(calls)
    winner = next(i for i, r in enumerate(replies) if r.error == 0)
    assert {r.data[:r.done] for r in replies if r.error == errno.EBUSY} == {b"%d" % (winner + 1)}
    assert len([r for r in replies if r.error]) == 29


def test_a_lock_needs_a_token_and_the_right_kind(b):
    b.fails(errno.EINVAL, lib.XOP_ACQUIRE, LOCK, arg=0, data=b"x")
    b.fails(errno.EINVAL, lib.XOP_ACQUIRE, HEADER, arg=1, data=b"x")
    b.fails(errno.EINVAL, lib.XOP_RELEASE, HEADER, arg=1)


# --- HASH


@pytest.mark.parametrize("content", [b"x", b"\0\0x", b"abc" + bytes(5000) + b"d", os.urandom(70000)])
@pytest.mark.parametrize("zeros", [0, 1, 4096, 300000])
def test_hash_is_of_the_content_without_trailing_zeros(b, content, zeros):
    b.write(DATA, content + bytes(zeros))
    digest = hashlib.sha256(content).digest()
    assert b.call(lib.XOP_HASH, DATA, size=4 * MIB, room=32).data == digest
    stored = Object(lib.XOBJ_CONTENT, digest=digest)
    assert b.info(stored).done == len(content)
    assert b.read(stored, 0, len(content)) == content


def test_hash_again_gives_the_same(b):
    b.write(DATA, b"twice")
    once = b.call(lib.XOP_HASH, DATA, size=4096, room=32).data
    assert b.call(lib.XOP_HASH, DATA, size=4096, room=32).data == once
    assert len(list(b.names(lib.XOBJ_CONTENT))) == 1


def test_hash_of_zeros_is_that_of_nothing_and_stores_nothing(b):
    b.write(DATA, bytes(100000))
    assert b.call(lib.XOP_HASH, DATA, size=100000, room=32).data == hashlib.sha256(b"").digest()
    assert list(b.names(lib.XOBJ_CONTENT)) == []


def test_hash_of_a_part(b):
    b.write(DATA, b"part and more")
    assert b.call(lib.XOP_HASH, DATA, size=4, room=32).data == hashlib.sha256(b"part").digest()


def test_hash_of_nothing_is_enoent(b):
    b.fails(errno.ENOENT, lib.XOP_HASH, DATA, size=4096, room=32)


# --- everything at once


def test_all_operations_at_once_are_all_answered(b):
    from xseg.port import Port
    rng, seen = random.Random(7), set()
    objects = [Object(lib.XOBJ_DATA, v, 1, i) for v in (1, 2) for i in range(30)]

    def make():
        o = rng.choice(objects)
        return rng.choice([
            Call(lib.XOP_WRITE, object=o, offset=rng.randrange(9000), data=b"w" * rng.randrange(1, 9000)),
            Call(lib.XOP_READ, object=o, offset=rng.randrange(9000), size=5000, room=5000),
            Call(lib.XOP_WRITE, object=o, data=b"f" * 4096, flags=lib.XREQ_FUA),
            Call(lib.XOP_DISCARD, object=o, size=8192), Call(lib.XOP_DELETE, object=o),
            Call(lib.XOP_COPY, object=o, data=rng.choice(objects).pack(), size=9000),
            Call(lib.XOP_SYNC, object=Object(0, o.volume)), Call(lib.XOP_INFO, object=o),
            Call(lib.XOP_LIST, object=Object(lib.XOBJ_DATA), room=4096),
            Call(lib.XOP_HASH, object=o, size=9000, room=32)])

    def second_client():
        with Port(b.segment) as port:
            for _ in range(100):
                port.call(b.number, lib.XOP_READ, object=objects[0], size=4096, room=4096, check=False)

    thread = threading.Thread(target=second_client)
    thread.start()
    for reply in b.batch([make() for _ in range(1500)]):
        seen.add(reply.error)
    thread.join()
    assert seen == {0, errno.ENOENT}
