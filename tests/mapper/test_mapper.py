# SPDX-License-Identifier: Apache-2.0
"""The mapper's verbs on volumes that are not open: making, naming, cloning, listing, removing."""
import errno
import os

import msgpack
import pytest

from xseg._native import lib
from xseg.errors import Exists, Invalid, NotFound, ReadOnly, Unsupported, XsegError
from xseg.request import Call, take_reply

GIB = 1 << 30
MIB = 1 << 20


@pytest.fixture
def ask(node):
    """control() of the node's mapper."""
    return node.client.control


@pytest.fixture
def name(request):
    """A name that no other test of the module uses."""
    return request.node.name


def objects(node, kind):
    """All objects of a kind on the map store."""
    from xseg.request import objects
    cursor, found = 0, []
    while True:
        reply = node.call("blockerm", lib.XOP_LIST, object=(kind,), arg=cursor, room=65536)
        found += objects(reply.data)
        cursor = reply.arg
        if not cursor:
            return found


def listed(ask):
    rows, cursor = [], 0
    while True:
        answer = ask("list", cursor=cursor)
        rows += answer["volumes"]
        cursor = answer["cursor"]
        if not cursor:
            return {row["name"]: row for row in rows}


# --- create

def test_a_new_volume_is_as_it_was_asked_for(ask, name):
    ask("create", name=name, size=GIB)
    info = ask("info", name=name)
    assert (info["size"], info["block_size"], info["kind"], info["readonly"], info["parent"], info["open"]) == (
        GIB, 4 * MIB, "volume", False, None, None)


@pytest.mark.parametrize("size", [0, -1, 511, 1000])
def test_a_bad_size_is_refused(ask, name, size):
    with pytest.raises(Invalid, match="size"):
        ask("create", name=name, size=size)
    with pytest.raises(NotFound):
        ask("info", name=name)


def test_a_size_beyond_the_largest_is_refused(ask, name):
    with pytest.raises(XsegError) as caught:
        ask("create", name=name, size=(1 << 60) + 512)
    assert caught.value.errno == errno.EFBIG


def test_a_volume_of_one_pebibyte(ask, name):
    ask("create", name=name, size=1 << 50)
    assert ask("info", name=name)["size"] == 1 << 50


def test_a_duplicate_is_refused_and_the_first_stays(ask, name):
    first = ask("create", name=name, size=GIB)["id"]
    with pytest.raises(Exists, match=name):
        ask("create", name=name, size=2 * GIB)
    info = ask("info", name=name)
    assert (info["id"], info["size"]) == (first, GIB)


def test_a_repeated_create_with_the_same_token_finds_its_own_work(ask, name):
    first = ask("create", name=name, size=GIB, token=12345)["id"]
    ask("create", name=name, size=GIB, token=12345)
    assert ask("info", name=name)["id"] == first


@pytest.mark.parametrize("bad", ["", "a/b", "-a", ".a", "a\nb", "x" * 256])
def test_a_bad_name_is_refused(ask, bad):
    for verb in ({"verb": "create", "name": bad, "size": GIB},):
        with pytest.raises(XsegError) as caught:
            ask(**verb)
        assert caught.value.errno in (errno.EINVAL, errno.ENAMETOOLONG)


@pytest.mark.parametrize("good", ["a b", "ä" * 127, "x" * 255, "日本", "vm@1", "a'\"$(x)"])
def test_unusual_names_serve(ask, good):
    ask("create", name=good, size=GIB)
    assert good in listed(ask)
    ask("remove", name=good)
    assert good not in listed(ask)


@pytest.mark.parametrize("size", [65536, 16 * MIB])
def test_the_block_size_can_be_chosen(ask, name, size):
    ask("create", name=name, size=GIB, block_size=size)
    assert ask("info", name=name)["block_size"] == size


@pytest.mark.parametrize("size", [4096, 3 * MIB, 32 * MIB])
def test_a_bad_block_size_is_refused(ask, name, size):
    with pytest.raises(Invalid, match="power of two"):
        ask("create", name=name, size=GIB, block_size=size)


def test_an_unknown_verb_is_answered_with_those_there_are(ask):
    with pytest.raises(Unsupported, match="create"):
        ask("fly")


def test_an_unknown_operation_is_answered(node):
    reply = node.call("mapper", lib.XOP_HASH, check=False)
    assert reply.error == errno.EOPNOTSUPP


