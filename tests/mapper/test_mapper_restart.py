# SPDX-License-Identifier: Apache-2.0
"""The mapper is killed and started again under open volumes: nobody notices but for a pause."""
import random
import shutil
import tempfile
import threading

import pytest
from support import Instance, wait_until

from xseg._native import lib
from xseg.client import Client, Volume
from xseg.errors import Busy, Stale
from xseg.request import Call
from xseg.segment import Segment, name_for

GIB = 1 << 30
BLOCK = 65536


def test_an_open_volume_survives_its_mapper(instance):
    ask = instance.client.control
    ask("create", name="v", size=GIB, block_size=BLOCK)
    volume = instance.client.open("v")
    volume.write(0, b"flushed")
    volume.flush()
    volume.write(10_000_000, b"not flushed")
    instance.kill("mapper")
    instance.restart("mapper")
    assert volume.read(0, 7) + volume.read(10_000_000, 11) == b"flushednot flushed"
    volume.write(20_000_000, b"after")
    volume.flush()
    ask("snapshot", name="v", snapshot="s")
    volume.close()
    with instance.client.open("v") as volume:
        assert [volume.read(at, 5) for at in (0, 10_000_000, 20_000_000)] == [b"flush", b"not f", b"after"]
    assert ask("check", name="v")["problems"] == [] == ask("check", name="s")["problems"]


def test_opens_and_names_survive(instance):
    ask = instance.client.control
    ask("create", name="v", size=GIB)
    ask("create", name="w", size=GIB)
    volume = instance.client.open("v")
    ask("open", name="w")
    instance.kill("mapper")
    instance.restart("mapper")
    assert ask("info", name="v")["open"]["by"] == {"client": 1}
    assert ask("info", name="w")["open"]["administrative"]
    with pytest.raises(Busy):
        ask("remove", name="v")
    volume.close()
    ask("close", name="w")
    ask("remove", name="v")
    ask("remove", name="w")


def test_a_lock_by_hand_survives(instance):
    """Of the mapper, and of the blocker that had it."""
    ask = instance.client.control
    ask("create", name="v", size=GIB)
    ask("lock", name="v")
    for role in ("mapper", "blockerm"):
        instance.kill(role)
        instance.restart(role)
        instance.client.open("v").close()
        assert ask("info", name="v")["lock_number"] and ask("info", name="v")["open"]["locked"]
        with pytest.raises(Busy, match="vlmc lock"):
            ask("remove", name="v")
    ask("unlock", name="v")
    assert ask("info", name="v")["open"] is None and ask("info", name="v")["lock_number"] == 0
    ask("remove", name="v")


def test_opens_of_one_who_died_with_the_mapper_are_not_his_successors(instance):
    """Who gets the dead one's port had nothing open."""
    ask = instance.client.control
    ask("create", name="v", size=GIB)
    first = Client(instance.home)
    number = first.port.number
    volume = first.open("v")
    instance.kill("mapper")
    first.close()
    with Client(instance.home) as second:
        assert second.port.number == number
        instance.restart("mapper")
        wait_until(lambda: ask("info", name="v")["open"] is None, "the volume is closed")
        with second.open("v"):
            assert ask("info", name="v")["open"]["by"] == {"client": 1}
    volume.handle = 0
    ask("remove", name="v")


def ask_again(instance, request, sent_so):
    """A request that the mapper has answered is served by its successor, too. `sent_so`: it was sent as it is now;
    else the mapper has left it so, and died before it answered."""
    port = instance.client.port
    handle = request.c.volume or request.c.done
    lib.xreq_send(port.c, request.c, instance.client.segment.port_of("mapper"))
    if not sent_so:
        slot = instance.client.segment.c.slots[request.c.index]
        slot.asked, slot.volume = 0, handle
    instance.restart("mapper")
    port.ring()
    assert [back.c.error for back in port.receive(30)] == [0]
    port.put(request)


def answered(client, op, **fields):
    """A request to the mapper, and that it was answered. It is the caller's."""
    request = client.port.get(4096)
    Call(op, **fields).put(client.port.c, request.c)
    lib.xreq_send(client.port.c, request.c, client.segment.port_of("mapper"))
    client.port.ring()
    assert [back.c.error for back in client.port.receive(30)] == [0]
    return request


@pytest.mark.parametrize("op, before, counted, after", [
    (lib.XOP_OPEN, 1, True, 2), (lib.XOP_OPEN, 1, False, 2), (lib.XOP_OPEN, 0, True, 1),
    (lib.XOP_CLOSE, 3, True, 2), (lib.XOP_CLOSE, 3, False, 2),
    (lib.XOP_CLOSE, 1, True, 0), (lib.XOP_CLOSE, 1, False, 0)])
