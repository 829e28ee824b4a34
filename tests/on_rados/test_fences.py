# SPDX-License-Identifier: Apache-2.0
"""Nobody writes who may not: locks taken early, hand-overs with leases, and pauses longer than anything waits."""
import errno
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from contextlib import ExitStack

import pytest
from loops import peers
from support import BIN, Instance, wait_until
from two_nodes import BLOCK, Opened, signalled

from tools.cluster import instance_config
from tools.instance import instance
from xseg import client
from xseg._native import lib
from xseg.errors import Busy, TimedOut
from xseg.request import Call, Object
from xseg.segment import Segment, name_for

WRITES = 100
HAND_OVERS = 100
PATIENCE_S = 60.0
RESTARTS = 3
TRUST_S = 2.5                      # for so long looks may go on after the last request
REST_S = 4
ROBBERIES = 60                      # in a soak, at least
PAUSED_AFTER_S = 0.005


def lock_text(rados, request, volume):
    """What the lock's object of a volume says."""
    with rados.open_ioctx("maps") as io:
        io.set_namespace(f"{request.node.name[:60]}/lock")
        return io.read(f"{volume.shared.id:016x}").decode()


def many_writes(opened, mark):
    """Sends writes of pages from BLOCK on, and does not wait for their answers."""
    port = opened.client.port
    requests = [port.get(4096) for _ in range(WRITES)]
    for i, request in enumerate(requests):
        call = Call(lib.XOP_WRITE, volume=opened.volume.handle, offset=BLOCK + i * 4096, data=mark * 4096)
        call.put(port.c, request.c)
    port.send(opened.client.segment.port_of("vlmc"), requests)


def answers(opened):
    """The errors that the writes of many_writes() came back with."""
    came = []

    def all_came():
        came.extend(opened.client.port.receive(0.1))
        return len(came) == WRITES

    wait_until(all_came, "all writes are answered", PATIENCE_S)
    return {-request.c.error for request in came}


def pause_anywhere(cluster, node, opened, mark, dice):
    """Stops a node some time after it was sent writes."""
    many_writes(opened, mark)
    time.sleep(dice.expovariate(1 / PAUSED_AFTER_S))
    signalled(node, signal.SIGSTOP)


def pause_before_the_blocker(cluster, node, opened, mark, dice):
    """Has writes wait for a node's blocker when all of it stops."""
    signalled(node, signal.SIGSTOP, "blockerb")
    pause_anywhere(cluster, node, opened, mark, dice)


def held_by_librados(cluster, node, opened, mark, dice=None):
    """Stops a node while librados has writes that no OSD has seen."""
    cluster.kill("osd.0", signal.SIGSTOP)
    many_writes(opened, mark)
    wait_until(lambda: node.status()["blockerb"]["in_flight"] == WRITES, "the writes are under way", PATIENCE_S)
    signalled(node, signal.SIGSTOP)
    cluster.osd_kill(0)
    cluster.ceph("osd", "down", "0")
    cluster.osd_start(0)


def robbed(node, volume, mark):
    """A volume that was taken from another node, and what many_writes() writes was overwritten with `mark`."""
    node.vlmc("unlock", "-f", volume)
    opened = Opened(node, volume)
    opened.write(BLOCK, mark * 4096 * WRITES, timeout=PATIENCE_S)
    opened.flush(timeout=PATIENCE_S)
    return opened


def pages(opened):
    """What the pages of many_writes() say."""
    return {opened.read(BLOCK + i * 4096).data[:1] for i in range(WRITES)}


# --- locks taken early in a start


@pytest.fixture
def early(cluster, request):
    """A node early in its start: blockerb has not been started yet. `start()` goes on."""
    home = tempfile.mkdtemp(prefix="ar-", dir="/tmp")
    made = Instance(home, 'layout = "separate"\n' + instance_config(
        cluster.conf, namespace=request.node.name[:60], connect_timeout_s=5))
    starting = instance.Instance(home)
    starting.make_folders()
    first = ["blockerm", "mapper", "vlmc"]
    with starting.prepare(list(starting.config.processes)) as segment:
        for process in first:
            starting.launch(process)
        starting.wait_ready(segment, first)
    try:
        yield made
        if getattr(request.node, "failed", False):
            print(made.logs())
    finally:
        made.stop()
        Segment.unlink(name_for(home))
        shutil.rmtree(home)


