# SPDX-License-Identifier: Apache-2.0
"""Content names for the blocks of snapshots: vlmc hash, vlmc hashes."""
import errno
import hashlib
import json
import os
import random

import pytest

from xseg._native import lib
from xseg.errors import XsegError
from xseg.request import Object, objects

BLOCK, CHUNK = 65536, 4096
BLOCKS = 40


@pytest.fixture
def ask(node):
    return node.client.control


@pytest.fixture
def source(node, ask, request):
    """A volume with zeros, equal blocks, a cut last block and, over a snapshot, blocks with stacks; and its bytes."""
    name, size = request.node.name, BLOCKS * BLOCK - 3 * CHUNK
    dice, data = random.Random(5), bytearray(BLOCKS * BLOCK - 3 * CHUNK)
    ask("create", name=name, size=size, block_size=BLOCK)

    def write(volume, offset, piece):
        volume.write(offset, piece)
        data[offset:offset + len(piece)] = piece

    with node.client.open(name) as volume:
        for block in range(0, BLOCKS, 2):
            write(volume, block * BLOCK, dice.randbytes(min(BLOCK, size - block * BLOCK)))
        write(volume, 4 * BLOCK, bytes(data[2 * BLOCK:3 * BLOCK]))
        write(volume, 6 * BLOCK, bytes(BLOCK))
        write(volume, (BLOCKS - 1) * BLOCK, b"end")
        for round in range(4):
            ask("snapshot", name=name, snapshot=f"{name}-{round}")
            for block in (8, 10, BLOCKS - 1):
                write(volume, block * BLOCK + (round * 3 + 1) * CHUNK + 100, dice.randbytes(6000))
    ask("snapshot", name=name, snapshot=f"{name}-s")
    return name, bytes(data)


def read(node, name):
    with node.client.open(name) as volume:
        return b"".join(volume.read(at, min(BLOCK, volume.size - at)) for at in range(0, volume.size, BLOCK))


def digests(data):
    return [hashlib.sha256(data[at:at + BLOCK].rstrip(b"\0")).hexdigest() for at in range(0, len(data), BLOCK)]


def hash_all(ask, name):
    cursor, hashed = 0, 0
    while True:
        answer = ask("hash", name=name, cursor=cursor)
        hashed += answer["hashed"]
        if not (cursor := answer["cursor"]):
            return hashed


def kinds(node, ask, name):
    return {layer[0] for _block, layers in ask("mapinfo", name=name)["entries"] for layer in layers}


def listed(node, role, kind):
    cursor = 0
    while True:
        reply = node.call(role, lib.XOP_LIST, object=Object(kind), arg=cursor, room=65536)
        yield from objects(reply.data)
        if not (cursor := reply.arg):
            return


def test_every_block_gets_its_content_name(node, ask, source):
    name, data = source
    assert hash_all(ask, f"{name}-s") > 0
    assert kinds(node, ask, f"{name}-s") == {"content"}
    assert json.loads(node.vlmc("hashes", f"{name}-s", "--json").stdout)["hashes"] == digests(data)
    assert read(node, f"{name}-s") == data == read(node, name)
    assert ask("check", name=f"{name}-s")["problems"] == [] == ask("check", name=name)["problems"]
    assert hash_all(ask, f"{name}-s") == 0


def test_clones_and_lists_share_the_contents(node, ask, source, tmp_path):
    name, data = source
    shown = node.vlmc("hash", f"{name}-s").stdout
    assert "blocks have content names" in shown
    path = tmp_path / "list"
    path.write_text(node.vlmc("hashes", f"{name}-s").stdout)
    ask("clone", name=f"{name}-s", names=[f"{name}-c"])
    node.vlmc("create", f"{name}-l", "--from-hashes", str(path))
    for made in (f"{name}-c", f"{name}-l"):
        assert kinds(node, ask, made) == {"content"}
        with node.client.open(made) as volume:
            volume.write(3 * BLOCK - 5, b"over an edge")
            volume.zeroes(8 * BLOCK, BLOCK)
        changed = bytearray(data)
        changed[3 * BLOCK - 5:3 * BLOCK + 7] = b"over an edge"
        changed[8 * BLOCK:9 * BLOCK] = bytes(BLOCK)
        assert read(node, made) == changed
    assert read(node, f"{name}-s") == data


