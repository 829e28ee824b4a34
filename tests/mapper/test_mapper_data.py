# SPDX-License-Identifier: Apache-2.0
"""What volumes, snapshots and clones hold, through the whole pipeline; space; resizing; checkpoints."""
import os
import random

import pytest

from peers.mapper.journal import STRETCHES_LIMIT
from xseg._native import lib
from xseg.errors import NotFound

GIB = 1 << 30
BLOCK = 65536


@pytest.fixture
def ask(node):
    return node.client.control


@pytest.fixture
def volume(request, ask):
    """The name of a fresh volume of small blocks."""
    name = request.node.name
    ask("create", name=name, size=GIB, block_size=BLOCK)
    return name


def put(node, name, offset, data):
    with node.client.open(name) as opened:
        opened.write(offset, data)
        opened.flush()


def get(node, name, offset, length):
    with node.client.open(name) as opened:
        return opened.read(offset, length)


def walk(ask, verb, name):
    """All portions of a walk, added up."""
    whole, cursor = {}, 0
    while True:
        answer = ask(verb, name=name, cursor=cursor)
        cursor = answer.pop("cursor")
        for key, value in answer.items():
            whole[key] = value if key == "logical" else whole.get(key, type(value)()) + value
        if not cursor:
            return whole


def good(ask, *names):
    """True if `check` finds nothing."""
    return all(walk(ask, "check", name)["problems"] == [] for name in names)


# --- snapshots and clones

@pytest.mark.parametrize("is_open", [False, True])
def test_a_snapshot_is_not_touched_by_later_writes(node, ask, volume, is_open):
    put(node, volume, 900_000_000, b"old" * 5000)
    if is_open:
        ask("open", name=volume)
    ask("snapshot", name=volume, snapshot=volume + "-s")
    put(node, volume, 900_000_000, b"new" * 5000)
    assert get(node, volume + "-s", 900_000_000, 15000) == b"old" * 5000
    assert get(node, volume, 900_000_000, 15000) == b"new" * 5000
    if is_open:
        ask("close", name=volume)
    assert get(node, volume + "-s", 900_000_000, 15000) == b"old" * 5000
    assert get(node, volume, 900_000_000, 15000) == b"new" * 5000
    assert good(ask, volume, volume + "-s")


def test_it_is_told_for_how_long_snapshots_held_writes_back(node, ask, volume):
    held = [0]
    ask("open", name=volume)
    for number in range(2):
        put(node, volume, number * 4096, b"data" * 1024)
        ask("snapshot", name=volume, snapshot=f"{volume}-{number}")
        held.append(ask("info", name=volume)["open"]["snapshots_held_ns"])
    ask("close", name=volume)
    assert held == sorted(set(held))


def test_writes_not_flushed_are_in_a_snapshot(node, ask, volume):
    with node.client.open(volume) as opened:
        opened.write(10, b"acknowledged")
        ask("snapshot", name=volume, snapshot=volume + "-s")
        opened.write(10, b"ACKNOWLEDGED")
    assert get(node, volume + "-s", 10, 12) == b"acknowledged"


def test_clones_touch_neither_parent_nor_each_other(node, ask, volume):
    put(node, volume, 0, b"p" * 200_000)
    ask("snapshot", name=volume, snapshot=volume + "-s")
    ask("clone", name=volume + "-s", pattern=volume + "-{}", count=2)
    put(node, volume + "-1", 100, b"one")
    put(node, volume + "-2", 100, b"two")
    assert [get(node, name, 100, 3) for name in (volume, volume + "-s", volume + "-1", volume + "-2")] == [
        b"ppp", b"ppp", b"one", b"two"]
    assert get(node, volume + "-1", 103, 199_897) == b"p" * 199_897
    assert good(ask, volume, volume + "-s", volume + "-1", volume + "-2")


def test_a_larger_clone_reads_zeros_beyond_its_parent(node, ask, volume):
    put(node, volume, GIB - 512, b"e" * 512)
    ask("snapshot", name=volume, snapshot=volume + "-s")
    ask("clone", name=volume + "-s", names=[volume + "-c"], size=1 << 44)
    assert get(node, volume + "-c", GIB - 512, 1024) == b"e" * 512 + bytes(512)
    put(node, volume + "-c", (1 << 44) - 3, b"end")
    assert get(node, volume + "-c", (1 << 44) - 3, 3) == b"end"
    assert get(node, volume + "-c", GIB - 512, 512) == b"e" * 512


def test_a_clone_of_a_live_volume_holds_what_was_written(node, ask, volume):
    with node.client.open(volume) as opened:
        opened.write(5, b"live")
        ask("clone", name=volume, names=[volume + "-c"])
        opened.write(5, b"LIVE")
        assert get(node, volume + "-c", 5, 4) == b"live"
        assert opened.read(5, 4) == b"LIVE"


