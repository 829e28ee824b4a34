# SPDX-License-Identifier: Apache-2.0
"""vlmc map, unmap, showmapped: volumes as block devices, with real file systems on them."""
import errno
import hashlib
import os
import signal
import struct
import subprocess
import sys

import pytest
from support import libnbd, run, wait_until

from tools.mapping import blockdev, mapping

pytestmark = pytest.mark.skipif(bool(mapping.why_not()), reason=mapping.why_not())
one_layout = pytest.mark.layout("colocated")
SIZE = 128 << 20


@pytest.fixture
def instance(instance):
    """Unmounts and unmaps whatever a test left, before the instance stops."""
    yield instance
    for point in sorted(blockdev.mounts_below(instance.home), reverse=True):
        if point.endswith("/mnt"):
            run("umount", "--lazy", point, check=False)
    for entry in mapping.entries(instance.home):
        instance.vlmc("unmap", "--force", entry.id, check=False)
    assert not blockdev.mounts_below(instance.home)


@pytest.fixture
def volume(instance):
    instance.vlmc("create", "vm", "--size", str(SIZE))
    return "vm"


def vmap(instance, *words):
    """Maps; the device."""
    return instance.vlmc("map", *words).stdout.strip()


def mount(instance, device, *options):
    """Mounts; the mount point."""
    point = os.path.join(instance.home, "mnt")
    os.makedirs(point, exist_ok=True)
    run("mount", *options, device, point)
    return point


def fill(folder):
    """Writes files of many sizes; {name: SHA-256}."""
    digests = {}
    for number in range(60):
        data = os.urandom(number * 1357 if number % 10 else 1 << 20)
        with open(os.path.join(folder, f"file-{number}"), "wb") as file:
            file.write(data)
        digests[f"file-{number}"] = hashlib.sha256(data).hexdigest()
    return digests


def digests_of(folder):
    found = {}
    for name in os.listdir(folder):
        if name.startswith("file-"):
            with open(os.path.join(folder, name), "rb") as file:
                found[name] = hashlib.sha256(file.read()).hexdigest()
    return found


def nothing_left(instance):
    assert os.listdir(os.path.join(instance.home, "run", "mapped")) in ([], ["lock"])
    assert not blockdev.mounts_below(instance.home)


def test_a_file_system_survives_unmapping(instance, volume):
    device = vmap(instance, volume)
    run("mkfs.ext4", "-q", device)
    point = mount(instance, device)
    digests = fill(point)
    run("umount", point)
    run("e2fsck", "-fn", device)
    instance.vlmc("unmap", volume)
    nothing_left(instance)
    device = vmap(instance, volume, "--read-only")
    point = mount(instance, device, "-o", "ro")
    assert digests_of(point) == digests


@one_layout
def test_a_snapshot_of_a_mounted_file_system_can_be_cloned_and_mounted(instance, volume):
    device = vmap(instance, volume)
    run("mkfs.ext4", "-q", device)
    point = mount(instance, device)
    digests = fill(point)
    run("sync", "-f", point)
    instance.vlmc("snapshot", volume, "snap")
    os.unlink(os.path.join(point, "file-1"))
    run("umount", point)
    instance.vlmc("unmap", volume)
    instance.vlmc("clone", "snap", "twin")
    twin = vmap(instance, "twin")
    assert digests_of(mount(instance, twin)) == digests


@one_layout
def test_trimming_gives_space_back(instance, volume):
    device = vmap(instance, volume)
    run("mkfs.ext4", "-q", "-E", "nodiscard", device)
    point = mount(instance, device)
    with open(os.path.join(point, "big"), "wb") as file:
        file.write(os.urandom(64 << 20))
    run("sync", "-f", point)
    full = instance.vlmc_json("du", volume)[0]["exclusive"]
    os.unlink(os.path.join(point, "big"))
    run("sync", "-f", point)
    run("fstrim", point)
    run("umount", point)
    instance.vlmc("unmap", volume)
    assert full >= 64 << 20
    assert instance.vlmc_json("du", volume)[0]["exclusive"] <= full - (48 << 20)


@one_layout
def test_mapping_twice_names_the_device(instance, volume):
    device = vmap(instance, volume)
    again = instance.vlmc("map", volume)
    assert again.stdout == device + "\n" and "already" in again.stderr
    other = instance.vlmc("map", volume, "--read-only", check=False)
    assert other.returncode == 1 and device in other.stderr and "writable" in other.stderr


