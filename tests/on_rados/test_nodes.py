# SPDX-License-Identifier: Apache-2.0
"""Two instances over the same pools stand for two hosts."""
import errno
import os
import re
import signal
import threading
import time

import pytest
from support import wait_until
from two_nodes import BLOCK, Opened, signalled

from xseg.errors import Busy, Stale
from xseg.segment import Segment, name_for

# --- one at a time


def test_what_one_wrote_the_other_reads_after_a_hand_over(nodes, volume):
    here = Opened(nodes[0], volume)
    for i in range(16):
        here.write(i * BLOCK + 4096, bytes([i + 1]) * 8192)
    began = time.monotonic()
    here.close()
    there = Opened(nodes[1], volume)
    print(f"handed over in {1000 * (time.monotonic() - began):.1f} ms")
    for i in range(16):
        assert there.read(i * BLOCK, 16384).data == bytes(4096) + bytes([i + 1]) * 8192 + bytes(4096)
    there.close()


def test_to_and_fro(nodes, volume):
    for turn in range(10):
        opened = Opened(nodes[turn % 2], volume)
        if turn:
            assert opened.read(0).data == bytes([turn]) * 4096
        opened.write(0, bytes([turn + 1]) * 4096)
        opened.close()


def test_a_volume_open_on_one_node_is_busy_on_the_other_and_says_who_has_it(nodes, volume):
    here = Opened(nodes[0], volume)
    with pytest.raises(Busy):
        Opened(nodes[1], volume)
    refused = nodes[1].vlmc("open", volume, check=False)
    pid = nodes[0].status()["mapper"]["pid"]
    assert refused.returncode
    assert re.search(rf"locked by another: host \S+, pid {pid}, home {nodes[0].home}, since \d{{4}}-", refused.stderr)
    here.close()
    Opened(nodes[1], volume).close()


def test_verbs_of_one_node_are_seen_by_the_other(nodes, volume):
    nodes[0].vlmc("snapshot", volume, "s")
    nodes[1].vlmc("clone", "s", "c")
    nodes[0].vlmc("rename", "c", "d")
    assert {v["name"] for v in nodes[1].vlmc_json("list")} == {"v", "s", "d"}
    nodes[1].vlmc("remove", "d")
    assert {v["name"] for v in nodes[0].vlmc_json("list")} == {"v", "s"}


def test_a_snapshot_is_read_and_cloned_on_both_at_once(nodes, volume):
    opened = Opened(nodes[0], volume)
    opened.write(0, b"s" * 4096)
    nodes[0].vlmc("snapshot", volume, "s")
    opened.write(0, b"v" * 4096)
    both = [Opened(node, "s") for node in nodes]
    assert [one.read(0).data for one in both] == [b"s" * 4096] * 2
    for n, node in enumerate(nodes):
        node.vlmc("clone", "s", f"c{n}")
        clone = Opened(node, f"c{n}")
        clone.write(4096, bytes([n]) * 4096)
        assert clone.read(0, 8192).data == b"s" * 4096 + bytes([n]) * 4096
        clone.close()
    assert opened.read(0).data == b"v" * 4096
    for one in (*both, opened):
        one.close()


# --- fencing


def test_without_force_the_lock_of_another_is_not_broken(nodes, volume):
    here = Opened(nodes[0], volume)
    refused = nodes[1].vlmc("unlock", volume, check=False)
    assert refused.returncode and "locked by another" in refused.stderr
    here.write(0, b"still here" * 100)
    here.close()


def test_a_holder_stopped_robbed_and_continued_can_do_nothing_any_more(nodes, volume):
    here = Opened(nodes[0], volume)
    here.write(0, b"a" * 4096)
    here.flush()
    signalled(nodes[0], signal.SIGSTOP)
    try:
        nodes[1].vlmc("unlock", "-f", volume)
        there = Opened(nodes[1], volume)
        assert there.read(0).data == b"a" * 4096
        there.write(0, b"b" * 4096)
        there.write(BLOCK, b"n" * 4096)
        there.flush()
    finally:
        signalled(nodes[0], signal.SIGCONT)
    for answer in (here.read(BLOCK, check=False), here.read(0, check=False), here.write(0, b"c" * 4096, check=False),
                   here.write(5 * BLOCK, b"c" * 4096, check=False), here.flush(check=False)):
        assert answer.error == errno.ESTALE
    assert there.read(0).data == b"b" * 4096
    assert there.read(BLOCK).data == b"n" * 4096
    assert there.read(5 * BLOCK).data == bytes(4096)
    assert "this node was fenced" in nodes[0].logs()
    there.close()
    with pytest.raises(Stale):
        Opened(nodes[0], volume)


def test_a_fenced_node_serves_again_after_a_stop_and_a_start(nodes, volume):
    here = Opened(nodes[0], volume)
    here.write(0, b"a" * 4096)
    here.flush()
    nodes[1].vlmc("unlock", "-f", volume)
    assert here.write(0, b"c" * 4096, check=False).error == errno.ESTALE
    again = nodes[0].archipelago("restart", "blockerb", check=False)
    assert again.returncode and "this instance was fenced" in again.stderr
    here.client.close()
    nodes[0].stop()
    nodes[0].start()
    here = Opened(nodes[0], volume)
    assert here.read(0).data == b"a" * 4096
    here.close()


