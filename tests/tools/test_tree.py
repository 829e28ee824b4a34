# SPDX-License-Identifier: Apache-2.0
"""vlmc tree: what comes from what."""
import pytest

from tools.vlmc import tree
from xseg.errors import NotFound

BLOCK = 65536


def write(node, name, block, data=b"x"):
    with node.client.open(name) as volume:
        volume.write(block * BLOCK, data * BLOCK)


def family(node, name):
    """name -> name-1 -> name-a, name-b; name -> name-2."""
    write(node, name, 0)
    node.vlmc("snapshot", name, f"{name}-1")
    node.vlmc("clone", f"{name}-1", f"{name}-a")
    node.vlmc("clone", f"{name}-1", f"{name}-b")
    node.vlmc("snapshot", name, f"{name}-2")
    write(node, f"{name}-a", 1)


def test_tree_shows_snapshots_below_volumes_and_clones_below_snapshots(node, vlmc, name):
    family(node, name)
    shown = [line for line in vlmc("tree", "--no-sizes").splitlines() if name in line]
    drawn = [line.split("  volume")[0].split("  snapshot")[0].rstrip() for line in shown]
    assert drawn == [name, f"├─ {name}-1", f"│  ├─ {name}-a", f"│  └─ {name}-b", f"└─ {name}-2"]


def test_tree_of_one_shows_where_it_is_from_and_what_comes_from_it(node, vlmc, name):
    family(node, name)
    rows = node.vlmc_json("tree", f"{name}-1")
    assert [(row["name"], row["depth"]) for row in rows] == [
        (name, 0), (f"{name}-1", 1), (f"{name}-a", 2), (f"{name}-b", 2)]
    assert [row["name"] for row in node.vlmc_json("tree", f"{name}-b")] == [name, f"{name}-1", f"{name}-b"]


def test_tree_tells_what_is_exclusive_and_what_is_shared(node, name):
    family(node, name)
    rows = {row["name"].removeprefix(name): row for row in node.vlmc_json("tree", name)}
    assert {key: (row["exclusive"], row["shared"]) for key, row in rows.items()} == {
        "": (0, BLOCK), "-1": (0, BLOCK), "-a": (BLOCK, BLOCK), "-b": (0, BLOCK), "-2": (0, BLOCK)}


def test_tree_says_whose_origin_is_gone(node, vlmc, name):
    family(node, name)
    node.vlmc("remove", f"{name}-1")
    line = next(line for line in vlmc("tree").splitlines() if line.startswith(f"{name}-a"))
    assert "which is gone" in line
    assert [row["name"] for row in node.vlmc_json("tree", name)] == [name, f"{name}-2"]


def test_tree_of_what_there_is_not_is_refused(refused):
    assert "no volume" in refused("tree", "nothing-of-the-kind")


def row(number, parent):
    return {"id": f"{number:016x}", "name": f"v{number}", "parent_id": parent and f"{parent:016x}", "created": number}


def test_a_tree_of_ten_thousand_is_put_in_order_each_behind_its_parent():
    rows = [row(1, None)] + [row(number, (number * 7919) % (number - 1) + 1) for number in range(2, 10_000)]
    found = tree.in_order(rows[::-1])
    place = {row["id"]: at for at, row in enumerate(found)}
    assert len(place) == len(rows)
    for one in found[1:]:
        above = found[place[one["parent_id"]]]
        assert place[above["id"]] < place[one["id"]] and one["depth"] == above["depth"] + 1


def test_a_line_of_ten_thousand_clones_is_drawn_in_lines_of_bounded_length():
    found = tree.in_order([row(number, number - 1 or None) for number in range(1, 10_001)])
    assert [row["depth"] for row in found] == list(range(10_000))
    assert max(map(len, tree.branches(found))) < 100
    assert len(tree.in_order(found, "v5000")) == 10_000


def test_headers_that_are_each_others_parents_do_not_loop():
    rows = [row(1, 2), row(2, 1), row(3, 1)]
    assert {row["name"] for row in tree.in_order(rows, "v3")} >= {"v3"}
    with pytest.raises(NotFound):
        tree.in_order(rows, "v4")
