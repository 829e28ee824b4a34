# SPDX-License-Identifier: Apache-2.0
"""The mapper on a map store that fails: clear errors, nothing half made stays, what was there goes on."""
import errno

import pytest

from xseg.errors import NoSpace, NotFound, XsegError

GIB = 1 << 30
BLOCK = 65536
FAULTS = pytest.mark.config("""
[peers.no_header]
type = "error"
target = "blockerm"
ops = "replace"
kind = "header"
errno = "ENOSPC"
[peers.tenth_header]
type = "error"
target = "blockerm"
ops = "replace"
kind = "header"
errno = "ENOSPC"
after = 10
[peers.no_page]
type = "error"
target = "blockerm"
ops = "write"
kind = "page"
errno = "ENOSPC"
[peers.no_read]
type = "error"
target = "blockerm"
ops = "read"
errno = "EIO"
""")
pytestmark = [FAULTS, pytest.mark.layout("colocated")]


@pytest.fixture
def ask(instance):
    return instance.client.control


@pytest.fixture
def store(instance):
    """store(role): from now on the mapper's map store is this one."""
    segment = instance.client.segment
    return lambda role: segment.set_route("mapper>blockerm", segment.port_of(role))


def names(instance):
    return sorted(instance.client.names())


def test_a_create_that_fails_leaves_the_name_free(instance, ask, store):
    store("no_header")
    with pytest.raises(NoSpace, match="'v'.*store says"):
        ask("create", name="v", size=GIB)
    store("blockerm")
    assert names(instance) == []
    ask("create", name="v", size=GIB)


def test_of_clones_that_fail_none_stays(instance, ask, store):
    ask("create", name="v", size=GIB)
    ask("snapshot", name="v", snapshot="s")
    store("tenth_header")
    with pytest.raises(NoSpace):
        ask("clone", name="s", pattern="c-{}", count=30)
    with pytest.raises(NoSpace):
        ask("clone", name="s", pattern="c-{}", count=30)
    store("blockerm")
    with pytest.raises(XsegError, match="smaller"):
        ask("clone", name="v", names=["c"], size=512)       # for which a snapshot was taken
    assert names(instance) == ["s", "v"]
    ask("clone", name="s", pattern="c-{}", count=30)


def test_a_snapshot_that_fails_leaves_the_volume_as_it_was(instance, ask, store):
    ask("create", name="v", size=GIB, block_size=BLOCK)
    with instance.client.open("v") as volume:
        volume.write(0, b"one")
        store("no_header")
        with pytest.raises(NoSpace):
            ask("snapshot", name="v", snapshot="s")
        store("blockerm")
        volume.write(3, b"two")
        ask("snapshot", name="v", snapshot="s")
        volume.write(0, b"THREE")
    with instance.client.open("s") as snapshot:
        assert snapshot.read(0, 6) == b"onetwo"
    assert names(instance) == ["s", "v"]


def test_an_opening_that_fails_can_be_repeated(instance, ask, store):
    ask("create", name="v", size=GIB)
    store("no_header")
    with pytest.raises(NoSpace):
        ask("open", name="v")
    assert ask("info", name="v")["open"] is None and ask("info", name="v")["lock_number"] == 0
    store("blockerm")
    instance.client.open("v").close()


def test_a_checkpoint_that_fails_is_made_up_for(instance, ask, store):
    ask("create", name="v", size=GIB, block_size=BLOCK)
    volume = instance.client.open("v")
    store("no_page")
    for step in range(12):
        volume.write(step * BLOCK, bytes([step + 1]))
        ask("snapshot", name="v", snapshot=f"s{step}")
    assert ask("info", name="v")["open"]["journal_bytes"] >= 12 * 512
    assert "checkpoint of volume 'v' failed" in instance.logs()
    store("blockerm")
    for step in range(12, 24):
        volume.write(step * BLOCK, bytes([step + 1]))
        ask("snapshot", name="v", snapshot=f"s{step}")
    volume.close()
    assert ask("info", name="v")["journals"] < 12
    with instance.client.open("v") as volume:
        assert [volume.read(step * BLOCK, 1)[0] for step in range(24)] == list(range(1, 25))
    assert all(ask("check", name=name)["problems"] == [] for name in ("v", "s0", "s11", "s23"))


def test_a_shrink_that_fails_changes_nothing(instance, ask, store):
    ask("create", name="v", size=GIB, block_size=BLOCK)
    with instance.client.open("v") as volume:
        volume.write(GIB - BLOCK, b"end")
        volume.write(5 * BLOCK, b"kept")
        for role in ("no_page", "no_header"):
            store(role)
            with pytest.raises(NoSpace):
                ask("resize", name="v", size=10 * BLOCK)
            store("blockerm")
            assert volume.size == GIB and volume.read(GIB - BLOCK, 3) == b"end"
            volume.write(6 * BLOCK, b"more")
            volume.flush()
        ask("resize", name="v", size=10 * BLOCK)
        assert volume.read(5 * BLOCK, 4) + volume.read(6 * BLOCK, 4) == b"keptmore"
    instance.kill("mapper")
    instance.restart("mapper")
    with instance.client.open("v") as volume:
        assert volume.read(5 * BLOCK, 4) + volume.read(6 * BLOCK, 4) == b"keptmore"


def test_an_unreadable_store_is_named(instance, ask, store):
    ask("create", name="v", size=GIB)
    store("no_read")
    with pytest.raises(XsegError) as caught:
        ask("info", name="v")
    assert caught.value.errno == errno.EIO and "'v'" in str(caught.value)
    store("blockerm")
    with pytest.raises(NotFound):
        ask("info", name="w")
    ask("remove", name="v")
