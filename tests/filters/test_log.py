# SPDX-License-Identifier: Apache-2.0
"""The filter that counts requests by size."""
import errno
import json
import time

import pytest
from filtered import DATA, HEADER, behind

from xseg._native import lib

WAIT_S = 60.0


def counted(f):
    """{(operation, largest size of the class): count}, as the filter tells it."""
    lines = f.call(lib.XOP_INFO, room=65536).data.decode().splitlines()
    return {(op, int(most)): int(count) for op, most, count in (line.split() for line in lines)}


def lines_of(capfd, end):
    """What the log has until a line ends so."""
    text, until = "", time.monotonic() + WAIT_S
    while not text.rstrip("\n").endswith(end):
        assert time.monotonic() < until, f"no line ends with {end!r}:\n{text}"
        time.sleep(0.01)
        text += capfd.readouterr().err
    return text.splitlines()


def test_log_counts_each_operation_by_size():
    with behind("log") as f:
        for size in (1, 512, 513, 4096, 4096):
            f.write(DATA, b"x" * size)
        f.read(DATA, 0, 4096)
        f.sync()
        assert counted(f) == {("write", 512): 2, ("write", 1024): 1, ("write", 4096): 2, ("read", 4096): 1,
                              ("sync", 0): 1}


@pytest.mark.parametrize(("size", "most"), [(32 << 20, 32 << 20), ((32 << 20) + 1, -1), (1 << 40, -1)])
def test_the_last_class_of_log_has_no_end(size, most):
    with behind("log") as f:
        f.call(lib.XOP_DISCARD, DATA, size=size, check=False)
        assert counted(f) == {("discard", most): 1}


def test_log_counts_what_was_chosen_and_passes_all():
    with behind("log", ops="write", kind="header") as f:
        f.write(DATA, b"data")
        f.write(HEADER, b"header")
        assert f.read(DATA, 0, 4) == b"data"
        assert counted(f) == {("write", 512): 1}


def test_what_log_has_counted_needs_room():
    operations = [op for op in range(1, lib.XOP_COUNT) if op != lib.XOP_CONTROL]
    with behind("log", every_s=0) as f:
        for op in operations:
            for bits in range(9, 26):
                f.call(op, DATA, size=1 << bits, check=False)
        f.fails(errno.EMSGSIZE, lib.XOP_INFO, room=4096)
        assert set(counted(f).values()) == {1} and len(counted(f)) == 17 * len(operations)


def test_log_tells_all_when_it_ends(capfd):
    with behind("log", every_s=0) as f:
        f.write(DATA, b"x" * 4096)
        f.write(DATA, b"x" * 4096)
        f.write(DATA, b"x" * 65536)
        f.read(DATA, 0, 1)
        assert "write" not in capfd.readouterr().err
    text = capfd.readouterr().err
    assert "f INFO write: 2 of 4K, 1 of 64K\n" in text
    assert "f INFO read: 1 of 512\n" in text


def test_log_tells_while_requests_come_and_rests_with_them(capfd):
    with behind("log", every_s=1) as f:
        f.write(DATA, b"x" * 4096)
        assert len(lines_of(capfd, "write: 1 of 4K")) == 1
        f.write(DATA, b"x" * 4096)
        assert len(lines_of(capfd, "write: 2 of 4K")) == 1
    assert capfd.readouterr().err == ""


def test_xseg_sizes_shows_what_came_by(host):
    instance = host([("front", "log", {"target": "m"}), ("m", "memory", {})])
    instance.call("front", lib.XOP_WRITE, object=DATA, data=b"x" * 8192)
    instance.call("front", lib.XOP_DISCARD, object=DATA, size=1 << 30)
    rows = json.loads(instance.run("xseg", "sizes", "--json").stdout)["sizes"]
    assert {"role": "front", "op": "write", "most": 8192, "count": 1} in rows
    assert {"role": "front", "op": "discard", "most": None, "count": 1} in rows
    assert "8.0K" in instance.run("xseg", "sizes").stdout


def test_xseg_sizes_of_a_pipeline_without_log_is_empty(host):
    assert json.loads(host([("m", "memory", {})]).run("xseg", "sizes", "--json").stdout) == {"sizes": []}
