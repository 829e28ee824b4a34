# SPDX-License-Identifier: Apache-2.0
"""A local user without rights gets nowhere: he can neither read nor take over, stop nor crash an instance, nor have its
owner change or end what is not its own."""
import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess

import pytest
from strangers import STRANGER, as_stranger, give, needs_root
from support import SMALL_SEGMENT, Instance, config_of, processes_of, wait_until

from tools.instance.process import start_time
from tools.mapping.methods import boot_id
from xseg._native import lib
from xseg.client import Client
from xseg.errors import NotOurs
from xseg.segment import SHM, Segment, name_for, new_name, record

PIPELINE = config_of([("front", "null", {})], more="[segment]\nframes = 64\nbuffers = [512, 64, 24]\n")
pytestmark = needs_root


@pytest.fixture
def instance(home):
    """One that is not started yet."""
    made = Instance(home, PIPELINE)
    os.makedirs(f"{home}/run/mapped")
    os.makedirs(f"{home}/log")
    yield made
    made.disconnect()
    for pid in processes_of(home):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{home}/run/segment")        # which may be what a test put there


@pytest.fixture
def victim(home):
    """A file that must not change."""
    path = home + ".victim"
    with open(path, "w", encoding="ascii") as file:
        file.write("precious")
    yield path
    with open(path, encoding="ascii") as file:
        said = file.read()
    os.unlink(path)
    assert said == "precious"


def refused(instance, *words):
    """What a command says that must fail, at once."""
    done = instance.archipelago(*(words or ("start", "--unsupervised")), check=False, timeout=60)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done
    assert processes_of(instance.home) == []
    return done.stderr


