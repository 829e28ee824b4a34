# SPDX-License-Identifier: Apache-2.0
"""Damaged journals, pages and objects: each is refused or reported by name, the rest is served."""
import errno
import re

import pytest

from xseg._native import lib
from xseg.errors import Damaged
from xseg.request import objects

GIB = 1 << 30
BLOCK = 65536


@pytest.fixture
def ask(node):
    return node.client.control


@pytest.fixture
def volume(request, ask, node):
    """A closed volume with three flushes in its journal."""
    name = request.node.name
    ask("create", name=name, size=GIB, block_size=BLOCK)
    with node.client.open(name) as opened:
        for block in (1, 2000, 3):
            opened.write(block * BLOCK, b"data")
            opened.flush()
    return name


def of_volume(node, ask, name, kind, role="blockerm"):
    """Objects of a kind that carry the volume's id."""
    identity, cursor, found = int(ask("info", name=name)["id"], 16), 0, []
    while True:
        reply = node.call(role, lib.XOP_LIST, object=(kind,), arg=cursor, room=65536)
        found += [name for name in objects(reply.data) if name.volume == identity]
        cursor = reply.arg
        if not cursor:
            return sorted(found)


def spoil(node, name, offset, data=b"\xff\xff\xff\xff", role="blockerm"):
    node.call(role, lib.XOP_WRITE, object=name, offset=offset, data=data)


@pytest.mark.parametrize("record", [0, 1, 2])
def test_a_damaged_journal_is_refused_by_name(node, ask, volume, record):
    [journal] = of_volume(node, ask, volume, lib.XOBJ_JOURNAL)
    spoil(node, journal, record * 512 + 70)
    with pytest.raises(Damaged, match=re.escape(volume) + f"': journal .* at byte {record * 512}"):
        ask("open", name=volume)
    assert "journal" in ask("check", name=volume)["problems"][0]
    ask("create", name=volume + "-2", size=GIB)
    node.client.open(volume + "-2").close()
    ask("remove", name=volume)


def test_a_missing_journal_is_refused_by_name(node, ask, volume):
    [journal] = of_volume(node, ask, volume, lib.XOBJ_JOURNAL)
    node.call("blockerm", lib.XOP_DELETE, object=journal)
    with pytest.raises(Damaged, match="missing"):
        ask("open", name=volume)


def test_a_damaged_page_is_refused_and_reported(node, ask, volume):
    with node.client.open(volume) as opened:
        for step in range(600):
            opened.write((4 + step) * BLOCK, b"x")
            opened.flush()
    pages = of_volume(node, ask, volume, lib.XOBJ_PAGE)
    assert pages and not of_volume(node, ask, volume, lib.XOBJ_JOURNAL)
    for page in pages:
        spoil(node, page, 80)
    ask("snapshot", name=volume, snapshot=volume + "-s")
    problems = ask("check", name=volume + "-s")["problems"]
    assert problems and all("page" in problem for problem in problems)


def test_a_page_read_by_a_guest_fails_that_request_only(node, ask, request):
    """Blocks of an intact leaf are served, those of a damaged one fail with EIO or the like."""
    name = request.node.name
    ask("create", name=name, size=GIB, block_size=BLOCK)
    with node.client.open(name) as opened:
        opened.write(0, b"good")
        for step in range(600):
            opened.write((1024 + step) * BLOCK, b"x")
            opened.flush()
    pages = of_volume(node, ask, name, lib.XOBJ_PAGE)
    leaves = [page for page in pages if node.call("blockerm", lib.XOP_READ, object=page, size=64,
                                                  room=64).data[48:52] == bytes(4)]
    firsts = {int.from_bytes(node.call("blockerm", lib.XOP_READ, object=page, size=64, room=64).data[32:40],
                             "little"): page for page in leaves}
    spoil(node, firsts[1024], 80)
    node.restart("mapper")
    with node.client.open(name) as opened:
        assert opened.read(0, 4) == b"good"
        with pytest.raises(OSError) as caught:
            opened.read(1500 * BLOCK, 4)
        assert caught.value.errno in (errno.EIO, errno.EBADMSG)


def test_check_reports_objects_that_are_missing_or_too_long(node, ask, volume):
    first, second, _third = of_volume(node, ask, volume, lib.XOBJ_DATA, "blockerb")
    node.call("blockerb", lib.XOP_DELETE, object=first)
    spoil(node, second, BLOCK, role="blockerb")
    problems = " ".join(ask("check", name=volume)["problems"])
    assert f"block {first.index}: its object of volume {first.volume:016x}" in problems and "missing" in problems
    assert f"block {second.index}: " in problems and "more than a block" in problems


def test_a_torn_last_record_is_forgotten(node, ask, request):
    """What a power cut can leave: the last record half written, and its flush never acknowledged."""
    name = request.node.name
    ask("create", name=name, size=GIB, block_size=BLOCK)
    opened = node.client.open(name)
    opened.write(BLOCK, b"data")
    opened.flush()
    for block in range(2, 40):          # a record of several sectors
        opened.write(block * BLOCK, b"data")
    opened.flush()
    node.kill("vlmc")
    [journal] = of_volume(node, node.client.control, name, lib.XOBJ_JOURNAL)
    spoil(node, journal, 1024, bytes(512))
    node.kill("mapper")
    node.stop()
    node.killed.clear()
    node.start()
    with node.client.open(name) as opened:
        assert opened.read(BLOCK, 4) == b"data" and opened.read(2 * BLOCK, 4) == bytes(4)
        opened.write(2 * BLOCK, b"anew")
    assert node.client.control("check", name=name)["problems"] == []


def test_a_last_record_that_no_power_cut_can_have_torn_is_refused(node, ask, request):
    """It lies in one sector: this is damage, and what it says was flushed."""
    name = request.node.name
    ask("create", name=name, size=GIB, block_size=BLOCK)
    opened = node.client.open(name)
    opened.write(BLOCK, b"data")
    opened.flush()
    node.kill("vlmc")
    [journal] = of_volume(node, node.client.control, name, lib.XOBJ_JOURNAL)
    spoil(node, journal, 70)
    node.kill("mapper")
    node.stop()
    node.killed.clear()
    node.start()
    with pytest.raises(Damaged):
        node.client.open(name)
    assert "journal" in node.client.control("check", name=name)["problems"][0]
    node.client.control("remove", name=name, force=True)