def test_a_renamed_volume_keeps_its_data(node, ask, volume):
    put(node, volume, 77, b"kept")
    ask("rename", name=volume, to=volume + "-n")
    assert get(node, volume + "-n", 77, 4) == b"kept"
    put(node, volume + "-n", 81, b"more")
    assert get(node, volume + "-n", 77, 8) == b"keptmore"


def test_a_chain_of_snapshots_and_clones(node, ask, volume):
    name, expected = volume, bytearray(300_000)
    for step in range(12):
        data = os.urandom(5000)
        put(node, name, step * 20_000, data)
        expected[step * 20_000:step * 20_000 + 5000] = data
        ask("snapshot", name=name, snapshot=f"{volume}-s{step}")
        ask("clone", name=f"{volume}-s{step}", names=[f"{volume}-c{step}"])
        name = f"{volume}-c{step}"
        assert get(node, name, 0, 300_000) == expected
    assert good(ask, name)


def test_many_snapshots_of_an_open_volume_are_folded(node, ask, volume):
    with node.client.open(volume) as opened:
        for step in range(3 * STRETCHES_LIMIT):
            opened.write(step * 1000, bytes([step + 1]) * 1000)
            ask("snapshot", name=volume, snapshot=f"{volume}-{step}")
        assert ask("info", name=volume)["open"]["journal_bytes"] < 3 * STRETCHES_LIMIT * 512
        whole = opened.read(0, 3 * STRETCHES_LIMIT * 1000)
    for step in range(0, 3 * STRETCHES_LIMIT, 5):
        length = (step + 1) * 1000
        assert get(node, f"{volume}-{step}", 0, length + 1000) == whole[:length] + bytes(1000)
    assert get(node, volume, 0, len(whole)) == whole
    assert good(ask, volume, f"{volume}-{STRETCHES_LIMIT}")


def test_a_snapshot_with_many_stretches_is_folded_once_for_its_clones(node, ask, volume):
    for step in range(STRETCHES_LIMIT):
        put(node, volume, step * BLOCK, bytes([step + 1]) * 100)
        ask("snapshot", name=volume, snapshot=f"{volume}-{step}")
    ask("clone", name=f"{volume}-{STRETCHES_LIMIT - 1}", pattern=volume + "-c{}", count=3)
    for clone in (1, 3):
        assert [get(node, f"{volume}-c{clone}", step * BLOCK, 1)[0] for step in range(STRETCHES_LIMIT)] == list(
            range(1, STRETCHES_LIMIT + 1))


