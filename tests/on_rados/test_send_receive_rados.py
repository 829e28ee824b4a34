# SPDX-License-Identifier: Apache-2.0
"""Volumes move between files and RADOS and back, whole and by what has changed."""
import os

import pytest
from support import unsynced

MIB = 1 << 20


@pytest.fixture(scope="module")
def files():
    """An instance that stores in files."""
    with unsynced() as made:
        yield made


def content(node, name):
    with node.client.open(name) as volume:
        return volume.read(0, volume.size)


def move(source, target, name, *words):
    target.run("vlmc", "receive", name, input=source.vlmc("send", name, *words, text=False).stdout, text=False)
    assert content(target, name) == content(source, name)


def test_from_files_to_rados_and_back(files, node):
    files.vlmc("create", "d", "--size", "6M", "--block-size", "64K")
    with files.client.open("d") as volume:
        volume.write(100, os.urandom(MIB))
        files.vlmc("snapshot", "d", "first")
        volume.write(MIB // 2, os.urandom(5000))
        volume.zeroes(70_000, 200_000)
        files.vlmc("snapshot", "d", "second")
    move(files, node, "first")
    move(files, node, "second", "--from", "first", "--zstd")
    node.vlmc("clone", "second", "c")
    with node.client.open("c") as volume:
        volume.write(3 * MIB, os.urandom(9000))
        node.vlmc("snapshot", "c", "third")
    move(node, files, "third", "--from", "second")
    assert files.vlmc_json("info", "third")["parent"] == "second" == node.vlmc_json("info", "c")["parent"]
    assert files.vlmc_json("diff", "second", "third") == node.vlmc_json("diff", "second", "third")
