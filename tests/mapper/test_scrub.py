# SPDX-License-Identifier: Apache-2.0
"""`archipelago check`: one flipped bit anywhere is found and told of by name, and nothing else is."""
import json
import random

import pytest

from peers.mapper.header import name_digest
from xseg._native import lib
from xseg.request import Object, objects

BLOCK = 65536
KINDS = {"header": lib.XOBJ_HEADER, "name": lib.XOBJ_NAME, "page": lib.XOBJ_PAGE, "journal": lib.XOBJ_JOURNAL}


@pytest.fixture
def ask(node):
    return node.client.control


@pytest.fixture
def volume(request, ask, node):
    """A closed volume with an inner page, leaves and a journal; its name."""
    name = request.node.name.replace("[", "-").rstrip("]")
    ask("create", name=name, size=3 << 30, block_size=BLOCK)
    write(node, name, [7, 2000, 40000])
    ask("resize", name=name, size=2 << 30)              # folds the journal into pages
    write(node, name, [3, 1025])
    yield name
    ask("remove", name=name, force=True)


def write(node, name, blocks):
    with node.client.open(name) as opened:
        for block in blocks:
            if (block + 1) * BLOCK <= opened.size:
                opened.write(block * BLOCK, b"some data")
                opened.flush()


def scrub(node, *words):
    return json.loads(node.archipelago("check", "--json", *words, check=False).stdout)


def told(result, name):
    return [found for found in result["volumes"] if found["name"] == name][0]["problems"]


def of_kind(node, kind, role="blockerm"):
    cursor, found = 0, []
    while True:
        reply = node.call(role, lib.XOP_LIST, object=(kind,), arg=cursor, room=65536)
        found += objects(reply.data)
        if not (cursor := reply.arg):
            return sorted(found)


def mine(node, ask, name, kind, role="blockerm"):
    """The volume's objects of a kind."""
    if kind == lib.XOBJ_NAME:
        return [Object(kind, digest=name_digest(name))]
    identity = int(ask("info", name=name)["id"], 16)
    return [found for found in of_kind(node, kind, role) if found.volume == identity]