def squat(name):
    """What a stranger makes under a name in shared memory: open to all, and as large as a segment."""
    def does():
        fd = os.open(SHM + name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        os.fchmod(fd, 0o666)
        os.ftruncate(fd, Segment.size_of(**SMALL_SEGMENT))
        os.close(fd)

    as_stranger(does)


# --- the segment

def test_a_segment_that_a_stranger_made_first_is_neither_joined_nor_in_the_way(instance, home):
    squatted = [name_for(home), new_name(home)]
    for name in squatted:
        squat(name)
    record(home, squatted[1])               # as after a boot: the segment that was noted is gone
    try:
        assert "not running" in instance.archipelago("status", check=False).stderr + refused(instance, "restart")
        instance.start()
        assert instance.client.segment.name not in squatted
        assert instance.call("front", lib.XOP_PING).error == 0
        instance.stop()
        assert all(os.stat(SHM + name).st_uid == STRANGER for name in squatted)
    finally:
        for name in squatted:
            os.unlink(SHM + name)


def test_a_segment_that_is_not_ours_is_never_mapped(home):
    name = name_for(home)
    squat(name)
    try:
        with pytest.raises(NotOurs, match=f"{SHM}{name} belongs to nobody"):
            Segment.open(name)
    finally:
        os.unlink(SHM + name)


@pytest.mark.parametrize("spoil", [
    lambda path: os.chmod(path, 0o666), lambda path: os.link(path, path + "x"),
    lambda path: (os.rename(path, path + "x"), os.symlink(path + "x", path)),
    lambda path: (os.unlink(path), os.mkfifo(path))])
def test_a_segment_that_others_may_have_a_hand_in_is_refused(home, spoil):
    name = name_for(home)
    Segment.create(name, home, **SMALL_SEGMENT).close()
    path = SHM + name
    try:
        spoil(path)
        with pytest.raises(NotOurs, match=path):
            Segment.open(name)
    finally:
        os.unlink(path)
        if os.path.exists(path + "x"):
            os.unlink(path + "x")


def test_two_starts_take_two_names(home):
    assert new_name(home) != new_name(home)


# --- the home

@pytest.mark.parametrize("part", ["", "run", "run/mapped", "log"])
def test_root_runs_nothing_in_a_home_of_another_user(instance, home, part):
    path = os.path.join(home, part).rstrip("/")
    give(path)
    for words in (["start"], ["status"], ["stop", "--force"]):
        said = refused(instance, *words)
        assert path in said and "nobody" in said
    assert os.listdir(f"{home}/log") == []


def test_a_home_that_others_may_write_to_is_refused_with_the_remedy(instance, home):
    for path in (home, f"{home}/run"):      # not sticky
        os.chmod(path, 0o777)
        assert f"chmod go-w {path}" in refused(instance)
        os.chmod(path, 0o755)
    instance.start()
    instance.stop()


def test_a_home_below_a_folder_of_a_stranger_or_of_everybody_is_refused(home):
    deep = Instance(os.path.join(home, "above", "deep"))
    os.mkdir(f"{home}/above", 0o777)
    os.chmod(f"{home}/above", 0o777)
    assert f"chmod go-w {home}/above" in refused(deep)
    give(f"{home}/above", 0o755)
    assert f"{home}/above" in refused(deep)
    assert os.listdir(f"{home}/above") == []


# --- files

@pytest.mark.parametrize("name", ["run/lock", "run/front.pid", "run/segment", "run/mapped/lock", "log/front.log",
                                  "archipelago.toml"])
@pytest.mark.parametrize("plant", [
    lambda path, victim: os.symlink(victim, path),
    lambda path, victim: os.link(victim, path),
    lambda path, victim: os.mkfifo(path),
    lambda path, victim: give(shutil.copy(victim, path))],
    ids=["symlink", "hardlink", "fifo", "foreign"])
def test_what_was_planted_in_a_files_place_is_named_and_what_it_leads_to_is_untouched(instance, home, victim, name,
                                                                                      plant):
    path = os.path.join(home, name)
    if os.path.exists(path):
        os.unlink(path)
    plant(path, victim)
    if name == "archipelago.toml" and os.path.islink(path):
        give(victim)                        # a link of ours to a file of ours is an operator's right
    if "mapped" in name:
        said = instance.vlmc("unmap", "vol", check=False).stderr
    else:
        said = refused(instance)
    assert path in said or (victim in said and os.path.islink(path)), said


def test_what_was_planted_in_a_doorbells_place_is_replaced(instance, home, victim):
    for number, plant in enumerate((os.symlink, os.link, shutil.copy)):
        plant(victim, f"{home}/run/bell.{number}")
    give(f"{home}/run/bell.2")
    os.mkfifo(f"{home}/run/bell.3")
    give(f"{home}/run/bell.3")
    instance.start()
    for _ in range(4):                      # each a doorbell of its own
        with Client(home) as one, Client(home) as two:
            assert one.call("front", lib.XOP_PING).error == two.call("front", lib.XOP_PING).error == 0
    bells = [os.lstat(f"{home}/run/bell.{number}") for number in range(3)]
    assert all(stat.S_ISFIFO(bell.st_mode) and bell.st_uid == 0 for bell in bells)
    instance.stop()


def test_a_store_that_is_open_to_others_is_closed_when_it_is_new_and_refused_when_it_is_not(home):
    """The root of a new tmpfs is open to all."""
    for name in ("data", "map"):
        os.mkdir(f"{home}/{name}")
    os.chmod(f"{home}/data", 0o1777)
    instance = Instance(home)
    instance.start()
    assert stat.S_IMODE(os.stat(f"{home}/data").st_mode) == 0o700
    instance.stop()
    os.chmod(f"{home}/data", 0o777)
    said = instance.archipelago("start", check=False).stderr
    assert f"{home}/data is not ours" in said and "chmod go-w" in said
    os.chmod(f"{home}/data", 0o700)
    give(f"{home}/map")
    said = instance.archipelago("start", check=False).stderr
    assert f"{home}/map is not ours" in said


def test_a_configuration_of_a_stranger_is_not_believed_and_keeps_nobody_from_stopping(instance, home):
    instance.start()
    path = f"{home}/archipelago.toml"
    os.chmod(path, 0o666)
    assert f"chmod go-w {path}" in instance.archipelago("restart", check=False).stderr
    instance.archipelago("stop")
    assert processes_of(home) == []


def test_a_pid_of_a_strangers_choice_is_not_ended(instance, home):
    """By his own entry or pid file, or by one of ours that names another process."""
    other = subprocess.Popen(["sleep", "1000"])
    entry = {"name": "vol", "id": "0" * 16, "readonly": False, "method": "nbdfuse", "device": "", "pid": other.pid,
             "start_time": start_time(other.pid), "since": "", "boot": boot_id()}
    mapped, pid = f"{home}/run/mapped/{'0' * 16}.json", f"{home}/run/front.pid"
    try:
        for path, text in ((mapped, json.dumps(entry)), (pid, f"{other.pid} {start_time(other.pid)}\n")):
            with open(path, "w", encoding="ascii") as file:
                file.write(text)
            give(path)
        assert mapped in instance.vlmc("unmap", "--force", "vol", check=False).stderr
        assert pid in refused(instance, "stop", "--force")
        os.chown(mapped, 0, 0)
        os.chown(pid, 0, 0)
        instance.archipelago("stop", "--force")
        instance.vlmc("unmap", "--force", "vol")
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


# --- a running instance

def test_a_stranger_can_open_nothing_of_a_running_instance(home):
    os.chmod(home, 0o755)
    instance = Instance(home, supervised=True)
    instance.start()
    segment = SHM + instance.client.segment.name
    paths = [segment] + [os.path.join(folder, name) for folder, folders, files in os.walk(home)
                         for name in [*files, *folders] if name not in ("run", "archipelago.toml")]

    def opens():
        found = []
        for path in paths:
            for how in (os.O_RDONLY, os.O_WRONLY):
                try:
                    os.close(os.open(path, how | os.O_NONBLOCK))
                except OSError:
                    continue
                found.append(path)
        for path in (f"{home}/run/supervisor.sock", f"{home}/run/nbd.sock"):
            with socket.socket(socket.AF_UNIX) as made:
                if made.connect_ex(path) == 0:
                    found.append(path)
        return found

    try:
        assert len(paths) > 15 and as_stranger(opens) == []
        with pytest.raises(PermissionError):
            as_stranger(lambda: os.listdir(f"{home}/run"))
    finally:
        instance.finish()


def test_the_supervisor_takes_no_word_from_a_stranger(home):
    """Not even from one to whom its socket was opened."""
    instance = Instance(home, PIPELINE, supervised=True)
    instance.start()
    os.chmod(home, 0o755)
    os.chmod(f"{home}/run/supervisor.sock", 0o666)

    def asks():
        with socket.socket(socket.AF_UNIX) as made:
            made.connect(f"{home}/run/supervisor.sock")
            with contextlib.suppress(BrokenPipeError):      # it has hung up already
                made.send(b'{"verb": "stop", "processes": ["front"]}\n')
            return made.makefile("r").readline()

    try:
        assert "uid 65534" in json.loads(as_stranger(asks))["error"]
        assert instance.call("front", lib.XOP_PING).error == 0
    finally:
        instance.finish()
    wait_until(lambda: processes_of(home, b"tools.supervisor") == [], "the supervisor has ended")
