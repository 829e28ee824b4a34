# SPDX-License-Identifier: Apache-2.0
"""Images of people one does not know: `vlmc import` opens nothing that they name."""
import bz2
import gzip
import json
import lzma
import os
import shutil
import socket
import struct
import subprocess
import tarfile

import pytest
from support import run, wait_until

from tools import image_source, images
from xseg.errors import Busy, Invalid, XsegError

SECRET = b"a secret of the host\n" * 100


@pytest.fixture
def secret(tmp_path):
    """A file that only its owner may read."""
    path = tmp_path / "secret"
    path.write_bytes(SECRET.ljust(1 << 20, b"\0"))
    path.chmod(0o600)
    return str(path)


@pytest.fixture
def trap(tmp_path):
    """A unix socket that is not to be connected to: (path, whether it was)."""
    path = str(tmp_path / "trap")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        listener.setblocking(False)

        def sprung():
            try:
                listener.accept()[0].close()
            except BlockingIOError:
                return False
            return True

        yield path, sprung


def names_of(secret, trap):
    """Names that lead to the secret or the trap, in all the ways qemu knows."""
    node = {"driver": "nbd", "server": {"type": "unix", "path": trap}, "export": "x"}
    return {"absolute": secret, "relative": "secret", "scheme": "file:" + secret,
            "nbd": f"nbd+unix:///x?socket={trap}", "old nbd": f"nbd:unix:{trap}:exportname=x",
            "json": "json:" + json.dumps({"driver": "raw", "file": {"driver": "file", "filename": secret}}),
            "json nbd": "json:" + json.dumps({"driver": "raw", "file": node})}


def overlay(folder, name, data=False):
    """A qcow2 that stands on `name`, or whose data are there."""
    path = os.path.join(folder, "tenant.qcow2")
    words = ["-b", name, "-F", "raw", "-u"] if not data else []
    run("qemu-img", "create", "-q", "-f", "qcow2", *words, path, "1M")
    if data:
        as_external(path, name)
    return path