def test_no_answer_out_of_memory_is_stale(nodes, volume):
    """The old holder reads a hole all the while, and gets no zeros after the other has written there."""
    here, reads = Opened(nodes[0], volume), []
    nodes[1].vlmc("unlock", volume, check=False)
    stopping = threading.Event()

    def read_on():
        while not stopping.is_set():
            began = time.monotonic()
            reads.append((began, here.read(BLOCK, check=False).error))

    reader = threading.Thread(target=read_on)
    reader.start()
    wait_until(lambda: reads, "it reads")
    nodes[1].vlmc("unlock", "-f", volume)
    there = Opened(nodes[1], volume)
    there.write(BLOCK, b"n" * 4096)
    written = time.monotonic()
    wait_until(lambda: reads[-1][0] > written, "it has read since then")
    stopping.set()
    reader.join()
    assert reads[0][1] == 0
    assert {error for began, error in reads if began > written} == {errno.ESTALE}
    there.close()


LEASE_S = 3


@pytest.mark.options(lease_s=LEASE_S)
def test_a_lease_is_renewed_while_its_holder_lives(nodes, volume):
    here = Opened(nodes[0], volume)
    time.sleep(2 * LEASE_S)
    with pytest.raises(Busy):
        Opened(nodes[1], volume)
    here.write(0, b"still mine" * 100)
    here.close()


@pytest.mark.options(lease_s=LEASE_S)
def test_a_lease_that_ran_out_is_taken_over_and_its_holder_fenced(nodes, volume):
    here = Opened(nodes[0], volume)
    here.write(0, b"a" * 4096)
    here.flush()
    signalled(nodes[0], signal.SIGSTOP)
    try:
        time.sleep(LEASE_S + 1)
        there = Opened(nodes[1], volume)
        there.write(0, b"b" * 4096)
    finally:
        signalled(nodes[0], signal.SIGCONT)
    assert here.write(0, b"c" * 4096, check=False).error == errno.ESTALE
    assert there.read(0).data == b"b" * 4096
    there.close()


# --- whose lock is free again


def test_the_lock_of_a_node_stopped_with_the_volume_open_is_free(nodes, volume):
    here = Opened(nodes[0], volume)
    here.write(0, b"a" * 4096)
    here.flush()
    here.client.close()
    nodes[0].stop()
    there = Opened(nodes[1], volume)
    assert there.read(0).data == b"a" * 4096
    there.close()


def test_an_instance_takes_its_locks_again_after_a_power_cut(nodes, volume):
    """All of its processes die at once, and its segment is lost: what the next one finds is its own."""
    here = Opened(nodes[0], volume)
    here.write(0, b"a" * 4096)
    here.flush()
    for pid in {peer["pid"] for peer in nodes[0].status().values()}:
        os.kill(pid, signal.SIGKILL)
    here.client.close()
    with pytest.raises(Busy):
        Opened(nodes[1], volume)
    Segment.unlink(name_for(nodes[0].home))
    nodes[0].start()
    here = Opened(nodes[0], volume)
    assert here.read(0).data == b"a" * 4096
    here.write(0, b"b" * 4096)
    here.close()


# --- deaths


def test_a_killed_map_blocker_comes_back_as_the_locks_holder(nodes, volume):
    here = Opened(nodes[0], volume)
    here.write(0, b"a" * 4096)
    nodes[0].kill("blockerm")
    nodes[0].restart("blockerm")
    here.write(4096, b"b" * 4096)
    here.flush()
    with pytest.raises(Busy):
        Opened(nodes[1], volume)
    here.close()
    there = Opened(nodes[1], volume)
    assert there.read(0, 8192).data == b"a" * 4096 + b"b" * 4096
    there.close()


def test_a_killed_data_blockers_old_client_is_fenced(cluster, nodes, volume):
    here = Opened(nodes[0], volume)
    here.write(0, b"a" * 4096)
    before = re.search(r"blockerb INFO .* at (\S+)", nodes[0].logs()).group(1)
    nodes[0].kill("blockerb")
    nodes[0].restart("blockerb")
    here.write(0, b"b" * 4096)
    assert here.read(0).data == b"b" * 4096
    assert before in cluster.run("ceph", "osd", "blocklist", "ls")
    here.close()


def test_what_one_node_protects_the_other_does_not_remove(nodes, volume):
    nodes[0].vlmc("snapshot", volume, "s")
    nodes[0].vlmc("protect", volume, "s")
    for name in (volume, "s"):
        assert f"vlmc unprotect {name}" in nodes[1].vlmc("remove", name, check=False).stderr
    here = Opened(nodes[0], volume)
    assert "locked by another" in nodes[1].vlmc("unprotect", volume, check=False).stderr
    here.close()
    nodes[1].vlmc("unprotect", volume, "s")
    nodes[0].vlmc("remove", "s")


def test_a_volume_open_on_one_node_is_not_rolled_back_by_the_other(nodes, volume):
    here = Opened(nodes[0], volume)
    here.write(0, b"a" * 4096)
    nodes[0].vlmc("snapshot", volume, "s")
    here.write(0, b"b" * 4096)
    refused = nodes[1].vlmc("rollback", volume, "s", check=False)
    assert refused.returncode and "locked by another: host" in refused.stderr
    assert here.read(0).data == b"b" * 4096
    here.close()
    nodes[1].vlmc("rollback", volume, "s", "--keep", "k")
    there, kept = Opened(nodes[1], volume), Opened(nodes[0], "k")
    assert there.read(0).data == b"a" * 4096 and kept.read(0).data == b"b" * 4096
    there.close()
    kept.close()
    back = Opened(nodes[0], volume)
    assert back.read(0).data == b"a" * 4096
    back.close()