def test_it_dies_when_it_has_counted_an_open_or_close_or_is_about_to(shared_instance, op, before, counted, after):
    """What it did not answer is served again, and counts once. Another has the volume open all the time."""
    client, name = shared_instance.client, f"v-{op}-{before}-{counted}"
    client.control("create", name=name, size=GIB)
    other = Client(shared_instance.home)
    kept = other.open(name)
    opened = [client.open(name) for _ in range(before)]
    asked = {"data": name.encode()} if op == lib.XOP_OPEN else {"volume": opened[0].handle}
    request = answered(client, op, **asked)
    handle = opened[0].handle if opened else request.c.done
    shared_instance.kill("mapper")
    if not counted:
        client.segment.c.volumes[handle - 1].opens[client.port.number] = before
        client.segment.c.volumes[handle - 1].opened_by[client.port.number] = client.port.c.incarnation
    ask_again(shared_instance, request, sent_so=False)
    assert client.control("info", name=name)["open"]["by"] == {"client": after + 1}
    for _ in range(after):
        Volume(client, handle).close()
    with pytest.raises(Stale):
        Volume(client, handle).close()
    kept.close()
    other.close()
    assert client.control("info", name=name)["open"] is None


def test_it_dies_when_it_has_closed_a_volume_and_not_said_so(shared_instance):
    """Twice; the CLOSE is answered all the same."""
    client = shared_instance.client
    client.control("create", name="closed", size=GIB)
    request = answered(client, lib.XOP_CLOSE, volume=client.open("closed").handle)
    shared_instance.kill("mapper")
    lib.xreq_send(client.port.c, request.c, client.segment.port_of("mapper"))
    client.segment.c.slots[request.c.index].asked = 0
    for _ in range(2):
        shared_instance.restart("mapper")
        shared_instance.kill("mapper")
    shared_instance.restart("mapper")
    client.port.ring()
    assert [back.c.error for back in client.port.receive(30)] == [0]
    client.port.put(request)
    assert client.control("info", name="closed")["open"] is None


def test_a_slot_used_again_for_another_open_counts(shared_instance):
    client = shared_instance.client
    client.control("create", name="again", size=GIB)
    request = answered(client, lib.XOP_OPEN, data=b"again")
    shared_instance.kill("mapper")
    ask_again(shared_instance, request, sent_so=True)
    assert client.control("info", name="again")["open"]["by"] == {"client": 2}


def test_requests_sent_while_it_was_dead_are_served(instance):
    instance.client.control("create", name="v", size=GIB, block_size=BLOCK)
    volume = instance.client.open("v")
    volume.write(0, b"x")
    instance.kill("mapper")
    done = []

    def flush():
        with Client(instance.home) as client:
            client.call("vlmc", 5, volume=volume.handle)
            done.append(True)

    thread = threading.Thread(target=flush)
    thread.start()
    instance.restart("mapper")
    thread.join(30)
    assert done == [True]
    volume.close()