@one_layout
def test_what_a_mapped_volume_needs_to_grow_is_said(instance, volume):
    device = vmap(instance, volume)
    size = instance.vlmc_json("info", volume)["size"]
    assert f"vlmc unmap {device}" in instance.vlmc("resize", volume, str(2 * size)).stderr
    instance.vlmc("unmap", device)
    grown = vmap(instance, volume)
    assert int(run("blockdev", "--getsize64", grown).stdout) == 2 * size


@one_layout
def test_a_renamed_volume_is_not_mapped_twice(instance, volume):
    device = vmap(instance, volume)
    instance.vlmc("rename", volume, "other")
    again = instance.vlmc("map", "other")
    assert again.stdout == device + "\n" and volume in again.stderr
    assert "no volume" in instance.vlmc("map", volume, check=False).stderr


def mark(device, word):
    """Writes a word to the beginning of a device, past all caches."""
    with open(device, "r+b") as file:
        file.write(word)
        os.fsync(file.fileno())
    run("blockdev", "--flushbufs", device)


def marked(instance, name):
    """The word at the beginning of a volume."""
    with instance.client.open(name) as opened:
        return opened.read(0, 8)


def test_a_device_stays_on_its_volume_when_another_gets_the_name(instance, volume):
    device = vmap(instance, volume)
    mark(device, b"of first")
    instance.vlmc("rename", volume, "first")
    instance.vlmc("create", volume, "--size", str(SIZE))
    with instance.client.open(volume) as other:
        other.write(0, b"of other")
        other.flush()
    if instance.vlmc_json("showmapped")[0]["method"] == "nbdfuse":
        for again in (lambda: instance.archipelago("restart"), lambda: (instance.kill("nbd"), instance.restart("nbd"))):
            again()
            run("blockdev", "--flushbufs", device)
            with open(device, "rb") as file:
                assert file.read(8) == b"of first"
    mark(device, b"of 1st !")
    assert (marked(instance, "first"), marked(instance, volume)) == (b"of 1st !", b"of other")


@one_layout
def test_mappings_are_called_by_the_present_names(instance, volume):
    first = vmap(instance, volume)
    instance.vlmc("rename", volume, "first")
    assert "not mapped" in instance.vlmc("unmap", volume, check=False).stderr
    instance.vlmc("create", volume, "--size", str(SIZE))
    second = vmap(instance, volume)
    assert {(row["name"], row["device"]) for row in instance.vlmc_json("showmapped")} == {
        ("first", first), (volume, second)}
    instance.vlmc("unmap", volume)
    assert [(row["name"], row["device"]) for row in instance.vlmc_json("showmapped")] == [("first", first)]
    instance.vlmc("unmap", "first")
    nothing_left(instance)


@one_layout
def test_unmapping_by_id_and_without_the_mapper(instance, volume):
    instance.vlmc("create", "other", "--size", "1M")
    identity = instance.vlmc_json("info", volume)["id"]
    vmap(instance, volume)
    vmap(instance, "other")
    instance.archipelago("stop", "--force")
    assert {row["name"] for row in instance.vlmc_json("showmapped")} == {volume, "other"}
    instance.vlmc("unmap", "--force", identity)
    instance.vlmc("unmap", "--force", "other")
    nothing_left(instance)
    instance.start()


@one_layout
def test_the_keeper_serves_no_volume_but_the_one_it_was_told(instance, volume, tmp_path):
    """qemu-nbd stands in for another server at the same socket, with an export of the right name."""
    identity = instance.vlmc_json("info", volume)["id"]
    disk, path = str(tmp_path / "disk"), str(tmp_path / "s")
    run("truncate", "-s", "1M", disk)
    for description, served in ((f"volume {identity} in blocks", True), ("volume 0123456789abcdef", False)):
        server = subprocess.Popen(["qemu-nbd", "-k", path, "-x", f"/id/{identity}", "-D", description, "-f", "raw",
                                   disk])
        try:
            wait_until(lambda: os.path.exists(path), "qemu-nbd listens")
            handle = libnbd().NBD()
            command = [sys.executable, "-P", "-m", "tools.mapping.keeper", path, identity]
            if served:
                handle.connect_command(command)
                assert handle.get_size() == 1 << 20
                handle.shutdown()
            else:
                with pytest.raises(libnbd().Error):
                    handle.connect_command(command)
        finally:
            server.terminate()
            server.wait()


