# SPDX-License-Identifier: Apache-2.0
"""The supervisor: what it does when peers, clients or itself die, and what operators ask of it."""
import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from load import Killer
from support import BIN, Instance, config_of, processes_of, run, segments_of, wait_until

from tools.instance import config
from tools.supervisor.supervisor import END_MORE_S
from xseg import client
from xseg._native import lib
from xseg.client import Client
from xseg.errors import NotRunning

pytest_plugins = ["kill_fixtures"]

PAIR = [("front", "delay", {"target": "back"}), ("back", "memory", {})]
APART = [["front"], ["back"]]
SLOW = [("front", "delay", {"target": "back", "ms": 60000}), ("back", "memory", {})]
START_S = 6                         # that a start may take where one hangs; others take some tenths of a second
IMPATIENT = "[supervisor]\ndeaths = 3\nwindow_s = 60\nback_off_ms = 100\n"


def noted_state(instance, process):
    with open(os.path.join(instance.home, "run", "supervisor.json"), encoding="utf-8") as file:
        return json.load(file)["processes"][process]["state"]


def supervisor_of(instance):
    """Its pid. A child that it has just made, and that has not begun its own program, looks like it for a moment."""
    def found():
        pids = processes_of(instance.home, b"tools.supervisor")
        return pids[0] if len(pids) == 1 else None
    return wait_until(found, "there is one supervisor")


def used_bells(instance):
    c = instance.client.segment.c
    return sum(c.bells[number].tag != 0 for number in range(c.bell_count))


def kill(instance, role):
    """kill -9 of a role's process; returns when its successor is ready."""
    before = instance.pid(role)
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: (peer := instance.status()[role])["state"] == "running" and peer["pid"] != before,
               f"{role} runs again")


# --- deaths


def test_a_peer_that_dies_is_started_again_and_status_says_so(supervised):
    instance = supervised(config_of(PAIR, APART))
    kill(instance, "back")
    shown = instance.status()
    assert shown["back"]["restarts"] == 1 and shown["back"]["last_death"].startswith("SIGKILL, 20")
    assert shown["front"]["restarts"] == 0 and shown["front"]["last_death"] is None
    assert instance.call("front", lib.XOP_PING).error == 0


def held_by_another(client, request):
    """True once whom the request was sent to has it in hand."""
    slot = client.segment.c.slots[request.c.index]
    return slot.state == lib.XREQ_HELD and slot.owner != client.port.number


def test_what_a_dead_peer_held_is_done_by_its_successor(supervised):
    instance = supervised(config_of(SLOW, APART))
    client = instance.client
    request = client.port.get()
    client.port.send(client.segment.port_of("front"), [request])
    wait_until(lambda: held_by_another(client, request), "front has it")
    path = os.path.join(instance.home, "archipelago.toml")
    with open(path, encoding="utf-8") as file:
        text = file.read()
    with open(os.path.join(instance.home, config.IN_FORCE), "w", encoding="utf-8") as file:
        file.write(text.replace("ms = 60000", "ms = 0"))
    kill(instance, "front")
    assert len(client.port.receive(10)) == 1
    assert instance.status()["front"]["recovered"] == 1


@pytest.mark.parametrize("text", ["layout = [['front', 'back']]\n" + config_of(PAIR, APART).partition("\n")[2],
                                  config_of([("front", "delay", {"target": "back"}),
                                             ("back", "blocker-file", {"path": "/proc/nowhere"})], APART),
                                  "layout = 5"])
def test_what_is_edited_meanwhile_makes_no_death_an_outage(supervised, text):
    instance = supervised(config_of(PAIR, APART))
    with open(os.path.join(instance.home, config.FILE), "w", encoding="utf-8") as file:
        file.write(text)
    for role in ("back", "front", "back"):
        kill(instance, role)
    assert instance.call("front", lib.XOP_PING).error == 0


