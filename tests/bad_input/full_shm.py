# SPDX-License-Identifier: Apache-2.0
"""An instance serves while somebody fills shared memory, to be run in a mount namespace of its own:

unshare --mount python full_shm.py HOME
"""
import contextlib
import os
import subprocess
import sys

sys.path.append(os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))

from support import Instance, wait_until  # noqa: E402

SHM_MIB = 60
CONFIG = """
layout = "colocated"
[segment]
static_slots = 256
dynamic_slots = 128
clients = 96
volumes = 1024
buffers = [512, 64, 24]
frames = 64
stacks = [256, 256, 64]
contents = 4096
"""
MIB = 1 << 20
BLOCKS = 64                     # of 64 KiB, each with a map entry of its own


def fill():
    """Takes the last byte of shared memory."""
    with open("/dev/shm/balloon", "ab", buffering=0) as balloon, contextlib.suppress(OSError):
        while True:
            balloon.write(bytes(4096))
    room = os.statvfs("/dev/shm")
    assert room.f_bfree == 0, room


def work(instance, seed):
    """Writes and reads large and small pieces all over a volume."""
    with instance.client.open("v") as volume:
        for i in range(8):
            volume.write(i * MIB, bytes([seed + i]) * MIB)
        for i in range(BLOCKS):
            volume.write((16 + i) * MIB, bytes([seed]) * 5000)
        volume.flush()
        for i in range(8):
            assert volume.read(i * MIB, MIB) == bytes([seed + i]) * MIB
        for i in range(BLOCKS):
            assert volume.read((16 + i) * MIB, 5000) == bytes([seed]) * 5000


def main(home):
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SHM_MIB}m", "archipelago-test", "/dev/shm"], check=True)
    instance = Instance(home, CONFIG, supervised=True)
    instance.start()
    try:
        instance.client.control("create", name="v", size=128 * MIB, block_size=65536)
        fill()
        work(instance, 1)
        for role in ("vlmc", "mapper"):
            before = instance.pid(role)
            os.kill(before, 9)
            wait_until(lambda role=role, before=before: instance.status()[role]["pid"] not in (None, before)
                       and instance.status()[role]["state"] == "running", f"{role} is back")
            work(instance, 100)
        assert all(peer["state"] == "running" and peer["restarts"] <= 1 for peer in instance.status().values())
    finally:
        print(instance.logs())
        instance.finish()
    fill()
    said = instance.archipelago("start", check=False).stderr
    assert "MiB, but /dev/shm has 0 MiB free" in said and "[segment] in archipelago.toml" in said, said
    os.unlink("/dev/shm/balloon")
    instance.start()
    instance.finish()


if __name__ == "__main__":
    main(sys.argv[1])