def as_external(path, name):
    """Turns an empty qcow2 into one whose data lie in another file of that name."""
    with open(path, "r+b") as file:
        head = bytearray(file.read(4096))
        head[72:80] = (4).to_bytes(8, "big")
        extension = struct.pack(">II", 0x44415441, len(name)) + name.encode().ljust(-(-len(name) // 8) * 8, b"\0")
        length = int.from_bytes(head[100:104], "big")
        head[length:length + len(extension) + 8] = extension + bytes(8)
        file.seek(0)
        file.write(head)


@pytest.mark.parametrize("data", [False, True], ids=["backing", "data-file"])
def test_what_an_image_names_is_not_opened(node, tmp_path, secret, trap, data):
    path, sprung = trap
    for kind, name in names_of(secret, path).items():
        for words in ((), ("--format", "qcow2")):
            done = node.vlmc("import", overlay(str(tmp_path), name, data=data), "foreign", *words, check=False)
            assert done.returncode == 1 and "--follow" in done.stderr, kind
            assert not sprung(), kind
    assert "foreign" not in list(node.client.names())


def test_the_operator_may_have_it_followed(node, tmp_path, secret):
    external = str(tmp_path / "external.qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={tmp_path}/data,data_file_raw=on", external, "1M")
    shutil.copyfile(secret, tmp_path / "data")
    run("qemu-io", "-c", "write -q -z 512K 64K", external)
    for number, path in enumerate((overlay(str(tmp_path), secret), external)):
        node.vlmc("import", path, f"followed-{number}", "--follow")
        assert run("qemu-img", "compare", path, node.nbd_uri(f"followed-{number}")).returncode == 0


def test_formats_that_name_other_files_are_refused(node, tmp_path, secret):
    vmdk, vhdx = str(tmp_path / "x.vmdk"), str(tmp_path / "x.vhdx")
    run("qemu-img", "create", "-q", "-f", "vmdk", vmdk, "1M")
    run("qemu-img", "create", "-q", "-f", "vhdx", vhdx, "1M")
    flat = str(tmp_path / "flat.vmdk")
    with open(flat, "w", encoding="ascii") as file:
        file.write(f'# Disk DescriptorFile\nversion=1\ncreateType="monolithicFlat"\nRW 2048 FLAT "{secret}" 0\n')
    for path in (vmdk, vhdx, flat):
        done = node.vlmc("import", path, "foreign", check=False)
        assert done.returncode == 1 and "--follow" in done.stderr, path


def test_formats_that_name_none_are_read(node, tmp_path):
    raw = str(tmp_path / "x.raw")
    with open(raw, "wb") as file:
        file.write(os.urandom(1 << 20))
    for kind in ("vdi", "vpc"):
        path = str(tmp_path / f"x.{kind}")
        run("qemu-img", "convert", "-O", kind, *(["-o", "force_size"] if kind == "vpc" else []), raw, path)
        node.vlmc("import", path, kind)
        assert run("qemu-img", "compare", "-f", "raw", "-F", "raw", raw, node.nbd_uri(kind)).returncode == 0


def test_a_raw_image_that_looks_like_a_qcow2_stays_raw(node, tmp_path, secret):
    path = overlay(str(tmp_path), secret)
    node.vlmc("import", path, "looks", "--format", "raw")
    with node.client.open("looks") as volume, open(path, "rb") as file:
        assert volume.read(0, 65536) == file.read(65536)


def test_file_names_that_look_like_protocols_are_files(node, tmp_path):
    name = "nbd:localhost:10809"
    with open(tmp_path / name, "wb") as file:
        file.write(b"x" * 65536)
    node.vlmc("import", name, "strange", cwd=tmp_path)
    node.vlmc("export", "strange", 'json:{"driver":"nbd"}', cwd=tmp_path)
    assert (tmp_path / 'json:{"driver":"nbd"}').read_bytes() == b"x" * 65536


@pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/dev/loop-control"), reason="no loop devices here")
def test_a_block_device_is_an_image(node, tmp_path):
    with open(tmp_path / "disk", "wb") as file:
        file.write(os.urandom(1 << 20))
    device = run("losetup", "--find", "--show", str(tmp_path / "disk")).stdout.strip()
    try:
        node.vlmc("import", device, "device")
    finally:
        run("losetup", "--detach", device)
    assert run("qemu-img", "compare", str(tmp_path / "disk"), node.nbd_uri("device")).returncode == 0


def test_a_fifo_is_no_image_and_is_not_waited_for(node, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    done = node.vlmc("import", str(tmp_path / "fifo"), "foreign", check=False, timeout=60)
    assert done.returncode == 1 and "no plain file" in done.stderr


def test_even_if_it_came_to_name_a_file_qemu_is_told_to_open_none(tmp_path, secret, monkeypatch):
    """Without the look at the header: the nodes that qemu is given leave no place for a backing file."""
    path, out = overlay(str(tmp_path), secret), str(tmp_path / "out")
    monkeypatch.setattr(image_source, "refuse_references", lambda *_: None)
    with image_source.opened(path) as image:
        images.convert(path, ["-O", "raw", image.source, out], lambda part: None, image.files)
    with open(out, "rb") as file:
        assert file.read() == bytes(1 << 20)


def test_an_image_that_is_open_for_writing_is_refused(tmp_path):
    path = str(tmp_path / "x.qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", path, "1M")
    with open(path, "r+b"), pytest.raises(Busy, match="writing"), image_source.opened(path):
        pass


def test_an_image_that_is_opened_for_writing_meanwhile_is_refused(tmp_path):
    path = str(tmp_path / "x.qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", path, "1M")
    writer = None
    try:
        with pytest.raises(Busy, match="writing"), image_source.opened(path):
            writer = subprocess.Popen(["dd", "if=/dev/zero", f"of={path}", "conv=notrunc", "count=1"],
                                      stderr=subprocess.DEVNULL)
            wait_until(lambda: False, "the lease is broken", 30)
    finally:
        if writer:
            writer.wait(60)


NO_IMAGES = {
    "gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress,
    "zip archive": lambda raw: b"PK\x03\x04" + raw, "page of HTML": lambda raw: b"\n <!DOCTYPE html>\n<p>404" + raw}


@pytest.mark.parametrize("what", NO_IMAGES)
def test_what_is_no_image_is_called_what_it_is(tmp_path, what):
    path = tmp_path / "x.img"
    path.write_bytes(NO_IMAGES[what](bytes(65536)))
    with pytest.raises(Invalid, match=what), image_source.opened(str(path)):
        pass
    with image_source.opened(str(path), "raw") as image:
        assert image.size >= path.stat().st_size


def test_an_ova_is_called_what_it_is(tmp_path):
    path = str(tmp_path / "x.ova")
    (tmp_path / "x.ovf").write_text("<Envelope/>")
    with tarfile.open(path, "w") as archive:
        archive.add(tmp_path / "x.ovf", "x.ovf")
    with pytest.raises(Invalid, match="OVA"), image_source.opened(path):
        pass


def create_encrypted(kind, path):
    """qemu-img measures the CPU's time for the key's hash, and gives up where the kernel told it of none."""
    key = ["-o", "key-secret=s"] if kind == "luks" else ["-o", "encrypt.format=luks,encrypt.key-secret=s"]
    for _ in range(50):
        done = run("qemu-img", "create", "-q", "-f", kind, "--object", "secret,id=s,data=password", *key, path, "1M",
                   check=False)
        if done.returncode == 0:
            return
        assert "Unable to get accurate CPU usage" in done.stderr, done.stderr
    pytest.fail("qemu-img made no encrypted image")


def test_encrypted_images_are_called_what_they_are(tmp_path):
    for kind, path in (("luks", str(tmp_path / "x.luks")), ("qcow2", str(tmp_path / "x.qcow2"))):
        create_encrypted(kind, path)
        for follow in (False, True):
            with pytest.raises(Invalid, match="encrypted"), image_source.opened(path, follow=follow):
                pass


@pytest.mark.parametrize("bit, words", [(1, "dirty"), (2, "damaged")])
def test_a_qcow2_that_is_marked_is_called_what_it_is(tmp_path, bit, words):
    path = tmp_path / "x.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", str(path), "1M")
    head = bytearray(path.read_bytes())
    head[79] |= bit
    path.write_bytes(head)
    with pytest.raises(Invalid, match=words), image_source.opened(str(path)):
        pass


@pytest.mark.parametrize("kind, least", [("qcow2", 2 * 65536), ("vdi", 512), ("vpc", 512), ("vhdx", 512), ("qed", 512),
                                         ("parallels", 512), ("vmdk", 70000)])
def test_an_image_that_is_cut_short_is_refused(tmp_path, kind, least):
    """The last cluster of a qcow2 or vmdk may be written in part, so that cannot be told from one that is cut there."""
    raw, path = tmp_path / "x.raw", tmp_path / "x.img"
    raw.write_bytes(os.urandom(8 << 20))
    run("qemu-img", "convert", "-f", "raw", "-O", kind, str(raw), str(path))
    follow = kind not in image_source.ALONE
    with image_source.opened(str(path), follow=follow) as image:
        assert image.format == kind and not image.uncheckable
    for cut in (least, 1 << 20, 2 << 20):
        os.truncate(path, path.stat().st_size - cut)
        with pytest.raises(XsegError, match="cut short|truncated"), image_source.opened(str(path), follow=follow):
            pass


def test_a_format_that_tells_nothing_of_its_end_is_uncheckable(tmp_path):
    raw, path = tmp_path / "x.raw", tmp_path / "x.img"
    raw.write_bytes(os.urandom(1 << 20))
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow", str(raw), str(path))
    with image_source.opened(str(path), follow=True) as image:
        assert image.uncheckable
