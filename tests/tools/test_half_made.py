# SPDX-License-Identifier: Apache-2.0
"""What is being made is nobody's to use, and what was not finished does not stay: import, export, clone --count,
interrupted at a moment when the store stands still."""
import contextlib
import errno
import os
import signal
import subprocess

import pytest
from support import BIN, wait_until

from xseg._native import lib
from xseg.client import Client
from xseg.errors import Exists, NotFound, XsegError
from xseg.request import objects
from xseg.volume_name import by_id

pytestmark = pytest.mark.layout("separate")
MIB = 1 << 20
ATTEMPTS = 5
CLONES = 400
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk.raw"
    path.write_bytes(os.urandom(4 * MIB))
    return str(path)


@pytest.fixture
def instance(shared_instance):
    """Without volumes, before and after."""
    yield shared_instance
    if left := names(shared_instance):
        shared_instance.vlmc("remove", *left, check=False)


@contextlib.contextmanager
def standing_still(instance, role):
    """The process of a role is stopped; gives what waits for requests to have come to it and not to be done."""
    pid = instance.pid(role)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield lambda: wait_until(lambda: instance.status()[role]["in_flight"], f"{role} has something to do")
    finally:
        os.kill(pid, signal.SIGCONT)


def start(instance, *words):
    return subprocess.Popen([os.path.join(BIN, "vlmc"), *words], env={**os.environ, **instance.env},
                            stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def children(pid):
    """Pids of the children of a process, however they came to it."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(word) for word in file.read().split()]
    return []


def runs(pid):
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        return file.read().rpartition(")")[2].split()[0] not in "ZX"
    return False


def names(instance):
    return [row["name"] for row in instance.vlmc_json("list")]


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_an_interrupted_import_leaves_nothing(instance, image, number):
    with standing_still(instance, "blockerb") as busy:
        process = start(instance, "import", image, "vm")
        busy()
        [helper] = children(process.pid)
        process.send_signal(number)
        wait_until(lambda: not runs(helper), "qemu-img has ended")
    assert process.wait(120) == 128 + number, process.communicate()
    assert names(instance) == []
    process.communicate()


def test_a_killed_import_leaves_what_can_be_named_and_removed(instance, image):
    with standing_still(instance, "blockerb") as busy:
        process = start(instance, "import", image, "vm")
        busy()
        [helper] = children(process.pid)
        process.kill()
        wait_until(lambda: not runs(helper), "qemu-img has ended with it")
    process.communicate()
    wait_until(lambda: not instance.vlmc_json("list")[0]["open"], "it is closed")
    assert instance.vlmc_json("list")[0]["making"] == "half-made"
    assert "half-made" in instance.vlmc("list").stdout
    checked = instance.archipelago("check", check=False)
    assert checked.returncode == 1 and "`vlmc remove` removes it" in checked.stdout
    assert "half-made" in instance.vlmc("snapshot", "vm", "s", check=False).stderr
    instance.vlmc("remove", "vm")
    assert names(instance) == []
    assert "leftover names: 0" in instance.archipelago("check").stdout


def test_what_is_being_imported_is_nobody_elses(instance, image):
    with standing_still(instance, "blockerb") as busy:
        process = start(instance, "import", image, "vm")
        busy()
        [row] = instance.vlmc_json("list")
        assert row["making"] == "being made" == instance.vlmc_json("info", "vm")["making"]
        for verb, more in (("snapshot", {"snapshot": "s"}), ("clone", {"names": ["c"]}), ("open", {}), ("lock", {}),
                           ("rename", {"to": "x"}), ("resize", {"size": MIB}), ("close", {"force": True})):
            with pytest.raises(XsegError, match="being made") as refused:
                instance.client.control(verb, name="vm", **more)
            assert refused.value.errno == errno.EINPROGRESS
        with pytest.raises(XsegError, match="being made") as refused:
            instance.client.control("remove", name="vm", force=True)
        assert refused.value.errno == errno.EBUSY
        for name in ("vm", by_id(row["id"]), by_id(row["id"], 1)):
            with pytest.raises(XsegError):
                instance.client.open(name)
        assert "vm" not in list(instance.client.names())
    assert process.wait(120) == 0, process.communicate()
    process.communicate()
    assert instance.vlmc_json("info", "vm")["making"] is None and "vm" in list(instance.client.names())
    instance.vlmc("rename", "vm", "whole")


def test_who_fails_removes_only_his_own(instance):
    instance.client.control("create", name="vm", size=MIB, token=5)
    for token in (5, 6):
        with pytest.raises(NotFound):
            instance.client.control("remove", name="vm", making=token)
    with pytest.raises(Exists):
        instance.client.control("create", name="vm", size=MIB, token=6, making=True)
    assert names(instance) == ["vm"]


def test_finishing_twice_is_one_finishing(instance):
    with Client(instance.home) as maker:
        ours = by_id(maker.control("create", name="vm", size=MIB, token=7, making=True)["id"], 7)
        with pytest.raises(XsegError):
            instance.client.control("finish", name="vm")
        for _ in range(2):
            maker.control("finish", name=ours)
        with pytest.raises(NotFound):
            maker.control("remove", name="vm", making=7)
    with instance.client.open("vm") as volume:
        volume.write(0, b"whole")


def test_what_is_being_made_outlives_the_mapper(instance):
    with Client(instance.home) as maker:
        ours = by_id(maker.control("create", name="vm", size=MIB, token=8, making=True)["id"], 8)
        with maker.open(ours) as volume:
            volume.write(0, b"before")
            instance.kill("mapper")
            instance.restart("mapper")
            with pytest.raises(XsegError):
                instance.client.open("vm")
            volume.flush()
        maker.control("finish", name=ours)
    with instance.client.open("vm") as volume:
        assert volume.read(0, 6) == b"before"


@pytest.mark.parametrize("number", [*SIGNALS, signal.SIGKILL], ids=lambda number: number.name)
def test_clones_that_are_interrupted_are_not_made(instance, number):
    instance.client.control("create", name="v", size=MIB)
    instance.client.control("snapshot", name="v", snapshot="s")
    with standing_still(instance, "blockerm") as busy:
        process = start(instance, "clone", "v" if number == signal.SIGHUP else "s", "vm-{}", "--count", "3000")
        busy()
        process.send_signal(number)
    assert process.wait(120) == (128 + number if number != signal.SIGKILL else -number), process.communicate()
    process.communicate()
    if number == signal.SIGKILL:
        wait_until(lambda: instance.client.control("cancel", token=0), "the mapper answers")
        wait_until(lambda: sorted(names(instance)) == ["s", "v"], "nothing goes on being made", 60)
    assert sorted(names(instance)) == ["s", "v"]
    instance.vlmc("clone", "s", "vm-{}", "--count", "3")
    assert sorted(names(instance)) == ["s", "v", "vm-1", "vm-2", "vm-3"]
    instance.archipelago("check")


def count_of(instance, kind):
    """How many objects of a kind are on the map store, as its blocker says."""
    count = cursor = 0
    while True:
        reply = instance.call("blockerm", lib.XOP_LIST, object=(kind,), arg=cursor, room=65536)
        count += len(objects(reply.data))
        cursor = reply.arg
        if not cursor:
            return count


def begun_or_over(instance, process, before):
    """Waits until there are more headers than before, or the process that has clones made has ended."""
    wait_until(lambda: count_of(instance, lib.XOBJ_HEADER) > before or process.poll() is not None, "some are made")


def kill_amid_clones(instance):
    """Kills the mapper and who has clones of 's' made together, while there is their mark."""
    for attempt in range(ATTEMPTS):
        mapper, before = instance.pid("mapper"), count_of(instance, lib.XOBJ_HEADER)     # those of what is gone, too
        process = start(instance, "clone", "s", f"vm{attempt}-{{}}", "--count", str(CLONES))
        begun_or_over(instance, process, before)
        os.kill(mapper, signal.SIGSTOP)
        process.kill()
        process.communicate()
        instance.kill("mapper")
        wait_until(lambda: not instance.status()["blockerm"]["in_flight"], "what was under way is done")
        if count_of(instance, lib.XOBJ_NAME) == 2 + CLONES + 1:
            return
        instance.restart("mapper")
        instance.vlmc("remove", *(name for name in names(instance) if name.startswith("vm")))
    raise AssertionError("they were made too fast each time")


@pytest.fixture
def killed_clones(instance):
    """The instance, in which that was done."""
    instance.client.control("create", name="v", size=MIB)
    instance.client.control("snapshot", name="v", snapshot="s")
    kill_amid_clones(instance)
    return instance


def test_the_next_mapper_undoes_clones_whose_maker_died_with_the_last(killed_clones):
    killed_clones.restart("mapper")
    wait_until(lambda: count_of(killed_clones, lib.XOBJ_NAME) == 2, "names and mark are gone", 60)
    assert sorted(names(killed_clones)) == ["s", "v"]
    assert "leftover names: 0" in killed_clones.archipelago("check").stdout


def test_the_last_of_half_made_clones_takes_their_mark_along(killed_clones):
    killed_clones.stop()
    killed_clones.start()
    first, *made = [row["name"] for row in killed_clones.vlmc_json("list") if row["making"] == "half-made"]
    killed_clones.vlmc("remove", first)
    assert {row["making"] for row in killed_clones.vlmc_json("list") if row["name"] in made} <= {"half-made"}
    killed_clones.vlmc("remove", *made)
    claimed = CLONES - 1 - len(made)
    assert f"leftover names: {claimed};" in killed_clones.archipelago("check").stdout


@pytest.mark.parametrize("number", [*SIGNALS, signal.SIGKILL], ids=lambda number: number.name)
def test_an_interrupted_export_leaves_nothing(instance, image, tmp_path, number):
    instance.vlmc("import", image, "vm")
    target = tmp_path / "out"
    target.mkdir()
    with standing_still(instance, "vlmc"):
        process = start(instance, "export", "vm", str(target / "x"))
        [helper] = wait_until(lambda: children(process.pid), "qemu-img runs")
        process.send_signal(number)
        assert process.wait(60) == (128 + number if number != signal.SIGKILL else -number)
        wait_until(lambda: not runs(helper), "qemu-img has ended, too")
    process.communicate()
    assert os.listdir(target) == []
