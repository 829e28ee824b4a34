# SPDX-License-Identifier: Apache-2.0
"""How many clients the NBD server takes: shares of users and volumes, silent ones, what is said of the refused."""
import json
import resource
import socket

import pytest
from nbd_support import CMD_FLUSH, ERR_POLICY, OPT_GO, TIMEOUT_S, Gone, Server, Wire, go_data
from support import Instance, wait_until

pytest_plugins = ["nbd_fixtures"]


@pytest.fixture
def begin(memory_home):
    """Starts an instance with options of its NBD server; it is stopped at the end."""
    made = []

    def start(options):
        made.append(Instance(memory_home, f"[peers.nbd]\n{options}\n"))
        made[0].start()
        return Server(made[0])

    yield start
    for instance in made:
        instance.finish()


class FromAddress(Wire):
    """A connection over TCP from an address of this machine's own choice."""

    def __init__(self, port, address):
        self.socket = socket.create_connection(("127.0.0.1", port), TIMEOUT_S, (address, 0))


def admitted(make):
    """The connection, or None if it was refused."""
    wire = make()
    try:
        return wire.hello()
    except Gone:
        wire.close()
        return None


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def refused(server):
    ports = json.loads(server.instance.run("xseg", "ports", "--json").stdout)["ports"]
    return next(port["refused"] for port in ports if port["role"] == "nbd")


def test_one_user_leaves_places_to_others_and_the_log_says_who_was_refused(begin):
    port = free_port()
    server = begin(f'connections = 8\nlisten = "127.0.0.1:{port}"')
    name = server.make()
    greedy = []
    while wire := admitted(lambda: FromAddress(port, "127.0.0.1")):
        assert wire.option(OPT_GO, go_data(name))[-1].type == 1
        greedy.append(wire)
    assert len(greedy) == 6, "three quarters"
    other = admitted(lambda: FromAddress(port, "127.0.0.2"))
    assert other and other.option(OPT_GO, go_data(name))[-1].type == 1
    assert other.ask(CMD_FLUSH).error == 0 == greedy[0].ask(CMD_FLUSH).error
    assert refused(server) == 1
    assert "a connection of TCP is refused: this user has the share" in server.instance.logs()
    assert "has refused 1 connections" in server.instance.archipelago("status", check=False).stdout
    for wire in greedy:
        wire.close()
    wait_until(lambda: admitted(lambda: FromAddress(port, "127.0.0.1")), "the places are free again")


def test_a_handshake_that_stands_still_loses_its_place_to_who_needs_it(begin):
    server = begin("connections = 4\nhandshake_s = 3600")
    name = server.make()
    silent = [server.wire() for _ in range(3)]
    assert all(wire.get(18) for wire in silent)
    served = [server.wire().go(name) for _ in range(3)]
    assert all(wire.ask(CMD_FLUSH).error == 0 for wire in served)
    assert all(wire.ends() for wire in silent)
    assert admitted(server.wire) is None, "who is served does not lose his place"


def test_a_volume_has_a_bound_of_its_own(begin):
    server = begin("connections_volume = 2")
    name, other = server.make(), server.make()
    served = [server.wire().go(name) for _ in range(2)]
    third = server.wire().hello()
    answer = third.option(OPT_GO, go_data(name))[-1]
    assert answer.type == ERR_POLICY and b"connections_volume" in answer.data
    assert third.option(OPT_GO, go_data(other))[-1].type == 1
    assert refused(server) == 1
    served[0].close()
    wait_until(lambda: server.wire().hello().option(OPT_GO, go_data(name))[-1].type == 1, "there is a place again")


def test_more_than_a_thousand_connections_are_served_at_once(begin):
    count, volumes = 1200, 24
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard < 2 * count:
        pytest.skip(f"the hard limit of open files is {hard}")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], 2 * count), hard))
    server = begin("")
    names = [server.make() for _ in range(volumes)]
    wires = [server.wire().go(names[n % volumes], structured=False) for n in range(count)]
    for wire in wires:
        assert wire.ask(CMD_FLUSH).error == 0
    for wire in wires:
        wire.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_more_connections_than_files_are_lowered_and_the_log_says_so(memory_home):
    instance = Instance(memory_home, "[peers.nbd]\nconnections = 16384\n")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
        instance.start()
    finally:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        except (ValueError, OSError):
            pass                    # who is not root cannot raise it again
    assert "16384 connections are configured" in instance.logs()
    assert Server(instance).wire().hello()
    instance.finish()
