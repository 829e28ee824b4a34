# SPDX-License-Identifier: Apache-2.0
"""vlmc rollback: a volume becomes what one of its snapshots is, and nothing of either is lost."""
import errno
import re

import pytest

from xseg._native import lib
from xseg.errors import Busy, Exists, Invalid, NotFound, ReadOnly, XsegError
from xseg.request import objects

BLOCK = 65536
SIZE = 16 * BLOCK


@pytest.fixture
def ask(node):
    return node.client.control


@pytest.fixture
def name(request, ask):
    """A volume with "old" in blocks 0 and 1, snapshot NAME-s of that, and "new" in blocks 1 and 2."""
    name = request.node.name.removeprefix("test_")[:100]
    ask("create", name=name, size=SIZE, block_size=BLOCK)
    write(request.getfixturevalue("node"), name, {0: b"old", 1: b"old"})
    ask("snapshot", name=name, snapshot=f"{name}-s")
    write(request.getfixturevalue("node"), name, {1: b"new", 2: b"new"})
    return name


def write(node, name, blocks):
    with node.client.open(name) as volume:
        for block, data in blocks.items():
            volume.write(block * BLOCK, data)
        volume.flush()


def read(node, name):
    """The beginnings of its first three blocks."""
    with node.client.open(name) as volume:
        return [volume.read(block * BLOCK, 3) for block in range(3)]


OLD, NEW = [b"old", b"old", bytes(3)], [b"old", b"new", b"new"]


def count(node):
    """Objects of all kinds."""
    found = 0
    for role, kinds in (("blockerb", [lib.XOBJ_DATA]), ("blockerm", [lib.XOBJ_PAGE, lib.XOBJ_JOURNAL])):
        for kind in kinds:
            cursor = 0
            while True:
                reply = node.call(role, lib.XOP_LIST, object=(kind,), arg=cursor, room=65536)
                found, cursor = found + len(objects(reply.data)), reply.arg
                if not cursor:
                    break
    return found


def good(ask, *names):
    for name in names:
        assert ask("check", name=name)["problems"] == []


def test_a_volume_becomes_its_snapshot_and_what_it_was_is_kept(node, ask, name):
    kept = ask("rollback", name=name, snapshot=f"{name}-s")["snapshot"]
    assert kept.startswith(f"{name}@rollback-")
    assert (read(node, name), read(node, kept), read(node, f"{name}-s")) == (OLD, NEW, OLD)
    info = ask("info", name=kept)
    assert (info["kind"], info["parent"], info["auto"]) == ("snapshot", name, False)
    good(ask, name, kept, f"{name}-s")


def test_what_is_written_afterwards_changes_neither_snapshot(node, ask, name):
    kept = ask("rollback", name=name, snapshot=f"{name}-s", keep=f"{name}-k")["snapshot"]
    write(node, name, {0: b"yet", 1: b"yet", 2: b"yet"})
    assert (read(node, name), read(node, kept), read(node, f"{name}-s")) == ([b"yet"] * 3, NEW, OLD)
    good(ask, name, kept, f"{name}-s")


def test_a_rollback_is_undone_by_one_to_what_was_kept(node, ask, name):
    kept = ask("rollback", name=name, snapshot=f"{name}-s")["snapshot"]
    ask("rollback", name=name, snapshot=kept, discard=True)
    assert read(node, name) == NEW
    good(ask, name, kept, f"{name}-s")


def test_to_and_fro_many_times(node, ask, name):
    for turn in range(20):
        write(node, name, {3: b"%03d" % turn})
        kept = ask("rollback", name=name, snapshot=f"{name}-s", keep=f"{name}-{turn}")["snapshot"]
        assert read(node, name) == OLD
        with node.client.open(kept) as volume:
            assert volume.read(3 * BLOCK, 3) == b"%03d" % turn
    good(ask, name, *(f"{name}-{turn}" for turn in range(20)))


def test_what_is_discarded_is_removed_and_nothing_of_the_snapshot(node, ask, name):
    before = count(node)
    write(node, name, {4: b"more", 5: b"more"})
    assert ask("rollback", name=name, snapshot=f"{name}-s", discard=True)["snapshot"] is None
    assert (read(node, name), read(node, f"{name}-s")) == (OLD, OLD)
    assert count(node) <= before
    assert [n for n in node.client.names() if n.startswith(f"{name}@")] == []
    good(ask, name, f"{name}-s")


def test_removing_the_snapshots_afterwards_leaves_the_volume_whole(node, ask, name):
    kept = ask("rollback", name=name, snapshot=f"{name}-s")["snapshot"]
    ask("remove", name=f"{name}-s")
    ask("remove", name=kept)
    assert read(node, name) == OLD
    good(ask, name)


