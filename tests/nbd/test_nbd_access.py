# SPDX-License-Identifier: Apache-2.0
"""Who may connect to the NBD server, and which exports there are for him."""
import json
import os
import socket
import stat

import pytest
from nbd_support import (
    CMD_READ,
    ERR_UNKNOWN,
    OPT_EXPORT_NAME,
    OPT_GO,
    OPT_INFO,
    OPT_LIST,
    OPT_LIST_META,
    OPT_STRUCTURED,
    REP_ACK,
    REP_META,
    REP_SERVER,
    Gone,
    Wire,
    go_data,
    meta_data,
    text,
)
from strangers import STRANGER, as_stranger, give, needs_root
from support import Instance, wait_until

from xseg._native import lib
from xseg.errors import Invalid
from xseg.peer import parse_rules

GUEST, FRIENDS = 1234, 2345                 # a user and a group that nobody else has
CONFIG = f"""
[peers.nbd]
socket_mode = "0666"
allow = ["{GUEST}: vm-?", "{GUEST}: shared*", "@{FRIENDS}: *-nightly", "tcp: public", "*: open"]
[segment]
frames = 64
buffers = [512, 64, 24]
"""
NAMES = ("vm-1", "vm-2", "vm-10", "shared", "shared-2", "vm-1-nightly", "public", "open")
FOR_GUEST = {"vm-1", "vm-2", "shared", "shared-2", "open"}
pytestmark = needs_root


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A pipeline whose exports are not for everybody."""
    import tempfile
    home = tempfile.mkdtemp(prefix="ar-", dir="/tmp")
    os.chmod(home, 0o711)
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
        port = any_port.getsockname()[1]
    instance = Instance(home, CONFIG.replace("socket_mode", f'listen = "127.0.0.1:{port}"\nsocket_mode'))
    instance.start()
    instance.port = port
    for name in NAMES:
        instance.client.control("create", name=name, size=1 << 20)
    yield instance
    instance.finish()


class Tcp(Wire):
    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)


def listed(wire):
    """The exports a client is told of."""
    answers = wire.option(OPT_LIST)
    assert answers[-1].type == REP_ACK
    return {answer.data[4:].decode() for answer in answers if answer.type == REP_SERVER}


def opened(wire, name):
    """What GO says of an export."""
    return wire.option(OPT_GO, go_data(name))[-1].type


# --- the socket

@pytest.mark.parametrize("supervised", [False, True])
def test_the_socket_goes_to_the_user_and_group_of_the_options(home, supervised):
    os.chmod(home, 0o711)
    instance = Instance(home, f"""[peers.nbd]
