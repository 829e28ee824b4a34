# SPDX-License-Identifier: Apache-2.0
"""A throttle comes into a running pipeline, is killed, and leaves it: no request fails, and limits are kept."""
import os
import signal

from load import BLOCK, SIZE, finish_fio, fio
from support import wait_until

from xseg.client import Client

pytest_plugins = ["kill_fixtures"]


def insert(instance):
    instance.archipelago("route", "--insert", "throttle", "--before", "vlmc", "--type", "throttle")


def test_a_throttle_comes_and_goes_under_load_and_is_killed(supervised):
    instance = supervised('layout = "colocated"')
    instance.client.control("create", name="v", size=SIZE, block_size=BLOCK)
    instance.vlmc("limit", "v", "iops=1000", "bps=200M", "burst_ms=50")
    with instance.client.open("v") as volume:
        load = fio(instance.nbd_uri("v"), 12, 1)
        try:
            insert(instance)
            wait_until(lambda: volume.shared.throttled, "some have waited")
            for limit in ("iops=300", "iops=3000"):
                instance.vlmc("limit", "v", limit)
                os.kill(instance.pid("throttle"), signal.SIGKILL)
                instance.vlmc("snapshot", "v", "s-" + limit.partition("=")[2])
            used = instance.vlmc_json("info", "v")["open"]
            assert used["throttled"] > 0 and used["throttled_ns"] > 0
            instance.vlmc("limit", "v", "none")
            instance.archipelago("route", "--remove", "throttle")
            finish_fio(load)
        finally:
            load.kill()
    assert "throttle" not in instance.status()


def test_limits_are_kept_with_the_volume(supervised):
    instance = supervised('layout = "colocated"')
    instance.client.control("create", name="v", size=SIZE, block_size=BLOCK)
    instance.vlmc("limit", "v", "write_bps=20M", "iops=500")
    assert instance.vlmc("limit", "v").stdout == "iops=500 write_bps=20971520\n"
    instance.vlmc("rename", "v", "w")
    instance.archipelago("stop")
    instance.archipelago("start")
    assert instance.vlmc_json("limit", "w") == {"iops": 500, "write_bps": 20 << 20}
    with Client(instance.home) as client, client.open("w") as volume:
        assert list(volume.shared.quota) == [500, 0, 0, 0, 0, 20 << 20] and volume.shared.burst_ms == 1000
        os.kill(instance.status()["mapper"]["pid"], signal.SIGKILL)
        instance.vlmc("limit", "w", "read_iops=7", "burst_ms=0")
        assert list(volume.shared.quota) == [0, 7, 0, 0, 0, 0] and volume.shared.burst_ms == 0
        instance.vlmc("limit", "w", "none")
        assert list(volume.shared.quota) == [0] * 6
    assert instance.vlmc("limit", "w").stdout == "none\n"
    for words in (["iops=0"], ["speed=1"], ["none", "iops=1"], ["burst_ms=1"]):
        done = instance.vlmc("limit", "w", *words, check=False)
        assert done.returncode == 1 and done.stderr.count("\n") == 1
