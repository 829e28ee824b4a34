# SPDX-License-Identifier: Apache-2.0
"""What a guest gets from the peer `vhost`, by a front-end of our own with real memory."""
import json
import os
import random
import signal
import struct
import time

import pytest
import vhost_front as vf
from support import wait_until
from vhost_front import FrontEnd

SECTOR = 512


def test_a_disk_tells_its_size_and_name(served, disk):
    with FrontEnd(disk.path) as guest:
        config = guest.config()
        assert config["capacity"] == disk.size // SECTOR
        assert config["num_queues"] == 2
        assert guest.number(vf.GET_QUEUES) == 2
        guest.begin()
        assert guest.do(vf.GET_ID, length=20).data == f"arc-{served.vlmc_json('info', disk.name)['id']}".encode()


def test_what_is_written_is_read_and_lies_in_the_volume(served, disk):
    data = random.Random(1).randbytes(3 << 20)
    with FrontEnd(disk.path).begin() as guest:
        assert guest.do(vf.OUT, 5, data).status == vf.OK
        assert guest.do(vf.T_FLUSH).status == vf.OK
        done = guest.do(vf.IN, 5, length=len(data))
        assert (done.status, done.written, done.data) == (vf.OK, len(data) + 1, data)
    with served.client.open(disk.name, readonly=True) as volume:
        assert volume.read(5 * SECTOR, len(data)) == data