@pytest.mark.parametrize("data", [b"", b"garbage", b"\x81\xa4verb", b"\x93\x01\x02\x03"])
def test_a_garbled_request_is_answered(node, data):
    reply = node.call("mapper", lib.XOP_CONTROL, data=data, room=4096, check=False)
    assert reply.error == errno.EOPNOTSUPP


@pytest.mark.parametrize("verb, more", [("create", {"size": GIB, "token": 7}), ("info", {}), ("list", {}), ("fly", {})])
def test_a_control_request_that_was_answered_can_be_served_again(node, name, verb, more):
    """As by the successor of a mapper that died before its answer was delivered."""
    port, data = node.client.port, msgpack.packb({"verb": verb, "name": name, **more})
    request, answers = port.get(65536), []
    Call(lib.XOP_CONTROL, data=data, room=65536).put(port.c, request.c)
    for _ in range(2):
        lib.xreq_send(port.c, request.c, node.client.segment.port_of("mapper"))
        port.ring()
        [request] = port.receive(30)
        answers.append(take_reply(port.c, request.c, 65536))
        assert request.payload == data
    port.put(request)
    assert answers[0].data and answers[0] == answers[1]


def test_a_control_request_must_leave_room_for_an_answer(node, name):
    data = msgpack.packb({"verb": "info", "name": "n" * 4000})
    assert node.call("mapper", lib.XOP_CONTROL, data=data, room=4096, check=False).error == errno.EMSGSIZE


def test_a_missing_argument_is_named(ask):
    with pytest.raises(Invalid, match="size"):
        ask("create", name="whatever")


def test_what_is_not_there_is_named(ask):
    for verb, more in (("info", {}), ("remove", {}), ("open", {}), ("snapshot", {"snapshot": "s"}),
                       ("clone", {"names": ["c"]}), ("rename", {"to": "n"}), ("resize", {"size": GIB}),
                       ("du", {}), ("check", {}), ("mapinfo", {}), ("lock", {}), ("unlock", {}), ("close", {})):
        with pytest.raises(NotFound, match="'nobody'"):
            ask(verb, name="nobody", **more)


# --- snapshots and clones

def test_a_snapshot_is_readonly_and_names_its_volume(ask, name):
    ask("create", name=name, size=GIB)
    ask("snapshot", name=name, snapshot=name + "-s")
    info = ask("info", name=name + "-s")
    assert (info["kind"], info["readonly"], info["parent"], info["size"]) == ("snapshot", True, name, GIB)


def test_a_snapshot_of_a_snapshot_is_refused(ask, name):
    ask("create", name=name, size=GIB)
    ask("snapshot", name=name, snapshot=name + "-s")
    with pytest.raises(ReadOnly, match="clone"):
        ask("snapshot", name=name + "-s", snapshot=name + "-t")


def test_a_duplicate_snapshot_is_refused(ask, name):
    ask("create", name=name, size=GIB)
    ask("snapshot", name=name, snapshot=name + "-s")
    with pytest.raises(Exists):
        ask("snapshot", name=name, snapshot=name + "-s")
    with pytest.raises(Exists):
        ask("snapshot", name=name, snapshot=name)


def test_a_repeated_snapshot_with_the_same_token_is_taken_once(ask, name):
    ask("create", name=name, size=GIB)
    first = ask("snapshot", name=name, snapshot=name + "-s", token=77)
    assert ask("snapshot", name=name, snapshot=name + "-s", token=77) == first


def test_the_name_of_a_removed_snapshot_can_be_used_again(ask, name):
    ask("create", name=name, size=GIB)
    first = ask("snapshot", name=name, snapshot=name + "-s")["id"]
    ask("remove", name=name + "-s")
    assert ask("snapshot", name=name, snapshot=name + "-s")["id"] != first


def test_a_clone_keeps_size_and_block_size(ask, name):
    ask("create", name=name, size=GIB, block_size=65536)
    ask("snapshot", name=name, snapshot=name + "-s")
    ask("clone", name=name + "-s", names=[name + "-c"])
    info = ask("info", name=name + "-c")
    assert (info["size"], info["block_size"], info["parent"], info["readonly"]) == (GIB, 65536, name + "-s", False)