socket_mode = "0620"
socket_owner = {GUEST}
socket_group = "{FRIENDS}"
""", supervised)
    instance.start()
    path = f"{home}/run/nbd.sock"
    st = os.stat(path)
    assert (stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid) == (0o620, GUEST, FRIENDS)

    def greets():
        return bool(Wire(path).hello())

    assert as_stranger(greets, GUEST) and as_stranger(greets, groups=(FRIENDS,))
    with pytest.raises(PermissionError):
        as_stranger(greets)
    with open(f"{home}/archipelago.toml", "w", encoding="ascii") as file:
        file.write('[peers.nbd]\nsocket_mode = "0666"\n')
    instance.archipelago("restart", "nbd")
    wait_until(lambda: stat.S_IMODE(os.stat(path).st_mode) == 0o666, "the socket is open to all")
    assert as_stranger(greets)
    instance.finish()


def test_a_socket_that_is_opened_to_others_who_cannot_come_near_it_is_remarked_upon(home):
    instance = Instance(home, f"[peers.nbd]\nsocket_owner = {GUEST}\n")
    assert f"chmod go+x {home}" in instance.archipelago("start").stdout
    instance.finish()


def test_a_socket_where_others_could_put_theirs_is_refused(home):
    os.mkdir(f"{home}/open")
    os.chmod(f"{home}/open", 0o777)
    instance = Instance(home, '[peers.nbd]\nsocket = "open/nbd.sock"\n')
    said = instance.archipelago("start", check=False).stderr
    assert "socket of nbd" in said and f"chmod go-w {home}/open" in said


def test_a_socket_of_a_stranger_is_neither_removed_nor_served(home):
    """In a folder where he may make one, as in /tmp."""
    os.mkdir(f"{home}/tmp")
    os.chmod(f"{home}/tmp", 0o1777)
    path = f"{home}/tmp/nbd.sock"
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path)
    give(path)
    for supervised in (False, True):
        instance = Instance(home, f'[peers.nbd]\nsocket = "{path}"\n', supervised)
        words = [] if supervised else ["--unsupervised"]
        said = instance.archipelago("start", *words, check=False)
        assert said.returncode == 1 and path in said.stderr and "no socket of ours" in said.stderr
    assert os.stat(path).st_uid == STRANGER


def test_data_is_not_sent_to_a_stranger_who_listens_in_the_servers_place(home):
    os.chmod(home, 0o711)
    os.mkdir(f"{home}/tmp")
    os.chmod(f"{home}/tmp", 0o1777)
    path, here, there = f"{home}/tmp/nbd.sock", *socket.socketpair()
    instance = Instance(home, f'[peers.nbd]\nsocket = "{path}"\n')
    instance.start()
    instance.vlmc("create", "v", "--size", "1M")
    os.unlink(path)

    def listens():
        made = socket.socket(socket.AF_UNIX)
        made.bind(path)
        made.listen()
        socket.send_fds(there, [b"."], [made.fileno()])

    as_stranger(listens)
    theirs = socket.recv_fds(here, 1, 1)[1][0]
    said = instance.vlmc("export", "v", f"{home}/v.raw", check=False)
    assert said.returncode == 1 and f"listens at {path}" in said.stderr
    os.close(theirs)
    instance.finish()


@pytest.mark.parametrize(("config", "words"), [
    ('socket_mode = "rw"', "octal"), ("socket_mode = 4096", "octal"), ('socket_owner = "nobody-knows"', "nobody-knows"),
    ('socket_group = -1', "group"), ('allow = "vm-1"', "list"), ('allow = ["vm-1"]', "USER: PATTERN"),
    ('allow = ["nobody-knows: vm"]', "nobody-knows"), ('allow = ["@nobody-knows: vm"]', "nobody-knows")])
def test_options_that_are_none_are_named(home, config, words):
    said = Instance(home, f"[peers.nbd]\n{config}\n").archipelago("start", check=False).stderr
    assert "peers.nbd" in said and config.split()[0] in said and words in said


# --- exports

def test_rules_are_read_as_users_groups_and_patterns():
    assert parse_rules(["root: a b", "@root:*", "tcp: x:y", "* : ?", "77: v"]) == "u0 a b\ng0 *\nt x:y\n* ?\nu77 v"
    assert parse_rules([]) == ""
    for bad in ([""], [": x"], ["root:"], ["root: a\nb"], ["root: " + "x" * 256], ["root: x"] * 65, [7]):
        with pytest.raises(Invalid):
            parse_rules(bad)


def test_a_client_is_told_of_what_is_for_him_and_of_nothing_else(served):
    path = f"{served.home}/run/nbd.sock"

    def sees():
        return listed(Wire(path).hello())

    assert as_stranger(sees, GUEST) == FOR_GUEST
    assert as_stranger(sees) == {"open"}
    assert as_stranger(sees, groups=(FRIENDS,)) == as_stranger(sees, uid=FRIENDS) == {"open", "vm-1-nightly"}
    assert sees() == set(NAMES)
    assert listed(Tcp(served.port).hello()) == {"public", "open"}


def test_what_is_not_for_a_client_does_not_exist_by_any_way_of_asking(served):
    path = f"{served.home}/run/nbd.sock"
    ids = {name: f"/id/{served.client.control('info', name=name)['id']}" for name in NAMES}

    def asks():
        for name in NAMES:
            for asked in (name, ids[name]):
                wire = Wire(path).hello()
                known = [wire.option(option, go_data(asked))[-1].type for option in (OPT_INFO, OPT_GO)]
                assert known == [REP_ACK if name in FOR_GUEST else ERR_UNKNOWN] * 2, (asked, known)
                if name in FOR_GUEST:
                    assert wire.ask(CMD_READ, 0, 512).error == 0
                wire = Wire(path).hello()
                wire.send(b"IHAVEOPT", (OPT_EXPORT_NAME).to_bytes(4, "big"), text(asked))
                try:
                    wire.get(10)
                    assert name in FOR_GUEST, asked
                except Gone:
                    assert name not in FOR_GUEST, asked
        assert opened(Wire(path).hello(), "no-such") == ERR_UNKNOWN

    as_stranger(asks, GUEST)
    assert opened(Tcp(served.port).hello(), "vm-1") == ERR_UNKNOWN
    assert opened(Tcp(served.port).hello(), "public") == REP_ACK
    c = served.client.segment.c
    wait_until(lambda: all(c.volumes[i].state == lib.XVOL_FREE for i in range(c.volume_count)),
               "what was opened to look at its name is closed")


def test_an_export_is_compared_only_with_what_the_client_may_have(served):
    path = f"{served.home}/run/nbd.sock"
    ids = {name: f"/id/{served.client.control('info', name=name)['id']}" for name in NAMES}

    def sees():
        wire = Wire(path).hello()
        assert wire.option(OPT_STRUCTURED)[-1].type == REP_ACK
        return {name for name in NAMES for asked in (name, ids[name]) for answer in wire.option(
            OPT_LIST_META, meta_data("open", f"archipelago:diff:{asked}")) if answer.type == REP_META}

    assert as_stranger(sees, GUEST) == FOR_GUEST
    assert as_stranger(sees) == {"open"}


def test_the_present_name_counts_when_a_volume_is_opened_anew(served):
    path = f"{served.home}/run/nbd.sock"
    made = served.client.control("create", name="vm-9", size=1 << 20)
    served.client.control("rename", name="vm-9", to="mine")

    def asks():
        return [opened(Wire(path).hello(), name) for name in ("vm-9", "mine", f"/id/{made['id']}")]

    assert as_stranger(asks, GUEST) == [ERR_UNKNOWN] * 3
    served.client.control("remove", name="mine")


# --- who is there

def test_clients_are_shown_with_who_they_are(served):
    path, here, there = f"{served.home}/run/nbd.sock", *socket.socketpair()

    def connects():
        wire = Wire(path).go("vm-1")
        socket.send_fds(there, [b"."], [wire.socket.fileno()])
        return os.getpid()

    pid = as_stranger(connects, GUEST)
    held = socket.recv_fds(here, 1, 1)[1][0]
    tcp = Tcp(served.port).go("public")

    def shown():
        return json.loads(served.run("xseg", "clients", "--json").stdout)["clients"]

    found = {client["name"]: client for client in shown()}
    assert found["vm-1"]["pid"] == pid and found["vm-1"]["uid"] == found["vm-1"]["gid"] == GUEST
    assert found["vm-1"]["volume"] == served.client.control("info", name="vm-1")["id"]
    assert found["public"]["pid"] is None and found["public"]["uid"] is None
    assert "vm-1" in served.run("xseg", "clients").stdout
    os.close(held)
    tcp.close()
    wait_until(lambda: shown() == [], "nobody is there any more")
