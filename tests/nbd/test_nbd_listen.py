# SPDX-License-Identifier: Apache-2.0
"""Where the NBD server listens, how many it serves, and how it starts and ends."""
import json
import os
import socket
import stat
import threading

import pytest
from nbd_support import CMD_FLUSH, CMD_READ, CMD_WRITE, ERR_POLICY, OPT_STRUCTURED, Gone, Server, Wire, request
from support import Instance, run, wait_until

from xseg.errors import Busy

pytest_plugins = ["nbd_fixtures"]
MIB = 1 << 20


@pytest.fixture
def begin(memory_home):
    """Starts an instance with an archipelago.toml; it is stopped at the end."""
    made = []

    def start(config):
        made.append(Instance(memory_home, config))
        made[0].start()
        return Server(made[0])

    yield start
    for instance in made:
        instance.finish()


def refusal(home, config):
    """What `archipelago start` says when it fails, and the logs."""
    instance = Instance(home, config)
    done = instance.archipelago("start", check=False)
    instance.archipelago("stop", "--force", check=False)
    assert done.returncode != 0
    return done.stdout + done.stderr + instance.logs()


# --- the unix socket

def test_the_socket_is_for_owner_and_group(server):
    assert stat.S_IMODE(os.stat(server.socket).st_mode) == 0o660


def test_the_socket_of_a_dead_server_is_replaced(begin, memory_home):
    path = os.path.join(memory_home, "left.sock")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    begin('[peers.nbd]\nsocket = "left.sock"\n')
    assert Wire(path).hello()


def test_the_socket_of_a_live_server_is_left_alone(memory_home):
    path = os.path.join(memory_home, "live.sock")
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(path)
        live.listen()
        said = refusal(memory_home, '[peers.nbd]\nsocket = "live.sock"\n')
        assert path in said and "another server" in said
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)


def test_a_file_in_the_sockets_place_is_kept(memory_home):
    path = os.path.join(memory_home, "precious")
    with open(path, "w", encoding="utf-8") as file:
        file.write("data")
    assert "no socket" in refusal(memory_home, '[peers.nbd]\nsocket = "precious"\n')
    with open(path, encoding="utf-8") as file:
        assert file.read() == "data"


def test_a_path_too_long_for_a_socket_names_the_option(memory_home):
    said = refusal(memory_home, f'[peers.nbd]\nsocket = "{"x" * 120}"\n')
    assert "107" in said and "socket" in said


def test_the_socket_goes_when_the_server_stops(begin):
    server = begin('layout = "colocated"\n')
    assert os.path.exists(server.socket)
    server.instance.archipelago("stop")
    assert not os.path.exists(server.socket)


# --- TCP

def free_port():
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
        return any_port.getsockname()[1]


def test_tcp_when_asked(begin):
    port = free_port()
    server = begin(f'[peers.nbd]\nlisten = "127.0.0.1:{port}"\n')
    name = server.make()
    run("qemu-io", "-f", "raw", "-c", "write -P 4 100 5000", "-c", "read -P 4 100 5000",
        f"nbd://127.0.0.1:{port}/{name}")
    assert Wire(server.socket).hello()


def test_a_port_in_use_is_named(memory_home):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        said = refusal(memory_home, f'[peers.nbd]\nlisten = "{address}"\n')
    assert address in said and "in use" in said


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:", "127.0.0.1:no-such-service"])
def test_an_address_that_is_none_is_named(memory_home, address):
    assert address in refusal(memory_home, f'[peers.nbd]\nlisten = "{address}"\n')


# --- how many

def test_connections_beyond_the_bound_are_closed_and_a_place_is_free_again(begin):
    server = begin("[peers.nbd]\nconnections = 2\n")
    name = server.make()
    first, second = server.wire().go(name), server.wire().go(name)
    with pytest.raises(Gone):
        server.wire().hello()
    assert second.ask(CMD_FLUSH).error == 0
    first.close()

    def admitted():
        try:
            return server.wire().go(name)
        except (Gone, OSError):
            return None

    assert wait_until(admitted, "a place is free").ask(CMD_FLUSH).error == 0


