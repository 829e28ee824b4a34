# SPDX-License-Identifier: Apache-2.0
"""`vlmc attach`, `detach` and `attached`."""
import json
import os
import xml.etree.ElementTree as ET

import pytest
import vhost_front as vf
from support import Instance, wait_until
from vhost_front import FrontEnd


def rows(served):
    return {row["name"]: row for row in served.vlmc_json("attached")}


def test_what_is_attached_is_listed_under_its_present_name(served):
    served.vlmc("create", "a1", "--size", "64M")
    path = served.vlmc("attach", "a1").stdout.strip()
    assert served.vlmc("attach", "a1").stdout.strip() == path
    served.vlmc("rename", "a1", "a2")
    row = rows(served)["a2"]
    assert (row["socket"], row["state"], row["front_ends"]) == (path, "ready", [])
    with FrontEnd(path).begin() as guest:
        guest.do(vf.IN, 0, length=512)
        row = rows(served)["a2"]
        assert row["state"] == "running"
        assert row["front_ends"][0]["pid"] == os.getpid()
        refused = served.vlmc("detach", "a2", check=False)
        assert refused.returncode != 0
        assert "a front-end is connected" in refused.stderr
    wait_until(lambda: rows(served)["a2"]["state"] == "ready", "it has gone")
    assert "a2" not in served.vlmc("detach", "a2").stderr
    assert not os.path.exists(path)
    assert "a2" not in rows(served)


@pytest.mark.parametrize(("words", "says"), [
    (("nothing",), "nothing"),
    (("--queues", "99"), "from 1 to 4"),
    (("--socket", "/tmp/" + "x" * 120), "107"),
    (("--socket", "/etc/passwd"), "is no socket"),
    (("--role", "vlmc"), "no role of the type vhost"),
])
def test_what_cannot_be_attached_is_refused_and_nothing_stays(served, words, says):
    served.vlmc("create", "bad", "--size", "64M", check=False)
    before = set(os.listdir(f"{served.home}/attached")) if os.path.isdir(f"{served.home}/attached") else set()
    refused = served.vlmc("attach", *(words if words == ("nothing",) else ("bad", *words)), check=False)
    assert refused.returncode != 0
    assert says in refused.stderr
    assert "Traceback" not in refused.stderr
    assert set(os.listdir(f"{served.home}/attached")) - {"lock"} == before - {"lock"} if before else True


def test_another_way_to_attach_it_is_refused(served):
    served.vlmc("create", "once", "--size", "64M")
    path = served.vlmc("attach", "once").stdout.strip()
    assert "in another way" in served.vlmc("attach", "once", "--read-only", check=False).stderr
    served.vlmc("create", "twice", "--size", "64M")
    assert "is that of once" in served.vlmc("attach", "twice", "--socket", path, check=False).stderr
    served.vlmc("detach", "once")


def test_an_odd_name_has_a_socket_all_the_same(served):
    name = "odd name " + "é" * 60
    served.vlmc("create", name, "--size", "64M")
    path = served.vlmc("attach", name).stdout.strip()
    with FrontEnd(path) as guest:
        assert guest.config()["capacity"] == 131072
    served.vlmc("detach", name, "--force")


def test_sockets_are_there_again_after_a_start_and_a_removed_volume_has_none_to_serve(home):
    instance = Instance(home, '[peers.vhost]\ntype = "vhost"\n')
    instance.start()
    instance.vlmc("create", "v", "--size", "64M")
    path = instance.vlmc("attach", "v").stdout.strip()
    instance.stop()
    instance.start()
    with FrontEnd(path).begin() as guest:
        assert guest.do(vf.OUT, 0, b"q" * 512).status == vf.OK
    instance.stop()
    assert rows(instance)["v"]["state"] == "stopped"
    instance.vlmc("detach", "v")
    assert not rows(instance)
    instance.start()
    instance.vlmc("attach", "v")
    instance.vlmc("remove", "v")
    with FrontEnd(path) as guest:
        assert not guest.still_served()
    instance.vlmc("detach", "v")
    instance.finish()


def test_without_a_vhost_peer_it_says_what_to_do(home):
    instance = Instance(home, "")
    refused = instance.vlmc("attach", "v", check=False)
    assert refused.returncode != 0
    assert "[peers.vhost]" in refused.stderr


def test_many_clones_are_attached_at_once(served):
    served.vlmc("create", "golden", "--size", "64M")
    paths = served.vlmc("clone", "golden", "vm-{}", "--count", "12", "--attach", "--queues", "2").stdout.split()[-12:]
    assert paths == [f"{served.home}/run/vhost/vm-{n}.sock" for n in range(1, 13)]
    with FrontEnd(paths[11]) as guest:
        assert guest.config()["num_queues"] == 2
    assert {f"vm-{n}" for n in range(1, 13)} <= set(rows(served))


def test_what_machines_are_started_with_is_printed(served):
    served.vlmc("create", "printed", "--size", "64M")
    volume = served.vlmc_json("info", "printed")["id"]
    words = served.vlmc_json("qemu", "printed")
    node = json.loads(words[words.index("-blockdev") + 1])
    assert (node["export"], node["reconnect-delay"]) == (f"/id/{volume}", 300)
    assert f"serial=arc-{volume}" in words[-1]
    disk = ET.fromstring(served.vlmc("xml", "printed").stdout)
    assert disk.find("source").get("name") == f"/id/{volume}"
    assert "not attached" in served.vlmc("uml", "printed", check=False).stderr
    path = served.vlmc("attach", "printed").stdout.strip()
    assert f"path={path}," in " ".join(served.vlmc("qemu", "printed", "--memory", "512M").stdout.split("\n"))
    disk = ET.fromstring(served.vlmc("xml", "printed").stdout)
    assert (disk.get("type"), disk.find("source").get("path")) == ("vhostuser", path)
    assert served.vlmc("uml", "printed").stdout == f"virtio_uml.device={path}:2\n"
    served.vlmc("detach", "printed")
