# SPDX-License-Identifier: Apache-2.0
"""blocker-file: its store, its caches, and what is between processes. The contract is tested elsewhere."""
import errno
import os
import random
import shutil
import subprocess
import tempfile
import threading
from contextlib import contextmanager

import pytest
from loops import peers, store
from strangers import as_stranger, give
from support import run

from xseg._native import lib
from xseg.errors import XsegError
from xseg.request import Call, Object

DATA = Object(lib.XOBJ_DATA, 42, 1, 7)
HEADER = Object(lib.XOBJ_HEADER, 42)
LOCK = Object(lib.XOBJ_LOCK, 42)
KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture
def path():
    with store() as made:
        yield made


def blocker(path, **options):
    return peers(("b", "blocker-file", {"path": str(path), **options}))


def refused(path, **options):
    """The sentence with which a store is refused."""
    with pytest.raises(XsegError) as failure, blocker(path, **options):
        pass
    return str(failure.value)


def file_of(path, object_text):
    """The path of an object's file."""
    found = [os.path.join(folder, object_text) for folder, _, files in os.walk(path) if object_text in files]
    assert len(found) == 1, found
    return found[0]


def first8(data):
    return int.from_bytes(data[:8], "little")


# --- the store


def test_an_empty_folder_becomes_a_store(path):
    with blocker(path):
        pass
    with open(os.path.join(path, "store")) as file:
        assert file.read() == "archipelago store 1\n"


def test_a_fresh_file_system_counts_as_empty(path):
    os.mkdir(os.path.join(path, "lost+found"))
    with blocker(path) as b:
        b.write(DATA, b"x")


def test_a_folder_with_other_things_is_refused(path):
    with open(os.path.join(path, "letters.txt"), "w"):
        pass
    assert f"{path} holds files but no store" in refused(path)
    assert os.listdir(path) == ["letters.txt"]


def test_a_store_of_another_version_is_refused(path):
    with open(os.path.join(path, "store"), "w") as file:
        file.write("archipelago store 7\n")
    assert f"{path} is a store of version 7; this is built for 1" in refused(path)


def test_a_store_file_that_says_something_else_is_refused(path):
    with open(os.path.join(path, "store"), "wb") as file:
        file.write(b"\0\xff" * 100)
    assert "does not say that this is a store" in refused(path)


def test_a_missing_folder_is_refused_and_not_made(path):
    missing = os.path.join(path, "none")
    assert f"{missing}: No such file or directory" in refused(missing)
    assert not os.path.exists(missing)


def test_a_file_in_place_of_the_folder_is_refused(path):
    file = os.path.join(path, "file")
    with open(file, "w"):
        pass
    assert f"{file}: Not a directory" in refused(file)


def test_a_folder_that_is_unreadable_now_is_refused(path):
    with blocker(path):
        pass
    os.chmod(path, 0)
    if os.geteuid() == 0:                       # may read everything
        give(path)
        said = as_stranger(lambda: refused(path))
    else:
        said = refused(path)
    os.chmod(path, 0o700)
    assert f"{path}: Permission denied" in said


def test_what_was_stored_outlives_the_peer(path):
    with blocker(path) as b:
        b.write(DATA, b"kept")
        b.call(lib.XOP_REPLACE, HEADER, data=b"header", flags=lib.XREQ_CREATE)
    with blocker(path) as b:
        assert b.read(DATA, 0, 4) == b"kept"
        assert b.read(HEADER, 0, 6) == b"header"
        b.sync(42)


def test_files_are_named_so_that_a_person_can_tell(path):
    with blocker(path) as b:
        b.write(DATA, b"x")
        b.call(lib.XOP_REPLACE, HEADER, data=b"x", flags=lib.XREQ_CREATE)
    assert "/data/" in file_of(path, "000000000000002a_00000001_0000000000000007")
    assert "/header/" in file_of(path, "000000000000002a")


def test_what_is_no_object_is_not_listed(path):
    with blocker(path) as b:
        b.write(DATA, b"x")
        folder = os.path.dirname(file_of(path, "000000000000002a_00000001_0000000000000007"))
        for name in ("README", "000000000000002A_00000001_0000000000000007", "00_1_2", "x" * 42):
            with open(os.path.join(folder, name), "w"):
                pass
        assert list(b.names(lib.XOBJ_DATA)) == [DATA]