def give_up(instance, role):
    """Kills a role's process until it is not started again."""
    for _ in range(3):
        pid = wait_until(lambda: instance.pid(role), f"{role} runs")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda pid=pid: instance.pid(role) != pid, "it is dead")
    wait_until(lambda: instance.status()[role]["state"] == "failed", f"{role} is given up")


def test_a_peer_that_keeps_dying_is_given_up_and_its_requests_fail(supervised):
    instance = supervised(config_of(PAIR, APART) + IMPATIENT, patient=False)
    give_up(instance, "back")
    for _ in range(2):
        assert instance.call("front", lib.XOP_PING, check=False).error == errno.EHOSTDOWN
    assert "given up after 3 deaths" in instance.logs()
    done = instance.archipelago("status", check=False)
    assert done.returncode == 3 and "failed" in done.stdout


def test_a_client_waits_for_what_the_supervisor_brings_back_however_long_that_takes(supervised, monkeypatch):
    instance = supervised(config_of(PAIR, APART))
    asked = []

    def is_coming_back(*where):
        asked.append(known(*where))
        return asked[-1]

    known = client.is_coming_back
    monkeypatch.setattr(client, "DEAD_PEER_TIMEOUT_S", 0.05)
    monkeypatch.setattr(client, "is_coming_back", is_coming_back)
    supervisor = supervisor_of(instance)
    os.kill(supervisor, signal.SIGSTOP)
    try:
        os.kill(instance.pid("back"), signal.SIGKILL)
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(instance.call, "back", lib.XOP_PING)
            wait_until(lambda: len(asked) > 3, "the client asked more than once")
            os.kill(supervisor, signal.SIGCONT)
            assert answer.result(60).error == 0
    finally:
        os.kill(supervisor, signal.SIGCONT)
    assert all(asked)


def test_a_client_does_not_wait_for_what_nobody_brings_back(supervised, monkeypatch):
    instance = supervised(config_of(PAIR, APART))
    monkeypatch.setattr(client, "DEAD_PEER_TIMEOUT_S", 0.05)
    instance.archipelago("stop", "back")
    with pytest.raises(NotRunning, match="archipelago restart back"):
        instance.call("back", lib.XOP_PING)
    instance.archipelago("restart", "back")
    os.kill(supervisor := supervisor_of(instance), signal.SIGKILL)
    wait_until(lambda: supervisor not in processes_of(instance.home), "there is no supervisor")
    os.kill(instance.pid("back"), signal.SIGKILL)
    with pytest.raises(NotRunning, match="archipelago restart back"):
        instance.call("back", lib.XOP_PING)
    instance.archipelago("start")
    assert instance.call("back", lib.XOP_PING).error == 0


def test_requests_that_wait_for_a_peer_fail_when_it_is_given_up(supervised):
    instance = supervised(config_of(SLOW, APART) + IMPATIENT, patient=False)
    client = instance.client
    request = client.port.get()
    client.port.send(client.segment.port_of("front"), [request])
    wait_until(lambda: held_by_another(client, request), "front has it")
    give_up(instance, "front")
    (came,) = client.port.receive(10)
    assert came.c.error == -errno.EHOSTDOWN


def test_restart_brings_a_peer_back_that_was_given_up(supervised):
    instance = supervised(config_of(PAIR, APART) + IMPATIENT, patient=False)
    give_up(instance, "back")
    instance.archipelago("restart", "back")
    assert instance.call("front", lib.XOP_PING).error == 0
    kill(instance, "back")


# --- starts


def stop_next(instance, role, before):
    """Has the next process of a role stand still (SIGSTOP) while it starts; its pid."""
    killer = Killer(instance, 0)
    pid = wait_until(lambda: (now := killer.pid(role)) != before and now, f"{role} is started", poll_s=0.001)
    os.kill(pid, signal.SIGSTOP)
    assert not killer.ready([role]), "it was too quick to be stopped"
    return pid


def hasten(instance, more=""):
    """Gives starts START_S from now on."""
    with open(os.path.join(instance.home, "archipelago.toml"), "a", encoding="utf-8") as file:
        file.write(f"\n[supervisor]\nstart_s = {START_S}\n" + more)


