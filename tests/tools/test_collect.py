# SPDX-License-Identifier: Apache-2.0
"""archipelago collect and df: real processes on files."""
import fcntl
import json
import os
import signal
import subprocess

import pytest
from support import BIN, Instance, wait_until

from xseg.client import Client

MIB = 1 << 20
BLOCK = 65536
BLOCKS = 40
ROUNDS, CLONES = 3, 5              # of a life; soak has what a store may see
SOAK_ROUNDS, SOAK_CLONES = 20, 200
CONFIG = '[collector]\ngrace_s = 0\n[peers.blockerb]\nsync = false\n[peers.blockerm]\nsync = false\n'


@pytest.fixture
def instance(home):
    made = Instance(home, CONFIG)
    made.start()
    yield made
    made.finish()


def collect(instance, *words):
    """The account of a cycle."""
    return json.loads(instance.archipelago("collect", "--now", "--json", *words).stdout)


def freed(account):
    return sum(kind["freed_objects"] for kind in account["kinds"].values())


def objects(instance):
    """How many objects of data, pages and journals there are, by the store's own files."""
    return sum(len(files) for part in ("data", "map") for top, _folders, files in os.walk(f"{instance.home}/{part}")
               if {"data", "page", "journal"} & set(os.path.relpath(top, instance.home).split(os.sep)[1:]))


def write(instance, name, blocks, value):
    with Client(instance.home) as client, client.open(name) as volume:
        for block in blocks:
            volume.write(block * BLOCK, value * BLOCK)
        volume.flush()


def read(instance, name, block):
    with Client(instance.home) as client, client.open(name) as volume:
        return bytes(volume.read(block * BLOCK, BLOCK))


def make(instance, name):
    instance.vlmc("create", name, "--size", str(BLOCKS * BLOCK), "--block-size", "64K")


def test_what_was_shared_with_what_is_gone_comes_back(instance):
    make(instance, "v")
    write(instance, "v", range(10), b"a")
    instance.vlmc("snapshot", "v", "s")
    instance.vlmc("clone", "s", "c")
    write(instance, "v", range(5), b"b")
    instance.vlmc("remove", "s", "v")
    dry = collect(instance, "--dry-run")
    assert dry["headers"] == 2 and collect(instance, "--dry-run")["headers"] == 2, "a dry run changes nothing"
    assert freed(collect(instance)) == 0 and read(instance, "c", 3) == b"a" * BLOCK
    instance.vlmc("remove", "c")
    collect(instance)
    assert freed(collect(instance)) == 0, "the second finds nothing"
    assert objects(instance) == 0
    shown = json.loads(instance.archipelago("df", "--json").stdout)
    assert shown["total_freed_objects"] >= 10 and shown["cycles"] == 3 and shown["refused"] == ""
    assert "waited then" in instance.archipelago("df").stdout
    assert "the collector, " in instance.archipelago("status").stdout
    checked = json.loads(instance.archipelago("check", "--json").stdout)
    assert not any(checked["unreachable"].values()) and checked["leftover"] == checked["removed"] == 0


def test_a_tombstone_is_kept_for_the_time_of_grace(instance):
    instance.stop()
    with open(f"{instance.home}/archipelago.toml", "w", encoding="utf-8") as file:
        file.write(CONFIG.replace("grace_s = 0", "grace_s = 3600"))
    instance.start()
    make(instance, "v")
    write(instance, "v", range(3), b"a")
    instance.vlmc("snapshot", "v", "s")
    instance.vlmc("remove", "v", "s")
    account = collect(instance)
    assert freed(account) == 0 and account["waiting"] == 2 and objects(instance) > 0


def test_a_map_that_cannot_be_read_keeps_everything(instance):
    for name in ("v", "w"):
        make(instance, name)
        write(instance, name, range(3), b"a")
        instance.vlmc("snapshot", name, f"{name}-s")
    instance.vlmc("remove", "w", "w-s")
    before = objects(instance)
    [header] = [os.path.join(top, file) for top, _folders, files in os.walk(f"{instance.home}/map")
                for file in files if file == instance.vlmc_json("info", "v-s")["id"] and "header" in top]
    with open(header, "r+b") as file:
        file.seek(40)
        file.write(b"\xff\xff")
    done = instance.archipelago("collect", "--now", check=False)
    assert done.returncode == 1 and "damaged" in done.stderr and objects(instance) == before
    assert "deleted nothing" in instance.archipelago("df").stdout
    assert "deleted nothing" in instance.archipelago("status").stdout
    instance.vlmc("remove", "--force", "v-s")
    assert freed(collect(instance)) and read(instance, "v", 2) == b"a" * BLOCK


