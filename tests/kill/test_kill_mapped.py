# SPDX-License-Identifier: Apache-2.0
"""kill -9 of everything, the endpoint too, under a volume that is mapped to a block device."""
import os
import subprocess
import time

import pytest
from load import BLOCK, SIZE, Killer
from support import wait_until

from tools.mapping import mapping

pytest_plugins = ["kill_fixtures"]
pytestmark = pytest.mark.skipif(bool(mapping.why_not()), reason=mapping.why_not())

SEED = int(os.environ.get("ARCHIPELAGO_KILL_SEED", "1"))
SECONDS = 6.0


@pytest.fixture
def mapped(supervised):
    """(an instance, the device of a volume in it)."""
    instance = supervised('layout = "separate"')
    instance.client.control("create", name="v", size=SIZE, block_size=BLOCK)
    device = instance.vlmc("map", "v").stdout.strip()
    yield instance, device
    instance.vlmc("unmap", "v", "--force")


def test_a_mapped_device_sees_a_pause_and_no_error(mapped):
    instance, device = mapped
    if instance.vlmc_json("showmapped")[0]["method"] != "nbdfuse":
        pytest.skip("the kernel's NBD client does not connect again")
    print(f"seed {SEED}")
    load = subprocess.Popen(
        ["fio", "--name=mapped", f"--filename={device}", "--direct=1", "--ioengine=libaio", "--rw=randwrite", "--bs=4k",
         "--iodepth=32", "--time_based", f"--runtime={SECONDS:g}", f"--randseed={SEED}", "--fsync=100",
         "--verify=crc32c", "--verify_fatal=1", "--verify_backlog=512", "--verify_state_save=0"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd="/tmp")
    killer, end = Killer(instance, SEED), time.monotonic() + SECONDS
    try:
        killer.run(["nbd", "vlmc", "mapper", "blockerb", "blockerm"],
                   lambda: load.poll() is None and time.monotonic() < end)
        said, _ = load.communicate(timeout=100)
    finally:
        load.kill()
    assert load.returncode == 0, said
    assert killer.report()
    wait_until(lambda: instance.vlmc_json("showmapped")[0]["state"] == "mapped", "it is mapped still")
    instance.vlmc("unmap", "v")
    assert instance.client.control("check", name="v")["problems"] == []
    instance.vlmc("map", "v")