def killed_in_haste(supervised, more=""):
    """A pipeline without spares whose `back` has START_S to start and was just killed; its pid."""
    instance = supervised(config_of(PAIR, APART), patient=False)
    hasten(instance, "spares = 0\n" + more)
    instance.archipelago("restart", "back")
    pid = instance.pid("back")
    os.kill(pid, signal.SIGKILL)
    return instance, pid


def test_a_peer_that_hangs_in_its_start_is_killed_and_started_again(supervised):
    instance, pid = killed_in_haste(supervised)
    hung = stop_next(instance, "back", pid)
    wait_until(lambda: instance.status()["back"]["pid"] not in (pid, hung), "it is started again")
    assert instance.call("front", lib.XOP_PING).error == 0
    shown = instance.status()["back"]
    assert shown["restarts"] >= 2 and shown["last_death"].startswith(f"not ready after {START_S} s, 20")
    assert f"back (pid {hung}) is not ready after {START_S} s and is killed" in instance.logs()


def test_a_peer_that_hangs_in_every_start_is_given_up(supervised):
    """However long its starts take: window_s is shorter."""
    instance, pid = killed_in_haste(supervised, "deaths = 3\nwindow_s = 1")
    for _ in range(2):
        pid = stop_next(instance, "back", pid)
    assert instance.call("front", lib.XOP_PING, check=False).error == errno.EHOSTDOWN
    assert instance.status()["back"]["state"] == "failed"


def test_a_peer_that_waits_for_another_in_its_start_is_not_killed(supervised):
    instance = supervised('layout = "separate"', patient=False)
    hasten(instance)
    instance.archipelago("restart", "nbd")      # takes it in
    instance.client.control("create", name="v", size=1 << 20)
    store, names = instance.pid("blockerm"), []

    def ask():
        with Client(instance.home) as client:
            names.extend(client.names())

    os.kill(store, signal.SIGSTOP)
    thread = threading.Thread(target=ask)
    thread.start()
    wait_until(lambda: instance.status()["blockerm"]["in_flight"], "the mapper has asked the store")
    os.kill(instance.pid("mapper"), signal.SIGKILL)
    wait_until(lambda: instance.status()["mapper"]["state"] == "starting", "it is started again")
    time.sleep(START_S + 1)
    assert instance.status()["mapper"]["restarts"] == 1 and instance.status()["mapper"]["state"] == "starting"
    os.kill(store, signal.SIGCONT)
    thread.join()
    assert names == ["v"]
    assert instance.status()["mapper"]["restarts"] == 1


# --- clients


def test_what_a_dead_client_held_comes_home_and_its_port_is_free(supervised):
    instance = supervised(config_of([("front", "delay", {"target": "back", "ms": 1500}), ("back", "memory", {})]))
    program = """if True:
        import sys, time
        from xseg.client import Client
        client = Client(sys.argv[1], "doomed")
        requests = [client.port.get(4096) for _ in range(20)]
        client.port.send(client.segment.port_of("front"), requests[:10])
        print(client.port.number, flush=True)
        time.sleep(60)
    """
    child = subprocess.Popen([sys.executable, "-c", program, instance.home], stdout=subprocess.PIPE, text=True)
    number = int(child.stdout.readline())
    port = instance.client.segment.c.ports[number]
    assert port.buffers_held[0] >= 20
    child.kill()
    child.wait()
    child.stdout.close()
    wait_until(lambda: port.tag == 0, "its port is free")
    assert port.buffers_held[0] == 0 and port.dropped == 10
    assert all(instance.client.segment.c.slots[port.first + i].state == lib.XREQ_FREE for i in range(port.count))
    with open(os.path.join(instance.home, "run", "supervisor.json"), encoding="utf-8") as file:
        assert json.load(file)["clients_swept"] == 1


# --- its own death


