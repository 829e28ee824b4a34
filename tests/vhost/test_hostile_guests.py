# SPDX-License-Identifier: Apache-2.0
"""Front-ends and guests that say and do what they must not: they lose their own disk at most."""
import os
import random
import struct
import time

import pytest
import vhost_front as vf
from vhost_front import FrontEnd

SECTOR = 512


@pytest.fixture(scope="module")
def neighbour(served):
    """Another disk, served by the same process: its socket, and that process."""
    served.vlmc("create", "neighbour", "--size", "64M")
    return served.vlmc("attach", "neighbour").stdout.strip(), served.status()["vhost"]["pid"]


@pytest.fixture(autouse=True)
def others_go_on(served, neighbour):
    """Whatever a test does, the process lives and another disk of it is served."""
    yield
    path, pid = neighbour
    with FrontEnd(path).begin() as guest:
        assert guest.do(vf.OUT, 100, b"o" * 512).status == vf.OK
    assert served.status()["vhost"]["pid"] == pid


@pytest.fixture
def victim(served, request):
    """The disk that a test spoils."""
    name = f"victim{abs(hash(request.node.name)) % 10**9}"
    served.vlmc("create", name, "--size", "64M")
    return served.vlmc("attach", name, "--queues", "2").stdout.strip()


def region(guest, start=vf.BASE, size=vf.SIZE, user=vf.USER, offset=0):
    return struct.pack("<QQQQ", start, size, user, offset)


MESSAGES = {
    "a size beyond bounds": lambda g: g.socket.send(struct.pack("<III", 1, 1, 1 << 31)),
    "version 0": lambda g: g.socket.send(struct.pack("<III", 1, 0, 0)),
    "a reply": lambda g: g.socket.send(struct.pack("<III", 1, 5, 0)),
    "an unknown message": lambda g: g.send(999),
    "a message of no meaning here": lambda g: g.send(22, bytes(8)),
    "too short": lambda g: g.send(vf.SET_FEATURES, b"1234"),
    "features not offered": lambda g: g.send(vf.SET_FEATURES, struct.pack("<Q", 1 << 34)),
    "protocol features not offered": lambda g: g.send(vf.SET_PROTOCOL, struct.pack("<Q", 1 << 40)),
    "a ring of 0": lambda g: g.send(vf.SET_NUM, struct.pack("<II", 0, 0)),
    "a ring of 3": lambda g: g.send(vf.SET_NUM, struct.pack("<II", 0, 3)),
    "a ring of 65536": lambda g: g.send(vf.SET_NUM, struct.pack("<II", 0, 65536)),
    "a ring that is not there": lambda g: g.send(vf.SET_NUM, struct.pack("<II", 2, 128)),
    "no table of memory": lambda g: g.send(vf.SET_MEM_TABLE, struct.pack("<II", 0, 0)),
    "33 regions": lambda g: g.send(vf.SET_MEM_TABLE, struct.pack("<II", 33, 0) + region(g) * 33, (g.fd,)),
    "regions without descriptors": lambda g: g.send(vf.SET_MEM_TABLE, struct.pack("<II", 1, 0) + region(g)),
    "more descriptors than regions": lambda g: g.send(vf.SET_MEM_TABLE, struct.pack("<II", 1, 0) + region(g),
                                                      (g.fd, g.fd)),
    "regions over each other": lambda g: g.send(vf.SET_MEM_TABLE, struct.pack("<II", 2, 0) + region(g) * 2,
                                                (g.fd, g.fd)),
    "a region of 0 bytes": lambda g: g.send(vf.SET_MEM_TABLE, struct.pack("<II", 1, 0) + region(g, size=0), (g.fd,)),
    "a region that wraps": lambda g: g.send(vf.SET_MEM_TABLE, struct.pack("<II", 1, 0)
                                            + region(g, start=(1 << 64) - 4096), (g.fd,)),
    "a region beyond its file": lambda g: g.send(vf.SET_MEM_TABLE, struct.pack("<II", 1, 0)
                                                 + region(g, size=vf.SIZE + 4096), (g.fd,)),
    "a region of a folder": lambda g: g.send(vf.SET_MEM_TABLE, struct.pack("<II", 1, 0) + region(g),
                                             (os.open("/tmp", os.O_RDONLY),)),
    "a region that is removed and never was": lambda g: g.send(vf.REM_MEM, bytes(8) + region(g)),
    "a kick that is a file": lambda g: g.send(vf.SET_KICK, struct.pack("<Q", 0), (g.fd,)),
    "a kick without a descriptor": lambda g: g.send(vf.SET_KICK, struct.pack("<Q", 0)),
    "a kick for a ring that is not there": lambda g: g.send(vf.SET_KICK, struct.pack("<Q", 9), (os.eventfd(0),)),
    "the size is to be another": lambda g: g.send(vf.SET_CONFIG, struct.pack("<IIIQ", 0, 8, 0, 1)),
    "an inflight region that is too small": lambda g: g.send(vf.SET_INFLIGHT, struct.pack("<QQHHI", 4096, 0, 2, 999, 0),
                                                             (g.fd,)),
    "an inflight region of no queue": lambda g: g.send(vf.GET_INFLIGHT, struct.pack("<QQHHI", 0, 0, 0, 128, 0)),
    "a log that is too small": lambda g: (g.share_memory(), g.send(vf.SET_LOG_BASE, struct.pack("<QQ", 1, 0), (g.fd,))),
    "ring addresses outside": lambda g: (g.share_memory(), g.tell(vf.SET_NUM, struct.pack("<II", 0, 128)),
                                         g.send(vf.SET_ADDR, struct.pack("<IIQQQQ", 0, 0, 16, 32, 64, 0))),
    "ring addresses at the end": lambda g: (g.share_memory(), g.tell(vf.SET_NUM, struct.pack("<II", 0, 128)),
                                            g.send(vf.SET_ADDR, struct.pack("<IIQQQQ", 0, 0, vf.USER + vf.SIZE - 16,
                                                                            vf.USER, vf.USER, 0))),
    "ring addresses unaligned": lambda g: (g.share_memory(), g.tell(vf.SET_NUM, struct.pack("<II", 0, 128)),
                                           g.send(vf.SET_ADDR, struct.pack("<IIQQQQ", 0, 0, vf.USER + 8, vf.USER,
                                                                           vf.USER, 0))),
}