@one_layout
def test_showmapped_tells_of_device_method_and_mount_point(instance, volume):
    assert instance.vlmc_json("showmapped") == []
    device = vmap(instance, volume)
    run("mkfs.ext4", "-q", device)
    point = mount(instance, device)
    [shown] = instance.vlmc_json("showmapped")
    assert (shown["name"], shown["device"], shown["state"]) == (volume, device, "mapped")
    assert shown["mounts"] == [point]
    assert shown["method"] in ("nbd", "nbdfuse")
    assert device in instance.vlmc("showmapped").stdout


@one_layout
def test_unmapping_a_mounted_device_is_refused(instance, volume):
    device = vmap(instance, volume)
    run("mkfs.ext4", "-q", device)
    point = mount(instance, device)
    refused = instance.vlmc("unmap", volume, check=False)
    assert refused.returncode == 1
    assert point in refused.stderr
    fill(point)
    run("umount", point)
    run("e2fsck", "-fn", device)


@one_layout
def test_unmapping_an_open_device_names_who_has_it_open(instance, volume):
    device = vmap(instance, volume)
    with open(device, "rb") as file, subprocess.Popen(["sleep", "60"], stdin=file) as holder:
        try:
            refused = instance.vlmc("unmap", volume, check=False)
        finally:
            holder.kill()
    assert refused.returncode == 1
    assert f"pid {holder.pid} (sleep)" in refused.stderr
    instance.vlmc("unmap", volume)


@one_layout
def test_force_unmaps_what_is_mounted(instance, volume):
    device = vmap(instance, volume)
    run("mkfs.ext4", "-q", device)
    point = mount(instance, device)
    assert point in instance.vlmc("unmap", "--force", volume).stderr
    assert instance.vlmc_json("showmapped") == []


@one_layout
def test_unmapping_by_device(instance, volume):
    device = vmap(instance, volume)
    instance.vlmc("unmap", device)
    nothing_left(instance)


@one_layout
def test_what_is_not_mapped_cannot_be_unmapped(instance, volume):
    for what in (volume, "/dev/loop0", "nobody"):
        assert "not mapped" in instance.vlmc("unmap", what, check=False).stderr


@one_layout
def test_unmapping_stores_what_the_kernel_had_cached(instance, volume):
    device = vmap(instance, volume)
    data = os.urandom(3 << 20)
    with open(device, "r+b") as file:
        file.write(data)
    instance.vlmc("unmap", volume)
    with instance.client.open(volume) as opened:
        assert opened.read(0, len(data)) == data


@one_layout
def test_a_snapshot_is_mapped_read_only(instance, volume):
    instance.vlmc("snapshot", volume, "snap")
    device = vmap(instance, "snap")
    assert run("blockdev", "--getro", device).stdout.strip() == "1"
    with pytest.raises(OSError) as refused, open(device, "r+b", buffering=0) as file:
        file.write(bytes(4096))
    assert refused.value.errno in (errno.EROFS, errno.EPERM, errno.EACCES)


@one_layout
def test_read_only_mapping_of_a_volume(instance, volume):
    device = vmap(instance, volume, "--read-only")
    assert run("blockdev", "--getro", device).stdout.strip() == "1"
    assert instance.vlmc_json("showmapped")[0]["readonly"] is True


@one_layout
def test_partitions_become_devices(instance, volume):
    entry = struct.pack("<BBBBBBBBII", 0x80, 0, 0, 0, 0x83, 0, 0, 0, 2048, (SIZE >> 9) - 2048)
    with instance.client.open(volume) as opened:
        opened.write(446, entry)
        opened.write(510, b"\x55\xaa")
        opened.flush()
    device = vmap(instance, volume)
    [partition] = instance.vlmc_json("showmapped")[0]["partitions"]
    assert partition.startswith(device) and os.path.exists(partition)
    run("mkfs.ext4", "-q", partition)
    point = mount(instance, partition)
    assert point in instance.vlmc("unmap", volume, check=False).stderr
    run("umount", point)
    instance.vlmc("unmap", partition)
    assert not os.path.exists(partition)


@one_layout
def test_stopping_is_refused_while_a_volume_is_mapped(instance, volume):
    device = vmap(instance, volume)
    refused = instance.archipelago("stop", check=False)
    assert refused.returncode == 1
    assert device in refused.stderr
    assert all(peer["state"] == "running" for peer in instance.status().values())


