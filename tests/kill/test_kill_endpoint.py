# SPDX-License-Identifier: Apache-2.0
"""kill -9 of the endpoint, alone and among all others: clients that connect again go on where they were."""
import os
import subprocess
import threading
import time

import pytest
from load import BLOCK, SIZE, Killer
from reconnecting import Reconnecting

pytest_plugins = ["kill_fixtures"]

SEED = int(os.environ.get("ARCHIPELAGO_KILL_SEED", "1"))
SECONDS = 10.0
LAYOUTS = {
    "colocated": ["nbd+vlmc+blockerb", "mapper+blockerm"],
    "separate": ["nbd", "vlmc", "blockerb", "mapper", "blockerm"],
}


def reconnecting(instance):
    instance.client.control("create", name="v", size=SIZE, block_size=BLOCK)
    return Reconnecting(os.path.join(instance.home, "run", "nbd.sock"), "v", SIZE, SEED)


@pytest.mark.parametrize("pipeline", LAYOUTS)
def test_a_client_that_connects_again_loses_nothing(supervised, pipeline):
    print(f"seed {SEED}")
    instance = supervised(f'layout = "{pipeline}"')
    client = reconnecting(instance)
    killer, end = Killer(instance, SEED), time.monotonic() + SECONDS
    thread = threading.Thread(target=killer.run, args=(LAYOUTS[pipeline], lambda: time.monotonic() < end))
    thread.start()
    client.run(SECONDS)
    thread.join()
    client.check_all()
    assert client.refused == 0
    assert client.connections > 1 and killer.report() and client.done
    assert instance.client.control("check", name="v")["problems"] == []


def test_what_was_flushed_survives_the_death_of_all_at_once(supervised):
    instance = supervised('layout = "separate"')
    client = reconnecting(instance)
    killer = Killer(instance, SEED)
    for _ in range(3):
        client.run(0.5)
        client.handle.flush()
        for process in LAYOUTS["separate"]:
            killer.kill(process)
        client.handle = None
    client.check_all()


def test_nobody_is_refused_while_the_endpoint_is_restarted(supervised):
    instance = supervised('layout = "separate"')
    instance.client.control("create", name="v", size=SIZE)
    for how in ("kill", "restart"):
        if how == "kill":
            Killer(instance, SEED).kill("nbd")
        else:
            instance.archipelago("restart", "nbd")
        assert "export-size" in instance.run("nbdinfo", instance.nbd_uri("v")).stdout


def test_qemu_with_reconnect_delay_goes_on(supervised):
    instance = supervised('layout = "separate"')
    instance.client.control("create", name="v", size=SIZE)
    image = (f"driver=nbd,server.type=unix,server.path={instance.home}/run/nbd.sock,export=v,reconnect-delay=60")
    qemu = subprocess.Popen(["qemu-io", "--image-opts", image], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, cwd="/tmp")
    killer, said = Killer(instance, SEED), ""
    for step in range(4):
        qemu.stdin.write(f"write -P {step + 1} {step * 65536} 65536\nread -P {step + 1} {step * 65536} 65536\n")
        qemu.stdin.flush()
        killer.kill("nbd")
        time.sleep(0.2)
    said, _ = qemu.communicate("quit\n", timeout=60)
    assert said.count("wrote 65536/65536") == 4 and said.count("read 65536/65536") == 4, said
    assert "failed" not in said and "error" not in said