def test_a_long_journal_survives(instance):
    """Killed again and again among flushes, so that journals, checkpoints and replays meet."""
    dice = random.Random(5)
    instance.client.control("create", name="v", size=GIB, block_size=BLOCK)
    volume, expected = instance.client.open("v"), {}
    for step in range(600):
        place = dice.randrange(GIB // BLOCK)
        expected[place] = step.to_bytes(4, "little")
        volume.write(place * BLOCK, expected[place])
        volume.flush()
        if step % 20 == 0:
            instance.client.control("snapshot", name="v", snapshot=f"s{step}")
        if step % 150 == 149:
            instance.kill("mapper")
            instance.restart("mapper")
    volume.close()
    with instance.client.open("v") as volume:
        assert all(volume.read(place * BLOCK, 4) == data for place, data in expected.items())
    for name in ("v", "s0", "s300", "s580"):
        assert instance.client.control("check", name=name)["problems"] == []


def test_resize_and_rename_after_a_restart(instance):
    ask = instance.client.control
    ask("create", name="v", size=GIB, block_size=BLOCK)
    volume = instance.client.open("v")
    volume.write(GIB - 6, b"behind")
    instance.kill("mapper")
    instance.restart("mapper")
    ask("resize", name="v", size=BLOCK)
    ask("resize", name="v", size=GIB)
    ask("rename", name="v", to="w")
    assert volume.name == "w" and volume.read(GIB - 6, 6) == bytes(6)
    volume.close()


def test_the_whole_instance_restarted_finds_what_was_flushed(instance):
    instance.client.control("create", name="v", size=GIB, block_size=BLOCK)
    volume = instance.client.open("v")
    volume.write(0, b"flushed")
    volume.flush()
    instance.stop()
    instance.start()
    with instance.client.open("v") as volume:
        assert volume.read(0, 7) == b"flushed"


@pytest.fixture
def nodes():
    """Two instances on the same stores."""
    homes = [tempfile.mkdtemp(prefix="ar-", dir="/tmp") for _ in range(2)]
    shared = f'[peers.blockerb]\npath = "{homes[0]}/data"\n[peers.blockerm]\npath = "{homes[0]}/map"\n'
    made = [Instance(home, shared) for home in homes]
    for one in made:
        one.start()
    yield made
    for one, home in zip(made, homes, strict=True):
        one.finish()
        Segment.unlink(name_for(home))
        shutil.rmtree(home)


def test_two_nodes_never_have_the_same_volume_open(nodes):
    one, two = nodes
    one.client.control("create", name="v", size=GIB, block_size=BLOCK)
    volume = one.client.open("v")
    volume.write(0, b"from one")
    volume.flush()
    with pytest.raises(Busy, match=f"pid {one.pid('mapper')}.*{one.home}"):
        two.client.control("open", name="v")
    assert two.client.control("mapinfo", name="v")["entries"] and not two.client.control("check", name="v")["problems"]
    with pytest.raises(Busy, match=one.home):
        two.client.control("clone", name="v", names=["c"])
    with pytest.raises(Busy, match="alive"):
        two.client.control("unlock", name="v", force=True)
    volume.close()
    with two.client.open("v") as volume:
        assert volume.read(0, 8) == b"from one"
        with pytest.raises(Busy):
            one.client.open("v")


def test_the_lock_of_a_dead_node_is_free(nodes):
    one, two = nodes
    one.client.control("create", name="v", size=GIB, block_size=BLOCK)
    volume = one.client.open("v")
    volume.write(0, b"from one")
    volume.flush()
    one.kill("vlmc")
    one.kill("mapper")
    with two.client.open("v") as volume:
        assert volume.read(0, 8) == b"from one"


def test_a_node_that_lost_its_volume_writes_no_more(nodes):
    one, two = nodes
    one.client.control("create", name="v", size=GIB, block_size=BLOCK)
    volume = one.client.open("v")
    volume.write(0, b"one")
    volume.flush()
    for role in ("vlmc", "mapper"):
        one.kill(role)
    with two.client.open("v") as other:
        other.write(BLOCK, b"two")
        other.flush()
        for role in ("vlmc", "mapper"):
            one.restart(role)
        for place in (0, 5):
            with pytest.raises(OSError):
                volume.write(place * BLOCK, b"bad")
        assert other.read(5 * BLOCK, 3) == bytes(3) and other.read(0, 3) == b"one"
    two.client.control("check", name="v")
    one.client.control("close", name="v", force=True)
    volume.handle = 0


@pytest.mark.parametrize("verb", ["snapshot", "resize", "rename", "close"])
def test_killed_while_it_works_with_vlmc(instance, verb):
    """What the mapper asks of vlmc needs the mapper: neither must wait for the other for ever."""
    ask = instance.client.control
    ask("create", name="v", size=GIB, block_size=BLOCK)
    volume = instance.client.open("v")
    stop, failures, acknowledged = threading.Event(), [], []

    def work():
        with Client(instance.home) as client:
            for step in range(10_000):
                if stop.is_set():
                    return
                try:
                    if verb == "snapshot":
                        client.control("snapshot", name="v", snapshot=f"s{step}", token=step + 1)
                    elif verb == "resize":
                        client.control("resize", name="v", size=GIB // 2 if step % 2 else GIB - BLOCK // 2)
                    elif verb == "rename":
                        client.control("rename", name=f"w{step}" if step else "v", to=f"w{step + 1}",
                                       token=step + 1)
                    else:
                        client.control("create", name=f"c{step}", size=GIB, token=step + 1)
                        with client.open(f"c{step}") as other:
                            other.write(0, b"x")
                    acknowledged.append(step)
                except OSError as failure:
                    failures.append(failure)
                    return

    thread = threading.Thread(target=work)
    thread.start()
    for step in range(3):
        for place in range(20):
            volume.write((step * 20 + place) * BLOCK, bytes([step + 1]) * 100)
            volume.flush()
        instance.kill("mapper")
        instance.restart("mapper")
    stop.set()
    thread.join(60)
    assert not thread.is_alive() and acknowledged
    assert not failures
    assert all(volume.read(place * BLOCK, 1)[0] == place // 20 + 1 for place in range(60))
    volume.close()
