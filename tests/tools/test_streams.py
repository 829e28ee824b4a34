# SPDX-License-Identifier: Apache-2.0
"""vlmc import and export through pipes and onto block devices."""
import contextlib
import gzip
import os
import pty
import signal
import subprocess

import pytest
from support import BIN, run, wait_until

from tools import images, streams
from xseg.errors import Busy, Invalid

UNIT = streams.UNIT
SIZE = 8 << 20
DATA_AT, DATA = 3 << 20, 1 << 20
LOOPS = os.geteuid() == 0 and os.path.exists("/dev/loop-control")
needs_loops = pytest.mark.skipif(not LOOPS, reason="no loop devices here")


@pytest.fixture
def disk():
    """Random bytes in the middle of zeros."""
    return bytes(DATA_AT) + os.urandom(DATA) + bytes(SIZE - DATA_AT - DATA)


@contextlib.contextmanager
def loop_device(path, *words):
    """A block device of a file's bytes."""
    device = run("losetup", "--find", "--show", *words, str(path)).stdout.strip()
    try:
        yield device
    finally:
        run("losetup", "--detach", device)


def piped(node, *words, data=None, check=True):
    """vlmc with `data` in a pipe; its answer in bytes."""
    return node.vlmc(*words, input=data, text=False, check=check)


def content(node, name):
    with node.client.open(name) as volume:
        return volume.read(0, volume.size)


def make(node, name, disk):
    """A volume with DATA bytes in its middle."""
    node.vlmc("create", name, "--size", str(len(disk)))
    with node.client.open(name) as volume:
        volume.write(DATA_AT, disk[DATA_AT:DATA_AT + DATA])
        volume.flush()


def there(node, name):
    """Whether there is such a volume, be it half-made."""
    return name in [row["name"] for row in node.vlmc_json("list")]


def started(node, *words, **streams):
    """A vlmc that is under way."""
    return subprocess.Popen([os.path.join(BIN, "vlmc"), *words], env={**os.environ, **node.env}, **streams)


# --- import -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("file", ["-", "/dev/stdin", "/dev/fd/0"])
def test_a_pipe_becomes_a_volume_of_its_length(node, disk, file):
    name = "piped" + file.replace("/", "_")
    said = piped(node, "import", file, name, data=disk).stdout
    assert b"tells nobody whether it is whole" in said
    assert content(node, name) == disk


def test_zeros_of_a_pipe_are_not_stored(node, disk):
    piped(node, "import", "-", "sparse", "--block-size", "64K", data=disk)
    assert node.vlmc_json("du", "sparse")[0]["exclusive"] <= DATA + UNIT


def test_the_end_is_rounded_up_to_a_sector(node, disk):
    piped(node, "import", "-", "odd", data=disk[:DATA_AT + 1001])
    assert content(node, "odd") == disk[:DATA_AT + 1001] + bytes(23)


def test_a_volume_grows_as_long_as_bytes_come(node):
    maker = subprocess.Popen(["sh", "-c", "head -c 2200M /dev/zero; echo end"], stdout=subprocess.PIPE)
    with maker, maker.stdout as zeros:
        node.vlmc("import", "-", "grown", stdin=zeros)
    with node.client.open("grown") as volume:
        assert volume.size == (2200 << 20) + 512
        assert volume.read(2200 << 20, 512) == b"end\n".ljust(512, b"\0")


def test_a_given_size_holds_what_comes_or_it_is_refused(node, disk):
    piped(node, "import", "-", "roomy", "--size", "9M", data=disk)
    assert content(node, "roomy") == disk + bytes(1 << 20)
    refused = piped(node, "import", "-", "tight", "--size", "4M", data=disk, check=False)
    assert refused.returncode == 1 and b"--size" in refused.stderr
    assert not there(node, "tight")


def test_a_redirected_file_is_an_image_like_others(node, tmp_path, disk):
    raw, image = tmp_path / "x.raw", tmp_path / "x.qcow2"
    raw.write_bytes(disk)
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(image))
    with open(image, "rb") as file:
        node.vlmc("import", "-", "redirected", stdin=file)
    assert content(node, "redirected") == disk


def test_of_a_file_that_was_read_before_the_rest_is_taken(node, tmp_path, disk):
    (tmp_path / "x").write_bytes(b"#" * 512 + disk)
    with open(tmp_path / "x", "rb", buffering=0) as file:
        file.seek(512)
        node.vlmc("import", "-", "rest", stdin=file)
    assert content(node, "rest") == disk


