# SPDX-License-Identifier: Apache-2.0
"""vlmc protect and unprotect: what is kept."""
import pytest

BLOCK = 65536


@pytest.mark.parametrize("force", [[], ["--force"]])
@pytest.mark.parametrize("kind", ["volume", "snapshot"])
def test_what_is_protected_is_not_removed(node, vlmc, refused, name, kind, force):
    if kind == "snapshot":
        vlmc("snapshot", name, f"{name}-s")
        name += "-s"
    vlmc("protect", name)
    assert f"vlmc unprotect {name}" in refused("remove", name, *force)
    assert node.vlmc_json("info", name)["protected"] is True
    vlmc("unprotect", name)
    vlmc("remove", name, *force)
    assert name not in node.client.names()


def test_protection_survives_what_else_changes_a_header(node, vlmc, refused, name):
    with node.client.open(name) as volume:
        vlmc("protect", name)                       # while it is open
        volume.write(0, b"x" * BLOCK)
        volume.flush()
        vlmc("snapshot", name, f"{name}-s")
    vlmc("rename", name, f"{name}-n")
    vlmc("resize", f"{name}-n", "8M")
    node.restart("mapper")
    assert node.vlmc_json("info", f"{name}-n")["protected"] is True
    assert node.vlmc_json("info", f"{name}-s")["protected"] is False
    vlmc("clone", f"{name}-s", f"{name}-c")
    assert node.vlmc_json("info", f"{name}-c")["protected"] is False
    with node.client.open(f"{name}-n") as volume:
        assert volume.read(0, 4) == b"xxxx"
    line = next(line for line in vlmc("list").splitlines() if line.startswith(f"{name}-n"))
    assert "protected" in line
    assert "protected: True" in vlmc("info", f"{name}-n")


def test_protecting_twice_and_unprotecting_what_is_not_change_nothing(node, vlmc, name):
    vlmc("unprotect", name)
    vlmc("protect", name)
    vlmc("protect", name)
    vlmc("unprotect", name)
    vlmc("remove", name)


def test_of_some_that_are_removed_the_protected_stays(node, name):
    node.vlmc("snapshot", name, f"{name}-s")
    node.vlmc("protect", name)
    done = node.vlmc("remove", name, f"{name}-s", check=False)
    assert done.returncode == 1 and "protected" in done.stderr
    assert name in node.client.names() and f"{name}-s" not in node.client.names()


def test_what_there_is_not_is_not_protected(refused):
    assert "no volume" in refused("protect", "nothing-of-the-kind")
    assert "no volume" in refused("unprotect", "nothing-of-the-kind")