def test_a_clone_may_be_larger_but_not_smaller(ask, name):
    ask("create", name=name, size=GIB)
    ask("snapshot", name=name, snapshot=name + "-s")
    ask("clone", name=name + "-s", names=[name + "-l"], size=2 * GIB)
    assert ask("info", name=name + "-l")["size"] == 2 * GIB
    with pytest.raises(Invalid, match="smaller"):
        ask("clone", name=name + "-s", names=[name + "-m"], size=GIB - 512)


def test_a_clone_of_a_volume_takes_a_snapshot_that_is_listed(ask, name):
    ask("create", name=name, size=GIB)
    made = ask("clone", name=name, names=[name + "-c"])["snapshot"]
    row = listed(ask)[made]
    assert row["kind"] == "snapshot" and row["auto"]
    assert ask("info", name=name + "-c")["parent"] == made


def test_many_clones_at_once(ask, name):
    ask("create", name=name, size=GIB)
    ask("snapshot", name=name, snapshot=name + "-s")
    ask("clone", name=name + "-s", pattern=name + "-{}", count=300, first=5)
    names = {row for row in listed(ask) if row.startswith(name + "-") and row[-1] != "s"}
    assert names == {f"{name}-{number}" for number in range(5, 305)}


def test_all_clones_are_made_or_none(ask, name, node):
    ask("create", name=name, size=GIB)
    ask("snapshot", name=name, snapshot=name + "-s")
    ask("create", name=f"{name}-7", size=GIB)
    headers, pointers = len(objects(node, lib.XOBJ_HEADER)), len(objects(node, lib.XOBJ_NAME))
    with pytest.raises(Exists, match=f"{name}-7"):
        ask("clone", name=name + "-s", pattern=name + "-{}", count=20)
    assert f"{name}-1" not in listed(ask)
    assert (len(objects(node, lib.XOBJ_HEADER)), len(objects(node, lib.XOBJ_NAME))) == (headers, pointers)


def test_repeated_clones_with_the_same_token_are_made_once(ask, name):
    ask("create", name=name, size=GIB)
    ask("snapshot", name=name, snapshot=name + "-s")
    ask("clone", name=name + "-s", pattern=name + "-{}", count=10, token=5)
    ids = {row: listed(ask)[row]["id"] for row in listed(ask)}
    ask("clone", name=name + "-s", pattern=name + "-{}", count=12, token=5)
    now = listed(ask)
    assert all(now[row]["id"] == ids[row] for row in ids) and f"{name}-12" in now


@pytest.mark.parametrize("more", [{"pattern": "x", "count": 2}, {"pattern": "{}{}", "count": 2},
                                  {"pattern": "x-{}", "count": 0}, {"pattern": "x-{}", "count": 10**7},
                                  {"pattern": "a/{}", "count": 2}, {"names": ["ok", "a/b"]}])
def test_bad_wishes_for_clones_are_refused(ask, name, more):
    ask("create", name=name, size=GIB)
    ask("snapshot", name=name, snapshot=name + "-s")
    with pytest.raises(Invalid):
        ask("clone", name=name + "-s", **more)


def test_the_same_name_twice_in_one_request_is_refused(ask, name):
    ask("create", name=name, size=GIB)
    with pytest.raises(Exists):
        ask("clone", name=name, names=["twice", "twice"])


def test_a_clone_outlives_what_it_came_from(ask, name):
    ask("create", name=name, size=GIB)
    ask("snapshot", name=name, snapshot=name + "-s")
    ask("clone", name=name + "-s", names=[name + "-c"])
    ask("remove", name=name)
    ask("remove", name=name + "-s")
    info = ask("info", name=name + "-c")
    assert info["parent"] is None and info["parent_id"]


# --- names

def test_rename_keeps_the_id_and_frees_the_old_name(ask, name):
    made = ask("create", name=name, size=GIB)["id"]
    ask("rename", name=name, to=name + "-new")
    assert ask("info", name=name + "-new")["id"] == made
    with pytest.raises(NotFound):
        ask("info", name=name)
    ask("create", name=name, size=GIB)


def test_rename_to_a_name_in_use_is_refused(ask, name):
    ask("create", name=name, size=GIB)
    ask("create", name=name + "-2", size=GIB)
    with pytest.raises(Exists):
        ask("rename", name=name, to=name + "-2")
    assert ask("info", name=name)["name"] == name


def test_rename_to_itself_changes_nothing(ask, name):
    made = ask("create", name=name, size=GIB)["id"]
    ask("rename", name=name, to=name)
    assert ask("info", name=name)["id"] == made