@pytest.mark.parametrize("what, data", [
    ("empty", b""), ("qcow2 image", b"QFI\xfb\0\0\0\x03" + bytes(1000)), ("luks image", b"LUKS\xba\xbe" + bytes(1000)),
    ("compressed by gzip", gzip.compress(bytes(1000)))])
def test_what_is_no_raw_disk_is_refused_in_a_pipe(node, what, data):
    refused = piped(node, "import", "-", "refused", data=data, check=False)
    assert refused.returncode == 1 and what in refused.stderr.decode()
    assert not there(node, "refused")


def test_a_format_that_is_given_is_believed(node):
    data = gzip.compress(os.urandom(512 << 10))
    piped(node, "import", "-", "believed", "--format", "raw", data=data)
    assert content(node, "believed") == data.ljust(-(-len(data) // 512) * 512, b"\0")
    refused = piped(node, "import", "-", "refused", "--format", "qcow2", data=data, check=False)
    assert b"qcow2" in refused.stderr and refused.returncode == 1


def test_an_import_that_is_ended_in_the_middle_leaves_nothing(node, disk):
    with started(node, "import", "-", "ended", stdin=subprocess.PIPE, stderr=subprocess.PIPE) as importer:
        importer.stdin.write(disk)
        importer.stdin.flush()
        wait_until(lambda: there(node, "ended"), "it is being made")
        importer.send_signal(signal.SIGTERM)
        assert importer.stderr.read().endswith(b"interrupted\n")
        assert importer.wait(60) == 128 + signal.SIGTERM
    assert not there(node, "ended")


def test_an_import_that_is_killed_in_the_middle_is_nobodys_and_can_be_removed(node, disk):
    with started(node, "import", "-", "killed", stdin=subprocess.PIPE, stderr=subprocess.PIPE) as importer:
        importer.stdin.write(disk)
        importer.stdin.flush()
        wait_until(lambda: there(node, "killed"), "it is being made")
        importer.kill()
    wait_until(lambda: "half-made" in node.vlmc("list").stdout, "its maker is known to be gone")
    assert "half-made" in node.vlmc("open", "killed", check=False).stderr
    node.vlmc("remove", "killed")
    assert not there(node, "killed")


@pytest.mark.parametrize("data, runs", [
    (bytes(3 * UNIT), []), (b"x" * (2 * UNIT), [(0, 2 * UNIT)]), (bytes(UNIT) + b"x", [(UNIT, UNIT + 1)]),
    (b"x" + bytes(2 * UNIT) + b"x", [(0, UNIT), (2 * UNIT, 2 * UNIT + 2)]), (b"", [])])
def test_runs_are_what_is_not_all_zeros(data, runs):
    assert list(streams.runs(data)) == runs


# --- export -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("file", ["-", "/dev/stdout", "/dev/fd/1"])
def test_a_volume_goes_into_a_pipe(node, disk, file):
    name = "out" + file.replace("/", "_")
    make(node, name, disk)
    assert piped(node, "export", name, file).stdout == disk


def test_a_pipe_that_nobody_reads_fails_the_export(node, disk):
    make(node, "unread", disk)
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as pipe:
        exporter = started(node, "export", "unread", "-", stdout=pipe, stderr=subprocess.PIPE)
    said = exporter.communicate(timeout=180)[1]
    assert exporter.returncode == 1
    assert said == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_what_cannot_be_written_fails_the_export(node, disk):
    make(node, "full", disk)
    with open("/dev/full", "wb") as full:
        exporter = started(node, "export", "full", "-", stdout=full, stderr=subprocess.PIPE)
    said = exporter.communicate(timeout=180)[1]
    assert exporter.returncode == 1
    assert b"-: No space left on device" in said


def test_only_a_raw_disk_goes_into_a_pipe(node, disk):
    make(node, "rawly", disk)
    for words in (("--format", "qcow2"), ("--json",)):
        refused = piped(node, "export", "rawly", "-", *words, check=False)
        assert (refused.returncode, refused.stdout) == (1, b"")
        assert words[-1].encode() in refused.stderr


def test_a_terminal_is_refused_either_way():
    ours, theirs = pty.openpty()
    try:
        with pytest.raises(Invalid, match="terminal"):
            streams.descriptor(f"/dev/fd/{theirs}", 0)
        with pytest.raises(Invalid, match="terminal"):
            streams.descriptor("-", theirs)
    finally:
        os.close(ours)
        os.close(theirs)


def test_names_of_descriptors_are_no_files():
    assert [streams.descriptor(name, 9) for name in ("x", "./-", "/dev/null", "/dev/fd/0x")] == [None] * 4
    with pytest.raises(OSError, match="/dev/fd/987654: Bad file descriptor"):
        streams.descriptor("/dev/fd/987654", 0)


@pytest.mark.parametrize("verb", ["import", "export"])
def test_what_is_neither_a_file_nor_a_device_is_called_what_it_is(node, tmp_path, verb):
    if not there(node, "thing"):
        node.vlmc("create", "thing", "--size", "1M")
    os.mkfifo(tmp_path / "fifo")
    for path, what in ((f"{tmp_path}/fifo", "FIFO"), (str(tmp_path), "directory"), ("/dev/null", "character device")):
        words = (path, "new") if verb == "import" else ("thing", path, "--force")
        refused = node.vlmc(verb, *words, check=False)
        assert refused.returncode == 1 and f"{path}: it is a {what}" in refused.stderr


# --- block devices ----------------------------------------------------------------------------------

@needs_loops
def test_nothing_old_shines_through_on_a_device(node, tmp_path, disk):
    make(node, "device", disk)
    (tmp_path / "old").write_bytes(b"o" * (SIZE + (1 << 20)))
    with loop_device(tmp_path / "old") as device:
        node.vlmc("export", "device", device, "--force")
    assert (tmp_path / "old").read_bytes()[:SIZE] == disk


@needs_loops
def test_a_device_is_overwritten_by_force_only_and_by_a_raw_disk_only(node, tmp_path, disk):
    make(node, "gentle", disk)
    (tmp_path / "old").write_bytes(b"o" * SIZE)
    with loop_device(tmp_path / "old") as device:
        for words, said in (((), "--force overwrites it"), (("--force", "--format", "qcow2"), "qcow2")):
            refused = node.vlmc("export", "gentle", device, *words, check=False)
            assert refused.returncode == 1 and said in refused.stderr
    assert (tmp_path / "old").read_bytes() == b"o" * SIZE


@needs_loops
def test_a_device_that_is_too_small_is_left_alone(node, tmp_path, disk):
    make(node, "large", disk)
    (tmp_path / "old").write_bytes(b"o" * (SIZE - 512))
    with loop_device(tmp_path / "old") as device:
        refused = node.vlmc("export", "large", device, "--force", check=False)
    assert refused.returncode == 1 and str(SIZE - 512) in refused.stderr
    assert (tmp_path / "old").read_bytes() == b"o" * (SIZE - 512)


@needs_loops
def test_a_device_that_is_in_use_is_left_alone(node, tmp_path, disk):
    make(node, "rude", disk)
    (tmp_path / "old").write_bytes(b"o" * SIZE)
    with loop_device(tmp_path / "old") as device:
        held = os.open(device, os.O_RDONLY | os.O_EXCL)         # as a mount does
        try:
            refused = node.vlmc("export", "rude", device, "--force", check=False)
        finally:
            os.close(held)
    assert refused.returncode == 1 and "in use" in refused.stderr
    assert (tmp_path / "old").read_bytes() == b"o" * SIZE


@needs_loops
def test_a_device_that_is_mounted_is_left_alone(tmp_path):
    with open(tmp_path / "disk", "wb") as file:
        file.truncate(16 << 20)
    run("mkfs.ext4", "-q", str(tmp_path / "disk"))
    (tmp_path / "mnt").mkdir()
    with loop_device(tmp_path / "disk") as device:
        run("mount", device, str(tmp_path / "mnt"))
        try:
            with pytest.raises(Busy, match="mounted"), images.device(device, device, 512):
                pass
        finally:
            run("umount", str(tmp_path / "mnt"))


@needs_loops
def test_a_device_that_is_read_only_is_refused(node, tmp_path, disk):
    make(node, "keen", disk)
    (tmp_path / "old").write_bytes(b"o" * SIZE)
    with loop_device(tmp_path / "old", "--read-only") as device:
        refused = node.vlmc("export", "keen", device, "--force", check=False)
        assert refused.returncode == 1 and f"vlmc: {device}: " in refused.stderr
    assert (tmp_path / "old").read_bytes() == b"o" * SIZE
