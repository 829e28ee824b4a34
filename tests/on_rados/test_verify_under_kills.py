# SPDX-License-Identifier: Apache-2.0
"""An NBD client that checks all it reads sees nothing of an OSD that is killed and revived, but a pause."""
import json
import subprocess
import time

RUN_S, GRACE_S = 10, 90             # of fio; beyond it, to read back what is left
SIZE = 32 << 20
KILLS, DOWN_S = 2, 1


def start_fio(uri):
    """Random reads and writes, QD16; what was written is read back and checked, by and by and at the end."""
    return subprocess.Popen(
        ["fio", "--name=verify", "--ioengine=nbd", f"--uri={uri}", "--rw=randrw", "--bs=4k", "--iodepth=16",
         f"--size={SIZE}", "--time_based", f"--runtime={RUN_S}", "--fsync=200", "--verify=crc32c", "--verify_fatal=1",
         "--verify_backlog=256", "--verify_state_save=0", "--output-format=json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/tmp")


def kill_and_revive(cluster, fio):
    for _ in range(KILLS):
        time.sleep(DOWN_S)
        assert fio.poll() in (None, 0), fio.communicate()
        cluster.osd_kill(0)
        time.sleep(DOWN_S)
        cluster.osd_start(0)


def test_fio_verifies_all_while_the_osd_is_killed_twice(cluster, node):
    node.vlmc("create", "disk", "--size", str(SIZE))
    fio = start_fio(node.nbd_uri("disk"))
    try:
        kill_and_revive(cluster, fio)
        out, err = fio.communicate(timeout=RUN_S + GRACE_S)
    finally:
        fio.kill()
    assert fio.returncode == 0 and not err.strip(), f"{err}\n{out[-2000:]}"
    job = json.loads(out[out.index("{"):])["jobs"][0]
    assert job["error"] == 0
    assert job["write"]["total_ios"] and job["read"]["total_ios"] > job["write"]["total_ios"]
    assert all(peer["errors"] == 0 for role, peer in node.status().items() if role in ("nbd", "vlmc", "blockerb"))