def test_removing_the_volume_leaves_what_was_kept(node, ask, name):
    kept = ask("rollback", name=name, snapshot=f"{name}-s")["snapshot"]
    write(node, name, {1: b"yet"})
    ask("remove", name=name)
    assert (read(node, kept), read(node, f"{name}-s")) == (NEW, OLD)
    good(ask, kept, f"{name}-s")


@pytest.mark.parametrize("size", [SIZE // 2, 4 * SIZE])
def test_the_size_is_that_of_the_snapshot(node, ask, name, size):
    ask("resize", name=name, size=size)
    kept = ask("rollback", name=name, snapshot=f"{name}-s")["snapshot"]
    assert (ask("info", name=name)["size"], ask("info", name=kept)["size"]) == (SIZE, size)
    assert (read(node, name), read(node, kept)) == (OLD, NEW)
    good(ask, name, kept)


def test_a_repeated_request_finds_its_own_work(node, ask, name):
    for _ in range(2):
        assert ask("rollback", name=name, snapshot=f"{name}-s", token=815)["snapshot"] == f"{name}@rollback-{815:x}"
    write(node, name, {0: b"yet"})
    ask("rollback", name=name, snapshot=f"{name}-s", token=815)
    assert read(node, name)[0] == b"yet"


def test_one_that_was_cut_short_is_not_gone_on_with_over_what_was_written_since(node, ask, name):
    ask("rollback", name=name, snapshot=f"{name}-s", token=816, keep=f"{name}-k")
    ask("rollback", name=name, snapshot=f"{name}-k", token=817, discard=True)      # as if it had stopped before its end
    write(node, name, {0: b"yet"})
    with pytest.raises(Exists):
        ask("rollback", name=name, snapshot=f"{name}-s", token=816, keep=f"{name}-k")
    assert read(node, name)[0] == b"yet"


# --- what is refused

def refused(node, ask, name, kind, words, **more):
    names = set(node.client.names())
    with pytest.raises(kind, match=words):
        ask("rollback", **{"name": name, "snapshot": f"{name}-s"} | more)
    assert set(node.client.names()) == names
    assert read(node, name) == NEW


def test_a_volume_that_is_open_is_refused_and_who_has_it_is_named(node, ask, name):
    with node.client.open(name) as volume:
        with pytest.raises(Busy, match="client.*disconnect or close"):
            ask("rollback", name=name, snapshot=f"{name}-s")
        assert volume.read(BLOCK, 3) == b"new"
    ask("open", name=name)
    refused(node, ask, name, Busy, "vlmc open")
    ask("close", name=name)


def test_a_snapshot_of_another_is_refused(node, ask, name):
    ask("create", name=f"{name}-2", size=SIZE, block_size=BLOCK)
    ask("snapshot", name=f"{name}-2", snapshot=f"{name}-2s")
    ask("clone", name=f"{name}-s", names=[f"{name}-c"])
    refused(node, ask, name, Invalid, "vlmc clone", snapshot=f"{name}-2s")
    refused(node, ask, name, Invalid, "no snapshot of", snapshot=name)
    refused(node, ask, name, Invalid, "no snapshot of", snapshot=f"{name}-c")


def test_what_there_is_not_is_refused(node, ask, name):
    refused(node, ask, name, NotFound, "no volume 'nothing'", snapshot="nothing")
    with pytest.raises(NotFound):
        ask("rollback", name="nothing", snapshot=f"{name}-s")


def test_a_snapshot_is_not_rolled_back(ask, name):
    with pytest.raises(ReadOnly, match="never changes"):
        ask("rollback", name=f"{name}-s", snapshot=f"{name}-s")


def test_a_name_that_is_taken_is_refused(node, ask, name):
    refused(node, ask, name, Exists, f"{name}-s", keep=f"{name}-s")
    refused(node, ask, name, Invalid, "kept or discarded", keep=f"{name}-k", discard=True)
    refused(node, ask, name, Invalid, "begin with", keep="-k")


def test_what_a_protected_volume_is_is_not_discarded(node, ask, name):
    ask("protect", name=name)
    with pytest.raises(XsegError, match="vlmc unprotect") as caught:
        ask("rollback", name=name, snapshot=f"{name}-s", discard=True)
    assert caught.value.errno == errno.EPERM
    assert read(node, name) == NEW
    ask("rollback", name=name, snapshot=f"{name}-s")
    assert ask("info", name=name)["protected"] is True


def test_the_command_says_what_is_kept(node, name):
    said = node.vlmc("rollback", name, f"{name}-s").stdout
    kept = re.fullmatch(rf"what {re.escape(name)} was is kept as (\S+)\n", said)[1]
    assert read(node, kept) == NEW
    assert node.vlmc("rollback", name, f"{name}-s", "--discard").stdout == ""
    assert node.vlmc_json("rollback", name, kept, "--keep", f"{name}-k") == {"snapshot": f"{name}-k"}
    assert read(node, name) == NEW
    assert node.vlmc("rollback", name, f"{name}-s", "--discard", "--keep", "x", check=False).returncode == 2
