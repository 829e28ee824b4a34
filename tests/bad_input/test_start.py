# SPDX-License-Identifier: Apache-2.0
"""What cannot be started or asked for says what it is and what to do, has exit status 1 or 2, and leaves nothing
behind."""
import os
import socket

import pytest
from support import Instance, processes_of, run, segments_of


def refused(home, config="", *command):
    """What a command says that must fail."""
    instance = Instance(home, config)
    done = instance.run(*(command or ("archipelago", "start")), check=False)
    assert done.returncode in (1, 2), done
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(autouse=True)
def nothing_is_left(home):
    yield
    assert processes_of(home) == []
    assert not segments_of(home)


@pytest.mark.parametrize("config, words", [
    ('[peers.vlmc]\ntype = "vlmcd"', ["peers.vlmc", "'vlmcd'", "blocker-file"]),
    ('[peers.extra]\nms = 5', ["peers.extra", "type"]),
    ('[peers.slow]\ntype = "delay"\nmsec = 5', ["peers.slow", "msec", "ms"]),
    ('[peers.mapper]\njournal_limit = "lots"', ["peers.mapper", "journal_limit", "lots"]),
    ('[segment]\nframes = -1', ["segment", "frames"]),
    ('layout = "together"', ["layout", "together", "colocated"]),
    ('layout = [[["nbd"]]]', ["layout", "['nbd']"]),
    ('[routes]\n"vlmc>blockerb" = 5', ["routes", "vlmc>blockerb", "5"]),
    ('[peers.mapper]\ncache = "1.5e400G"', ["peers.mapper", "cache", "1.5e400G"]),
    ("layout = ", ["archipelago.toml", "Invalid value"]),
])
def test_a_faulty_configuration_is_refused_by_name(home, config, words):
    said = refused(home, config)
    assert all(word in said for word in words), said


def test_a_port_in_use_is_named(home):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        said = refused(home, f'[peers.nbd]\nlisten = "{address}"')
    assert address in said and "in use" in said


def test_a_store_that_cannot_be_used_is_named(home):
    path = os.path.join(home, "file")
    with open(path, "w", encoding="utf-8") as file:
        file.write("no folder")
    said = refused(home, f'[peers.blockerb]\npath = "{path}"')
    assert path in said and "blockerb" in said


def test_commands_of_an_instance_that_does_not_run_say_so(home):
    for command in (("vlmc", "list"), ("vlmc", "info", "x"), ("xseg", "report"), ("archipelago", "restart", "vlmc")):
        said = refused(home, "", *command)
        assert "not running" in said and home in said, said


@pytest.mark.parametrize("command", [
    ("vlmc",), ("vlmc", "fly"), ("vlmc", "create"), ("vlmc", "create", "a", "--size"), ("vlmc", "list", "--colour"),
    ("archipelago", "fly"), ("xseg", "fly")])
def test_wrong_usage_has_exit_status_2(command):
    done = run(*command, check=False)
    assert done.returncode == 2 and "usage:" in done.stderr
