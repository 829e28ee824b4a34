# SPDX-License-Identifier: Apache-2.0
"""Volumes made from lists of hashes, of contents that were put by a client."""
import errno
import os

import pytest

from xseg import hashes
from xseg._native import lib
from xseg.contents import NOTHING, Contents, digest_of
from xseg.errors import Exists, NotFound, XsegError
from xseg.request import Object

BLOCK = 65536
KIB = 1 << 10


@pytest.fixture
def ask(node):
    return node.client.control


@pytest.fixture
def contents(node):
    return Contents(node.client)


def blocks_of(data):
    return [data[at:at + BLOCK] for at in range(0, len(data), BLOCK)]


def read(node, name):
    with node.client.open(name) as volume:
        return volume.read(0, volume.size)


def image(blocks=5):
    """The last block is cut, one is zeros, two are equal, one ends with zeros."""
    parts = [os.urandom(BLOCK) for _ in range(blocks)]
    parts[1] = bytes(BLOCK)
    parts[2] = parts[0]
    parts[3] = os.urandom(100) + bytes(BLOCK - 100)
    return b"".join(parts)[:-4 * KIB]


def test_a_client_puts_claims_and_reads(contents):
    data, other = os.urandom(70000), digest_of(os.urandom(10))
    digest = contents.put(data)
    assert contents.missing([digest, other, NOTHING, other]) == [other]
    assert contents.claim([other, digest]) == [other]
    assert contents.read(digest, 5, 90000) == data[5:] + bytes(20005)
    assert contents.read(NOTHING, 0, 10) == bytes(10)
    with pytest.raises(NotFound):
        contents.read(other, 0, 1)


def test_a_volume_is_made_of_contents(node, ask, contents, request):
    name, data = request.node.name, image()
    digests = b"".join(contents.put_all(blocks_of(data)))
    ask("adopt", name=name, size=len(data), block_size=BLOCK, hashes=digests, token=7)
    assert read(node, name) == data
    again = ask("adopt", name=name, size=len(data), block_size=BLOCK, hashes=digests, token=7)
    assert again["id"] == ask("info", name=name)["id"]
    with pytest.raises(Exists):
        ask("adopt", name=name, size=len(data), block_size=BLOCK, hashes=digests, token=8)
    ask("snapshot", name=name, snapshot=f"{name}-s")
    ask("clone", name=f"{name}-s", names=[f"{name}-c"])
    with node.client.open(f"{name}-c") as clone:
        clone.write(100, b"written")
        assert clone.read(0, len(data)) == data[:100] + b"written" + data[107:]
    assert read(node, name) == data
    assert node.client.control("check", name=name)["problems"] == []


def test_a_list_may_lie_in_contents(node, ask, contents, request):
    name, count = request.node.name, 33000      # more digests than one content holds
    data = os.urandom(BLOCK)
    digests = bytearray(NOTHING * count)
    for block in (0, 1023, 1024, 32767, 32768, count - 1):
        digests[block * 32:block * 32 + 32] = contents.put(data)
    lists = contents.put_all([bytes(digests[:1 << 20]), bytes(digests[1 << 20:])])
    ask("adopt", name=name, size=count * BLOCK, block_size=BLOCK, lists=lists, token=7)
    with node.client.open(name) as volume:
        for block in range(count):
            if block in (0, 1023, 1024, 32767, 32768, count - 1):
                assert volume.read(block * BLOCK, BLOCK) == data
        assert volume.read(BLOCK, 100) == bytes(100)
        zeros = [extent.length for extent in volume.extents() if extent.zero]
        assert sum(zeros) == (count - 6) * BLOCK


def test_unknown_contents_are_told_and_nothing_is_made(node, ask, contents, request):
    name = request.node.name
    lacking = [digest_of(os.urandom(8)) for _ in range(20)]
    known = contents.put(b"known")
    pages = len(list(objects(node, lib.XOBJ_PAGE)))
    with pytest.raises(NotFound) as refused:
        ask("adopt", name=name, size=22 * BLOCK, block_size=BLOCK, hashes=b"".join([known, *lacking, NOTHING]), token=7)
    assert sorted(lacking)[0].hex() in str(refused.value) and "12 more" in str(refused.value)
    assert known.hex() not in str(refused.value)
    with pytest.raises(NotFound):
        ask("info", name=name)
    assert len(list(objects(node, lib.XOBJ_PAGE))) == pages
    ask("create", name=name, size=BLOCK)


def objects(node, kind, role="blockerm"):
    from xseg.request import objects as read_objects
    cursor = 0
    while True:
        reply = node.call(role, lib.XOP_LIST, object=Object(kind), arg=cursor, room=65536)
        yield from read_objects(reply.data)
        if not (cursor := reply.arg):
            return


@pytest.mark.parametrize("fields", [
    {"hashes": NOTHING * 2}, {"hashes": NOTHING, "lists": [NOTHING]}, {}, {"hashes": NOTHING[:-1]}, {"lists": [b"x"]},
    {"lists": [NOTHING] * 2}, {"hashes": NOTHING, "token": 0}, {"hashes": NOTHING, "block_size": 1000}])
def test_what_is_no_list_of_the_volume_is_refused(ask, request, fields):
    with pytest.raises(XsegError) as refused:
        ask("adopt", **{"name": "x", "size": BLOCK, "block_size": BLOCK, "token": 7, **fields})
    assert refused.value.errno == errno.EINVAL
    with pytest.raises(NotFound):
        ask("info", name="x")


def test_the_command_reads_a_list(node, contents, request, tmp_path):
    name, data = request.node.name, image()
    text = hashes.head(len(data), BLOCK) + "".join(hashes.line(contents.put(block)) for block in blocks_of(data))
    path = tmp_path / "list"
    path.write_text(text)
    node.vlmc("create", name, "--from-hashes", str(path))
    assert read(node, name) == data
    path.write_text(text.replace("block_size", "blocksize"))
    failed = node.vlmc("create", f"{name}-2", "--from-hashes", str(path), check=False)
    assert failed.returncode == 1 and "block_size" in failed.stderr
