# SPDX-License-Identifier: Apache-2.0
"""Opening, closing, locking: who has a volume open, and when it is closed."""
import errno
import os

import pytest
from support import wait_until

from xseg._native import lib
from xseg.client import Client
from xseg.errors import Busy, Damaged, Invalid, NotFound, ReadOnly, Stale, XsegError

GIB = 1 << 30


@pytest.fixture
def ask(node):
    return node.client.control


@pytest.fixture
def volume(request, ask):
    """The name of a fresh volume."""
    name = request.node.name
    ask("create", name=name, size=GIB, block_size=65536)
    return name


def test_open_missing_fails(node):
    with pytest.raises(NotFound):
        node.client.open("nobody")


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"a/b", b"x" * 300])
def test_open_of_an_impossible_name_fails(node, data):
    assert node.call("mapper", lib.XOP_OPEN, data=data, check=False).error == errno.ENOENT


def test_open_twice_gives_the_same_handle_and_needs_two_closes(node, ask, volume):
    one, two = node.client.open(volume), node.client.open(volume)
    assert one.handle == two.handle
    one.close()
    two.write(0, b"still open")
    two.close()
    assert ask("info", name=volume)["open"] is None


def test_close_of_what_is_not_open_fails(node):
    assert node.call("mapper", lib.XOP_CLOSE, volume=900, check=False).error == errno.ESTALE


def test_double_close_fails(node, volume):
    opened = node.client.open(volume)
    handle = opened.handle
    opened.close()
    assert node.call("mapper", lib.XOP_CLOSE, volume=handle, check=False).error == errno.ESTALE


def test_a_port_cannot_close_what_another_has_open(node, volume):
    with node.client.open(volume) as opened, Client(node.home) as other:
        assert other.call("mapper", lib.XOP_CLOSE, volume=opened.handle, check=False).error == errno.ESTALE
        opened.write(0, b"x")


def test_each_opening_that_writes_raises_the_epoch(node, ask, volume):
    epochs = []
    for _ in range(3):
        with node.client.open(volume) as opened:
            opened.write(0, b"x")
            epochs.append(ask("info", name=volume)["epoch"])
    assert epochs == sorted(set(epochs))


def test_a_snapshot_opens_readonly_and_without_a_lock(node, ask, volume):
    ask("snapshot", name=volume, snapshot=volume + "-s")
    with node.client.open(volume + "-s") as opened:
        assert opened.readonly and opened.shared.lock_number == 0
        assert opened.read(0, 512) == bytes(512)
        with pytest.raises(ReadOnly):
            opened.write(0, b"x")


def test_an_open_volume_shows_who_has_it_open(node, ask, volume):
    with node.client.open(volume):
        info = ask("info", name=volume)
        assert info["open"]["by"] == {"client": 1} and info["lock_number"] > 0
    assert ask("info", name=volume)["open"] is None


def test_remove_of_an_open_volume_names_who_has_it_open(node, ask, volume):
    with node.client.open(volume), pytest.raises(Busy, match="client"):
        ask("remove", name=volume)
    ask("remove", name=volume)


def test_what_a_dead_client_had_open_is_closed(node, ask, volume):
    pid = os.fork()
    if pid == 0:
        client = Client(node.home)
        client.open(volume)
        os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    wait_until(lambda: ask("info", name=volume)["open"] is None, "the volume is closed")
    ask("remove", name=volume)


def test_open_and_close_by_hand(ask, volume):
    ask("open", name=volume)
    ask("open", name=volume)
    assert ask("info", name=volume)["open"]["administrative"]
    with pytest.raises(Busy, match="vlmc open"):
        ask("remove", name=volume)
    ask("close", name=volume)
    assert ask("info", name=volume)["open"] is None
    with pytest.raises(Invalid, match="not opened"):
        ask("close", name=volume)


def test_a_volume_opened_by_hand_outlives_its_clients(node, ask, volume):
    ask("open", name=volume)
    node.client.open(volume).close()
    assert ask("info", name=volume)["open"]
    ask("close", name=volume)