def test_a_long_journal_is_folded_while_writes_go_on(node, ask, volume):
    """5000 flushes: past the limit of a journal object, and of all together."""
    expected = {}
    dice = random.Random(11)
    with node.client.open(volume) as opened:
        for step in range(9000):
            place = dice.randrange(GIB // BLOCK)
            data = step.to_bytes(4, "little")
            opened.write(place * BLOCK, data)
            opened.flush()
            expected[place] = data
        assert ask("info", name=volume)["open"]["journal_bytes"] < 4_700_000
    assert ask("info", name=volume)["map_level"] == 1
    with node.client.open(volume) as opened:
        for place in dice.sample(sorted(expected), 300):
            assert opened.read(place * BLOCK, 4) == expected[place]
    assert walk(ask, "check", volume)["blocks"] == len(expected) and good(ask, volume)


# --- space

def test_removal_gives_back_what_only_the_volume_had(node, ask, volume):
    def data_objects():
        from xseg.request import objects
        found = node.call("blockerb", lib.XOP_LIST, object=(lib.XOBJ_DATA,), room=1 << 20)
        return {name for name in objects(found.data)}

    before = data_objects()
    put(node, volume, 0, b"shared" * 30_000)
    ask("snapshot", name=volume, snapshot=volume + "-s")
    shared = data_objects() - before
    put(node, volume, 0, b"alone" * 30_000)
    put(node, volume, 500_000_000, b"alone" * 30_000)
    assert len(data_objects()) > len(before) + len(shared)
    ask("remove", name=volume)
    assert data_objects() - before == shared
    assert get(node, volume + "-s", 0, 180_000) == b"shared" * 30_000


def test_usage_tells_own_from_shared(node, ask, volume):
    put(node, volume, 0, b"x" * 3 * BLOCK)
    usage = walk(ask, "du", volume)
    assert (usage["logical"], usage["blocks"], usage["exclusive"], usage["shared"]) == (GIB, 3, 3 * BLOCK, 0)
    ask("snapshot", name=volume, snapshot=volume + "-s")
    put(node, volume, 0, b"y" * 4096)
    usage = walk(ask, "du", volume)
    assert (usage["blocks"], usage["exclusive"], usage["shared"]) == (3, 4096, 3 * BLOCK)
    assert walk(ask, "du", volume + "-s")["exclusive"] == 0


def test_mapinfo_shows_layers_and_their_chunks(node, ask, volume):
    put(node, volume, 5 * BLOCK, b"x" * BLOCK)
    ask("snapshot", name=volume, snapshot=volume + "-s")
    put(node, volume, 5 * BLOCK + 4096, b"y" * 8192)
    entries = ask("mapinfo", name=volume)["entries"]
    assert [(block, [layer[3] for layer in layers]) for block, layers in entries] == [(5, [2, 14])]


def test_mapinfo_in_portions(node, ask, volume):
    with node.client.open(volume) as opened:
        for block in range(0, 3000, 3):
            opened.write(block * BLOCK, b"x")
    blocks, cursor = [], 0
    import msgpack
    while True:
        data = msgpack.packb({"verb": "mapinfo", "name": volume, "cursor": cursor})
        answer = msgpack.unpackb(node.call("mapper", lib.XOP_CONTROL, data=data, room=65536).data)
        blocks += [entry[0] for entry in answer["entries"]]
        cursor = answer["cursor"]
        if not cursor:
            break
    assert blocks == list(range(0, 3000, 3))


# --- resizing

@pytest.mark.parametrize("is_open", [False, True])
def test_what_a_shrink_took_reads_as_zeros_when_grown_again(node, ask, volume, is_open):
    if is_open:
        ask("open", name=volume)
    put(node, volume, 0, b"a" * 300_000)
    put(node, volume, 700_000_000, b"b" * 100_000)
    cut = BLOCK + 1024
    ask("resize", name=volume, size=cut)
    assert get(node, volume, 0, cut) == b"a" * cut
    ask("resize", name=volume, size=GIB)
    assert get(node, volume, 0, 300_000) == b"a" * cut + bytes(300_000 - cut)
    assert get(node, volume, 700_000_000, 100_000) == bytes(100_000)
    put(node, volume, 2 * BLOCK + 5, b"c")
    assert get(node, volume, 2 * BLOCK, 10) == bytes(5) + b"c" + bytes(4)
    if is_open:
        ask("close", name=volume)
    assert get(node, volume, 2 * BLOCK, 10) == bytes(5) + b"c" + bytes(4)
    assert good(ask, volume)


def test_a_shrink_gives_back_space_but_not_a_snapshots(node, ask, volume):
    put(node, volume, 0, b"s" * 4 * BLOCK)
    ask("snapshot", name=volume, snapshot=volume + "-s")
    put(node, volume, 8 * BLOCK, b"o" * 4 * BLOCK)
    ask("resize", name=volume, size=2 * BLOCK)
    usage = walk(ask, "du", volume)
    assert (usage["blocks"], usage["exclusive"], usage["shared"]) == (2, 0, 2 * BLOCK)
    assert get(node, volume + "-s", 0, 4 * BLOCK) == b"s" * 4 * BLOCK
    ask("resize", name=volume, size=GIB)
    assert get(node, volume, 2 * BLOCK, 10 * BLOCK) == bytes(10 * BLOCK)
    with pytest.raises(NotFound):
        node.call("blockerb", lib.XOP_INFO, object=(lib.XOBJ_DATA, int(ask("info", name=volume)["id"], 16), 2, 8))


def test_io_goes_on_over_a_growth(node, ask, volume):
    with node.client.open(volume) as opened:
        opened.write(GIB - 10, b"0123456789")
        ask("resize", name=volume, size=2 * GIB)
        assert opened.size == 2 * GIB
        opened.write(GIB, b"beyond")
        assert opened.read(GIB - 10, 16) == b"0123456789beyond"


def test_a_pebibyte_volume(node, ask, request):
    name = request.node.name
    ask("create", name=name, size=1 << 50, block_size=BLOCK)
    places = [0, 12345, 1 << 33, 1 << 41, (1 << 50) - 8]
    with node.client.open(name) as opened:
        for place in places:
            opened.write(place, b"%08d" % (place % 10**8))
    with node.client.open(name) as opened:
        for place in places:
            assert opened.read(place, 8) == b"%08d" % (place % 10**8)
    ask("resize", name=name, size=1 << 34)
    ask("resize", name=name, size=1 << 50)
    with node.client.open(name) as opened:
        assert [opened.read(place, 8) != bytes(8) for place in places] == [True, True, True, False, False]
    assert good(ask, name)


def test_snapshots_wait_for_checkpoints_that_lag(node, ask, volume):
    """One snapshot after another, each with changes: the journal's stretches stay bounded."""
    with node.client.open(volume) as opened:
        for step in range(150):
            opened.write((step * 37 % 5000) * BLOCK, bytes([step + 1]))
            ask("snapshot", name=volume, snapshot=f"{volume}-{step}")
        assert ask("info", name=volume)["journals"] < 40
    with node.client.open(volume) as opened:
        assert all(opened.read((step * 37 % 5000) * BLOCK, 1)[0] == step + 1 for step in range(150))
    assert good(ask, volume, f"{volume}-149")
