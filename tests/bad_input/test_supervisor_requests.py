# SPDX-License-Identifier: Apache-2.0
"""What is no request at the supervisor's socket is answered with an error that says why, starts nothing, stops
nothing, and puts no traceback into the log."""
import json
import os
import shutil
import socket
import subprocess
import tempfile

import pytest
from support import Instance

from tools.instance.process import start_time
from tools.supervisor import operators

LAYOUT = 'layout = [["vlmc", "nbd"], ["blockerb"], ["mapper", "blockerm"]]\n'


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """An instance with a supervisor, of which one process is stopped."""
    home = tempfile.mkdtemp(prefix="ar-", dir="/tmp")
    made = Instance(home, LAYOUT, supervised=True)
    made.start()
    made.archipelago("stop", "--force", "nbd")
    yield made
    made.stop()
    shutil.rmtree(home)


def ask(node, line):
    """The supervisor's answer to a line."""
    with socket.socket(socket.AF_UNIX) as made:
        made.settimeout(60)
        made.connect(f"{node.home}/run/supervisor.sock")
        made.sendall(line)
        with made.makefile("rb") as stream:
            return json.loads(stream.readline())


def pids(node):
    return {role: peer["pid"] for role, peer in node.status().items()}


@pytest.mark.parametrize("line, words", [
    (b"\n", "no JSON"), (b"start\n", "no JSON"), (b"[]\n", "no JSON object"), (b"7\n", "no JSON object"),
    (b"{}\n", "no verb"), (b'{"verb": "fly", "processes": ["vlmc+nbd"]}\n', "no verb 'fly'"),
    (b'{"verb": null}\n', "no verb"), (b'{"verb": ["start"]}\n', "no verb"), (b'{"verb": {"start": 1}}\n', "no verb"),
    (b'{"verb": "start", "processes": "vlmc+nbd"}\n', "list"), (b'{"verb": "start", "processes": [7]}\n', "list"),
    (b'{"verb": "start", "processes": {"vlmc+nbd": 1}}\n', "list"),
    (b'{"verb": "start", "processes": ["vlmcd"]}\n', "no process vlmcd"),
    (b'{"verb": "stop", "processes": ["../../tmp/x"]}\n', "no name of a process"),
    (b'{"verb": "stop", "processes": ["x\\u0000y"]}\n', "no name of a process"),
    (b"\xff\xfe\n", "no JSON"), (b"[" * 60000 + b"\n", "no JSON"), (b"x" * 70000 + b"\n", "65536 bytes"),
    (b'{"verb": ' + b"9" * 5000 + b"}\n", "no JSON")], ids=lambda value: None if isinstance(value, bytes) else value)
def test_what_is_no_request_is_answered_and_does_nothing(node, line, words):
    before = pids(node)
    answer = ask(node, line)
    assert answer["errno"] > 0 and words in answer["error"], answer
    assert pids(node) == before
    with open(f"{node.home}/log/supervisor.log", encoding="utf-8") as log:
        assert "Traceback" not in log.read()


def test_a_line_that_does_not_end_is_answered_in_time(node):
    with socket.socket(socket.AF_UNIX) as made:
        made.settimeout(operators.LINE_S + 50)
        made.connect(f"{node.home}/run/supervisor.sock")
        made.sendall(b'{"verb": "st')
        with made.makefile("rb") as stream:
            assert "no whole line" in json.loads(stream.readline())["error"]


def test_many_silent_connections_keep_nobody_out_for_long(node):
    silent = [socket.socket(socket.AF_UNIX) for _ in range(operators.OPERATORS_MAX)]
    try:
        for made in silent:
            made.connect(f"{node.home}/run/supervisor.sock")
        assert "operators are connected" in ask(node, b'{"verb": "start", "processes": []}\n')["error"]
    finally:
        for made in silent:
            made.close()


def test_a_pid_file_elsewhere_is_nobodys_to_stop(node):
    child = subprocess.Popen(["sleep", "1000"])
    try:
        with open(f"{node.home}/victim.pid", "w", encoding="ascii") as file:
            file.write(f"{child.pid} {start_time(child.pid)}\n")
        answer = ask(node, b'{"verb": "stop", "processes": ["../victim"]}\n')
        assert answer["errno"] and child.poll() is None
    finally:
        child.kill()
        child.wait()
        os.unlink(f"{node.home}/victim.pid")