def test_a_removed_hashed_snapshot_leaves_its_clones_whole(node, ask, source):
    name, data = source
    hash_all(ask, f"{name}-s")
    ask("clone", name=f"{name}-s", names=[f"{name}-c"])
    ask("remove", name=f"{name}-s")
    for each in (name, *(f"{name}-{round}" for round in range(4))):
        ask("remove", name=each)
    assert read(node, f"{name}-c") == data
    assert ask("check", name=f"{name}-c")["problems"] == []


def test_who_has_it_open_finds_the_new_names(node, ask, source):
    """The old objects go under an open snapshot, as by a node that knows nothing of who has it open."""
    name, data = source
    with node.client.open(f"{name}-s") as opened:
        assert opened.read(0, 10 * BLOCK) == data[:10 * BLOCK]
        hash_all(ask, f"{name}-s")
        ask("remove", name=name)
        for each in range(4):
            ask("remove", name=f"{name}-{each}")
        for object in list(listed(node, "blockerb", lib.XOBJ_DATA)):
            node.call("blockerb", lib.XOP_DELETE, object=object)
        for at in range(0, len(data), BLOCK):
            assert opened.read(at, min(BLOCK, len(data) - at)) == data[at:at + BLOCK]


def test_what_is_missing_is_eio_and_named(node, ask, source):
    name, data = source
    volume = int(ask("info", name=name)["id"], 16)
    victim = next(o for o in listed(node, "blockerb", lib.XOBJ_DATA) if o.volume == volume and o.index == 2)
    node.call("blockerb", lib.XOP_DELETE, object=victim)
    with pytest.raises(XsegError) as failed:
        hash_all(ask, f"{name}-s")
    assert failed.value.errno == errno.EIO and "block 2" in str(failed.value)
    with node.client.open(f"{name}-s") as opened:
        with pytest.raises(XsegError) as failed:
            opened.read(2 * BLOCK, 10)
        assert failed.value.errno == errno.EIO
        assert opened.read(0, BLOCK) == data[:BLOCK]


def test_only_snapshots_are_hashed_and_only_the_hashed_have_lists(node, ask, source):
    name, _data = source
    with pytest.raises(XsegError) as refused:
        ask("hash", name=name)
    assert refused.value.errno == errno.EINVAL
    failed = node.vlmc("hashes", f"{name}-s", check=False)
    assert failed.returncode == 1 and "vlmc hash" in failed.stderr


def test_digests_of_contents_take_no_stacks(node, ask, source):
    name, data = source
    hash_all(ask, f"{name}-s")
    with node.client.open(f"{name}-s") as opened:
        opened.read(0, BLOCK)
        c = node.client.segment.c
        frames = [c.frames[n] for n in range(c.frame_count) if c.frames[n].volume_id == opened.shared.id]
        entry = frames[0].entry[0]
        assert entry.volume == lib.XENTRY_CONTENT
        assert bytes(c.contents[entry.stack - 1].digest).hex() == digests(data)[0]


def test_large_blocks_with_many_zeros(node, ask, request):
    """Over more than one leaf, whose first is zeros."""
    name, size = request.node.name, 1030 * BLOCK
    ask("create", name=name, size=size, block_size=BLOCK)
    piece = os.urandom(BLOCK)
    with node.client.open(name) as volume:
        volume.write(1027 * BLOCK, piece)
    ask("snapshot", name=name, snapshot=f"{name}-s")
    assert hash_all(ask, f"{name}-s") == 1
    found = json.loads(node.vlmc("hashes", f"{name}-s", "--json").stdout)["hashes"]
    nothing = hashlib.sha256(b"").hexdigest()
    assert found == [nothing] * 1027 + [hashlib.sha256(piece).hexdigest()] + [nothing] * 2