def test_what_a_killed_life_left_half_made_is_removed(path, host):
    instance = host([("b", "blocker-file", {"path": path})])
    instance.call("b", lib.XOP_WRITE, object=DATA, data=b"x")
    instance.disconnect()
    instance.kill("b")
    life = os.path.join(path, "tmp", os.listdir(os.path.join(path, "tmp"))[0])
    os.makedirs(os.path.join(life, "page", "7f"))
    with open(os.path.join(life, "0000000000000009"), "w"):
        pass
    with blocker(path) as b:
        assert not os.path.exists(life)
        assert b.read(DATA, 0, 1) == b"x"


def test_a_life_that_goes_on_keeps_its_temporary_files(path):
    with blocker(path):
        before = os.listdir(os.path.join(path, "tmp"))
        with blocker(path):
            assert set(before) < set(os.listdir(os.path.join(path, "tmp")))


# --- damage


def test_a_truncated_object_is_zeros_past_its_end(path):
    with blocker(path) as b:
        b.write(DATA, b"\xff" * 10000)
        os.truncate(file_of(path, "000000000000002a_00000001_0000000000000007"), 5000)
        assert b.read(DATA, 0, 10000) == b"\xff" * 5000 + bytes(5000)


@pytest.mark.parametrize("direct", [False, True])
def test_a_folder_in_place_of_an_object_is_eisdir_and_others_are_served(path, direct):
    with blocker(path, direct=direct) as b:
        b.write(DATA, b"x")
        name = file_of(path, "000000000000002a_00000001_0000000000000007")
        b.call(lib.XOP_DELETE, DATA)
        os.mkdir(name)
        b.fails(errno.EISDIR, lib.XOP_READ, DATA, size=1, room=1)
        b.fails(errno.EISDIR, lib.XOP_WRITE, DATA, data=b"x")
        b.write(Object(lib.XOBJ_DATA, 42, 1, 8), b"served")


# --- open objects


@pytest.mark.parametrize("direct", [False, True])
def test_more_objects_than_may_be_open(path, direct):
    objects = [Object(lib.XOBJ_DATA, 1, 1, i) for i in range(200)]
    with blocker(path, fds=16, direct=direct) as b:
        for op in (Call(lib.XOP_WRITE, data=b"%4096d" % 1), Call(lib.XOP_READ, size=4096, room=4096)) * 2:
            calls = [Call(op.op, object=o, data=op.data, size=op.size, room=op.room) for o in objects]
            assert {r.error for r in b.batch(calls)} == {0}
        b.sync(1)
        assert b.read(objects[0], 0, 4096) == b"%4096d" % 1


@pytest.mark.parametrize("count", [1, 7, 15, 16, 17, 33, 100, 300])
def test_direct_reads_that_are_held_back_for_the_disk_are_all_served(path, count):
    """Also those behind which nothing comes, and with writes, which are not held back, among them."""
    pages = [bytes([i % 251]) * 4096 for i in range(count)]
    with blocker(path, direct=True) as b:
        writes = [Call(lib.XOP_WRITE, object=DATA, offset=i * 4096, data=page, flags=lib.XREQ_CREATE, arg=4 * MIB)
                  for i, page in enumerate(pages)]
        reads = [Call(lib.XOP_READ, object=DATA, offset=i * 4096, size=4096, room=4096) for i in range(count)]
        assert {r.error for r in b.batch(writes)} == {0}
        assert [r.data for r in b.batch(reads)] == pages
        mixed = b.batch([call for pair in zip(reads, writes, strict=True) for call in pair])
        assert [r.data for r in mixed[::2]] == pages


def test_a_read_sees_what_another_process_put_in_place(path):
    with blocker(path) as one, blocker(path) as two:
        one.call(lib.XOP_REPLACE, HEADER, data=b"version 1", flags=lib.XREQ_CREATE)
        assert two.read(HEADER, 0, 9) == b"version 1"
        one.call(lib.XOP_REPLACE, HEADER, data=b"version 2")
        assert two.read(HEADER, 0, 9) == b"version 2"
        one.call(lib.XOP_DELETE, HEADER)
        two.fails(errno.ENOENT, lib.XOP_READ, HEADER, size=9, room=9)


def test_of_two_processes_that_replace_each_content_is_replaced_once(path):
    """Both count up one counter: no step may be lost, none done twice."""
    def count_up(b, done):
        while done[0] < 100:
            present = b.read(HEADER, 0, 8)
            following = (first8(present) + 1).to_bytes(8, "little")
            reply = b.call(lib.XOP_REPLACE, HEADER, data=following, arg=first8(present), check=False)
            assert reply.error in (0, errno.ESTALE)
            done[0] += reply.error == 0

    with blocker(path, sync=False) as one, blocker(path, sync=False) as two:
        one.call(lib.XOP_REPLACE, HEADER, data=(1).to_bytes(8, "little"), flags=lib.XREQ_CREATE)
        counts = [[0], [0]]
        thread = threading.Thread(target=count_up, args=(two, counts[1]))
        thread.start()
        count_up(one, counts[0])
        thread.join()
        assert first8(one.read(HEADER, 0, 8)) == 1 + counts[0][0] + counts[1][0]


