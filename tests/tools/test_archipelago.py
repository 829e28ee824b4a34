# SPDX-License-Identifier: Apache-2.0
"""The command archipelago: start, stop, restart, status, and what it refuses."""
import json
import os
import signal
import subprocess

import pytest
from support import Instance, config_of, processes_of, run, segments_of, wait_until

from tools.instance import config
from xseg import client
from xseg._native import lib
from xseg.errors import NotRunning
from xseg.segment import Segment, name_for

PAIR = [("front", "delay", {"target": "back"}), ("back", "memory", {})]
APART = [["front"], ["back"]]


def refused(instance, *words, status=1):
    """stderr of a command that fails."""
    done = instance.archipelago(*words, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.fixture
def bad(home):
    """start with this archipelago.toml must fail, and leave nothing; its stderr."""

    def start(text):
        instance = Instance(home, text)
        said = refused(instance, "start")
        assert not segments_of(home)
        assert processes_of(home) == []
        return said

    return start


# --- start


def test_the_default_pipeline_starts_with_no_file(home):
    instance = Instance(home)
    instance.start()
    assert {role: peer["state"] for role, peer in instance.status().items()} == dict.fromkeys(
        ("nbd", "vlmc", "blockerb", "mapper", "blockerm"), "running")
    instance.finish()


def test_layouts_cut_the_pipeline_into_processes(instance, layout):
    pids = {role: peer["pid"] for role, peer in instance.status().items()}
    if layout == "separate":
        assert len(set(pids.values())) == 5
    else:
        assert pids["nbd"] == pids["vlmc"] == pids["blockerb"] != pids["mapper"] == pids["blockerm"]


def test_a_second_start_says_that_it_runs_already(host):
    instance = host(PAIR)
    assert "already running: front+back" in refused(instance, "start", "--unsupervised")


def test_two_instances_run_side_by_side(host, home, tmp_path_factory):
    first = host(PAIR)
    other = home + "-2"
    os.mkdir(other)
    second = Instance(other, config_of(PAIR))
    try:
        second.start()
        for instance in (first, second):
            assert instance.call("front", lib.XOP_PING).error == 0
        assert first.pid("front") != second.pid("front")
    finally:
        second.finish()
        run("rm", "-r", other)


def test_two_starts_at_once_start_it_once(home):
    instance = Instance(home, config_of(PAIR) + "[supervisor]\nspares = 0\n")
    commands = [subprocess.Popen([os.path.join(os.path.dirname(os.sys.executable), "archipelago"), "--home", home,
                                  "start"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(3)]
    for command in commands:
        command.communicate()
    assert sorted(command.returncode for command in commands) == [0, 1, 1]
    assert len(processes_of(home)) == 1
    instance.finish()


def test_a_peer_that_cannot_start_is_shown_with_its_reason_and_nothing_is_left(home):
    instance = Instance(home, config_of([("a", "memory", {}), ("b", "blocker-file", {"path": "/proc/nowhere"})],
                                        [["a"], ["b"]]))
    said = refused(instance, "start")
    assert "b (blocker-file) cannot start" in said and "/proc/nowhere" in said
    assert processes_of(home) == []
    assert not segments_of(home)


def test_start_takes_up_a_segment_whose_processes_were_all_killed(host):
    instance = host(PAIR, APART)
    inode = os.stat("/dev/shm" + name_for(instance.home)).st_ino
    instance.disconnect()
    instance.kill("front")
    instance.kill("back")
    instance.start()
    instance.killed.clear()
    assert os.stat("/dev/shm" + name_for(instance.home)).st_ino == inode
    assert instance.call("front", lib.XOP_PING).error == 0


def test_a_segment_of_another_version_is_replaced_only_by_force(host):
    instance = host(PAIR)
    instance.disconnect()
    instance.kill("front")
    with Segment.of_home(instance.home) as segment:
        segment.c.header.version = 99
    assert "of version 99" in refused(instance, "start")
    assert "lost" in instance.archipelago("stop", "--force").stdout
    instance.start()
    instance.killed.clear()
    assert instance.call("front", lib.XOP_PING).error == 0


def test_start_makes_a_segment_anew_whose_making_was_cut_short(host):
    instance = host(PAIR)
    instance.disconnect()
    instance.kill("front")
    with Segment.of_home(instance.home) as segment:
        segment.c.header.magic = 0
    instance.start()
    instance.killed.clear()
    assert instance.call("front", lib.XOP_PING).error == 0


def test_start_of_one_role_starts_its_process(host):
    instance = host(PAIR, APART)
    instance.archipelago("stop", "back")
    assert instance.status()["back"]["state"] == "stopped"
    instance.archipelago("start", "back")
    assert instance.status()["back"]["state"] == "running"


# --- stop


def test_stop_leaves_no_process_segment_or_doorbell(host):
    instance = host(PAIR, APART)
    assert processes_of(instance.home)
    instance.stop()
    assert processes_of(instance.home) == []
    assert not segments_of(instance.home)
    assert sorted(os.listdir(os.path.join(instance.home, "run"))) == ["lock", "mapped"]


def test_stop_of_what_does_not_run_says_so(home):
    done = Instance(home, config_of(PAIR)).archipelago("stop")
    assert "not running" in done.stdout


def test_stop_works_though_the_file_has_become_faulty(host):
    instance = host(PAIR, APART)
    path = os.path.join(instance.home, "archipelago.toml")
    with open(path, encoding="utf-8") as file:
        good = file.read()
    with open(path, "w", encoding="utf-8") as file:
        file.write("layout = 5")
    instance.archipelago("stop")
    assert processes_of(instance.home) == []
    with open(path, "w", encoding="utf-8") as file:
        file.write(good)


def test_a_process_that_does_not_listen_is_killed_and_said_so(host):
    instance = host(PAIR)
    os.kill(instance.pid("front"), signal.SIGSTOP)
    done = instance.archipelago("stop")
    assert "killed" in done.stdout
    assert processes_of(instance.home) == []


def test_what_is_under_way_is_finished_before_a_process_ends(host):
    instance = host([("front", "delay", {"target": "back", "ms": 2000}), ("back", "memory", {})])
    client = instance.client
    request = client.port.get()
    request.c.op = lib.XOP_READ
    client.port.send(client.segment.port_of("front"), [request])
    wait_until(lambda: client.segment.c.ports[client.segment.port_of("front")].received, "front has it")
    instance.archipelago("stop")
    assert len(client.port.receive()) == 1


# --- restart


def test_restart_replaces_the_process_and_keeps_the_segment(host):
    instance = host(PAIR, APART)
    inode = os.stat("/dev/shm" + name_for(instance.home)).st_ino
    before = {role: instance.pid(role) for role in ("front", "back")}
    instance.archipelago("restart", "back")
    assert instance.pid("front") == before["front"]
    assert instance.pid("back") != before["back"]
    assert os.stat("/dev/shm" + name_for(instance.home)).st_ino == inode


def test_requests_wait_for_a_peer_that_is_restarted(host):
    instance = host(PAIR, APART)
    client = instance.client
    instance.archipelago("stop", "back")
    request = client.port.get()
    client.port.send(client.segment.port_of("back"), [request])
    assert client.port.receive(0.2) == []
    instance.archipelago("start", "back")
    assert len(client.port.receive(5)) == 1


def test_requests_that_a_killed_peer_held_are_done_after_its_restart(host):
    instance = host([("front", "delay", {"target": "back", "ms": 60000}), ("back", "memory", {})], APART)
    client = instance.client
    request = client.port.get(4096)
    request.c.op, request.c.size, request.c.object.kind = lib.XOP_WRITE, 10, lib.XOBJ_DATA
    client.port.send(client.segment.port_of("front"), [request])
    wait_until(lambda: instance.status()["front"]["in_flight"] == 1, "front has it")
    instance.kill("front")
    with open(os.path.join(instance.home, "archipelago.toml"), "w", encoding="utf-8") as file:
        file.write(config_of(PAIR, APART))
    instance.restart("front")
    (back,) = client.port.receive(10)
    assert (back.c.error, back.c.done) == (0, 10)
    assert client.segment.c.ports[client.segment.port_of("front")].recovered == 1


def edit(instance, old, new):
    """Replaces text in archipelago.toml."""
    path = os.path.join(instance.home, "archipelago.toml")
    with open(path, encoding="utf-8") as file:
        text = file.read()
    with open(path, "w", encoding="utf-8") as file:
        file.write(text.replace(old, new))


def test_another_layout_in_the_file_is_taken_in_by_a_restart_of_all_only(instance, layout):
    other = next(name for name in config.LAYOUTS if name != layout)
    edit(instance, layout, other)
    for words in (("restart", "vlmc"), ("start", "vlmc")):
        assert "has another layout" in refused(instance, *words)
    shown = json.loads(instance.archipelago("status", "--json").stdout)
    assert shown["layout"] == layout and {peer["state"] for peer in shown["peers"]} == {"running"}
    instance.archipelago("restart")
    shown = json.loads(instance.archipelago("status", "--json").stdout)
    assert shown["layout"] == other and {peer["state"] for peer in shown["peers"]} == {"running"}


def test_restart_of_what_does_not_run_says_how_to_start_it(home):
    assert "archipelago start" in refused(Instance(home, config_of(PAIR)), "restart")


def test_an_unknown_role_is_refused_with_those_there_are(host):
    instance = host(PAIR)
    for verb in ("restart", "stop", "start"):
        assert "no role 'mapper' in this pipeline; there are: front, back" in refused(instance, verb, "mapper")


# --- status


def test_status_of_a_running_pipeline(host):
    instance = host(PAIR)
    for _ in range(3):
        instance.call("front", lib.XOP_PING)
    shown = instance.status()["front"]
    assert shown["pid"] in processes_of(instance.home)
    assert {key: shown[key] for key in ("type", "process", "port", "state", "in_flight", "served", "errors")} == {
        "type": "delay", "process": "front+back", "port": 0, "state": "running", "in_flight": 0, "served": 3,
        "errors": 0}
    assert "running" in instance.archipelago("status").stdout


def test_status_of_a_dead_process_is_3_and_says_dead(host):
    instance = host(PAIR, APART)
    instance.kill("back")
    done = instance.archipelago("status", "--json", check=False)
    assert done.returncode == 3
    states = {peer["role"]: peer["state"] for peer in json.loads(done.stdout)["peers"]}
    assert states == {"front": "running", "back": "dead"}
    instance.restart("back")


def test_a_client_of_a_dead_peer_is_told_which_one_and_what_to_do(host, monkeypatch):
    monkeypatch.setattr(client, "DEAD_PEER_TIMEOUT_S", 0.5)
    instance = host(PAIR, APART)
    instance.kill("back")
    with pytest.raises(NotRunning, match="the back is not running: start it with `archipelago restart back`"):
        instance.call("back", lib.XOP_PING)


def test_status_of_a_stopped_instance_is_3_and_says_stopped(home):
    done = Instance(home, config_of(PAIR)).archipelago("status", check=False)
    assert (done.returncode, done.stdout.count("stopped")) == (3, 2)


def test_status_while_the_segment_is_made_is_3_and_says_so(home):
    instance = Instance(home, config_of(PAIR))
    with open("/dev/shm" + name_for(home), "wb") as file:
        file.truncate(1 << 20)
    done = instance.archipelago("status", "--json", check=False)
    shown = json.loads(done.stdout)
    assert done.returncode == 3 and [peer["state"] for peer in shown["peers"]] == ["stopped", "stopped"]
    assert "not completely made" in shown["notes"][0] and shown["segment"] is None
    assert "not completely made" in instance.archipelago("status", check=False).stdout


def test_a_pid_used_again_by_another_process_is_not_taken_for_ours(host):
    instance = host(PAIR)
    pid = instance.pid("front")
    path = os.path.join(instance.home, "run", "front+back.pid")
    with open(path, encoding="ascii") as file:
        ours = file.read()
    with open(path, "w", encoding="ascii") as file:
        file.write(f"{os.getpid()} 12345\n")
    assert instance.status()["front"]["state"] == "dead"
    with open(path, "w", encoding="ascii") as file:
        file.write(ours)
    assert instance.pid("front") == pid


def test_the_picture_shows_processes_and_who_sends_to_whom(host):
    instance = host([("front", "delay", {"target": "back"}), ("back", "memory", {}), ("other", "memory", {})],
                    [["front"], ["back", "other"]], more='[routes]\n"front>back" = "other"')
    picture = instance.archipelago("status", "--picture").stdout
    assert "back (memory)  other (memory)" in picture
    assert "front --> other (for back)" in picture


def test_a_route_turns_an_edge_to_another_peer(host):
    instance = host([("front", "delay", {"target": "back"}), ("back", "memory", {}), ("other", "memory", {})],
                    [["front"], ["back", "other"]], more='[routes]\n"front>back" = "other"')
    instance.call("front", lib.XOP_WRITE, object=(lib.XOBJ_DATA, 1, 1, 1), data=b"x")
    assert instance.status()["other"]["served"] == 1
    assert instance.status()["back"]["served"] == 0


# --- what archipelago.toml may say


@pytest.mark.parametrize(("text", "words"), [
    ("layout = 'together'", "layout = 'together' must be one of 'colocated', 'separate' or a list"),
    ("layout = []", "must be one of"),
    ("layout = [['nbd', 'ghost']]", "there is no role 'ghost'; there are: nbd, vlmc, blockerb, mapper, blockerm"),
    ("layout = [['nbd'], ['nbd']]", "the role nbd is listed twice"),
    ("layout = [['a']]\n[peers.a]\ntype = 'memory'\n[peers.b]\ntype = 'memory'", "has a table [peers.b] but is in no"),
    ("[peers.a]\npath = 'x'", "[peers.a]: the key type is missing"),
    ("[peers.nbd]\ntype = 'smb'", "[peers.nbd] type: there is no peer type 'smb'; there are: "),
    ("[peers.blockerb]\ncolour = 'red'", "[peers.blockerb]: colour is no option of the type blocker-file; it has: "),
    ("[peers.blockerb]\npath = 5", "[peers.blockerb]: path = 5 must be a text"),
    ("[peers.'Bad Name']\ntype = 'memory'", "a role is named by up to 31"),
    ("[routes]\n'vlmc>ghost' = 'nbd'", "there is no role 'ghost'"),
    ("[routes]\n'vlmc-blockerb' = 'nbd'", 'must be of the form "from>to"'),
    ("[routes]\n'nbd>blockerb' = 'blockerm'", "nbd sends nothing to blockerb; it sends to: vlmc, mapper"),
    ("layout = [['nbd']]", "the role nbd (type nbd) sends to the role 'vlmc', which this pipeline has not"),
    ("[segment]\ncolour = 1", "there is no key colour; there are: static_slots"),
    ("[segment]\nframes = 0", "frames = 0: 8 at least"),
    ("[segment]\nbuffers = [1, 2]", "must be a list of three numbers"),
    ("colour = 1", "there is no key colour; there are: layout, segment, peers, routes, tuning, "
     "supervisor"),
    ("[tuning]\ncolour = 'on'", "[tuning]: there is no key colour; there are: naps, alone, hold, reads, writes"),
    ("[tuning]\nnaps = true", "[tuning]: naps = True must be one of auto, on, off"),
    ("[supervisor]\ndeaths = 0", "deaths = 0 must be from 1 to"),
    ("[supervisor]\ncolour = 1", "there is no key colour; there are: deaths"),
    ("peers = 5", "peers must be a table"),
    ("layout = ", "Invalid value"),
])
def test_a_faulty_file_is_refused_by_name_key_and_remedy(bad, home, text, words):
    said = bad(text)
    assert os.path.join(home, "archipelago.toml") in said
    assert words in said


def test_a_segment_too_large_for_shared_memory_is_refused(bad):
    assert "/dev/shm" in bad("[segment]\nbuffers = [4000000, 1000000, 4000000]")


def test_a_home_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    done = run("archipelago", "--home", str(tmp_path / "file" / "home"), "start", check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_segment_numbers_reach_the_segment(host):
    instance = host(PAIR, more="[segment]\nstatic_slots = 128\nbuffers = [100, 20, 16]")
    header = instance.client.segment.c.header
    assert (header.static_slots, list(header.buffers)) == (128, [100, 20, 16])


def test_a_role_of_ones_own_is_placed_by_each_ready_made_layout(home):
    for layout in config.LAYOUTS:
        Instance(home, f"layout = '{layout}'\n[peers.mem]\ntype = 'memory'\n")
        assert "mem" in config.read(home).roles


def test_a_default_role_of_another_type_does_not_get_the_old_types_options(home):
    Instance(home, "[peers.blockerb]\ntype = 'memory'\n")
    assert "path" not in config.read(home).roles["blockerb"].options


def test_long_lists_of_roles_make_a_process_name_that_fits():
    assert len(config.process_name([f"a-rather-long-name-{i}" for i in range(9)])) <= config.PROCESS_NAME_MAX


@pytest.mark.parametrize("words", [["bogus"], [], ["start", "--bogus"]])
def test_wrong_usage_is_exit_status_2(words):
    assert run("archipelago", *words, check=False).returncode == 2