def test_peers_go_on_without_it_and_start_adopts_them(supervised):
    instance = supervised(config_of(PAIR, APART))
    before = {role: instance.pid(role) for role in ("front", "back")}
    os.kill(supervisor_of(instance), signal.SIGKILL)
    wait_until(lambda: not processes_of(instance.home, b"tools.supervisor"), "it is dead")
    assert instance.call("front", lib.XOP_PING).error == 0
    assert "no supervisor" in instance.archipelago("status").stdout
    instance.start()
    assert {role: instance.pid(role) for role in ("front", "back")} == before
    kill(instance, "back")
    assert instance.call("front", lib.XOP_PING).error == 0


def test_it_is_replaced_while_peers_go_on(supervised):
    instance = supervised('layout = "separate"')
    kill(instance, "vlmc")
    before, supervisor = {role: peer["pid"] for role, peer in instance.status().items()}, supervisor_of(instance)
    bells = used_bells(instance)
    instance.client.control("create", name="v", size=1 << 30)
    with instance.client.open("v") as volume:
        for _ in range(2):
            assert instance.archipelago("restart", "--supervisor").stdout == "restarted the supervisor\n"
            volume.write(0, b"x")
            volume.flush()
    assert supervisor_of(instance) == supervisor and used_bells(instance) == bells
    shown = instance.status()
    assert {role: peer["pid"] for role, peer in shown.items()} == before and shown["vlmc"]["restarts"] == 1
    kill(instance, "vlmc")
    assert instance.status()["vlmc"]["last_death"].startswith("SIGKILL")
    path = os.path.join(instance.home, "run", "nbd.sock")
    inode = os.stat(path).st_ino
    kill(instance, "nbd")
    assert os.stat(path).st_ino == inode and "export-size" in instance.run("nbdinfo", instance.nbd_uri("v")).stdout


def test_its_successor_knows_who_was_given_up(supervised):
    instance = supervised(config_of(PAIR, APART) + IMPATIENT, patient=False)
    give_up(instance, "back")
    instance.archipelago("restart", "--supervisor")
    assert instance.call("front", lib.XOP_PING, check=False).error == errno.EHOSTDOWN
    assert instance.status()["back"]["state"] == "failed"
    instance.archipelago("restart", "back")
    assert instance.call("front", lib.XOP_PING).error == 0