@pytest.mark.parametrize("folder_known", [False, True])
def test_a_new_object_for_direct_io_has_the_size_it_may_grow_to(path, folder_known):
    """So that the kernel lets direct writes to it run side by side."""
    with blocker(path, direct=True) as b:
        if folder_known:
            b.write(DATA, b"x")
            b.call(lib.XOP_DELETE, DATA)
        b.call(lib.XOP_WRITE, DATA, offset=4096, data=b"a" * 4096, flags=lib.XREQ_CREATE, arg=4 * MIB)
        assert b.info(DATA).done == 4 * MIB
        assert b.info(DATA).arg < MIB
        assert b.read(DATA, 4 * MIB - 4096) == bytes(4096)
        b.call(lib.XOP_WRITE, DATA, data=b"b" * 4096, flags=lib.XREQ_CREATE, arg=8192)
        assert b.read(DATA, 0, 12288) == b"b" * 4096 + b"a" * 4096 + bytes(4096)


def test_writes_of_both_kinds_to_one_page_do_not_fail_each_other(path):
    """A buffered write during a direct one makes the kernel report an I/O error at the next fsync."""
    with blocker(path, direct=True) as b:
        calls = []
        for i in range(400):
            aligned = Call(lib.XOP_WRITE, object=DATA, offset=i % 3 * 4096, data=b"a" * 4096)
            calls += [aligned, Call(lib.XOP_WRITE, object=DATA, offset=4000, data=b"u" * 200)]
            calls += [Call(lib.XOP_SYNC, object=Object(0, 42))] * (i % 20 == 0)
        assert {r.error for r in b.batch(calls)} == {0}


@pytest.mark.parametrize("others", ["delete", "copy", "delete copy"])
def test_writes_of_both_kinds_to_what_is_removed_or_copied_over_do_not_fail_each_other(path, others):
    """One file is not open twice, as two objects that know nothing of each other's writes."""
    objects, dice = [Object(lib.XOBJ_DATA, volume, 1, 0) for volume in (1, 2)], random.Random(3)

    def any_call():
        it = dice.choice(objects)
        some = {"unaligned": Call(lib.XOP_WRITE, object=it, offset=dice.randrange(9000),
                                  data=b"w" * dice.randrange(1, 9000)),
                "aligned": Call(lib.XOP_WRITE, object=it, data=b"f" * 4096, flags=lib.XREQ_FUA),
                "delete": Call(lib.XOP_DELETE, object=it),
                "copy": Call(lib.XOP_COPY, object=it, data=dice.choice(objects).pack(), size=9000)}
        return some[dice.choice(["unaligned", "aligned", *others.split()])]

    with blocker(path, direct=True) as b:
        assert {r.error for r in b.batch([any_call() for _ in range(4000)])} <= {0, errno.ENOENT}


# --- locks between processes


def acquire(b, token, owner=b"owner", **more):
    return b.call(lib.XOP_ACQUIRE, LOCK, arg=token, data=owner, room=4096, **more)


def test_a_lock_held_by_another_process_is_busy(path):
    with blocker(path) as one, blocker(path) as two:
        acquire(one, 1, b"mapper on node-7")
        reply = acquire(two, 2, check=False)
        assert (reply.error, reply.data[:reply.done]) == (errno.EBUSY, b"mapper on node-7")
        two.fails(errno.EPERM, lib.XOP_RELEASE, LOCK, arg=2)


def test_force_does_not_take_a_lock_from_a_living_process(path):
    with blocker(path) as one, blocker(path) as two:
        acquire(one, 1, b"mapper on node-7")
        reply = two.fails(errno.EBUSY, lib.XOP_RELEASE, LOCK, arg=2, flags=lib.XREQ_FORCE, room=4096)
        assert reply.data[:reply.done] == b"mapper on node-7"
        assert acquire(one, 1).error == 0
        two.fails(errno.EBUSY, lib.XOP_DELETE, LOCK)


def test_a_lock_passes_between_processes_and_its_number_grows(path):
    numbers = []
    with blocker(path) as one, blocker(path) as two:
        for b in (one, two) * 3:
            numbers.append(acquire(b, 9).done)
            b.call(lib.XOP_RELEASE, LOCK, arg=9)
    with blocker(path) as b:
        numbers.append(acquire(b, 9).done)
    assert numbers == list(range(numbers[0], numbers[0] + 7))


