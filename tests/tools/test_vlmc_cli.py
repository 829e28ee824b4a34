# SPDX-License-Identifier: Apache-2.0
"""The command vlmc: what it prints, its exit status, its errors. One test a verb at least."""
import importlib
import json
import os
import re
import subprocess

import pytest
from support import BIN, run

from tools.vlmc import verbs


@pytest.fixture
def vlmc(node):
    """Runs vlmc on the node; fails unless it succeeds. Returns what it printed."""
    return lambda *words: node.vlmc(*words).stdout


@pytest.fixture
def refused(node):
    """Runs vlmc on the node; fails unless it is refused with one line. Returns that line."""
    def run_it(*words, status=1):
        done = node.vlmc(*words, check=False)
        assert done.returncode == status and done.stdout == "" and "Traceback" not in done.stderr
        if status == 1:
            assert re.fullmatch(r"vlmc: .+\n", done.stderr), done.stderr
        return done.stderr

    return run_it


@pytest.fixture
def name(request, vlmc):
    """The name of a fresh volume of 1 GiB in blocks of 64 KiB."""
    vlmc("create", request.node.name, "--size", "1G", "--block-size", "64K")
    return request.node.name


def test_every_verb_has_help_and_a_manual():
    for verb in verbs():
        module = importlib.import_module(f"tools.vlmc.{verb}")
        assert module.HELP and len(module.__doc__) > 40, verb
        shown = run("vlmc", verb, "--help").stdout
        assert module.__doc__.strip().splitlines()[0].split(".")[0] in shown


def test_help_lists_every_verb():
    shown = run("vlmc", "--help").stdout
    assert all(re.search(rf"^ +{verb}\b", shown, flags=re.M) for verb in verbs())


@pytest.mark.parametrize("words", [[], ["fly"], ["create"], ["create", "x", "--size", "1Q"], ["create", "x"],
                                   ["resize", "x"], ["create", "x", "--snap", "s", "--block-size", "4M"]])
def test_wrong_usage_has_status_2(refused, words):
    assert "usage:" in refused(*words, status=2)


BROKEN = os.fsdecode(b"a\xff")
WITH_NAMES = [["create", BROKEN, "--size", "1M"], ["clone", "v", BROKEN], ["clone", BROKEN, "v"],
              ["snapshot", BROKEN, "s"], ["rollback", BROKEN, "s"],
              ["rollback", "v", BROKEN], ["rename", "v", BROKEN], ["resize", BROKEN, "1M"], ["export", BROKEN, "/x/y"],
              *([verb, BROKEN] for verb in ("info", "remove", "du", "check", "open", "close", "lock", "unlock",
                                            "mapinfo", "map", "unmap",
                                            "protect", "unprotect", "tree", "schedule",
                                            "flatten", "limit"))]


@pytest.mark.parametrize("words", WITH_NAMES, ids=lambda words: " ".join(map(ascii, words)))
def test_a_name_that_is_no_utf_8_is_refused_in_one_line(refused, words):
    refused(*words)


@pytest.mark.parametrize("words", [["--count", "9" * 30], ["--count", "2", "--first", "9" * 30]])
def test_a_number_beyond_64_bits_is_refused_in_one_line(refused, words):
    assert "64 bits" in refused("clone", "v", "v-{}", *words)


def test_a_size_beyond_64_bits_is_wrong_usage(refused):
    assert "more than" in refused("create", "v", "--size", "9" * 30 + "P", status=2)


def test_a_name_that_the_locale_cannot_show_hides_no_other(node, name):
    for more in ("\u00fc", "~"):
        node.vlmc("create", name + more, "--size", "1M")
    shown = run("vlmc", "list", env={**node.env, "PYTHONIOENCODING": "ascii"}).stdout
    assert name + "\\xfc" in shown and name + "~" in shown


def test_an_instance_that_does_not_run_is_named(tmp_path):
    done = run("vlmc", "list", "--home", str(tmp_path), check=False)
    assert done.returncode == 1
    assert str(tmp_path) in done.stderr and "archipelago start" in done.stderr


def test_the_home_can_be_given_before_or_behind_the_verb(node, name):
    for words in (["--home", node.home, "info", name], ["info", name, "--home", node.home]):
        assert f"name: {name}" in run("vlmc", *words).stdout


def test_create_prints_nothing(node, vlmc, name):
    assert node.vlmc_json("info", name)["block_size"] == 65536
    assert vlmc("create", name + "-2", "--size", "1.5G") == ""
    assert node.vlmc_json("info", name + "-2")["size"] == 3 << 29