def test_it_is_replaced_while_a_peer_waits_to_be_started(supervised):
    instance = supervised('layout = "separate"\n[supervisor]\ndeaths = 1000\nback_off_ms = 20000\n', patient=False)
    inode = os.stat(os.path.join(instance.home, "run", "nbd.sock")).st_ino

    noted = os.path.join(instance.home, "run", "nbd.pid")

    def kill_until_it_waits():
        """The wait doubles with each death, so that one is long enough to be seen on any machine."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(noted, encoding="utf-8") as file:
            os.kill(int(file.read().split()[0]), signal.SIGKILL)
        return noted_state(instance, "nbd") == "waiting"

    wait_until(kill_until_it_waits, "its start is put off", seconds=60)
    instance.archipelago("restart", "--supervisor")
    wait_until(lambda: instance.status()["nbd"]["state"] == "running", "it is started", seconds=60)
    assert os.stat(os.path.join(instance.home, "run", "nbd.sock")).st_ino == inode


def test_who_connects_to_an_endpoint_that_was_given_up_is_refused(supervised):
    instance = supervised('layout = "separate"\n' + IMPATIENT, patient=False)
    path = os.path.join(instance.home, "run", "nbd.sock")
    give_up(instance, "nbd")
    with socket.socket(socket.AF_UNIX) as made, pytest.raises((ConnectionRefusedError, FileNotFoundError)):
        made.connect(path)
    instance.archipelago("restart", "nbd")
    with socket.socket(socket.AF_UNIX) as made:
        made.settimeout(60)
        made.connect(path)
        assert made.recv(8) == b"NBDMAGIC"


def test_a_frozen_supervisor_is_told_of_by_status_and_stop(supervised):
    instance = supervised(config_of(PAIR, APART))
    pid = supervisor_of(instance)
    os.kill(pid, signal.SIGSTOP)
    try:
        assert f"the supervisor (pid {pid}) is stopped by a signal" in instance.archipelago("status").stdout
        done = instance.archipelago("stop", check=False, timeout=60)
        assert done.returncode == 1 and f"kill -CONT {pid}" in done.stderr
    finally:
        os.kill(pid, signal.SIGCONT)
    instance.stop()


def test_its_successor_has_the_listening_sockets(supervised):
    instance = supervised('layout = "separate"')
    path = os.path.join(instance.home, "run", "nbd.sock")
    inode = os.stat(path).st_ino
    os.kill(supervisor_of(instance), signal.SIGKILL)
    wait_until(lambda: not processes_of(instance.home, b"tools.supervisor"), "it is dead")
    instance.start()
    os.kill(instance.pid("nbd"), signal.SIGKILL)
    with socket.socket(socket.AF_UNIX) as made:
        made.settimeout(60)
        made.connect(path)
        assert made.recv(8) == b"NBDMAGIC"
    assert os.stat(path).st_ino == inode


def test_a_process_that_nobody_knows_of_ends(supervised):
    """Whoever started it was killed before the pid file was written."""
    instance = supervised(config_of(PAIR, APART))
    stray = subprocess.run([sys.executable, "-m", "tools.instance.host", "--home", instance.home, "--process", "back"],
                           capture_output=True, text=True, timeout=60)
    assert stray.returncode == 1 and "does not name this process" in stray.stderr


def test_a_socket_that_the_file_moves_is_moved(supervised):
    instance = supervised('layout = "separate"\n[peers.nbd]\nsocket = "run/a.sock"')
    path = os.path.join(instance.home, "archipelago.toml")
    with open(path, encoding="utf-8") as file:
        text = file.read()
    with open(path, "w", encoding="utf-8") as file:
        file.write(text.replace("a.sock", "b.sock"))
    instance.archipelago("restart", "nbd")
    left = os.listdir(os.path.join(instance.home, "run"))
    assert "b.sock" in left and "a.sock" not in left


def test_start_starts_what_died_while_there_was_none(supervised):
    instance = supervised(config_of(PAIR, APART))
    front = instance.pid("front")
    os.kill(supervisor_of(instance), signal.SIGKILL)
    os.kill(instance.pid("back"), signal.SIGKILL)
    wait_until(lambda: instance.status()["back"]["state"] == "dead", "back is dead")
    instance.start()
    assert instance.pid("front") == front
    assert instance.call("front", lib.XOP_PING).error == 0


# --- operators


def test_what_an_operator_stops_stays_stopped(supervised):
    instance = supervised(config_of(PAIR, APART))
    instance.archipelago("stop", "back")
    time.sleep(0.5)
    assert instance.status()["back"]["state"] == "stopped"
    instance.archipelago("start", "back")
    assert instance.call("front", lib.XOP_PING).error == 0


def test_a_second_start_is_refused_and_stop_leaves_nothing(supervised):
    instance = supervised(config_of(PAIR, APART))
    done = instance.archipelago("start", check=False)
    assert done.returncode == 1 and "already running: front, back" in done.stderr
    instance.stop()
    assert processes_of(instance.home) + processes_of(instance.home, b"tools.supervisor") == []
    assert not segments_of(instance.home)
    assert sorted(os.listdir(os.path.join(instance.home, "run"))) == ["lock", "mapped"]


def test_a_peer_that_cannot_start_is_shown_and_nothing_is_left(home):
    instance = Instance(home, config_of([("a", "memory", {}), ("b", "blocker-file", {"path": "/proc/nowhere"})],
                                        [["a"], ["b"]]), supervised=True)
    done = instance.archipelago("start", check=False)
    assert done.returncode == 1 and "b (blocker-file) cannot start" in done.stderr and "Traceback" not in done.stderr
    assert processes_of(home) + processes_of(home, b"tools.supervisor") == []
    assert not segments_of(home)


def test_a_restart_that_fails_says_why_and_requests_fail(supervised):
    peers = [("front", "delay", {"target": "back"}), ("back", "blocker-file", {"path": "store"})]
    instance = supervised(config_of(peers, APART))
    path = os.path.join(instance.home, "archipelago.toml")
    with open(path, encoding="utf-8") as file:
        text = file.read()
    with open(path, "w", encoding="utf-8") as file:
        file.write(text.replace('"store"', '"/proc/nowhere"'))
    done = instance.archipelago("restart", "back", check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "back (blocker-file) cannot start" in done.stderr and "requests to back are answered with" in done.stderr
    assert instance.call("front", lib.XOP_PING, check=False).error == errno.EHOSTDOWN
    assert instance.status()["back"]["state"] == "failed"
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    instance.archipelago("restart", "back")
    assert instance.call("front", lib.XOP_PING).error == 0


def test_restart_goes_one_by_one_under_load(supervised):
    """No request fails, and a changed program is taken in: each process is a new one."""
    instance = supervised('layout = "separate"')
    instance.client.control("create", name="v", size=1 << 30)
    before = {role: instance.pid(role) for role in ("vlmc", "mapper", "blockerb", "blockerm")}
    with Client(instance.home) as client, client.open("v") as volume:
        restart = subprocess.Popen([os.path.join(BIN, "archipelago"), "--home", instance.home, "restart"],
                                   stdout=subprocess.PIPE, text=True)
        steps = 0
        while restart.poll() is None:
            volume.write(steps * 65536, steps.to_bytes(8, "little"))
            if steps % 10 == 0:
                volume.flush()
            steps += 1
        assert restart.returncode == 0, restart.communicate()
        restart.stdout.close()
        assert steps
        assert all(volume.read(step * 65536, 8) == step.to_bytes(8, "little") for step in range(steps))
    assert not set(before.values()) & {peer["pid"] for peer in instance.status().values()}


# --- for systemd


@pytest.fixture
def notified(home):
    """`archipelago start --foreground` with a NOTIFY_SOCKET: (its process, the socket)."""
    instance = Instance(home, config_of(PAIR, APART))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inbox:
        inbox.bind(os.path.join(home, "notify"))
        inbox.settimeout(60)
        child = subprocess.Popen([os.path.join(BIN, "archipelago"), "start", "--foreground"], stderr=subprocess.PIPE,
                                 env={**os.environ, **instance.env, "NOTIFY_SOCKET": os.path.join(home, "notify"),
                                      "WATCHDOG_USEC": "400000"})
        yield instance, child, inbox
        child.kill()
        child.wait()
        child.stderr.close()
        instance.stop()


def words_until(inbox, word):
    """Everything said up to a word."""
    said = []
    while word not in said:
        said += inbox.recv(4096).decode().split("\n")
    return said


def test_foreground_speaks_to_systemd_and_ends_by_sigterm(notified):
    instance, child, inbox = notified
    words_until(inbox, "READY=1")
    assert {peer["state"] for peer in instance.status().values()} == {"running"}
    words_until(inbox, "WATCHDOG=1")
    pid = instance.pid("back")
    os.kill(pid, signal.SIGKILL)
    words_until(inbox, "STATUS=back is waiting")
    words_until(inbox, "STATUS=2 processes run")
    child.send_signal(signal.SIGTERM)
    words_until(inbox, "STOPPING=1")
    assert child.wait(20) == 0
    assert processes_of(instance.home) == []
    assert not segments_of(instance.home)


def test_the_unit_file_names_what_there_is():
    path = os.path.join(os.path.dirname(os.path.dirname(BIN)), "tools", "systemd", "archipelago@.service")
    with open(path, encoding="utf-8") as file:
        unit = file.read()
    assert "start --foreground" in unit and "Type=notify" in unit and "KillMode=process" in unit
    limits, stop_s = config.SUPERVISOR, int(unit.partition("TimeoutStopSec=")[2].split()[0])
    assert stop_s >= limits["start_s"] + limits["stop_s"] + END_MORE_S
    assert run("archipelago", "start", "--help").stdout.count("--foreground") >= 2
