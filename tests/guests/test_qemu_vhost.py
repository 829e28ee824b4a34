# SPDX-License-Identifier: Apache-2.0
"""QEMU with disks of the peer `vhost`: deaths of their server with and without a supervisor, migration."""
import os
import signal

import guests
import pytest
from support import Instance, wait_until


def disk(path, queues=1, memory=160):
    return ["-M", "q35,memory-backend=mem", "-m", str(memory), "-object",
            f"memory-backend-memfd,id=mem,size={memory}M,share=on", "-chardev", f"socket,id=c,path={path}",
            "-device", f"vhost-user-blk-pci,chardev=c,num-queues={queues}"]


def attached(served, name, *more):
    served.vlmc("create", name, "--size", "64M")
    return served.vlmc("attach", name, *more).stdout.strip()


def test_kill_9_without_reconnect_is_a_pause(served, qemu):
    path = attached(served, "disk", "--queues", "2")
    guest = qemu.boot(disk(path, queues=2), 8)
    guest.wait_for("GUEST-READY")
    kills = guests.kill_again_and_again(served, guest, "GUEST-BYE", 0.3, 25)
    said = guest.finish()
    assert f"arc-{served.vlmc_json('info', 'disk')['id']} queues" in said
    assert kills >= 1


def test_without_a_supervisor_qemu_connects_again(home, qemu):
    instance = Instance(home, guests.CONFIG)
    instance.start()
    attached(instance, "disk")
    words = instance.vlmc_json("qemu", "disk", "--memory", "160M")
    guest = qemu.boot(words, 6)
    guest.wait_for("LOOP 1\n")
    for loop in (2, 4):
        guest.wait_for(f"LOOP {loop}\n")
        instance.kill("vhost")
        instance.restart("vhost")
    guest.finish()
    instance.finish()


@pytest.mark.soak
def test_a_guest_migrates_and_lives_through_a_death_of_its_server_then(served, qemu):
    path = attached(served, "disk")
    source = qemu.boot(disk(path), 16)
    source.wait_for("LOOP 2\n")
    address = f"unix:{qemu.folder}/migrate"
    target = qemu.boot(disk(path), 16, "-incoming", address)
    asked = qemu.ask(source)
    qemu.ask(target)
    asked.ask("migrate", uri=address)
    wait_until(lambda: asked.ask("query-migrate")["status"] in ("completed", "failed"), "it has moved",
               guests.GUEST_S, 0.2)
    assert asked.ask("query-migrate")["status"] == "completed"
    asked.ask("quit")
    wait_until(lambda: source.process.poll() is not None, "the source has ended")
    assert "LOOP 16" not in source.said
    target.wait_for("LOOP")
    os.kill(guests.serving(served), signal.SIGKILL)
    assert "LOOP 16\n" in target.finish()


def test_by_nbd_a_guest_lives_through_a_death_as_well(served, qemu):
    served.vlmc("create", "disk", "--size", "64M")
    guest = qemu.boot(served.vlmc_json("qemu", "disk", "--memory", "160M"), 5)
    guest.wait_for("LOOP 2\n")
    os.kill(guests.serving(served), signal.SIGKILL)
    assert f"arc-{served.vlmc_json('info', 'disk')['id']} queues" in guest.finish()
