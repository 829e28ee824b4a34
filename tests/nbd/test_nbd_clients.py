# SPDX-License-Identifier: Apache-2.0
"""Real NBD clients: nbdinfo, nbdcopy, qemu-img, qemu-io, fio."""
import hashlib
import json
import os

import pytest
from nbd_support import BLOCK, MIB, SIZE
from support import run

pytest_plugins = ["nbd_fixtures"]


@pytest.fixture
def image(tmp_path):
    """A raw image of SIZE bytes: data, holes, and zeros that are written; its path."""
    path = tmp_path / "image.raw"
    with open(path, "wb") as file:
        file.truncate(SIZE)
        for offset, data in [(0, os.urandom(3 * BLOCK)), (10 * BLOCK + 512, os.urandom(5000)),
                             (20 * BLOCK, bytes(2 * BLOCK)), (SIZE - 100, os.urandom(100))]:
            file.seek(offset)
            file.write(data)
    return path


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def qemu_io(server, name, *commands, check=True):
    words = [word for command in commands for word in ("-c", command)]
    done = run("qemu-io", "-f", "raw", *words, server.uri(name), check=check)
    assert not check or "error" not in done.stdout.lower() + done.stderr.lower(), done.stdout + done.stderr
    return done.stdout + done.stderr


# --- nbdinfo

def test_nbdinfo_shows_an_export(server, volume):
    shown = json.loads(run("nbdinfo", "--json", server.uri(volume)).stdout)
    export = shown["exports"][0]
    assert shown["protocol"] == "newstyle-fixed" and shown["structured"]
    assert (export["export-name"], export["export-size"]) == (volume, SIZE)
    assert "base:allocation" in export["contexts"]


def test_nbdinfo_lists_all_exports(server, volume):
    server.instance.client.control("snapshot", name=volume, snapshot=f"{volume}-s")
    before = server.openings()
    shown = json.loads(run("nbdinfo", "--json", "--list", server.uri("")).stdout)
    assert server.openings() == before, "to list volumes is not to open them"
    exports = {export["export-name"]: export["is_read_only"] for export in shown["exports"]}
    assert (exports[volume], exports[f"{volume}-s"]) == (False, True)


def test_nbdinfo_maps_data_and_holes(server, volume):
    qemu_io(server, volume, f"write -P 1 {4 * BLOCK} {BLOCK}")
    shown = json.loads(run("nbdinfo", "--json", "--map", server.uri(volume)).stdout)
    assert [(part["offset"], part["length"], part["type"]) for part in shown] == [
        (0, 4 * BLOCK, 3), (4 * BLOCK, BLOCK, 0), (5 * BLOCK, SIZE - 5 * BLOCK, 3)]


# --- copies

@pytest.mark.parametrize("connections", [1, 4])
def test_nbdcopy_there_and_back(server, volume, image, tmp_path, connections):
    back = tmp_path / "back.raw"
    run("nbdcopy", f"--connections={connections}", image, server.uri(volume))
    run("nbdcopy", f"--connections={connections}", server.uri(volume), back)
    assert digest(back) == digest(image)


def test_nbdcopy_without_extents_and_with_flush(server, volume, image, tmp_path):
    back = tmp_path / "back.raw"
    run("nbdcopy", "--allocated", "--flush", image, server.uri(volume))
    run("nbdcopy", "--no-extents", server.uri(volume), back)
    assert digest(back) == digest(image)


def test_nbdcopy_between_two_volumes(server, volume, image, tmp_path):
    other, back = server.make(), tmp_path / "back.raw"
    run("nbdcopy", image, server.uri(volume))
    run("nbdcopy", server.uri(volume), server.uri(other))
    run("nbdcopy", server.uri(other), back)
    assert digest(back) == digest(image)


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_qemu_img_convert_there_compare_and_back(server, volume, image, tmp_path, kind):
    source, back = tmp_path / f"source.{kind}", tmp_path / "back.raw"
    run("qemu-img", "convert", "-f", "raw", "-O", kind, image, source)
    run("qemu-img", "convert", "-n", "-f", kind, "-O", "raw", source, server.uri(volume))
    run("qemu-img", "compare", "-f", "raw", "-F", kind, server.uri(volume), source)
    run("qemu-img", "convert", "-f", "raw", "-O", "raw", server.uri(volume), back)
    assert digest(back) == digest(image)


