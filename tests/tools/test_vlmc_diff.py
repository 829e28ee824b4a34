# SPDX-License-Identifier: Apache-2.0
"""The command `vlmc diff`."""
import json

import pytest

MIB = 1 << 20
BLOCK = 65536


@pytest.fixture
def pair(node, request):
    """Names of a volume of two blocks with something in them, and of its snapshot, after which it was written to."""
    name = request.node.name
    node.vlmc("create", name, "--size", "1M", "--block-size", "64K")
    with node.client.open(name) as volume:
        volume.write(0, b"x" * BLOCK)
        volume.write(4 * BLOCK, b"y" * BLOCK)
        node.vlmc("snapshot", name, f"{name}-s")
        volume.write(5000, b"new")
        volume.write(4 * BLOCK, b"new" * 5000)
    return name, f"{name}-s"


def test_ranges_that_differ_are_shown(node, pair):
    name, snap = pair
    assert [[int(word) for word in line.split()] for line in node.vlmc("diff", snap, name).stdout.splitlines()] == [
        [4096, 4096], [4 * BLOCK, 16384]]
    assert node.vlmc_json("diff", snap, name) == [{"offset": 4096, "length": 4096},
                                                  {"offset": 4 * BLOCK, "length": 16384}]
    assert node.vlmc_json("diff", name, snap) == node.vlmc_json("diff", snap, name)


def test_with_one_name_what_is_not_zeros_is_shown(node, pair):
    assert node.vlmc_json("diff", pair[1]) == [{"offset": 0, "length": BLOCK}, {"offset": 4 * BLOCK, "length": BLOCK}]


def test_a_summary_is_shown(node, pair):
    name, snap = pair
    assert node.vlmc("diff", snap, name, "--summary").stdout == "20.0K (20480 bytes) of 1.0M differ, in 2 ranges\n"
    assert node.vlmc_json("diff", snap, name, "--summary") == {"size": MIB, "ranges": 2, "bytes": 20480}
    assert node.vlmc_json("diff", name, name) == [] == json.loads(node.vlmc("diff", name, name, "--json").stdout)


def test_what_is_not_there_is_told_by_its_name(node, pair):
    for words in (("no-such", pair[0]), (pair[0], "no-such"), ("no-such",)):
        failed = node.vlmc("diff", *words, check=False)
        assert failed.returncode == 1 and "there is no volume 'no-such'" in failed.stderr and not failed.stdout


def test_what_is_being_made_is_not_compared(node, pair):
    node.client.control("create", name=f"{pair[0]}-half", size=MIB, token=5, making=True)
    failed = node.vlmc("diff", pair[0], f"{pair[0]}-half", check=False)
    assert failed.returncode == 1 and "being made" in failed.stderr
    node.client.control("remove", name=f"{pair[0]}-half", making=5)


def test_blocks_of_one_content_name_are_the_same_in_volumes_of_two_families(node, pair):
    name, snap = pair
    twin = f"{name}-twin"
    node.vlmc("create", twin, "--size", "1M", "--block-size", "64K")
    with node.client.open(twin) as volume:
        volume.write(0, b"x" * BLOCK)
        volume.write(4 * BLOCK, b"z" * BLOCK)
        node.vlmc("snapshot", twin, f"{twin}-s")
    both = [{"offset": 0, "length": BLOCK}, {"offset": 4 * BLOCK, "length": BLOCK}]
    assert node.vlmc_json("diff", snap, f"{twin}-s") == both
    node.vlmc("hash", snap)
    node.vlmc("hash", f"{twin}-s")
    assert node.vlmc_json("diff", snap, f"{twin}-s") == both[1:]
