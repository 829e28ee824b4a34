# SPDX-License-Identifier: Apache-2.0
"""A real kernel, user-mode Linux, on disks of the peer `vhost`: what it sees, what it writes, what it lives through."""
import guests
from support import wait_until

FIO = ("fio --name=v --filename=/dev/vda --direct=1 --ioengine=libaio --rw=randwrite --bsrange=4k-64k --iodepth=16 "
       "--size={size}M --verify=crc32c --verify_state_save=0 --randseed={seed} {more} 2>&1 | grep -E 'err=|verify'\n")


def test_a_guest_makes_a_file_system_and_finds_it_again(served, uml):
    served.vlmc("create", "disk", "--size", "256M")
    path = served.vlmc("attach", "disk").stdout.strip()
    assert served.vlmc("uml", "disk").stdout == f"virtio_uml.device={path}:2\n"
    job = ("echo SERIAL $(cat /sys/block/vda/serial) CACHE $(cat /sys/block/vda/queue/write_cache)\n"
           "mkfs.ext4 -q /dev/vda; mkdir -p /run/d; mount -o discard /dev/vda /run/d\n"
           "head -c 20M /dev/urandom > /run/d/file; sha256sum < /run/d/file | sed 's/^/SUM /'\n"
           "umount /run/d; e2fsck -fn /dev/vda > /dev/null 2>&1; echo FSCK $?\n")
    said = uml.boot([path], job).finish()
    volume = served.vlmc_json("info", "disk")["id"]
    assert f"SERIAL arc-{volume} CACHE write back" in said
    assert "FSCK 0" in said
    look = "mount -o ro /dev/vda /mnt; sha256sum < /mnt/file | sed 's/^/SUM /'\numount /mnt\n"
    again = uml.boot([path], look).finish()
    assert sums(said) == sums(again)


def sums(said):
    found = [line for line in said.splitlines() if line.startswith("SUM ")]
    assert len(found) == 1
    return found


def test_kill_9_under_load_is_a_pause_that_nobody_notices(served, uml):
    served.vlmc("create", "disk", "--size", "128M")
    path = served.vlmc("attach", "disk").stdout.strip()
    job = "cd /run\n" + FIO.format(size=96, seed=7, more="--rate_iops=1500") + "echo FIO-DONE\n"
    guest = uml.boot([path], job, "256M")
    guest.wait_for("GUEST-READY")
    kills = guests.kill_again_and_again(served, guest, "FIO-DONE", 0.2, 20)
    said = guest.finish()
    assert guests.fio_numbers(said) == [0], said[-3000:]
    assert kills >= 1


def test_a_running_guest_sees_a_resize_and_its_discards_shrink_the_volume(served, uml):
    served.vlmc("create", "disk", "--size", "64M")
    path = served.vlmc("attach", "disk").stdout.strip()
    job = ("dd if=/dev/urandom of=/dev/vda bs=1M count=32 oflag=direct 2>/dev/null; echo WRITTEN\n"
           "for i in $(seq 600); do [ $(cat /sys/block/vda/size) = 262144 ] && break; sleep 0.1; done\n"
           "echo SIZE $(cat /sys/block/vda/size); blkdiscard /dev/vda; echo DISCARDED\n")
    guest = uml.boot([path], job)
    guest.wait_for("WRITTEN")
    assert served.vlmc_json("attached")[0]["state"] == "running"
    served.vlmc("resize", "disk", "128M")
    said = guest.finish()
    assert "SIZE 262144" in said
    assert "DISCARDED" in said
    wait_until(lambda: served.vlmc_json("attached")[0]["state"] == "ready", "the front-end has gone")