def test_messages_that_make_no_sense_end_the_connection(victim):
    lives = [what for what, say in MESSAGES.items() if outlives(victim, say)]
    assert not lives


def outlives(path, say):
    with FrontEnd(path) as guest:
        say(guest)
        return guest.still_served()


def test_half_a_message_and_silence_hurt_nobody(victim):
    with FrontEnd(victim) as silent, FrontEnd(victim) as other:
        silent.socket.send(struct.pack("<II", 1, 1))
        assert other.begin().do(vf.OUT, 0, bytes(512)).status == vf.OK


def test_a_config_of_any_size_is_answered(victim):
    with FrontEnd(victim) as guest:
        assert len(guest.ask(vf.GET_CONFIG, struct.pack("<III", 0, 256, 0) + bytes(256))) == 12 + 256
        assert guest.ask(vf.GET_CONFIG, struct.pack("<III", 0, 257, 0) + bytes(257)) == b""
        assert guest.ask(vf.GET_CONFIG, struct.pack("<III", 0xffffffff, 8, 0) + bytes(8)) == b""


def one(guest, parts):
    """A chain of these parts; (bytes written, status byte) as it comes back."""
    ring = guest.rings[0]
    status = parts[-1][0] if parts else 0
    guest.memory[status] = 0x77
    head = guest.chain(ring, parts)
    guest.kick(ring)
    done = guest.finish(ring)[head]
    return done.written, guest.memory[status]


def test_chains_that_make_no_sense_are_given_back(victim):
    with FrontEnd(victim).begin() as guest:
        status, data = guest.room(1), guest.room(8192)
        head = guest.header(vf.IN, 0)
        far = vf.SIZE + 4096
        for parts in ([(head, 16, 0), (data, 512, 0)],                                  # nothing can be written
                      [(head, 16, 0), (data, 512, vf.WRITE), (data, 512, 0), (status, 1, vf.WRITE)],    # out of order
                      [(head, 16, 0), (far, 512, vf.WRITE), (status, 1, vf.WRITE)],
                      [(head, 16, 0), (data, 0xffffffff, vf.WRITE), (status, 1, vf.WRITE)],
                      [(head, 16, 0), (data, 24, vf.IS_INDIRECT)],
                      [(data, 17, vf.IS_INDIRECT)],
                      [(data, 0, vf.IS_INDIRECT)],
                      [(data, 32 * 1024, vf.IS_INDIRECT)]):
            assert one(guest, parts)[0] == 0, parts
        assert one(guest, [(head, 15, 0), (status, 1, vf.WRITE)]) == (1, vf.IOERR)
        assert guest.do(vf.IN, 0, length=512).status == vf.OK


