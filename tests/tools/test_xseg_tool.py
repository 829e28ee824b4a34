# SPDX-License-Identifier: Apache-2.0
"""The command xseg: what it shows, and that it disturbs nobody."""
import json
import os
import subprocess
import time

import pytest
from support import Instance

from xseg import look
from xseg._native import lib

PEERS = [("front", "delay", {"target": "back"}), ("back", "memory", {})]


@pytest.fixture
def running(host):
    return host(PEERS)


def shown(instance, *words):
    return json.loads(instance.run("xseg", *words, "--json").stdout)


def test_report_shows_parts_memory_and_routes(running):
    report = shown(running, "report")
    parts = {part["part"]: part for part in report["parts"]}
    assert report["version"] == lib.XSEG_VERSION
    assert 0 < report["resident"] <= report["size"]
    assert report["routes"] == {"front>back": "back:1"}
    assert parts["ports"] == {"part": "ports", "count": running.client.segment.c.port_count, "used": 2}
    assert parts["buffers of 4 KiB"]["used"] == 0
    assert "front>back" in running.run("xseg", "report").stdout


def test_report_counts_buffers_in_use(running):
    request = running.client.port.get(1 << 20)
    parts = {part["part"]: part["used"] for part in shown(running, "report")["parts"]}
    assert (parts["buffers of 1024 KiB"], parts["requests"]) == (1, 1)
    running.client.port.put(request)


def test_ports_show_counters_and_latencies(running):
    for _ in range(5):
        running.call("front", lib.XOP_WRITE, object=(lib.XOBJ_DATA, 1, 1, 1), data=b"x" * 100)
    running.call("front", lib.XOP_READ, object=(lib.XOBJ_DATA, 9, 9, 9), size=10, room=10, check=False)
    ports = {port["role"]: port for port in shown(running, "ports")["ports"]}
    assert (ports["back"]["served"], ports["back"]["errors"], ports["back"]["bytes_written"]) == (6, 1, 500)
    assert sum(ports["front"]["latency_us"]["write"]) == 5
    assert ports["front"]["p99_us"] >= ports["front"]["p50_us"] > 0
    assert ports["client"]["sent"] == 6
    assert "no buffer" in running.run("xseg", "ports", "--all").stdout


def test_requests_show_what_a_stopped_peer_leaves_waiting(running):
    running.client.segment.declare("deaf", "test", "test")
    port = running.client.port
    request = port.get()
    request.c.op, request.c.offset, request.c.size = lib.XOP_READ, 4096, 512
    request.c.object.kind, request.c.object.volume, request.c.object.index = lib.XOBJ_DATA, 0xAB, 7
    port.send(running.client.segment.port_of("deaf"), [request])
    (row,) = shown(running, "requests")["requests"]
    assert {key: row[key] for key in ("op", "state", "to", "owner", "target", "offset", "size")} == {
        "op": "read", "state": "queued", "to": "deaf:2", "owner": "deaf:2", "target": "data ab.0/7",
        "offset": 4096, "size": 512}
    assert row["from"].startswith("client:")
    assert "data ab.0/7" in running.run("xseg", "requests").stdout


def test_looking_disturbs_nobody(running):
    segment = running.client.segment
    before = [(port.received, port.incarnation) for _, port in look.ports(segment)]
    bells = [segment.c.bells[i].tag for i in range(segment.c.bell_count)]
    for verb in ("report", "ports", "requests"):
        running.run("xseg", verb)
    assert [(port.received, port.incarnation) for _, port in look.ports(segment)] == before
    assert [segment.c.bells[i].tag for i in range(segment.c.bell_count)] == bells


def test_looking_makes_the_segment_hardly_larger(running):
    path = "/dev/shm" + running.client.segment.name
    shown(running, "report")
    before = os.stat(path).st_blocks
    for verb in ("report", "ports", "requests"):
        running.run("xseg", verb)
    assert (os.stat(path).st_blocks - before) * 512 < 1 << 20


def test_watch_shows_rates(running):
    words = [os.path.join(os.path.dirname(os.sys.executable), "xseg"), "--home", running.home, "watch", "-n3", "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as watch:
        while watch.poll() is None:
            running.call("front", lib.XOP_PING)
            time.sleep(0.01)
        lines = [json.loads(line) for line in watch.stdout]
    assert len(lines) == 3
    rates = [{port["role"]: port["served"] for port in line["ports"]} for line in lines]
    assert max(rate["front"] for rate in rates) > 0


def test_watch_ends_after_its_count(running):
    assert "front" in running.run("xseg", "watch", "-n1").stdout


@pytest.mark.parametrize("verb", ["report", "ports", "requests", "sizes", "watch"])
def test_what_does_not_run_is_said_so(home, verb):
    done = Instance(home).run("xseg", verb, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("xseg: not running")


def test_percentiles_come_from_buckets_of_powers_of_two():
    buckets = [0] * lib.XSEG_LATENCY_BUCKETS
    assert look.percentile(buckets, 0.5) == 0
    buckets[3], buckets[10] = 98, 2
    assert look.percentile(buckets, 0.5) == 16
    assert look.percentile(buckets, 0.99) == 2048