def test_qemu_img_converts_out_of_order(server, volume, image):
    run("qemu-img", "convert", "-n", "-W", "-m", "16", "-f", "raw", "-O", "raw", image, server.uri(volume))
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", server.uri(volume), image)


def test_qemu_img_maps_holes(server, volume):
    qemu_io(server, volume, f"write -P 1 {2 * BLOCK} {BLOCK}")
    shown = json.loads(run("qemu-img", "map", "-f", "raw", "--output=json", server.uri(volume)).stdout)
    assert [(part["start"], part["length"], part["zero"]) for part in shown] == [
        (0, 2 * BLOCK, True), (2 * BLOCK, BLOCK, False), (3 * BLOCK, SIZE - 3 * BLOCK, True)]


def test_qemu_img_info_tells_the_size(server, volume):
    shown = json.loads(run("qemu-img", "info", "-f", "raw", "--output=json", server.uri(volume)).stdout)
    assert shown["virtual-size"] == SIZE


# --- qemu-io

def test_qemu_io_patterns_of_any_alignment(server, volume):
    qemu_io(server, volume, "write -P 7 1000 100000", "read -P 7 1000 100000", "read -P 0 0 1000",
            f"write -P 8 {BLOCK - 512} 1024", f"read -P 8 {BLOCK - 512} 1024", "read -P 0 101000 1000")


@pytest.mark.parametrize("flags", ["", "-u", "-f", "-n -u"])
def test_qemu_io_write_zeroes(server, volume, flags):
    qemu_io(server, volume, f"write -P 5 0 {3 * BLOCK}", f"write -z {flags} 4096 {2 * BLOCK}",
            f"read -P 0 4096 {2 * BLOCK}", "read -P 5 0 4096", f"read -P 5 {2 * BLOCK + 4096} {BLOCK - 4096}")


def test_qemu_io_discard(server, volume):
    qemu_io(server, volume, f"write -P 5 0 {2 * BLOCK}", f"discard 0 {BLOCK}", f"read -P 0 0 {BLOCK}",
            f"read -P 5 {BLOCK} {BLOCK}")


def test_qemu_io_fua_and_flush(server, volume):
    qemu_io(server, volume, "write -f -P 3 0 64k", "flush", "read -P 3 0 64k")


def test_qemu_io_long_requests(server, volume):
    qemu_io(server, volume, f"write -P 9 {BLOCK // 2} 31M", f"read -P 9 {BLOCK // 2} 31M")


def test_qemu_io_many_at_once(server, volume):
    qemu_io(server, volume, *(f"aio_write -P {n + 1} {n * 100_000} 100000" for n in range(64)), "aio_flush",
            *(f"aio_read -P {n + 1} {n * 100_000} 100000" for n in range(64)), "aio_flush")


def test_a_snapshot_refuses_writes(server, volume):
    server.instance.client.control("snapshot", name=volume, snapshot=f"{volume}-s")
    said = qemu_io(server, f"{volume}-s", "write 0 4096", check=False)
    assert "Permission denied" in said


# --- fio

@pytest.mark.parametrize("job", ["--bs=4k --iodepth=32", "--bs=512 --iodepth=8 --io_size=2M",
                                 "--bs=1M --iodepth=8", "--bsrange=512-256k --bs_unaligned --iodepth=16"])
def test_fio_verifies_what_it_wrote(server, volume, tmp_path, job):
    run("fio", "--name=verify", "--ioengine=nbd", f"--uri={server.uri(volume)}", "--rw=randwrite",
        f"--size={SIZE}", "--io_size=16M", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1",
        "--fsync=64", "--randseed=1", *job.split(), cwd=tmp_path)


def test_fio_verifies_with_trims_between(server, volume, tmp_path):
    run("fio", "--name=trims", "--ioengine=nbd", f"--uri={server.uri(volume)}", "--rw=randtrimwrite",
        "--bs=64k", f"--size={SIZE}", "--io_size=16M", "--iodepth=8", "--randseed=1", cwd=tmp_path)


def test_fio_jobs_on_connections_of_their_own(server, volume, tmp_path):
    run("fio", "--ioengine=nbd", f"--uri={server.uri(volume)}", "--rw=randwrite", "--bs=4k", "--iodepth=16",
        "--verify=crc32c", "--verify_fatal=1", f"--size={8 * MIB}", "--randseed=1", "--thread",
        *(word for n in range(4) for word in (f"--name=job{n}", f"--offset={n * 16 * MIB}")), cwd=tmp_path)