def test_loops_of_descriptors_end(victim):
    with FrontEnd(victim).begin() as guest:
        ring = guest.rings[0]
        head = guest.header(vf.IN, 0)
        guest.put_descriptor(ring, 0, head, 16, vf.NEXT, 1)
        guest.put_descriptor(ring, 1, head, 16, vf.NEXT, 0)
        ring.under_way[0] = ([], 0, 0, head)
        guest.expose(ring, 0)
        guest.kick(ring)
        assert guest.finish(ring)[0].written == 0
        table = guest.room(16)
        struct.pack_into("<QIHH", guest.memory, table, vf.BASE + table, 16, vf.IS_INDIRECT, 0)
        assert one(guest, [(table, 16, vf.IS_INDIRECT)])[0] == 0


def test_requests_that_make_no_sense_are_refused(served, victim):
    with FrontEnd(victim).begin() as guest:
        last = guest.config()["capacity"]
        assert guest.do(vf.IN, last, length=512).status == vf.IOERR
        assert guest.do(vf.IN, last - 1, length=1024).status == vf.IOERR
        assert guest.do(vf.OUT, (1 << 64) // SECTOR, b"w" * 512).status == vf.IOERR
        assert guest.do(vf.OUT, (1 << 64) - 1, b"w" * 512).status == vf.IOERR
        assert guest.do(vf.IN, 0, length=1023).status == vf.IOERR
        assert guest.do(99, 0).status == vf.UNSUPP
        assert guest.do(vf.T_DISCARD, 0).status == vf.IOERR
        assert guest.do(vf.T_DISCARD, 0, bytes(17)).status == vf.IOERR
        assert guest.do(vf.T_DISCARD, 0, bytes(16 * 17)).status == vf.IOERR
        assert guest.do(vf.T_DISCARD, 0, struct.pack("<QII", last, 1, 0)).status == vf.IOERR
        assert guest.do(vf.T_DISCARD, 0, struct.pack("<QII", (1 << 64) - 1, 2, 0)).status == vf.IOERR
        assert guest.do(vf.T_WRITE_ZEROES, 0, struct.pack("<QII", 0, 8, 6)).status == vf.UNSUPP
        assert guest.do(vf.GET_ID, length=5).data == guest.do(vf.GET_ID, length=20).data[:5]


@pytest.mark.parametrize("how", ["too many", "no head", "twice"])
def test_a_ring_that_makes_no_sense_breaks_and_others_go_on(victim, how):
    with FrontEnd(victim).begin(queues=2) as guest:
        ring, other = guest.rings[0], guest.rings[1]
        if how == "too many":
            struct.pack_into("<H", guest.memory, ring.avail + 2, ring.num + 1)
        elif how == "no head":
            guest.expose(ring, ring.num)
        else:
            at = guest.header(vf.T_FLUSH, 0)
            head = guest.chain(ring, [(at, 16, 0), (guest.room(1), 1, vf.WRITE)], expose=False)
            struct.pack_into("<HHHH", guest.memory, ring.avail, 0, 2, head, head)
        guest.kick(ring)
        assert guest.broken(ring)
        assert guest.do(vf.OUT, 0, b"k" * 512, ring=other).status == vf.OK
        guest.stop_ring(ring)


def test_a_guest_that_scribbles_over_its_rings_hurts_only_itself(victim):
    dice = random.Random(4)
    for _life in range(12):
        with FrontEnd(victim).begin(num=64) as guest:
            ring = guest.rings[0]
            for n in range(20):
                guest.submit(vf.IN if n % 2 else vf.OUT, n * 64, b"" if n % 2 else bytes(4096),
                             4096 if n % 2 else 0, kick=False)
            guest.kick(ring)
            for _write in range(300):
                at = dice.randrange(ring.used + 4 + 8 * ring.num)
                guest.memory[at] = dice.randrange(256)
            guest.kick(ring)
            time.sleep(0.01)


def test_memory_that_is_cut_off_ends_the_session(victim):
    with FrontEnd(victim).begin() as guest:
        guest.do(vf.OUT, 0, b"c" * 65536)
        guest.cut_off()


def test_a_front_end_that_leaves_amid_its_requests_leaves_nothing(victim):
    for _life in range(20):
        with FrontEnd(victim).begin() as guest:
            for n in range(30):
                guest.submit(vf.OUT, n * 8, b"l" * 4096, kick=False)
            guest.kick(guest.rings[0])
    with FrontEnd(victim).begin() as guest:
        guest.do(vf.OUT, 0, b"n" * 4096 * 30)
        assert guest.do(vf.IN, 0, length=4096 * 30).data == b"n" * 4096 * 30