# --- the end, and after

SLOW = """layout = "colocated"
[peers.slow]
type = "delay"
target = "vlmc"
ops = "write"
ms = 700
[routes]
"nbd>vlmc" = "slow"
"""


def test_a_stop_answers_what_is_under_way_then_closes(begin):
    server = begin(SLOW)
    wire = server.wire().go(server.make())
    wire.send(*(request(CMD_WRITE, n, n * 4096, 4096) + b"s" * 4096 for n in range(10)))
    stopping = threading.Thread(target=server.instance.archipelago, args=("stop",))
    stopping.start()
    assert sorted((wire.reply().cookie) for _ in range(10)) == list(range(10))
    assert wire.ends()
    stopping.join()
    server.instance.start()
    handle = server.connect("vol-0")
    assert handle.pread(40960, 0) == b"s" * 40960
    handle.shutdown()


@pytest.mark.parametrize("stuck", [
    request(CMD_WRITE, 1, 0, 8 * MIB) + bytes(3 * MIB // 2), request(CMD_WRITE, 1, 1 << 40, 8 * MIB) + bytes(MIB),
    b"".join(request(CMD_READ, n, 0, MIB) for n in range(32))], ids=["sends-no-more", "refused", "reads-nothing"])
def test_a_stop_waits_for_no_client_that_stands_still(begin, stuck):
    server = begin('layout = "colocated"\n')
    wire = server.wire().go(server.make())
    wire.send(stuck)
    server.instance.archipelago("stop")
    assert wire.ends()
    assert "not all requests were finished" not in server.instance.logs()


def test_a_write_of_a_client_that_vanished_is_finished_before_its_volume_closes(begin):
    server = begin(SLOW.replace("700", "5000"))
    name = server.make()
    wire = server.wire().go(name)
    wire.send(request(CMD_WRITE, 1, 0, 4096), b"v" * 4096)
    wait_until(lambda: server.instance.status()["slow"]["in_flight"], "the write has begun")
    wire.close()
    with pytest.raises(Busy):
        server.instance.client.control("remove", name=name)
    handle = server.connect(name)
    wait_until(lambda: handle.pread(4096, 0) == b"v" * 4096, "the write is done")
    handle.shutdown()


@pytest.mark.parametrize("cut", ["colocated", "separate"])
def test_a_killed_server_serves_again_once_it_is_back(begin, cut):
    server = begin(f'layout = "{cut}"\n')
    name = server.make()
    wire = server.wire().go(name)
    assert wire.ask(CMD_WRITE, 0, 4096, data=b"k" * 4096).error == 0
    assert wire.ask(CMD_FLUSH).error == 0
    server.instance.kill("nbd")
    assert wire.ends()
    server.instance.restart("nbd")
    handle = server.connect(name)
    assert handle.pread(4096, 0) == b"k" * 4096
    handle.shutdown()


# --- structured replies

def test_without_structured_replies_clients_are_served_and_told(begin):
    server = begin("[peers.nbd]\nstructured_replies = false\n")
    volume = server.make()
    answer = server.wire().hello().option(OPT_STRUCTURED)[-1]
    assert answer.type == ERR_POLICY and b"structured_replies is off" in answer.data
    shown = json.loads(run("nbdinfo", "--json", server.uri(volume)).stdout)
    assert not shown["structured"] and not shown["exports"][0].get("contexts")
    run("qemu-io", "-f", "raw", "-c", "write -P 7 4000 70000", "-c", "read -P 7 4000 70000", "-c", "read -P 0 74000 2M",
        server.uri(volume))
    server.instance.vlmc("export", volume, os.path.join(server.instance.home, "image"))
    with open(os.path.join(server.instance.home, "image"), "rb") as image:
        assert image.read(76000) == bytes(4000) + b"\7" * 70000 + bytes(2000)