def test_one_is_at_work_at_a_time(instance):
    with open(f"{instance.home}/run/collector.lock", "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = instance.archipelago("collect", check=False)
    assert done.returncode == 1 and "at work already" in done.stderr
    collect(instance)


def test_of_two_instances_on_the_same_stores_one_is_at_work(instance, home):
    """The lock is the store's. It stays with an instance whose collector was killed, until its next cycle."""
    other_home = f"{home}-2"
    os.mkdir(other_home)
    other = Instance(other_home, CONFIG.replace("[peers.blockerb]", f'[peers.blockerb]\npath = "{home}/data"')
                     .replace("[peers.blockerm]", f'[peers.blockerm]\npath = "{home}/map"'))
    other.start()
    try:
        make(instance, "v")
        write(instance, "v", range(20), b"a")
        pid = instance.pid("blockerb")
        os.kill(pid, signal.SIGSTOP)            # so that it does not end
        with subprocess.Popen([os.path.join(BIN, "archipelago"), "collect"], env={**os.environ, **instance.env},
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
            wait_until(lambda: other.archipelago("collect", "--json", check=False).returncode == 1, "one is refused")
            first.kill()
        os.kill(pid, signal.SIGCONT)
        done = other.archipelago("collect", check=False)
        assert done.returncode == 1 and "another instance" in done.stderr and instance.home in done.stderr
        collect(instance)
        collect(other)
    finally:
        other.finish()
        os.rmdir(other_home) if not os.listdir(other_home) else subprocess.run(["rm", "-r", other_home], check=True)


def test_what_a_killed_import_left_goes(instance):
    with subprocess.Popen([os.path.join(BIN, "vlmc"), "import", "-", "half"], env={**os.environ, **instance.env},
                          stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as importing:
        importing.stdin.write(os.urandom(6 * MIB))
        importing.stdin.flush()
        wait_until(lambda: objects(instance), "it has written something")
        importing.kill()
    wait_until(lambda: collect(instance)["half_made"], "nobody makes it any more")
    collect(instance)
    assert objects(instance) == 0 and instance.vlmc_json("list") == []


def test_the_supervisor_begins_cycles(home):
    made = Instance(home, CONFIG.replace("grace_s = 0", "grace_s = 0\nevery_s = 1"), supervised=True)
    made.start()
    try:
        make(made, "v")
        write(made, "v", range(3), b"a")
        made.vlmc("snapshot", "v", "s")
        made.vlmc("remove", "v", "s")
        wait_until(lambda: objects(made) == 0, "it is collected")
    finally:
        made.finish()


@pytest.mark.parametrize("line, said", [("grace_s = -1", "grace_s = -1"), ("memory = 3", "memory = 3"),
                                        ("pace = 3", "no key pace"), ("enabled = 1", "enabled = 1")])
def test_what_is_wrong_in_its_table_is_told(home, line, said):
    made = Instance(home, f"[collector]\n{line}\n")
    done = made.archipelago("start", check=False)
    assert done.returncode == 1 and f"[collector]: {said}" in done.stderr.replace("there is ", "")


def live(instance, rounds, clones):
    """Clones are made, written to, snapshotted and removed; what is stored afterwards is what it was before."""
    make(instance, "golden")
    write(instance, "golden", range(BLOCKS), b"g")
    instance.vlmc("snapshot", "golden", "golden-s")
    for round_ in range(rounds):
        instance.vlmc("clone", "golden-s", f"vm{round_}-{{}}", "--count", str(clones))
        names = [f"vm{round_}-{number}" for number in range(1, clones + 1)]
        for name in names:
            write(instance, name, range(3), b"w")
            instance.vlmc("snapshot", name, f"{name}-s")
            write(instance, name, range(2, 6), b"x")
        instance.vlmc("remove", *names, *(f"{name}-s" for name in names))
        write(instance, "golden", [round_], b"h")
        collect(instance)
        account = collect(instance)
        usage = json.loads(instance.vlmc("du", "golden-s", "--json").stdout)[0]
        stored = account["kinds"]["data"]["bytes"]
        assert freed(account) == 0
        assert stored <= 1.05 * (usage["exclusive"] + usage["shared"] + (round_ + 1) * BLOCK)
    assert read(instance, "golden-s", 1) == b"g" * BLOCK


def test_a_life_leaves_no_more_than_is_live(instance):
    live(instance, ROUNDS, CLONES)


@pytest.mark.soak
def test_a_long_life_leaves_no_more_than_is_live(instance):
    live(instance, SOAK_ROUNDS, SOAK_CLONES)


@pytest.mark.parametrize("ending", ["goes on", "is killed"])
def test_one_that_stands_still_again_and_again_deletes_nothing_that_is_reached(home, ending):
    """All is made and removed while it is stopped, at many places of its cycle, which a small budget makes long."""
    made = Instance(home, CONFIG.replace("grace_s = 0", "grace_s = 3600\nops_per_s = 40"))
    made.start()
    make(made, "v")
    write(made, "v", range(10), b"a")
    made.vlmc("snapshot", "v", "s0")
    wanted = {"v": b"a", "s0": b"a"}
    collector = subprocess.Popen([os.path.join(BIN, "archipelago"), "collect"], env={**os.environ, **made.env},
                                 stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    for turn in range(1, 9):
        collector.send_signal(signal.SIGSTOP)
        value = bytes([96 + turn])
        made.vlmc("clone", f"s{turn - 1}", f"c{turn}")
        write(made, f"c{turn}", range(turn, 10), value)
        made.vlmc("snapshot", f"c{turn}", f"s{turn}")
        made.vlmc("remove", f"s{turn - 1}")
        if turn % 2:
            made.vlmc("hash", f"s{turn}")
        wanted |= {f"c{turn}": value, f"s{turn}": value}
        del wanted[f"s{turn - 1}"]
        collector.send_signal(signal.SIGCONT)
    if ending == "is killed":
        collector.kill()
    said = collector.communicate(timeout=120)[1]
    assert collector.returncode == (0 if ending == "goes on" else -signal.SIGKILL), said
    collect(made)
    for name, value in wanted.items():
        assert read(made, name, 9) == value * BLOCK, name
    assert made.archipelago("check").returncode == 0
    made.finish()