def test_create_from_a_snapshot(node, vlmc, name):
    vlmc("snapshot", name, name + "-s")
    vlmc("create", name + "-c", "--snap", name + "-s", "--size", "2G")
    info = node.vlmc_json("info", name + "-c")
    assert (info["size"], info["parent"], info["block_size"]) == (2 << 30, name + "-s", 65536)


def test_create_twice_is_refused(refused, name):
    assert "exists" in refused("create", name, "--size", "1G")


@pytest.mark.parametrize("bad", ["a/b", ".a", "a\tb", "x" * 300])
def test_bad_names_are_refused(refused, bad):
    refused("create", bad, "--size", "1G")


@pytest.mark.parametrize("size", ["0", "1000", "2000P"])
def test_bad_sizes_are_refused(refused, size):
    assert "size" in refused("create", "whatever", "--size", size)


def test_snapshot_prints_its_name(vlmc, name):
    assert vlmc("snapshot", name, name + "-s") == f"{name}-s\n"


def test_clone_many(node, vlmc, name):
    vlmc("snapshot", name, name + "-s")
    assert vlmc("clone", name + "-s", name + "-{}", "--count", "30") == ""
    assert node.vlmc_json("info", name + "-30")["parent"] == name + "-s"


def test_clone_of_a_volume_names_the_snapshot_it_took(vlmc, name):
    said = vlmc("clone", name, name + "-c")
    snapshot = re.fullmatch(r"took the snapshot (\S+) first\n", said)[1]
    line = next(line for line in vlmc("list").splitlines() if line.startswith(snapshot))
    assert "automatic" in line


def test_clone_without_braces_is_refused(refused, name):
    assert "{}" in refused("clone", name, "x", "--count", "2")


def test_list_shows_volumes_by_name(node, vlmc, name):
    vlmc("snapshot", name, name + "-s")
    rows = node.vlmc_json("list")
    assert [row["name"] for row in rows] == sorted(row["name"] for row in rows)
    shown = vlmc("ls")
    assert re.search(rf"^{name} +volume +1.0G +64.0K +- ", shown, flags=re.M)
    assert re.search(rf"^{name}-s +snapshot +1.0G +64.0K +{name} ", shown, flags=re.M)


def test_info_json_has_what_programs_need(node, name):
    info = node.vlmc_json("info", name)
    assert {"name", "id", "size", "block_size", "epoch", "readonly", "parent", "nbd_uri"} <= set(info)
    assert info["nbd_uri"] == node.nbd_uri(name)


def test_the_nbd_uri_is_quoted(node, vlmc):
    vlmc("create", "a b&ü?", "--size", "1M")
    assert node.vlmc_json("info", "a b&ü?")["nbd_uri"].startswith("nbd+unix:///a%20b%26%C3%BC%3F?socket=")


def test_info_tells_who_has_it_open(node, vlmc, name):
    with node.client.open(name):
        assert "open: yes, by client 1" in vlmc("info", name)
    assert "open: no" in vlmc("info", name)


def test_rename(vlmc, refused, name):
    assert vlmc("rename", name, name + "-n") == f"Renamed {name} to {name}-n\n"
    assert "no volume" in refused("info", name)


def test_resize(node, vlmc, name):
    vlmc("resize", name, "3G")
    assert node.vlmc_json("info", name)["size"] == 3 << 30
    vlmc("resize", name, "64K", "--allow-shrink")
    assert node.vlmc_json("info", name)["size"] == 65536


def test_shrinking_without_a_terminal_must_be_allowed(node, refused, name):
    assert "--allow-shrink" in refused("resize", name, "64K")
    assert node.vlmc_json("info", name)["size"] == 1 << 30


@pytest.mark.parametrize("answer, size", [("y", 65536), ("n", 1 << 30), ("", 1 << 30)])
def test_a_person_is_asked_before_a_volume_is_shrunk(node, name, answer, size):
    person, terminal = os.openpty()
    try:
        os.write(person, answer.encode() + b"\n")
        words = [os.path.join(BIN, "vlmc"), "resize", name, "64K"]
        done = subprocess.run(words, stdin=terminal, stderr=terminal, env={**os.environ, **node.env}, timeout=60)
    finally:
        os.close(terminal)
        os.close(person)
    assert done.returncode == (0 if answer == "y" else 1)
    assert node.vlmc_json("info", name)["size"] == size


def test_of_ten_removes_of_one_name_one_succeeds(node, vlmc, name):
    done = node.vlmc("rm", *[name] * 10, check=False)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 9 and "Traceback" not in done.stderr
    assert all(re.fullmatch(r"vlmc: there is no volume .*", line) for line in done.stderr.splitlines())
    assert name not in vlmc("list").split()


def test_remove_goes_on_after_a_failure(node, vlmc, name):
    done = node.vlmc("rm", "nobody", name, check=False)
    assert done.returncode == 1 and "'nobody'" in done.stderr
    assert name not in vlmc("list")