def test_a_lock_dies_with_its_process(path, host):
    instance = host([("b", "blocker-file", {"path": path})])
    number = instance.call("b", lib.XOP_ACQUIRE, object=LOCK, arg=1, data=b"doomed").done
    with blocker(path) as b:
        assert acquire(b, 2, check=False).error == errno.EBUSY
        instance.disconnect()
        instance.kill("b")
        assert acquire(b, 2).done == number + 1


def test_a_damaged_lock_is_refused(path):
    with blocker(path) as b:
        acquire(b, 1)
        b.call(lib.XOP_RELEASE, LOCK, arg=1)
        with open(file_of(path, "000000000000002a"), "w") as file:
            file.write("archipelago lock 1 many\n")
        assert acquire(b, 1, check=False).error == errno.EBADMSG


def test_two_processes_never_hold_a_lock_at_once(path):
    """Both take and release as fast as they can; the numbers given out must all differ."""
    numbers = []

    def take(b, token):
        for _ in range(150):
            reply = acquire(b, token, check=False)
            if reply.error == 0:
                numbers.append(reply.done)
                b.call(lib.XOP_RELEASE, LOCK, arg=token)

    with blocker(path, sync=False) as one, blocker(path, sync=False) as two:
        thread = threading.Thread(target=take, args=(two, 2))
        thread.start()
        take(one, 1)
        thread.join()
    assert len(numbers) == len(set(numbers)) and len(numbers) > 0


# --- a full disk, a failing disk