def test_a_lock_asked_for_early_in_a_start_names_every_blocker(early, rados, request):
    early.vlmc("create", "v", "--size", "64M")
    made = []
    opening = threading.Thread(target=lambda: made.append(Opened(early, "v")))
    opening.start()
    opening.join(0.5)
    early.start()
    opening.join(PATIENCE_S)
    assert lock_text(rados, request, made[0].volume).count("\nregistry ") == 2
    made[0].close()


def test_a_blocker_that_does_not_come_is_named_when_a_lock_is_asked_for(early):
    early.vlmc("create", "v", "--size", "64M")
    refused = early.vlmc("open", "v", check=False)
    assert refused.returncode and "blockerb" in refused.stderr


# --- hand-overs with leases


@pytest.mark.options(lease_s=30)
def test_hand_overs_under_contention_fence_nobody(nodes, volume):
    """Each node opens as soon as the other has closed, asking all the while."""
    taken = []

    def take_turns(node):
        while len(taken) < HAND_OVERS:
            try:
                Opened(node, volume).close()
                taken.append(node)
            except Busy:
                continue

    threads = [threading.Thread(target=take_turns, args=(node,)) for node in nodes for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert not any("fenced" in node.logs() for node in nodes)
    assert len(taken) >= HAND_OVERS and len(set(taken)) == 2


def test_a_node_that_is_restarted_does_not_lose_its_volumes_to_one_that_waits(nodes, volume):
    """Not even with all of it in one process, so that nothing of it is there for a while."""
    here = Opened(nodes[0], volume)
    refused, stopping = [], threading.Event()

    def wait_for_it():
        while not stopping.is_set():
            with pytest.raises(Busy):
                Opened(nodes[1], volume)
            refused.append(True)

    waiting = threading.Thread(target=wait_for_it)
    waiting.start()
    for turn in range(RESTARTS):
        nodes[0].archipelago("restart")
        here.write(0, bytes([turn]) * 4096, timeout=PATIENCE_S)
    stopping.set()
    waiting.join(PATIENCE_S)
    here.flush()
    assert refused and "fenced" not in nodes[0].logs()
    here.close()


@pytest.mark.options(lease_s=3)
def test_a_lease_outlives_the_blocker_that_took_it(nodes, volume):
    here = Opened(nodes[0], volume)
    nodes[0].kill("blockerm")
    nodes[0].restart("blockerm")
    end = time.monotonic() + 3 * 3
    while time.monotonic() < end:
        with pytest.raises(Busy):
            Opened(nodes[1], volume)
        time.sleep(0.2)
    here.write(0, b"still mine" * 100)
    here.close()


# --- who it was


COPIED = """
mount --bind "$1" "$2" && mount -t tmpfs none /dev/shm && cd / || exit 9
archipelago start --unsupervised >&2 || exit 8
vlmc open v 2>&1
archipelago stop --force >&2
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a copy of a home in its place: only root can")
def test_a_copy_of_a_running_host_takes_nothing_from_it(nodes, volume):
    """Host name, machine-id, path of the home and what is in it are the same."""
    here = Opened(nodes[0], volume)
    here.write(0, b"a" * 4096)
    copy = tempfile.mkdtemp(prefix="ar-copy-", dir="/tmp")
    shutil.copytree(nodes[0].home, copy, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.sock", "bell.*"))
    done = nodes[0].run("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "env",
                        f"PATH={BIN}:{os.environ['PATH']}", "sh", "-c", COPIED, "sh", copy, nodes[0].home, check=False)
    shutil.rmtree(copy)
    if done.returncode == 9:
        pytest.skip("namespaces cannot be made here")
    assert "locked by another" in done.stdout, done.stderr
    here.write(0, b"b" * 4096)
    here.close()


# --- the map that says who is out


def test_a_blocker_serves_nothing_before_it_knows_of_a_fencing_that_another_has_done(cluster, request):
    options = {"conf": cluster.conf, "pool": "volumes", "namespace": request.node.name[:60]}
    page = Object(lib.XOBJ_DATA, 42, 1, 0)
    with peers(("b", "blocker-rados", options)) as b:
        b.write(page, b"a" * 4096)
        cluster.kill("mon.a", signal.SIGSTOP)
        try:
            b.segment.c.header.fence_epoch = 1 << 40
            with pytest.raises(TimedOut):
                b.call(lib.XOP_WRITE, page, data=b"b" * 4096, timeout=1.0)
        finally:
            cluster.kill("mon.a", signal.SIGCONT)
        wait_until(lambda: b.read(page) == b"b" * 4096, "the write is done then", PATIENCE_S)


def test_a_node_is_fenced_once_and_all_its_locks_are_free_then(nodes, rados, request):
    for name in ("v0", "v1", "v2", "v3"):
        nodes[0].vlmc("create", name, "--size", "64M")
        nodes[0].vlmc("open", name)
    nodes[1].vlmc("unlock", "-f", "v0")
    there = [Opened(nodes[1], name) for name in ("v0", "v1", "v2", "v3")]
    assert nodes[1].logs().count("is on the blocklist from now on") == 2
    for one in there:
        epoch = int(lock_text(rados, request, one.volume).split("epoch ")[1].split()[0])
        assert 0 < epoch <= nodes[1].client.segment.c.header.fence_epoch
        one.close()


@pytest.mark.layout("separate")
@pytest.mark.parametrize("role", ("mapper", "blockerm"))
def test_a_fencing_is_carried_on_when_who_does_it_is_killed(nodes, volume, role):
    here = Opened(nodes[0], volume)
    done = []

    def unlock():
        with client.Client(nodes[1].home) as asking:
            done.append(asking.control("unlock", name=volume, force=True))

    unlocking = threading.Thread(target=unlock)
    unlocking.start()
    wait_until(lambda: "is on the blocklist from now on" in nodes[1].logs(), "the fencing has begun", PATIENCE_S)
    nodes[1].kill(role)
    nodes[1].restart(role)
    unlocking.join(PATIENCE_S)
    assert done == [{}]
    Opened(nodes[1], volume).close()
    assert here.write(0, b"a" * 4096, check=False).error == errno.ESTALE
    here.client.close()


def test_a_fenced_node_says_so_and_what_to_do(nodes, volume):
    here = Opened(nodes[0], volume)
    nodes[1].vlmc("unlock", "-f", volume)
    wait_until(lambda: here.write(0, b"a" * 4096, check=False).error == errno.ESTALE, "it is fenced", PATIENCE_S)
    status = nodes[0].archipelago("status", check=False)
    command = nodes[0].vlmc("snapshot", volume, "s", check=False)
    for shown in (status, command):
        assert shown.returncode
        assert "took its lock number 1 away" in shown.stdout + shown.stderr
        assert "archipelago stop --force && archipelago start" in shown.stdout + shown.stderr
    here.client.close()


def test_a_node_at_rest_leaves_the_cluster_alone_and_is_quick_again(cluster, nodes, volume):
    """Though a volume is open. Each client of Ceph asks every 5 s or so whether its watch is still there."""
    def operations():
        return cluster.daemon("osd.0", "perf", "dump")["osd"]["op"]

    here = Opened(nodes[0], volume)
    time.sleep(TRUST_S)
    before = operations()
    time.sleep(REST_S)
    assert operations() - before <= REST_S * len(nodes)
    assert here.read(BLOCK, timeout=PATIENCE_S).data == bytes(4096)
    here.close()


# --- numbers of changes


@pytest.fixture
def served(cluster, request):
    """served(pool): a blocker in a segment of its own; all of them share a namespace."""
    with ExitStack() as stack:
        yield lambda pool: stack.enter_context(peers(("b", "blocker-rados", {
            "conf": cluster.conf, "pool": pool, "namespace": request.node.name[:60]})))


def has_fenced(cluster, blocker):
    """As if a volume open there had been taken from another node just now."""
    blocker.segment.c.header.fence_epoch = cluster.ceph("osd", "stat")["epoch"]


@pytest.mark.parametrize("change", ("write", "zeroes", "discard", "copy", "delete"))
def test_a_node_that_has_fenced_nobody_changes_what_one_has_written_that_did(cluster, served, change):
    """Though its changes bear a smaller number, and are refused at first."""
    first, second = served("volumes"), served("volumes")
    page, other = Object(lib.XOBJ_DATA, 42, 1, 0), Object(lib.XOBJ_DATA, 42, 1, 1)
    has_fenced(cluster, first)
    first.write(page, b"a" * 4096)
    first.write(other, b"b" * 4096)
    {"write": lambda: second.write(page, b"b" * 4096),
     "zeroes": lambda: second.call(lib.XOP_WRITE_ZEROES, page, size=4096),
     "discard": lambda: second.call(lib.XOP_DISCARD, page, size=4096),
     "copy": lambda: second.copy(other, page, 4096),
     "delete": lambda: second.call(lib.XOP_DELETE, page)}[change]()
    if change == "delete":
        assert first.call(lib.XOP_INFO, page, check=False).error == errno.ENOENT
    else:
        assert first.read(page) == (b"b" * 4096 if change in ("write", "copy") else bytes(4096))


def test_a_pool_with_snapshots_of_its_own_is_written_to_all_the_same(cluster, served, request):
    """Its OSDs take the pool's numbers instead of ours."""
    pool = request.node.name
    cluster.pool(pool)
    b = served(pool)
    page = Object(lib.XOBJ_DATA, 42, 1, 0)
    has_fenced(cluster, b)
    b.write(page, b"a" * 4096)
    cluster.ceph("osd", "pool", "mksnap", pool, "s")
    wait_until(lambda: b.write(page, b"b" * 4096) is None and b.read(page) == b"b" * 4096, "it is written", PATIENCE_S)


# --- pauses


def lands_nowhere(cluster, nodes, volume, here):
    """The paused node is robbed, the blocklist forgets it, and it goes on: nothing it had under way is there."""
    try:
        there = robbed(nodes[1], volume, b"b")
        cluster.ceph("osd", "blocklist", "clear")
    finally:
        signalled(nodes[0], signal.SIGCONT)
    assert answers(here) == {errno.ESTALE}
    assert pages(there) == {b"b"}
    there.close()


@pytest.mark.layout("separate")
@pytest.mark.options(blocklist_s=60)
def test_what_a_paused_node_had_under_way_lands_nowhere_though_the_blocklist_forgot_it(cluster, nodes, volume):
    """A hundred writes wait for its blocker when all of it stops; it goes on when nobody refuses it any more."""
    here = Opened(nodes[0], volume)
    here.write(BLOCK, b"a" * 4096)
    here.flush()
    signalled(nodes[0], signal.SIGSTOP, "blockerb")
    many_writes(here, b"a")
    signalled(nodes[0], signal.SIGSTOP)
    lands_nowhere(cluster, nodes, volume, here)


@pytest.mark.layout("separate")
def test_what_librados_has_of_a_paused_node_lands_on_nothing_that_the_next_holder_wrote(cluster, nodes, volume):
    """The OSD dies without having read it, so librados sends it again when the node goes on: before that could
    look at anything, and when nobody refuses it any more.
    """
    here = Opened(nodes[0], volume)
    here.write(BLOCK, b"a" * 4096 * WRITES)
    here.flush()
    held_by_librados(cluster, nodes[0], here, b"a")
    lands_nowhere(cluster, nodes, volume, here)


@pytest.mark.soak
@pytest.mark.layout("separate")
def test_a_node_that_is_paused_and_robbed_at_any_time_writes_nothing_over_the_next_holders_data(cluster, nodes, volume):
    seed = random.randrange(1 << 32)
    dice, end = random.Random(seed), time.monotonic() + 60 * float(os.environ["ARCHIPELAGO_SOAK_MINUTES"])
    turn = 0
    while time.monotonic() < end or turn < ROBBERIES:
        print(f"seed {seed}, turn {turn}")
        robbed_node, robber = dice.sample(nodes, 2)
        here = Opened(robbed_node, volume)
        here.write(BLOCK, b"-" * 4096 * WRITES)
        pause = dice.choice((pause_anywhere, pause_before_the_blocker, held_by_librados))
        pause(cluster, robbed_node, here, b"a", dice)
        try:
            there = robbed(robber, volume, b"b")
            cluster.ceph("osd", "blocklist", "clear")
        finally:
            signalled(robbed_node, signal.SIGCONT)
        assert answers(here) <= {0, errno.ESTALE}
        assert pages(there) == {b"b"}
        there.close()
        here.client.close()
        robbed_node.archipelago("stop", "--force")
        robbed_node.archipelago("start")
        turn += 1
