# SPDX-License-Identifier: Apache-2.0
"""Bad citizens of the segment: the others go on, and status says who it is."""
import os
import signal
import subprocess
import sys

import pytest
from support import wait_until

pytest_plugins = ["kill_fixtures"]

PROGRAMS = {
    # takes all the requests and buffers it may, and never gives them back
    "hoards": """
        while True:
            try:
                client.port.get(4096)
            except OSError:
                break
    """,
    # dies holding buffers, with writes under way
    "dies": """
        volume = client.open("v")
        for i in range(64):
            request = client.port.get(65536)
            Call(2, volume=volume.handle, offset=i << 20, data=bytes([7]) * 65536).put(client.port.c, request.c)
            client.port.send(client.segment.port_of("vlmc"), [request])
        print("there", flush=True)
        os.kill(os.getpid(), 9)
    """,
    # sends as much as it can for ever
    "floods": """
        requests = []
        try:
            while True:
                requests.append(client.port.get())
        except OSError:
            pass
        print("there", flush=True)
        mapper = client.segment.port_of("mapper")
        while True:
            for request in requests:
                request.c.op = 14
            client.port.send(mapper, requests)
            requests = client.port.receive(10)
    """,
    # takes part in a volume, then stands still
    "freezes": """
        volume = client.open("v")
        requests = [client.port.get(4096) for _ in range(20)]
        print("there", flush=True)
        os.kill(os.getpid(), 19)
    """,
}
START = """
import os, sys, time
from xseg.client import Client
from xseg.request import Call

client = Client(sys.argv[1], "culprit")
"""


@pytest.fixture
def culprit(supervised):
    """culprit(what it does): an instance with the volume v, and a client that misbehaves by now."""
    made = []

    def start(does):
        instance = supervised()
        instance.client.control("create", name="v", size=1 << 30)
        body = "\n".join(line[8:] for line in PROGRAMS[does].split("\n"))
        program = START + body + '\nprint("there", flush=True)\ntime.sleep(300)\n'
        child = subprocess.Popen([sys.executable, "-c", program, instance.home], stdout=subprocess.PIPE, text=True)
        made.append(child)
        assert child.stdout.readline() == "there\n"
        return instance, child

    yield start
    for child in made:
        child.kill()
        child.wait()
        child.stdout.close()


def others_go_on(instance):
    with instance.client.open("v") as volume:
        for i in range(32):
            volume.write(i * 65536, bytes([i + 1]) * 65536)
        volume.flush()
        assert all(volume.read(i * 65536, 1)[0] == i + 1 for i in range(32))
    assert "export-size" in instance.run("nbdinfo", instance.nbd_uri("v")).stdout


def named(instance, child, words):
    """True once status says this of the child."""
    return any(f"culprit:{number} (pid {child.pid})" in line and words in line
               for number in range(128) for line in instance.archipelago("status", check=False).stdout.split("\n"))


def test_one_that_takes_all_requests_and_buffers_it_may(culprit):
    instance, child = culprit("hoards")
    others_go_on(instance)
    assert named(instance, child, "has taken ")


def test_one_that_floods_a_port(culprit):
    instance, child = culprit("floods")
    others_go_on(instance)
    assert named(instance, child, "requests it may")


def test_one_that_is_frozen(culprit):
    instance, child = culprit("freezes")
    wait_until(lambda: named(instance, child, "is frozen by a signal"), "status names it")
    others_go_on(instance)


def test_one_that_dies_with_writes_under_way_and_a_volume_open(culprit):
    instance, child = culprit("dies")
    child.wait()
    others_go_on(instance)
    wait_until(lambda: not (instance.client.control("info", name="v")["open"] or {}).get("by"),
               "the mapper has closed it for the dead")


def test_a_frozen_peer_is_named(supervised):
    instance = supervised('layout = "separate"')
    pid = instance.pid("blockerm")
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: instance.status()["blockerm"]["state"] == "frozen", "status says so")
        assert f"blockerm:4 (pid {pid}) is frozen" in instance.archipelago("status", check=False).stdout
    finally:
        os.kill(pid, signal.SIGCONT)
    others = instance.client
    others.control("create", name="w", size=1 << 20)
