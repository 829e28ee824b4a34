# SPDX-License-Identifier: Apache-2.0
"""Whoever meets a limit learns which it is, who holds what there is, and what to do; what ends makes room again."""
import contextlib
import errno
import os
import resource
import subprocess

import pytest
from support import BIN, Instance, run

from tools.instance import config
from tools.instance.host import FILES_LEAST
from xseg._native import lib
from xseg.client import Client
from xseg.errors import Invalid, NoSlots, XsegError
from xseg.segment import Segment

pytestmark = pytest.mark.layout("colocated")

VOLUMES, CLIENTS = 16, 32
FEW = f"[segment]\nvolumes = {VOLUMES}\nclients = {CLIENTS}\n" \
      "[peers.blockerb]\nsync = false\n[peers.blockerm]\nsync = false\n"
MIB = 1 << 20


@pytest.fixture
def few(home):
    made = Instance(home, FEW)
    made.start()
    yield made
    made.finish()


def me():
    with open("/proc/self/comm", encoding="utf-8") as file:
        return f"process {os.getpid()} ({file.read().strip()})"


def said(text, *words):
    for word in words:
        assert word in text, text


def make(instance, count):
    """Volumes v-1 ... of 1 MiB; their names."""
    instance.client.control("create", name="v", size=MIB)
    instance.client.control("clone", name="v", pattern="v-{}", count=count)
    return [f"v-{number}" for number in range(1, count + 1)]


def open_until_refused(client, names):
    """Those that could be opened, and what was said of the next."""
    opened = []
    with pytest.raises(XsegError) as caught:
        for name in names:
            opened.append(client.open(name))
    return opened, caught.value


def test_more_volumes_than_may_be_open_are_refused_to_all_who_open_them(few):
    names = make(few, VOLUMES + 1)
    opened, failure = open_until_refused(few.client, names)
    assert len(opened) == VOLUMES and failure.errno == errno.ENFILE
    limit = f"{VOLUMES} volumes are open"
    said(str(failure), limit, f"{VOLUMES} by {me()}", "`volumes`", str(lib.XSEG_VOLUMES), "archipelago.toml")
    by_hand = few.vlmc("open", names[-1], check=False)
    assert by_hand.returncode == 1
    said(by_hand.stderr, limit, me(), "`volumes`")
    over_nbd = run("qemu-img", "info", few.nbd_uri(names[-1]), check=False)
    assert over_nbd.returncode != 0
    said(over_nbd.stderr, "as many volumes are open", "`volumes`")
    opened.pop().close()
    few.client.open(names[-1]).close()


def test_what_is_kept_open_by_hand_is_named_as_such(few):
    names = make(few, VOLUMES + 1)
    few.vlmc("open", names[0])
    _opened, failure = open_until_refused(few.client, names[1:])
    said(str(failure), "1 by hand (`vlmc open`", f"{VOLUMES - 1} by {me()}")


def test_a_command_that_finds_no_place_for_a_client_says_who_has_them(few):
    with contextlib.ExitStack() as clients:
        with pytest.raises(NoSlots):
            for _ in range(CLIENTS + 1):
                clients.enter_context(Client(few.home))
        for words in (("vlmc", "list"), ("vlmc", "create", "x", "--size", "1M")):
            done = few.run(*words, check=False)
            assert done.returncode == 1
            said(done.stderr, f"all {CLIENTS} ports for clients", me(), "`clients`", "archipelago.toml")
    assert few.vlmc("list").returncode == 0


def test_as_many_clients_as_the_configuration_says_are_served(home):
    count = 2 * CLIENTS
    instance = Instance(home, FEW.replace(f"clients = {CLIENTS}", f"clients = {count}"))
    instance.start()
    with contextlib.ExitStack() as clients, Segment.of_home(home) as segment:
        taken = sum(segment.c.ports[n].tag != 0 for n in range(lib.XSEG_STATIC_PORTS, segment.c.port_count))
        for one in [clients.enter_context(Client(home)) for _ in range(count - taken)]:
            one.control("list")
    instance.finish()


@pytest.mark.parametrize("key, most", config.PARAMETER_MAXIMA.items())
def test_a_number_beyond_what_is_possible_is_refused_with_the_figure(home, key, most):
    Instance(home, f"[segment]\n{key} = {most + 1}\n")
    with pytest.raises(Invalid, match=f"{key}.*{most} at most"):
        config.read(home)


def test_volumes_beyond_the_limit_on_files_are_refused_and_all_else_goes_on(home):
    """Each volume that is open for writing costs its blocker a file."""
    instance = Instance(home, FEW.replace(f"volumes = {VOLUMES}", "volumes = 1024"))
    subprocess.run([os.path.join(BIN, "archipelago"), "start"], env=os.environ | {"ARCHIPELAGO_HOME": home}, check=True,
                   preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (FILES_LEAST, FILES_LEAST)))
    names = make(instance, FILES_LEAST // 2)
    opened, failure = open_until_refused(instance.client, names)
    assert len(opened) > FILES_LEAST // 3 and failure.errno == errno.EMFILE
    said(str(failure), "blockerm", f"{FILES_LEAST} files open", f"{len(opened)} of them", "LimitNOFILE",
         f"{len(opened)} by {me()}")
    instance.client.control("create", name="another", size=MIB)     # a lock is needed only to open it
    instance.client.control("snapshot", name=names[0], snapshot="s")
    opened[0].write(0, b"still served")
    opened[0].flush()
    opened.pop().close()
    instance.client.open("another").close()
    instance.finish()


@pytest.mark.parametrize("table, count", [('type = "null"', lib.XSEG_STATIC_PORTS),
                                          ('type = "delay"\ntarget = "vlmc"', lib.XSEG_STATIC_PORTS)])
def test_more_roles_than_there_are_ports_for_are_refused_with_the_figure(home, table, count):
    Instance(home, "".join(f"[peers.more{number}]\n{table}\n" for number in range(count)))
    with pytest.raises(Invalid, match=f"{lib.XSEG_STATIC_PORTS} roles .* at most"):
        config.read(home)