def flip(node, name, bit, role="blockerm"):
    """Flips one bit; doing it again undoes it."""
    byte = node.call(role, lib.XOP_READ, object=name, offset=bit // 8, size=1, room=1).data[0]
    node.call(role, lib.XOP_WRITE, object=name, offset=bit // 8, data=bytes([byte ^ 1 << bit % 8]))


def length(node, name, role="blockerm"):
    return node.call(role, lib.XOP_INFO, object=name).done


def used(node, kind, name):
    """Bytes of an object that mean something: a record's padding does not."""
    if kind != "journal":
        return length(node, name)
    data = node.call("blockerm", lib.XOP_READ, object=name, size=length(node, name), room=65536).data
    return [at for start in range(0, len(data), 512)
            for at in range(start, start + 64 + int.from_bytes(data[start + 44:start + 48], "little"))]


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_found(node, ask, volume, kind):
    """In each object of the kind: its first and last byte that means something, and some between."""
    assert scrub(node, volume)["volumes"][0]["problems"] == []
    dice = random.Random(kind)
    for name in mine(node, ask, volume, KINDS[kind]):
        places = used(node, kind, name)
        places = list(range(places)) if isinstance(places, int) else places
        for byte in {places[0], places[-1], *dice.sample(places, 4)}:
            bit = byte * 8 + dice.randrange(8)
            flip(node, name, bit)
            result = scrub(node, *([] if kind == "header" else [volume]))
            told_of = [problem for found in result["volumes"] for problem in found["problems"]]
            assert len(told_of) + len(result["problems"]) >= 1, f"{kind} {name}, byte {byte}"
            flip(node, name, bit)
    assert scrub(node, volume)["volumes"][0]["problems"] == []


def test_a_flipped_bit_in_each_record_of_an_open_volumes_journal_is_found(node, ask, volume):
    """The mapper still knows better; the next opening would not."""
    with node.client.open(volume) as opened:
        for block in range(60, 120):
            opened.write(block * BLOCK, b"more data")   # entries enough for records of several sectors
        opened.flush()
        opened.write(5 * BLOCK, b"more data")
        opened.flush()
        journal = mine(node, ask, volume, lib.XOBJ_JOURNAL)[-1]
        assert scrub(node, volume)["volumes"][0]["problems"] == []
        for byte in (0, 70, length(node, journal) - 512 + 8, length(node, journal) - 512 + 70):
            flip(node, journal, byte * 8)
            assert "journal" in scrub(node, volume)["volumes"][0]["problems"][0]
            flip(node, journal, byte * 8)


def test_damage_of_a_page_is_told_of_for_each_volume_that_shares_it(node, ask, volume):
    ask("snapshot", name=volume, snapshot=f"{volume}-s")
    ask("clone", name=f"{volume}-s", names=[f"{volume}-c"])
    page = mine(node, ask, volume, lib.XOBJ_PAGE)[0]
    flip(node, page, 8 * 70)
    result = scrub(node)
    for name in (volume, f"{volume}-s", f"{volume}-c"):
        assert "page" in told(result, name)[0]
    flip(node, page, 8 * 70)
    assert not any(found["problems"] for found in scrub(node)["volumes"])
    ask("remove", name=f"{volume}-c")
    ask("remove", name=f"{volume}-s")


def test_a_missing_object_is_told_of_with_its_block(node, ask, volume):
    data = [name for name in mine(node, ask, volume, lib.XOBJ_DATA, "blockerb") if name.index == 3][0]
    node.call("blockerb", lib.XOP_DELETE, object=data)
    [problem] = scrub(node, volume)["volumes"][0]["problems"]
    assert problem.startswith("block 3: ") and "missing" in problem


def test_content_that_its_name_does_not_fit_is_found(node):
    source = Object(lib.XOBJ_DATA, 77, 1, 0)
    node.call("blockerb", lib.XOP_WRITE, object=source, data=b"content" * 1000)
    reply = node.call("blockerb", lib.XOP_HASH, object=source, size=BLOCK, room=4096)
    content = Object(lib.XOBJ_CONTENT, digest=reply.data)
    result = scrub(node)
    assert result["problems"] == [] and result["contents"] >= 1 and result["unreachable"]["content"] >= 1
    flip(node, content, 8 * 5000, "blockerb")
    assert [content.digest.hex() in problem for problem in scrub(node)["problems"]] == [True]
    node.call("blockerb", lib.XOP_DELETE, object=content)
    node.call("blockerb", lib.XOP_DELETE, object=source)


def test_objects_that_nothing_reaches_are_counted_and_are_no_problem(node, ask, volume):
    before = scrub(node)["unreachable"]
    identity = int(ask("info", name=volume)["id"], 16)
    lost = [Object(lib.XOBJ_DATA, identity, 1, 9000 + n) for n in range(3)]
    for name in lost:
        node.call("blockerb", lib.XOP_WRITE, object=name, data=b"lost")
    result = scrub(node)
    assert result["unreachable"]["data"] == before["data"] + 3
    assert not any(found["problems"] for found in result["volumes"])
    for name in lost:
        node.call("blockerb", lib.XOP_DELETE, object=name)


def test_check_says_what_is_wrong_and_fails(node, ask, volume):
    shown = node.archipelago("check")
    assert f"{volume}: " in shown.stdout and "unreachable objects: " in shown.stdout
    page = mine(node, ask, volume, lib.XOBJ_PAGE)[0]
    flip(node, page, 8 * 70)
    failed = node.archipelago("check", volume, check=False)
    assert failed.returncode == 1 and "problem" in failed.stdout and "damaged" in failed.stdout
    flip(node, page, 8 * 70)
    assert node.archipelago("check", "nobody", check=False).returncode == 1