def test_a_snapshot_can_be_renamed(ask, name):
    ask("create", name=name, size=GIB)
    ask("snapshot", name=name, snapshot=name + "-s")
    ask("rename", name=name + "-s", to=name + "-t")
    assert ask("info", name=name + "-t")["kind"] == "snapshot"


def test_names_brings_every_name_whatever_the_room(node, ask, name):
    ask("create", name=name, size=GIB)
    ask("snapshot", name=name, snapshot=name + "-s")
    ask("clone", name=name + "-s", pattern="n" * 200 + "-{}", count=60)
    expected = sorted(listed(ask))
    for room in (4096, 65536, 1 << 20):
        found, cursor = [], 0
        while True:
            reply = node.call("mapper", lib.XOP_NAMES, arg=cursor, room=room)
            assert reply.done <= room
            found += reply.data.split(b"\0")[:-1]
            cursor = reply.arg
            if not cursor:
                break
        assert sorted(n.decode() for n in found) == expected


def test_names_wants_some_room(node):
    assert node.call("mapper", lib.XOP_NAMES, check=False).error == errno.EINVAL


def test_a_list_comes_in_portions_that_fit(node, ask, name):
    ask("create", name=name, size=GIB)
    ask("clone", name=name, pattern=name + "-{}", count=300)
    cursor, found, portions = 0, [], 0
    while True:
        data = msgpack.packb({"verb": "list", "cursor": cursor})
        answer = msgpack.unpackb(node.call("mapper", lib.XOP_CONTROL, data=data, room=65536).data)
        found += [row["name"] for row in answer["volumes"]]
        portions += 1
        cursor = answer["cursor"]
        if not cursor:
            break
    assert portions > 1 and sorted(found) == sorted(listed(ask))


def test_a_name_pointer_left_over_by_a_death_is_taken_over(node, ask, name):
    from peers.mapper.header import name_digest, pack_name
    node.call("blockerm", lib.XOP_REPLACE, object=(lib.XOBJ_NAME, 0, 0, 0, name_digest(name)),
              data=pack_name(name, 4711), flags=lib.XREQ_CREATE)
    with pytest.raises(NotFound):
        ask("info", name=name)
    ask("create", name=name, size=GIB)
    assert ask("info", name=name)["size"] == GIB


def test_a_name_pointer_left_over_by_a_rename_is_taken_over(node, ask, name):
    from peers.mapper.header import name_digest, pack_name
    other = int(ask("create", name=name + "-2", size=GIB)["id"], 16)
    node.call("blockerm", lib.XOP_REPLACE, object=(lib.XOBJ_NAME, 0, 0, 0, name_digest(name)),
              data=pack_name(name, other), flags=lib.XREQ_CREATE)
    with pytest.raises(NotFound):
        ask("info", name=name)
    ask("create", name=name, size=2 * GIB)
    assert ask("info", name=name)["size"] == 2 * GIB
    assert ask("info", name=name + "-2")["size"] == GIB


# --- removing

def test_a_removed_volume_is_gone_and_its_name_free(ask, name):
    ask("create", name=name, size=GIB)
    ask("remove", name=name)
    assert name not in listed(ask)
    with pytest.raises(NotFound):
        ask("remove", name=name)
    ask("create", name=name, size=2 * GIB)
    assert ask("info", name=name)["size"] == 2 * GIB


def test_nothing_of_a_removed_volume_stays_on_the_map_store(node, ask, name):
    before = {kind: len(objects(node, kind)) for kind in range(1, lib.XOBJ_KINDS) if kind != lib.XOBJ_LOCK}
    ask("create", name=name, size=GIB, block_size=65536)
    with node.client.open(name) as volume:
        for place in range(50):
            volume.write(place * 10_000_000, os.urandom(100))
            volume.flush()
    ask("remove", name=name)
    assert {kind: len(objects(node, kind)) for kind in before} == before


# --- growing (volumes that are not open)

def test_a_volume_grows(ask, name):
    ask("create", name=name, size=GIB)
    ask("resize", name=name, size=1 << 50)
    assert ask("info", name=name)["size"] == 1 << 50


def test_a_snapshot_cannot_be_resized(ask, name):
    ask("create", name=name, size=GIB)
    ask("snapshot", name=name, snapshot=name + "-s")
    with pytest.raises(ReadOnly):
        ask("resize", name=name + "-s", size=2 * GIB)