@pytest.mark.layout("separate")
def test_the_endpoint_is_not_restarted_under_a_device_of_the_kernels_client(instance, volume):
    device = vmap(instance, volume)
    if instance.vlmc_json("showmapped")[0]["method"] != "nbd":
        pytest.skip("this kernel has no NBD client")
    refused = instance.archipelago("restart", "nbd", check=False)
    assert refused.returncode == 1
    assert f"{volume} ({device})" in refused.stderr and "--force" in refused.stderr


def test_a_mapped_file_system_survives_restarts_and_kills_of_everything(instance, volume):
    device = vmap(instance, volume)
    if instance.vlmc_json("showmapped")[0]["method"] != "nbdfuse":
        pytest.skip("the kernel's NBD client does not connect again")
    run("mkfs.ext4", "-q", device)
    point = mount(instance, device)
    digests = {}
    copy = subprocess.Popen(["dd", "if=/dev/urandom", f"of={point}/big", "bs=64K", "count=800", "oflag=direct",
                             "conv=fsync"], stderr=subprocess.PIPE, text=True)
    for _ in range(2):
        instance.archipelago("restart")
        digests |= fill(point)
        instance.kill("nbd")
        instance.restart("nbd")
    assert copy.wait(60) == 0, copy.communicate()
    copy.stderr.close()
    run("sync", "-f", point)
    run("umount", point)
    run("e2fsck", "-fn", device)
    instance.vlmc("unmap", volume)
    device = vmap(instance, volume)
    assert digests_of(mount(instance, device)) == digests
    assert os.path.getsize(f"{point}/big") == 800 << 16


@pytest.mark.layout("separate")
def test_a_mapping_that_is_dead_hinders_no_restart(instance, volume):
    mapping.Entry("old", f"{0x123:016x}", instance.home, False, "nbdfuse", "/dev/loop0", 1, 1, boot="another").save()
    instance.archipelago("restart", "nbd")


@one_layout
def test_a_volume_can_be_unmapped_after_a_forced_stop(instance, volume):
    vmap(instance, volume)
    instance.archipelago("stop", "--force")
    instance.vlmc("unmap", "--force", volume)
    nothing_left(instance)
    instance.start()


@one_layout
def test_what_a_killed_nbdfuse_left_is_cleared_away(instance, volume):
    vmap(instance, volume)
    [shown] = instance.vlmc_json("showmapped")
    if shown["method"] != "nbdfuse":
        pytest.skip("this kernel has its own NBD client")
    os.kill(shown["pid"], signal.SIGKILL)
    wait_until(lambda: instance.vlmc_json("showmapped")[0]["state"] == "stale", "the mapping is stale")
    device = vmap(instance, volume)
    with open(device, "r+b") as file:
        file.write(b"again")
    instance.vlmc("unmap", volume)
    nothing_left(instance)


@one_layout
def test_a_half_made_mapping_is_cleared_away(instance, volume):
    made = mapping.Entry(volume, instance.vlmc_json("info", volume)["id"], instance.home, False, "nbdfuse")
    made.save()
    assert "cleaned up" in instance.vlmc("unmap", volume).stderr
    nothing_left(instance)


@one_layout
def test_an_entry_from_before_a_boot_touches_no_device(instance, volume):
    device = vmap(instance, volume)
    instance.vlmc("create", "old", "--size", "1M")
    mapping.Entry("old", f"{0x123:016x}", instance.home, False, "nbdfuse", device, 1, 1, boot="another").save()
    instance.vlmc("unmap", "old")
    [left] = instance.vlmc_json("showmapped")
    assert (left["name"], left["device"], left["state"]) == (volume, device, "mapped")


@one_layout
def test_mapping_nothing_leaves_nothing(instance):
    assert "nobody" in instance.vlmc("map", "nobody", check=False).stderr
    assert instance.vlmc_json("showmapped") == []


@pytest.mark.layout("separate")
def test_mapping_without_an_nbd_server_leaves_nothing(instance, volume):
    instance.kill("nbd")
    failed = instance.vlmc("map", volume, check=False)
    assert failed.returncode == 1
    assert volume in failed.stderr
    nothing_left(instance)


@one_layout
def test_names_of_any_characters_are_mapped(instance):
    name = "ü %&?=#' x"
    instance.vlmc("create", name, "--size", "1M")
    device = vmap(instance, name)
    assert instance.vlmc_json("showmapped")[0]["name"] == name
    instance.vlmc("unmap", device)
    nothing_left(instance)
