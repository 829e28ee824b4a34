# SPDX-License-Identifier: Apache-2.0
"""Cluster trouble: I/O waits and goes on where it can, and fails with the right error where it cannot."""
import errno
import shutil
import signal
import tempfile
import threading
import time
from contextlib import contextmanager

import pytest
from loops import peers
from support import Instance, wait_until

from tools.cluster import Cluster, instance_config
from xseg._native import lib
from xseg.port import Port
from xseg.request import Call, Object
from xseg.segment import Segment, name_for

MIB = 1 << 20
DEADLINE_S = 4
PLACES = 16
PATIENCE_S = 100.0                  # for anything that is to happen at all
BESIDE_S = 60                       # what a start or stop takes beside waiting, on a busy machine
FULL_S = 60                         # until the cluster knows that it is full, or not any more


@pytest.fixture
def served(cluster, request):
    """served(pool, **options): a blocker with a namespace of its own."""
    made = []

    def start(pool="volumes", **options):
        options = {"conf": cluster.conf, "pool": pool, "namespace": request.node.name[:60], **options}
        context = peers(("b", "blocker-rados", options))
        made.append(context)
        return context.__enter__()

    yield start
    for context in made:
        context.__exit__(None, None, None)


def data(i):
    return Object(lib.XOBJ_DATA, 42, 1, i)


class Load(threading.Thread):
    """Writes numbered 4 KiB pages to 16 objects, one after the other each, until stopped."""

    def __init__(self, b):
        super().__init__(daemon=True)
        self.b, self.stopping, self.errors, self.written, self.number = b, False, [], {}, 0
        self.longest_s, self.began = 0.0, 0.0

    def run(self):
        port = Port(self.b.segment)
        while not self.stopping:
            self.began = time.monotonic()
            number = self.number + 1
            text = b"%08d" % number * 512
            reply = port.call(self.b.number, lib.XOP_WRITE, object=data(number % PLACES), data=text, check=False,
                              timeout=PATIENCE_S)
            self.longest_s = max(self.longest_s, time.monotonic() - self.began)
            if reply.error:
                self.errors.append(reply.error)
            else:
                self.written[number % PLACES] = text
            self.number = number
        port.close()

    def more(self, writes=2 * PLACES):
        """Waits until so many more are done."""
        wanted, end = self.number + writes, time.monotonic() + PATIENCE_S
        while self.number < wanted and self.is_alive() and time.monotonic() < end:
            time.sleep(0.05)
        assert self.number >= wanted, f"after {PATIENCE_S} s {wanted - self.number} writes were still to come"

    def waits(self, seconds):
        """Waits until one write has been under way for so long."""
        wait_until(lambda: time.monotonic() - self.began > seconds, "a write waits", PATIENCE_S)

    def check(self):
        """No write failed, and every page says what was written to it last."""
        self.stopping = True
        self.join(PATIENCE_S)
        assert not self.is_alive()
        assert self.errors == []
        assert len(self.written) == PLACES
        for place, text in self.written.items():
            assert self.b.read(data(place)) == text


@contextmanager
def loaded(b):
    """A Load at work. It has ended afterwards, whatever happened."""
    load = Load(b)
    load.start()
    try:
        load.more()
        yield load
        load.more()
        load.check()
    finally:
        load.stopping = True
        load.join(PATIENCE_S)


@contextmanager
def stopped_osd(cluster):
    """It hangs, but for a while."""
    cluster.kill("osd.0", signal.SIGSTOP)
    try:
        yield
    finally:
        cluster.kill("osd.0", signal.SIGCONT)


def write_at_last(b, object, text):
    """Writes to a cluster that may just be coming back."""
    end = time.monotonic() + PATIENCE_S
    while b.call(lib.XOP_WRITE, object, data=text, check=False).error:
        assert time.monotonic() < end
    assert b.read(object, 0, len(text)) == text


def test_an_osd_killed_and_revived_under_load(cluster, served):
    with loaded(served()) as load:
        for _ in range(2):
            cluster.osd_kill(0)
            time.sleep(1)
            cluster.osd_start(0)
            load.more()


@pytest.mark.slow
def test_the_whole_cluster_down_for_twenty_seconds(cluster, served):
    with loaded(served()) as load:
        cluster.down()
        load.waits(20)
        cluster.start()
    assert load.longest_s > 20


def test_an_osd_that_hangs_is_waited_for(cluster, served):
    with loaded(served()) as load:
        with stopped_osd(cluster):
            load.waits(3)
    assert load.longest_s > 3


def test_a_deadline_ends_what_would_wait_for_ever(cluster, served):
    b = served(op_timeout_s=DEADLINE_S)
    write_at_last(b, data(1), b"before")
    with stopped_osd(cluster):
        b.fails(errno.ETIMEDOUT, lib.XOP_WRITE, data(1), data=b"during")
        b.fails(errno.ETIMEDOUT, lib.XOP_READ, data(1), size=6, room=6)
        b.fails(errno.ETIMEDOUT, lib.XOP_LIST, (lib.XOBJ_DATA,), room=4096)
    write_at_last(b, data(1), b"after_")


def fill(b):
    """Writes until it fails; how many objects there are, and the error."""
    end = time.monotonic() + FULL_S
    for i in range(10000):
        error = b.call(lib.XOP_WRITE, data(i), data=b"x" * MIB, check=False).error
        if error or time.monotonic() > end:
            return i, error
        time.sleep(0.05)            # the monitors learn of it by and by
    return i, 0