def test_zeroes_and_discard_do_what_they_say(disk):
    ranges = b"".join(struct.pack("<QII", sector, 16, 0) for sector in (0, 64))
    with FrontEnd(disk.path).begin() as guest:
        guest.do(vf.OUT, 0, b"x" * 65536)
        assert guest.do(vf.T_WRITE_ZEROES, 0, ranges).status == vf.OK
        data = guest.do(vf.IN, 0, length=65536).data
        assert data == bytes(8192) + b"x" * 24576 + bytes(8192) + b"x" * 24576
        assert guest.do(vf.T_DISCARD, 0, struct.pack("<QII", 0, disk.size // SECTOR, 0)).status == vf.OK
        assert guest.do(vf.IN, 0, length=65536).data == bytes(65536)


@pytest.mark.parametrize("how", ["indirect", "split head", "no event index", "small ring"])
def test_rings_are_served_as_drivers_use_them(disk, how):
    features = vf.USUAL & ~vf.bits(vf.EVENT_IDX) if how == "no event index" else vf.USUAL
    with FrontEnd(disk.path, features).begin(num=8 if how == "small ring" else 128) as guest:
        ring = guest.rings[0]
        for n in range(40):
            data = bytes([n]) * 4096
            if how == "indirect":
                done = indirect(guest, ring, n * 8, data)
            elif how == "split head":
                done = split(guest, ring, n * 8, data)
            else:
                done = guest.do(vf.OUT, n * 8, data).status
            assert done == vf.OK
            assert guest.do(vf.IN, n * 8, length=4096).data == data


def indirect(guest, ring, sector, data):
    """A write by a table of descriptors."""
    table, head, at, status = guest.room(48), guest.room(16), guest.room(len(data)), guest.room(1)
    struct.pack_into("<IIQ", guest.memory, head, vf.OUT, 0, sector)
    guest.memory[at:at + len(data)] = data
    rows = [(head, 16, vf.NEXT, 1), (at, len(data), vf.NEXT, 2), (status, 1, vf.WRITE, 0)]
    for n, (place, length, flags, following) in enumerate(rows):
        struct.pack_into("<QIHH", guest.memory, table + 16 * n, vf.BASE + place, length, flags, following)
    guest.chain(ring, [(table, 48, vf.IS_INDIRECT)])
    guest.kick(ring)
    guest.finish(ring)
    return guest.memory[status]


def split(guest, ring, sector, data):
    """A write whose head and data lie in odd pieces."""
    head, at, status = guest.room(16), guest.room(len(data)), guest.room(1)
    struct.pack_into("<IIQ", guest.memory, head, vf.OUT, 0, sector)
    guest.memory[at:at + len(data)] = data
    guest.chain(ring, [(head, 3, 0), (head + 3, 13, 0), (at, 1000, 0), (at + 1000, len(data) - 1000, 0),
                       (status, 1, vf.WRITE)])
    guest.kick(ring)
    guest.finish(ring)
    return guest.memory[status]


def test_two_queues_and_many_requests_at_once(disk):
    dice = random.Random(2)
    with FrontEnd(disk.path, size=32 << 20).begin(queues=2) as guest:
        oracle = bytearray(disk.size)
        for _turn in range(20):
            wanted = {}
            for n in range(30):
                ring = guest.rings[n % 2]
                sector = n * 2048 + dice.randrange(1024)
                data = dice.randbytes(SECTOR * dice.randrange(1, 64))
                wanted[guest.submit(vf.OUT, sector, data, ring=ring, kick=False), n % 2] = sector, data
            for ring in guest.rings.values():
                guest.kick(ring)
                for head, done in guest.finish(ring).items():
                    sector, data = wanted[head, ring.index]
                    assert done.status == vf.OK
                    oracle[sector * SECTOR:sector * SECTOR + len(data)] = data
        for n in range(30):
            at = n * 2048 * SECTOR
            assert guest.do(vf.IN, n * 2048, length=524288).data == oracle[at:at + 524288]


def test_a_snapshot_is_read_only(served, disk):
    served.vlmc("snapshot", disk.name, "snap-ro")
    path = served.vlmc("attach", "snap-ro").stdout.strip()
    with FrontEnd(path) as guest:
        assert guest.number(vf.GET_FEATURES) >> vf.RO & 1
        guest.begin()
        assert guest.do(vf.OUT, 0, bytes(512)).status == vf.IOERR
        assert guest.do(vf.IN, 0, length=512).status == vf.OK
    served.vlmc("detach", "snap-ro", "--force")


def test_the_cache_can_be_turned_off(disk):
    with FrontEnd(disk.path).begin() as guest:
        guest.tell(vf.SET_CONFIG, struct.pack("<III", 32, 1, 0) + b"\0")
        assert guest.config()["wce"] == 0
        assert guest.do(vf.OUT, 0, bytes(4096)).status == vf.OK


def test_a_guest_without_a_cache_is_served(disk):
    with FrontEnd(disk.path, vf.bits(vf.VERSION_1, vf.PROTOCOL)).begin() as guest:
        assert guest.do(vf.OUT, 9, b"y" * 4096).status == vf.OK
        assert guest.do(vf.IN, 9, length=4096).data == b"y" * 4096


def test_a_ring_stops_when_what_it_took_is_done_and_goes_on_from_there(disk):
    with FrontEnd(disk.path).begin() as guest:
        ring = guest.rings[0]
        for n in range(30):
            guest.submit(vf.OUT, n * 8, bytes([n]) * 4096, kick=False)
        guest.kick(ring)
        base = guest.stop_ring(ring)
        taken = guest.given_back(ring)
        assert len(taken) == base
        guest.submit(vf.IN, 8, length=4096)
        time.sleep(0.2)
        assert not guest.given_back(ring)
        guest.start_ring(ring, base=base)
        guest.kick(ring)
        rest = guest.finish(ring)
        assert len(taken) + len(rest) == 31
        assert all(done.status == vf.OK for done in (*taken.values(), *rest.values()))


def test_status_0_loses_nothing_that_was_taken(disk):
    with FrontEnd(disk.path).begin() as guest:
        ring = guest.rings[0]
        for n in range(30):
            guest.submit(vf.OUT, n * 8, bytes([n]) * 4096, kick=False)
        guest.kick(ring)
        guest.tell(vf.SET_STATUS, struct.pack("<Q", 0))
        guest.tell(vf.ENABLE, struct.pack("<II", 0, 0))
        base = guest.stop_ring(ring)
        assert len(guest.given_back(ring)) == base


def test_one_front_end_at_a_time_and_the_next_when_it_stops(disk):
    with FrontEnd(disk.path).begin() as first, FrontEnd(disk.path).begin() as second:
        first.do(vf.OUT, 0, b"a" * 4096)
        second.submit(vf.IN, 0, length=4096)
        time.sleep(0.3)
        assert not second.given_back()
        first.do(vf.OUT, 0, b"b" * 4096)
        first.stop_ring(first.rings[0])
        assert [done.data for done in second.finish().values()] == [b"b" * 4096]


def test_shared_disks_are_run_by_several(served):
    served.vlmc("create", "together", "--size", "64M")
    path = served.vlmc("attach", "together", "--shared").stdout.strip()
    with FrontEnd(path).begin() as first, FrontEnd(path).begin() as second:
        first.do(vf.OUT, 0, b"a" * 4096)
        assert second.do(vf.IN, 0, length=4096).data == b"a" * 4096
    served.vlmc("detach", "together", "--force")


def test_the_front_end_is_told_of_a_resize(served, disk):
    ours, theirs = os.pipe()
    with FrontEnd(disk.path) as guest:
        guest.negotiate(vf.bits(vf.REPLY_ACK, vf.CONFIG, vf.BACKEND_REQ))
        guest.tell(vf.SET_REQUEST_FD, b"", (theirs,))
        guest.share_memory()
        guest.start_ring(guest.add_ring())
        guest.do(vf.IN, 0, length=512)
        assert guest.config()["capacity"] == disk.size // SECTOR        # who never asked is told nothing
        served.vlmc("resize", disk.name, str(2 * disk.size))
        assert struct.unpack("<III", os.read(ours, 12)) == (2, 1, 0)
        assert guest.config()["capacity"] == 2 * disk.size // SECTOR
        assert guest.do(vf.OUT, disk.size // SECTOR, b"z" * 512).status == vf.OK
    os.close(ours)
    os.close(theirs)


def test_migration_marks_every_page_it_writes(disk):
    log = os.memfd_create("log")
    os.truncate(log, (vf.BASE + vf.SIZE >> 12) // 8)
    with FrontEnd(disk.path, vf.USUAL | vf.bits(vf.LOG_ALL)) as guest:
        guest.want &= ~vf.bits(vf.LOG_ALL)
        guest.begin()
        ring = guest.rings[0]
        guest.do(vf.OUT, 0, b"m" * 65536)
        guest.send(vf.SET_LOG_BASE, struct.pack("<QQ", os.fstat(log).st_size, 0), (log,))
        assert guest.receive()[0] == vf.SET_LOG_BASE
        guest.tell(vf.SET_FEATURES, struct.pack("<Q", guest.features | vf.bits(vf.LOG_ALL)))
        guest.tell(vf.SET_ADDR, guest.addresses(ring, 1, vf.BASE + ring.used))
        before = bytes(guest.memory)
        for n in range(8):
            guest.do(vf.IN, n * 16, length=8192)
        marked = os.pread(log, os.fstat(log).st_size, 0)
        now = bytes(guest.memory)
        for page in range(vf.SIZE >> 12):
            theirs = page << 12 >= vf.DATA_AT or ring.used >> 12 <= page <= ring.used + 2048 >> 12
            changed = before[page << 12:(page + 1) << 12] != now[page << 12:(page + 1) << 12]
            absolute = page + (vf.BASE >> 12)
            if theirs and changed and b"m" in now[page << 12:(page + 1) << 12]:
                assert marked[absolute >> 3] >> (absolute & 7) & 1, f"page {page}"
        used = vf.BASE + ring.used >> 12
        assert marked[used >> 3] >> (used & 7) & 1
    os.close(log)


def test_a_session_and_its_requests_survive_kill_9(served, disk):
    dice = random.Random(3)
    oracle = bytearray(disk.size)
    with FrontEnd(disk.path, size=32 << 20).begin() as guest:
        for _turn in range(6):
            wanted = {}
            for n in range(30):
                sector = n * 2048 + dice.randrange(1024)
                data = dice.randbytes(SECTOR * dice.randrange(1, 64))
                wanted[guest.submit(vf.OUT, sector, data, kick=False)] = sector, data
            guest.kick(guest.rings[0])
            time.sleep(dice.random() * 0.01)
            os.kill(wait_until(lambda: running(served), "it runs"), signal.SIGKILL)
            for head, done in guest.finish().items():       # each once: given_back() asserts that
                sector, data = wanted.pop(head)
                assert done.status == vf.OK
                oracle[sector * SECTOR:sector * SECTOR + len(data)] = data
            assert not wanted
        for n in range(30):
            at = n * 2048 * SECTOR
            assert guest.do(vf.IN, n * 2048, length=524288).data == oracle[at:at + 524288]
        row = next(row for row in served.vlmc_json("attached") if row["name"] == disk.name)
        assert row["front_ends"][0]["survived"] >= 5


def running(served):
    peer = served.status()["vhost"]
    return peer["pid"] if peer["state"] == "running" else 0


def test_memory_that_is_cut_off_after_a_death_ends_the_session_alone(served, disk):
    with FrontEnd(disk.path).begin() as guest:
        guest.do(vf.OUT, 0, b"c" * 65536)
        os.kill(wait_until(lambda: running(served), "it runs"), signal.SIGKILL)
        assert guest.do(vf.IN, 0, length=4096).data == b"c" * 4096
        pid = wait_until(lambda: running(served), "it runs again")
        guest.cut_off()
    with FrontEnd(disk.path).begin() as guest:
        assert guest.do(vf.IN, 0, length=65536).data == b"c" * 65536
    assert running(served) == pid


def test_it_survives_a_planned_restart_and_a_new_supervisor(served, disk):
    with FrontEnd(disk.path).begin() as guest:
        guest.do(vf.OUT, 0, b"r" * 4096)
        served.archipelago("restart", "vhost")
        assert guest.do(vf.IN, 0, length=4096).data == b"r" * 4096
        served.archipelago("restart", "--supervisor")
        wait_until(lambda: parked_again(served), "the new supervisor has all descriptors")
        os.kill(wait_until(lambda: running(served), "it runs"), signal.SIGKILL)
        assert guest.do(vf.IN, 0, length=4096).data == b"r" * 4096


def parked_again(served):
    """True if the supervisor that runs now has a socket of a session."""
    with open(f"{served.home}/run/supervisor.json", encoding="utf-8") as file:
        pid = json.load(file)["pid"]
    links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")
             if os.path.islink(f"/proc/{pid}/fd/{fd}")]
    return any("guest" in link for link in links)


def test_a_front_end_that_comes_back_with_its_inflight_region_is_served_the_same(served, disk):
    with FrontEnd(disk.path) as guest:
        guest.negotiate()
        guest.share_memory()
        guest.send(vf.GET_INFLIGHT, struct.pack("<QQHHI", 0, 0, 1, 128, 0))
        _request, region, (fd,) = guest.receive(1)
        guest.start_ring(guest.add_ring())
        guest.do(vf.OUT, 0, b"i" * 4096)
        for n in range(20):
            guest.submit(vf.OUT, 8 + n, b"j" * 512, kick=False)
        guest.kick(guest.rings[0])
        guest.close()
        guest.connect()
        guest.negotiate()
        guest.share_memory()
        guest.tell(vf.SET_INFLIGHT, region, (fd,))
        guest.start_ring(guest.rings[0], base=struct.unpack_from("<H", guest.memory, guest.rings[0].used + 2)[0])
        assert all(done.status == vf.OK for done in guest.finish().values())
        assert guest.do(vf.IN, 8, length=20 * 512).data == b"j" * 20 * 512
        os.close(fd)