@contextmanager
def mounted(*words):
    """A file system mounted on a scratch folder, or a skip that says why not."""
    folder = tempfile.mkdtemp(prefix="ar-mount-", dir="/tmp")
    done = subprocess.run(["mount", *words, folder], capture_output=True, text=True)
    if done.returncode != 0:
        os.rmdir(folder)
        pytest.skip(f"mount is not permitted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        run("umount", folder)
        os.rmdir(folder)


@pytest.fixture
def small():
    with mounted("-t", "tmpfs", "-o", "size=2m", "archipelago-test") as folder:
        yield folder


def fill(b):
    """Writes until the disk is full: the objects that were acknowledged."""
    written = []
    for i in range(100):
        object = Object(lib.XOBJ_DATA, 1, 1, i)
        reply = b.call(lib.XOP_WRITE, object, data=b"%065536d" % i, check=False)
        if reply.error:
            assert (reply.error, reply.done) == (errno.ENOSPC, 0)
            return written
        written.append(object)
    raise AssertionError("it was never full")


def test_a_full_disk_is_enospc_and_what_was_acknowledged_is_there(small):
    with blocker(small) as b:
        for i, object in enumerate(fill(b)):
            assert b.read(object, 0, 65536) == b"%065536d" % i


def test_a_full_disk_is_enospc_for_every_way_to_write(small):
    with blocker(small) as b:
        written = fill(b)
        new = Object(lib.XOBJ_HEADER, 9)
        big = b"x" * 65536
        b.fails(errno.ENOSPC, lib.XOP_REPLACE, new, data=big, flags=lib.XREQ_CREATE)
        b.fails(errno.ENOSPC, lib.XOP_COPY, DATA, data=written[0].pack(), size=65536)
        b.fails(errno.ENOSPC, lib.XOP_WRITE_ZEROES, DATA, size=MIB, flags=lib.XREQ_NO_HOLE)
        b.fails(errno.ENOENT, lib.XOP_INFO, new)


def test_a_replace_that_found_no_space_leaves_the_old_content(small):
    with blocker(small) as b:
        b.call(lib.XOP_REPLACE, HEADER, data=b"old", flags=lib.XREQ_CREATE)
        fill(b)
        shutil.rmtree(os.path.join(small, "reserve"))
        fill(b)
        b.fails(errno.ENOSPC, lib.XOP_REPLACE, HEADER, data=b"x" * 65536)
        assert b.read(HEADER, 0, 3) == b"old"


def test_a_full_disk_has_a_reserve_for_replacing_and_locking(small):
    with blocker(small) as b:
        b.call(lib.XOP_REPLACE, HEADER, data=b"old", flags=lib.XREQ_CREATE)
        fill(b)
        for content in (b"one" * 1000, b"two" * 1000):
            b.call(lib.XOP_REPLACE, HEADER, data=content)
            assert b.read(HEADER, 0, 3000) == content
        b.call(lib.XOP_ACQUIRE, Object(lib.XOBJ_LOCK, 42), data=b"me", size=2, arg=7)
        b.fails(errno.ENOSPC, lib.XOP_REPLACE, Object(lib.XOBJ_HEADER, 9), data=b"x" * 65536, flags=lib.XREQ_CREATE)


def test_space_that_was_freed_can_be_used(small):
    with blocker(small) as b:
        written = fill(b)
        b.call(lib.XOP_DELETE, written[0])
        b.call(lib.XOP_DISCARD, written[1], size=65536)
        b.write(DATA, b"y" * 65536)
        b.write(Object(lib.XOBJ_DATA, 42, 1, 8), b"y" * 65536)


# What a loop device says when the file below it cannot grow.
DISK_ERRORS = (errno.EIO, errno.ENOSPC)


@pytest.fixture
def failing():
    """A file system on a disk that takes 8 MiB and answers further writes with errors."""
    with mounted("-t", "tmpfs", "-o", "size=12m", "archipelago-test") as below:
        image = os.path.join(below, "disk")
        with open(image, "wb") as file:
            file.truncate(64 * MIB)
        run("mkfs.ext4", "-q", "-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard", image)
        with mounted("-o", "loop", image) as folder:
            yield folder


def sync_error(b, volume):
    return b.call(lib.XOP_SYNC, Object(0, volume), check=False).error


def test_an_error_of_the_disk_is_the_answer_to_the_sync(failing):
    with blocker(failing) as b:
        b.sync(1)
        for i in range(24):
            b.write(Object(lib.XOBJ_DATA, 1, 1, i % 6), os.urandom(MIB), i // 6 * MIB)
        assert sync_error(b, 1) in DISK_ERRORS


def test_an_error_of_the_disk_is_the_answer_to_a_write_with_fua(failing):
    with blocker(failing) as b:
        errors = {b.call(lib.XOP_WRITE, Object(lib.XOBJ_DATA, 1, 1, i), data=os.urandom(MIB), check=False,
                         flags=lib.XREQ_FUA).error for i in range(20)}
        assert 0 in errors and errors & set(DISK_ERRORS)


def test_an_error_found_by_the_sync_of_all_reaches_each_volume(failing):
    with blocker(failing) as b:
        b.sync()
        for i in range(20):
            b.write(Object(lib.XOBJ_DATA, 1 + i % 2, 1, i), os.urandom(MIB))
        assert [sync_error(b, volume) in DISK_ERRORS for volume in (0, 1, 2)] == [True] * 3


def test_an_error_is_told_though_the_object_was_closed_meanwhile(failing):
    with blocker(failing, fds=16) as b:
        b.sync()
        for i in range(20):
            b.write(Object(lib.XOBJ_DATA, 1, 1, i), os.urandom(MIB))
        for i in range(20, 40):
            b.call(lib.XOP_READ, Object(lib.XOBJ_DATA, 1, 1, i - 20), size=4096, room=4096)
        assert sync_error(b, 1) in DISK_ERRORS


# --- options


def test_without_sync_nothing_is_promised_but_all_is_served(path):
    with blocker(path, sync=False) as b:
        b.write(DATA, b"x", flags=lib.XREQ_FUA)
        b.sync(42)
        b.call(lib.XOP_REPLACE, HEADER, data=b"x", flags=lib.XREQ_CREATE)


def test_one_worker_is_enough(path):
    objects = [Object(lib.XOBJ_DATA, 1, 1, i) for i in range(50)]
    with blocker(path, workers=1) as b:
        calls = [Call(lib.XOP_WRITE, object=o, data=b"x") for o in objects]
        calls += [Call(lib.XOP_SYNC, object=Object(0, 1)), Call(lib.XOP_LIST, object=Object(1), room=4096)]
        assert {r.error for r in b.batch(calls)} == {0}


def test_without_a_path_it_does_not_start():
    with pytest.raises(XsegError, match="option path is missing"), peers(("b", "blocker-file", {})):
        pass


def test_direct_io_where_there_is_none_is_refused():
    with mounted("-t", "ramfs", "archipelago-test") as folder:
        assert "has no direct I/O" in refused(folder, direct=True)
        with blocker(folder) as b:
            b.write(DATA, b"served")


def test_a_store_can_be_copied_while_nothing_serves_it(path):
    with blocker(path) as b:
        b.write(DATA, b"x", 10 * MIB)
    with store() as other:
        shutil.copytree(path, other, dirs_exist_ok=True)
        with blocker(other) as b:
            assert b.read(DATA, 10 * MIB, 1) == b"x"