def check_full(b, expected):
    """Data are refused, and what leads out of a full store is not."""
    header, other, journal = Object(lib.XOBJ_HEADER, 1), Object(lib.XOBJ_HEADER, 2), Object(lib.XOBJ_JOURNAL, 1, 1)
    b.call(lib.XOP_REPLACE, header, data=b"expected", flags=lib.XREQ_CREATE)
    count, error = fill(b)
    assert error == expected
    assert count == 0 or b.read(data(0)) == b"x" * 4096
    b.fails(expected, lib.XOP_REPLACE, other, data=b"new", flags=lib.XREQ_CREATE)
    b.call(lib.XOP_REPLACE, header, data=b"replaced", arg=int.from_bytes(b"expected", "little"))
    b.call(lib.XOP_WRITE, journal, data=b"record", flags=lib.XREQ_FUA)
    b.call(lib.XOP_ACQUIRE, Object(lib.XOBJ_LOCK, 1), arg=1, data=b"still works", room=64)
    b.batch([Call(lib.XOP_DELETE, object=data(n)) for n in range(count)])
    assert list(b.names(lib.XOBJ_DATA)) == []


def test_a_full_cluster_is_enospc_and_no_wait(cluster, served):
    b = served()
    for ratio in ("nearfull", "backfillfull", "full"):
        cluster.ceph("osd", f"set-{ratio}-ratio", "0.000001")
    try:
        check_full(b, errno.ENOSPC)
    finally:
        for ratio, value in (("full", "0.96"), ("backfillfull", "0.95"), ("nearfull", "0.94")):
            cluster.ceph("osd", f"set-{ratio}-ratio", value)
    write_at_last(b, data(0), b"x")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("ceph-mgr"), reason="quotas need a manager: apt-get install ceph-mgr")
def test_a_pool_at_its_quota_is_edquot_and_no_wait():
    folder = tempfile.mkdtemp(prefix="arc-", dir="/tmp")
    cluster = Cluster(folder)
    try:
        cluster.up(mgr=True)
        cluster.pool("small", quota=4 * MIB, pgs=8)
        with peers(("b", "blocker-rados", {"conf": cluster.conf, "pool": "small"})) as b:
            check_full(b, errno.EDQUOT)
    finally:
        cluster.destroy()


def test_a_pool_that_is_deleted_is_enodev(cluster, served):
    cluster.pool("doomed", pgs=8)
    b = served("doomed", op_timeout_s=60)
    b.write(data(1), b"x")
    cluster.remove_pool("doomed")
    b.fails(errno.ENODEV, lib.XOP_READ, data(1), size=1, room=1)
    b.fails(errno.ENODEV, lib.XOP_WRITE, data(1), data=b"y")
    b.fails(errno.ENODEV, lib.XOP_DISCARD, data(1), size=1)


def test_a_client_on_the_blocklist_is_stale_for_ever(cluster, served, rados):
    b = served()
    b.write(data(1), b"x")
    with rados.open_ioctx("volumes") as context:
        context.set_namespace("test_a_client_on_the_blocklist_is_stale_for_ever/node")
        name = next(context.list_objects()).key
        address = context.read(name).decode().split()[-1]
    cluster.ceph("osd", "blocklist", "add", address)
    for _ in range(2):
        b.fails(errno.ESTALE, lib.XOP_WRITE, data(1), data=b"y")
        b.fails(errno.ESTALE, lib.XOP_READ, data(1), size=1, room=1)
        b.fails(errno.ESTALE, lib.XOP_LIST, (lib.XOBJ_DATA,), room=4096)


# --- changes that may yet be done


def test_a_change_that_timed_out_is_in_doubt_until_the_cluster_answers(cluster, served):
    b = served(op_timeout_s=1)
    port = b.segment.c.ports[b.number]
    b.write(data(0), b"a" * 4096)
    with stopped_osd(cluster):
        b.fails(errno.ETIMEDOUT, lib.XOP_WRITE, data(0), data=b"b" * 4096)
        assert port.in_doubt == 1
        time.sleep(2)                   # the first look after it has timed out as well
        assert port.in_doubt == 1
    wait_until(lambda: port.in_doubt == 0, "nothing is in doubt any more", PATIENCE_S)
    assert b.read(data(0)) == b"b" * 4096


def test_no_lock_is_given_back_while_a_change_is_in_doubt(served):
    b, lock = served(), Object(lib.XOBJ_LOCK, 42)
    port = b.segment.c.ports[b.number]
    b.call(lib.XOP_ACQUIRE, lock, arg=1, data=b"x", room=64)
    port.in_doubt = 1
    b.fails(errno.ETIMEDOUT, lib.XOP_RELEASE, lock, arg=1)
    port.in_doubt = 0
    b.call(lib.XOP_RELEASE, lock, arg=1)


def test_a_start_and_a_stop_wait_for_a_hung_cluster_no_longer_than_they_may(cluster, request):
    home = tempfile.mkdtemp(prefix="ar-", dir="/tmp")
    node = Instance(home, 'layout = "separate"\n' + instance_config(
        cluster.conf, namespace=request.node.name[:60], connect_timeout_s=3))
    try:
        with stopped_osd(cluster):
            began = time.monotonic()
            started = node.archipelago("start", "--unsupervised", check=False)
            assert started.returncode and "did not answer within 3 s (connect_timeout_s): an OSD" in started.stderr
            assert time.monotonic() - began < 3 + BESIDE_S
        node.start()
        node.vlmc("create", "v", "--size", "64M")
        with stopped_osd(cluster):
            began = time.monotonic()
            node.archipelago("stop", "--force")
            assert time.monotonic() - began < BESIDE_S
    finally:
        node.stop()
        Segment.unlink(name_for(home))
        shutil.rmtree(home)