def test_remove_of_an_open_volume_says_who_has_it_open(node, refused, name):
    with node.client.open(name):
        assert "client" in refused("remove", name)


def test_open_and_close(vlmc, refused, name):
    assert vlmc("open", name) == f"Volume {name} opened\n"
    assert vlmc("close", name) == f"Volume {name} closed\n"
    assert "was not opened" in refused("close", name)


def test_close_says_who_still_has_it_open(node, vlmc, name):
    vlmc("open", name)
    with node.client.open(name):
        assert vlmc("close", name) == f"Volume {name} is still open by client\n"


def test_lock_and_unlock(vlmc, refused, name):
    assert vlmc("lock", name) == f"Volume {name} locked\n"
    assert vlmc("unlock", name) == f"Volume {name} unlocked\n"
    assert "not locked" in refused("unlock", "-f", name)


def test_mapinfo_shows_objects(node, vlmc, name):
    with node.client.open(name) as volume:
        volume.write(7 * 65536, b"x")
    info = node.vlmc_json("info", name)
    assert re.search(rf"^ *7 +{info['id']}:\d+ \(16\)$", vlmc("mapinfo", name), flags=re.M)
    [entry] = node.vlmc_json("mapinfo", name)
    assert entry["block"] == 7 and entry["layers"][0]["object"] == info["id"]


def test_du_counts_own_and_shared(node, vlmc, name):
    with node.client.open(name) as volume:
        volume.write(0, b"x" * 65536)
    vlmc("clone", name, name + "-c")
    [usage] = node.vlmc_json("du", name)
    assert (usage["logical"], usage["exclusive"], usage["shared"]) == (1 << 30, 0, 65536)
    assert re.search(rf"^{name}-c +1.0G +0 +64.0K +1 +1$", vlmc("du"), flags=re.M)


def test_json_of_one_volume_and_of_many_has_one_shape(node, name):
    node.vlmc("create", name + "-2", "--size", "1M")
    for verb in ("du", "check"):
        one, two = node.vlmc_json(verb, name), node.vlmc_json(verb, name, name + "-2")
        assert [row["name"] for row in one] == [name] and [row["name"] for row in two] == [name, name + "-2"]
        assert one[0] == two[0] and one[0] in node.vlmc_json(verb)


def test_a_page_of_the_list(node, name):
    for number in range(3):
        node.vlmc("create", f"{name}-{number}", "--size", "1M")
    done = node.vlmc("list", "--after", name + "-0", "--limit", "1", "--json")
    assert [row["name"] for row in json.loads(done.stdout)] == [name + "-1"]
    assert f"vlmc list --after '{name}-1'" in done.stderr


@pytest.mark.parametrize("limit", ["0", "-1", "x"])
def test_a_page_has_a_length(refused, limit):
    assert "usage:" in refused("list", "--limit", limit, status=2)


def test_what_is_not_there_is_not_walked(refused):
    for verb in ("du", "check"):
        assert "no volume 'nothing'" in refused(verb, "nothing")


def test_check_of_good_volumes(vlmc, name):
    assert vlmc("check", name) == f"{name}: 0 blocks in 0 objects: good\n"


def test_check_finds_a_missing_object(node, name):
    from xseg._native import lib
    with node.client.open(name) as volume:
        volume.write(0, b"x")
    layer = node.vlmc_json("mapinfo", name)[0]["layers"][0]
    node.call("blockerb", lib.XOP_DELETE, object=(lib.XOBJ_DATA, int(layer["object"], 16), layer["epoch"], 0))
    done = node.vlmc("check", name, check=False)
    assert done.returncode == 1 and "block 0" in done.stdout and "missing" in done.stdout
    assert json.loads(node.vlmc("check", name, "--json", check=False).stdout)[0]["problems"]


def test_a_damaged_header_shows_in_list_and_check(node, vlmc, name):
    from xseg._native import lib
    identity = node.vlmc_json("info", name)["id"]
    node.call("blockerm", lib.XOP_WRITE, object=(lib.XOBJ_HEADER, int(identity, 16)), offset=40, data=b"garbage")
    assert re.search(rf"damaged.*{identity}", vlmc("list"))
    assert identity in node.vlmc("check", check=False).stdout
    assert node.vlmc("info", name, check=False).returncode == 1
    vlmc("remove", "--force", name)
    assert identity not in vlmc("list")


def test_a_closed_pipe_is_no_traceback(node, name):
    done = run("bash", "-c", f"{os.path.dirname(os.sys.executable)}/vlmc list --home {node.home} | true")
    assert "Traceback" not in done.stderr