def test_close_by_hand_leaves_it_to_its_clients(node, ask, volume):
    ask("open", name=volume)
    with node.client.open(volume) as opened:
        assert "client" in ask("close", name=volume)["still_open_by"]
        opened.write(0, b"x")
    assert ask("info", name=volume)["open"] is None


def test_close_by_force_takes_it_from_its_clients(node, ask, volume):
    opened = node.client.open(volume)
    ask("close", name=volume, force=True)
    with pytest.raises(Stale):
        opened.read(0, 512)
    opened.handle = 0


def test_a_lock_by_hand_is_held_until_unlocked(node, ask, volume):
    ask("lock", name=volume)
    node.client.open(volume).close()
    assert ask("info", name=volume)["lock_number"] > 0
    ask("unlock", name=volume)
    assert ask("info", name=volume)["lock_number"] == 0
    with pytest.raises(Invalid, match="not locked"):
        ask("unlock", name=volume)


def test_a_volume_in_use_cannot_be_unlocked(node, ask, volume):
    with node.client.open(volume), pytest.raises(Busy, match="client"):
        ask("unlock", name=volume)


def test_a_volume_locked_by_another_cannot_be_opened(node, ask, volume):
    lock = (lib.XOBJ_LOCK, int(ask("info", name=volume)["id"], 16))
    node.call("blockerm", lib.XOP_ACQUIRE, object=lock, data=b"host elsewhere", arg=4711)
    for verb in ("open", "lock", "remove"):
        with pytest.raises(Busy, match="host elsewhere"):
            ask(verb, name=volume)
    with pytest.raises(Busy):
        node.client.open(volume)
    with pytest.raises(XsegError, match="host elsewhere") as caught:
        ask("unlock", name=volume)
    assert caught.value.errno == errno.EPERM
    ask("unlock", name=volume, force=True)
    ask("remove", name=volume)


def test_rename_of_an_open_volume(node, ask, volume):
    with node.client.open(volume) as opened:
        opened.write(0, b"before")
        ask("rename", name=volume, to=volume + "-2")
        assert opened.name == volume + "-2"
        opened.write(6, b" after")
        assert opened.read(0, 12) == b"before after"
    with node.client.open(volume + "-2") as opened:
        assert opened.read(0, 12) == b"before after"


def test_a_damaged_header_is_refused_by_name_and_the_rest_is_served(node, ask, volume):
    ask("create", name=volume + "-good", size=GIB)
    identity = int(ask("info", name=volume)["id"], 16)
    node.call("blockerm", lib.XOP_WRITE, object=(lib.XOBJ_HEADER, identity), offset=40, data=b"garbage")
    for verb, more in (("info", {}), ("open", {}), ("remove", {}), ("du", {}), ("clone", {"names": ["c"]})):
        with pytest.raises(Damaged, match=f"'{volume}'.*damaged"):
            ask(verb, name=volume, **more)
    assert node.call("mapper", lib.XOP_OPEN, data=volume.encode(), check=False).error == errno.EBADMSG
    rows = ask("list")["volumes"]
    assert any(row["id"] == f"{identity:016x}" and "checksum" in row["damaged"] for row in rows)
    assert volume + "-good" in list(node.client.names()) and volume not in list(node.client.names())
    node.client.open(volume + "-good").close()
    ask("remove", name=volume, force=True)
    ask("create", name=volume, size=GIB)


def test_a_damaged_name_pointer_is_refused_by_name(node, ask, volume):
    from peers.mapper.header import name_digest
    pointer = (lib.XOBJ_NAME, 0, 0, 0, name_digest(volume))
    node.call("blockerm", lib.XOP_WRITE, object=pointer, offset=40, data=b"garbage")
    with pytest.raises(Damaged, match=f"name pointer of '{volume}' is damaged"):
        ask("info", name=volume)
    ask("remove", name=volume, force=True)
