# SPDX-License-Identifier: Apache-2.0
"""Files of the store that are damaged, cut short or gone: what needs them is refused with words that name it,
and the rest of the store is served as before."""
import errno
import glob
import os

import pytest

from xseg.errors import Damaged, XsegError

pytestmark = pytest.mark.layout("colocated")
CONFIG = """
[peers.mapper]
journal_limit = 4096
"""
BLOCK, SIZE = 65536, 1 << 30
DATA = b"precious" * (BLOCK // 8)


@pytest.fixture(params=["journal", "page"])
def kind(request):
    return request.param


@pytest.fixture
def node(shared_instance):
    yield shared_instance
    for name in list(shared_instance.client.names()):
        shared_instance.vlmc("remove", name, check=False)


def make(node, name, folded=False):
    """A closed volume with data in three leaves, its map in one journal or folded into pages."""
    node.client.control("create", name=name, size=SIZE, block_size=BLOCK)
    with node.client.open(name) as volume:
        for turn in range(12 if folded else 3):
            volume.write(turn % 3 * 2000 * BLOCK + turn * BLOCK, DATA)
            volume.flush()
    return name


def files(node, name, kind, folder="map"):
    """The files of a volume's objects of a kind."""
    identity = node.client.control("info", name=name)["id"]
    return sorted((path for path in glob.glob(f"{node.home}/{folder}/{kind}/*/*") if identity in path),
                  key=os.path.basename)


def flip(path, at):
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x10]))


def cold(node):
    """Forgets what the mapper has in memory and the blockers have open."""
    node.disconnect()
    cold = ("mapper", "blockerm", "blockerb")
    processes = {peer["process"]: role for role, peer in node.status().items() if role in cold}
    for role in processes.values():
        node.restart(role)


def open_and_read(node, name):
    with node.client.open(name) as volume:
        return [volume.read(turn * 2001 * BLOCK, BLOCK) == DATA for turn in range(3)]


def served(node, name):
    return all(open_and_read(node, name)) and node.client.control("check", name=name)["problems"] == []


def test_a_flipped_byte_in_journal_or_page_is_refused_and_the_rest_served(node, kind):
    victim, other = make(node, "victim", kind == "page"), make(node, "other", kind == "page")
    damaged = files(node, victim, kind)[0]
    flip(damaged, 70)
    cold(node)
    with pytest.raises(XsegError) as caught:
        open_and_read(node, victim)
    assert caught.value.errno == errno.EBADMSG
    [problem, *_] = node.client.control("check", name=victim)["problems"]
    assert kind in problem
    shown = node.vlmc("check", victim, check=False)
    assert shown.returncode == 1 and kind in shown.stdout + shown.stderr
    assert served(node, other)


def test_a_page_that_is_cut_short_or_gone_is_refused(node):
    for name, harm in (("cut", lambda path: os.truncate(path, 70)), ("gone", os.unlink)):
        make(node, name, folded=True)
        for path in files(node, name, "page"):
            harm(path)
        cold(node)
        with pytest.raises(Damaged):
            open_and_read(node, name)
        assert node.client.control("check", name=name)["problems"]


@pytest.mark.parametrize("harm", [lambda path: flip(path, 40), lambda path: os.truncate(path, 20),
                                  lambda path: os.truncate(path, 0)], ids=["flipped", "cut", "empty"])
def test_a_damaged_header_is_refused_by_name_and_the_rest_served(node, harm):
    make(node, "victim")
    other = make(node, "other")
    [header] = files(node, "victim", "header")
    harm(header)
    cold(node)
    shown = node.vlmc("info", "victim", check=False)
    assert shown.returncode == 1 and "victim" in shown.stderr and "damaged" in shown.stderr
    with pytest.raises(Damaged):
        node.client.open("victim")
    assert served(node, other)
    node.vlmc("remove", "--force", "victim")
    make(node, "victim")


def test_a_missing_object_fails_reads_of_its_block_only(node):
    make(node, "victim")
    os.unlink(files(node, "victim", "data", "data")[0])
    cold(node)
    with node.client.open("victim") as volume:
        with pytest.raises(XsegError) as caught:
            volume.read(10, 100)
        assert caught.value.errno == errno.EIO
        assert volume.read(2001 * BLOCK, BLOCK) == DATA
        volume.write(5 * BLOCK, b"goes on")
    [problem] = node.client.control("check", name="victim")["problems"]
    assert "block 0" in problem and "missing" in problem


def test_a_cut_object_reads_as_zeros_past_its_end(node):
    make(node, "victim")
    os.truncate(files(node, "victim", "data", "data")[0], 5000)
    cold(node)
    with node.client.open("victim") as volume:
        assert volume.read(0, BLOCK) == DATA[:5000] + bytes(BLOCK - 5000)


def test_an_object_that_is_too_long_is_reported(node):
    make(node, "victim")
    with open(files(node, "victim", "data", "data")[0], "ab") as file:
        file.write(b"more")
    [problem] = node.client.control("check", name="victim")["problems"]
    assert "more than a block" in problem


def test_strange_files_in_the_store_harm_nobody(node):
    make(node, "victim")
    for folder in ("map/header/00", "map/journal/00", "data/data/00"):
        os.makedirs(f"{node.home}/{folder}", exist_ok=True)
        for name in ("notes.txt", "0" * 16, "zz" * 8, "0123456789abcdef_00000001"):
            with open(f"{node.home}/{folder}/{name}", "w", encoding="utf-8") as file:
                file.write("what is this")
    cold(node)
    assert served(node, "victim")
    node.vlmc("list")
    node.vlmc("list", "--json")
