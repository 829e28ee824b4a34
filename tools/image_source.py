# SPDX-License-Identifier: Apache-2.0
"""A disk image that somebody else has written, opened so that it leads nowhere else.

An image may name other files: a qcow2 its backing file and its external data file, a vmdk its extents, a vhdx its
parent. Whoever reads the image reads these as well, with the reader's rights, and such a name may be any of qemu's
("nbd:...", "json:{...}"). So unless the operator says that they are to be followed, qemu is told every node of what
it opens, and finds out nothing by itself:

* What the image is stands in its first bytes, which are read here. Only formats that name no other file, and qcow2
  without a name in it, are taken; all others are refused before a program is started.
* The format is given, and so is the node below it, a plain file or a block device; a qcow2's backing node is null,
  whatever its header says. The file is handed over as a descriptor: its path may have been given to another since.
* A qcow2's external data file would be opened if its header came to name one after it was looked at. So it is held
  by a read lease: the kernel refuses that when somebody has it open for writing, and tells when somebody wants to,
  who then waits until it is given up. (Where the file system knows no leases, this much is trusted.)
"""
from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tools import images
from xseg.errors import Busy, Damaged, Invalid, XsegError

ALONE = ("raw", "qcow2", "vdi", "vpc")  # that name no other file, or are looked into
MAGICS = (                              # format, offset, bytes there
    ("qcow2", 0, b"QFI\xfb\0\0\0\x02"), ("qcow2", 0, b"QFI\xfb\0\0\0\x03"), ("qcow", 0, b"QFI\xfb\0\0\0\x01"),
    ("qcow2", 0, b"QFI\xfb"), ("vmdk", 0, b"KDMV"), ("vmdk", 0, b"COWD"), ("vmdk", 0, b"# Disk DescriptorFile"),
    ("vhdx", 0, b"vhdxfile"), ("vpc", 0, b"conectix"), ("vdi", 64, b"\x7f\x10\xda\xbe"), ("qed", 0, b"QED\0"),
    ("parallels", 0, b"WithoutFreeSpace"), ("parallels", 0, b"WithouFreSpacExt"), ("luks", 0, b"LUKS\xba\xbe"),
    ("bochs", 0, b"Bochs Virtual HD Image"), ("cloop", 0, b"#!/bin/sh\n#V2.0 Format\n"))
NO_IMAGES = (                           # what a file is whose disk would be rubbish: offset, bytes there
    ("compressed by gzip", 0, b"\x1f\x8b"), ("compressed by bzip2", 0, b"BZh"), ("compressed by xz", 0, b"\xfd7zXZ\0"),
    ("compressed by zstd", 0, b"\x28\xb5\x2f\xfd"), ("compressed by lz4", 0, b"\x04\x22\x4d\x18"),
    ("a zip archive", 0, b"PK\x03\x04"), ("a 7z archive", 0, b"7z\xbc\xaf\x27\x1c"),
    ("a tar archive, as an OVA is", 257, b"ustar"))
PAGES = (b"<!doctype html", b"<html")   # beginnings of a page of HTML, which a server gave instead
HEAD = 65536                            # bytes looked at
QCOW2_HEADER = struct.Struct(">4sIQI")  # magic, version, offset and length of the backing file's name
QCOW2_INCOMPATIBLE = struct.Struct(">Q")
QCOW2_INCOMPATIBLE_AT, QCOW2_LENGTH_AT = 72, 100
QCOW2_V2_LENGTH = 72
QCOW2_DIRTY, QCOW2_CORRUPT = 1 << 0, 1 << 1     # incompatible features: not closed in order; known to be damaged
QCOW2_DATA_FILE = 1 << 2                # incompatible feature: the data lie in another file
CRYPT_AT = {"qcow": 36, "qcow2": 32}    # the word that says how it is encrypted, or 0
VPC_FOOTER_BYTES, VPC_MAGIC = 512, b"conectix"
VDI_DATA_AT, VDI_BLOCK_AT, VDI_USED_AT = 0x158, 0x178, 0x184    # offset of the blocks, bytes of one, how many there are
PARALLELS_HEADER = struct.Struct("<II")      # sectors of a cluster, entries of the table
PARALLELS_HEADER_AT, PARALLELS_TABLE_AT = 28, 64
PARALLELS_BY_CLUSTER = b"WithouFreSpacExt"      # the table's entries are clusters, in the older form sectors
PARALLELS_ENTRIES_MAX = 1 << 26
SECTOR = 512
CHECKS = ("qcow2", "qed", "parallels", "vhdx", "vmdk")      # that qemu-img check looks through
CHECKED = ("raw", "vdi", "vpc", *CHECKS)    # that are refused when they end before their content does
QCOW2_EXTENSION = struct.Struct(">II")  # type, length; then the content, to a multiple of 8
QCOW2_DATA_FILE_NAME = 0x44415441
NAME_MAX = 1023                         # bytes of a name in a qcow2
FOLLOW = "--follow opens what it names, wherever that is"


@dataclass
class Image:
    """A disk image."""

    source: str                         # what qemu-img is to open
    format: str                         # as qemu calls it
    size: int                           # bytes the disk in it has
    words: list[str] = field(default_factory=list)      # that qemu-img needs before `source`
    files: tuple[int, ...] = ()         # descriptors that it inherits

    @property
    def uncheckable(self) -> bool:
        """True if nobody can tell whether it is complete."""
        return self.format not in CHECKED


@contextlib.contextmanager
def opened(file: str, image_format: str | None = None, follow: bool = False) -> Iterator[Image]:
    """An image for as long as it is needed, with what it names if `follow` says so.

    OSError: it cannot be read, is no image, is damaged; without `follow` EPERM: it names other files.
    """
    number = open_file(file)
    try:
        head = os.pread(number, HEAD, 0)
        found = image_format or detect(head)
        if not image_format and found == "raw":
            refuse_no_image(file, head)
        refuse_state(file, found, head, os.lseek(number, 0, os.SEEK_END), number)
        if follow:
            yield probe_chain(file, image_format)
            return
        if found not in ALONE:
            raise XsegError(errno.EPERM, f"{file}: a {found} image can name other files: {FOLLOW}")
        with leased(file, number) if found == "qcow2" else contextlib.nullcontext():
            if found == "qcow2":
                refuse_references(file, os.pread(number, HEAD, 0), number)
            yield probe(file, number, found)
    finally:
        os.close(number)


def open_file(file: str) -> int:
    """A descriptor of a plain file or block device. OSError that names it."""
    try:
        number = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as failure:
        raise images.about(file, failure) from None
    mode = os.fstat(number).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
        os.close(number)
        raise images.no_file(file, mode)
    return number


def detect(head: bytes) -> str:
    """The format that an image's first bytes tell; raw where they tell none."""
    return next((name for name, at, magic in MAGICS if head[at:at + len(magic)] == magic), "raw")


def refuse_no_image(file: str, head: bytes) -> None:
    """Invalid: it is something that would be no disk, by its first bytes."""
    what = next((what for what, at, magic in NO_IMAGES if head[at:at + len(magic)] == magic), "")
    if head.lstrip()[:16].lower().startswith(PAGES):
        what = "a page of HTML"
    if what:
        raise Invalid(f"{file}: it is {what}, and no image; --format raw takes it for a disk all the same")


def refuse_state(file: str, image_format: str, head: bytes, size: int, number: int) -> None:
    """Invalid: it is encrypted, or dirty. Damaged: it ends before its content does, as far as the format tells."""
    crypt_at = CRYPT_AT.get(image_format, len(head))
    if image_format == "luks" or any(head[crypt_at:crypt_at + 4]):
        raise Invalid(f"{file}: it is encrypted: decrypt it first, by `qemu-img convert --image-opts`")
    if image_format == "qcow2" and head[4:8] >= b"\0\0\0\x03":
        features = int.from_bytes(head[QCOW2_INCOMPATIBLE_AT:QCOW2_INCOMPATIBLE_AT + 8], "big")
        for bit, state in ((QCOW2_CORRUPT, "marked as damaged"), (QCOW2_DIRTY, "dirty: who wrote it did not close it")):
            if features & bit:
                raise Invalid(f"{file}: it is {state}; `qemu-img check -r all` mends that")
    if image_format == "vpc" and not os.pread(number, VPC_FOOTER_BYTES, max(0, size - VPC_FOOTER_BYTES)) \
            .startswith(VPC_MAGIC):
        raise Damaged(f"{file} is cut short: there is no footer at its end")
    if image_format == "vdi":
        places = (VDI_DATA_AT, VDI_BLOCK_AT, VDI_USED_AT)
        data, block, used = (int.from_bytes(head[at:at + 4], "little") for at in places)
        if size < data + block * used:
            raise Damaged(f"{file} is cut short: it has {size} bytes, and its blocks end at {data + block * used}")
    if image_format == "parallels" and size < (end := parallels_end(head, number)):
        raise Damaged(f"{file} is cut short: it has {size} bytes, and its clusters end at {end}")


def parallels_end(head: bytes, number: int) -> int:
    """Where the last cluster of a parallels image ends, in bytes; 0: it has none, or no table."""
    if len(head) < PARALLELS_TABLE_AT:
        return 0
    cluster, entries = PARALLELS_HEADER.unpack_from(head, PARALLELS_HEADER_AT)
    last, wanted = 0, min(entries, PARALLELS_ENTRIES_MAX) * 4
    for at in range(0, wanted, HEAD):
        found = os.pread(number, min(HEAD, wanted - at), PARALLELS_TABLE_AT + at)
        last = max([last, *(entry for entry, in struct.iter_unpack("<I", found[:len(found) // 4 * 4]))])
        if not found:
            break
    last *= (cluster if head.startswith(PARALLELS_BY_CLUSTER) else 1)
    return (last + cluster) * SECTOR if last else 0


def format_of(file: str) -> str:
    """The same of a file. OSError that names it."""
    number = open_file(file)
    try:
        return detect(os.pread(number, HEAD, 0))
    finally:
        os.close(number)


# --- qcow2 ------------------------------------------------------------------------------------------

def refuse_references(file: str, head: bytes, number: int) -> None:
    """EPERM: the qcow2 names another file. EINVAL: it is none."""
    if len(head) < QCOW2_HEADER.size or head[:4] != b"QFI\xfb":
        raise Invalid(f"{file}: it is no qcow2 image")
    _magic, version, backing_at, backing_length = QCOW2_HEADER.unpack_from(head)
    if backing_at:
        name = os.pread(number, min(backing_length, NAME_MAX), min(backing_at, 1 << 62))
        raise XsegError(errno.EPERM, f"{file}: it stands on a backing file, {shown(name)}: {FOLLOW}")
    if version < 3 or len(head) < QCOW2_INCOMPATIBLE_AT + QCOW2_INCOMPATIBLE.size:
        return
    [features] = QCOW2_INCOMPATIBLE.unpack_from(head, QCOW2_INCOMPATIBLE_AT)
    if features & QCOW2_DATA_FILE:
        raise XsegError(errno.EPERM, f"{file}: its data lie in another file, {shown(data_file_name(head))}: {FOLLOW}")


def data_file_name(head: bytes) -> bytes:
    """The name of the external data file, empty where it is not found."""
    at = int.from_bytes(head[QCOW2_LENGTH_AT:QCOW2_LENGTH_AT + 4], "big")
    while at + QCOW2_EXTENSION.size <= len(head):
        kind, length = QCOW2_EXTENSION.unpack_from(head, at)
        at += QCOW2_EXTENSION.size
        if kind == QCOW2_DATA_FILE_NAME:
            return head[at:at + min(length, NAME_MAX)]
        if kind == 0:
            break
        at += -(-length // 8) * 8
    return b""


def shown(name: bytes) -> str:
    """A name out of an image, for a sentence."""
    return repr(name.decode(errors="replace")) if name else "whose name cannot be read"


@contextlib.contextmanager
def leased(file: str, number: int) -> Iterator[None]:
    """Nobody writes to the file meanwhile. Busy: somebody has it open for writing, or (raised in the middle, from
    a signal) wants to. Nothing on file systems that know no leases."""
    def broken(_signal: int, _frame: Any) -> None:
        raise Busy(f"{file}: somebody opened it for writing while it was read")

    before = signal.signal(signal.SIGIO, broken)
    try:
        try:
            fcntl.fcntl(number, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except OSError as failure:
            if failure.errno == errno.EAGAIN:
                raise Busy(f"{file}: somebody has it open for writing: it must not change while it is read") from None
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.fcntl(number, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        signal.signal(signal.SIGIO, before)


# --- what qemu is told ------------------------------------------------------------------------------

def probe(file: str, number: int, image_format: str) -> Image:
    """An image by itself, opened as descriptor `number`. OSError: damaged, or empty."""
    driver = "host_device" if stat.S_ISBLK(os.fstat(number).st_mode) else "file"
    node: dict[str, Any] = {"driver": image_format, "file": {"driver": driver, "filename": f"/dev/fd/{number}"}}
    if image_format == "qcow2":
        node["backing"] = None
    source = "json:" + json.dumps(node)
    info = parse_info(file, images.inspect(file, "info", "--output=json", source, files=(number,)))[0]
    check(file, image_format, source, (number,))
    return Image(source, image_format, disk_size(file, info), files=(number,))


def probe_chain(file: str, image_format: str | None) -> Image:
    """An image with all that it names. OSError: something of it is missing or damaged, or it is empty."""
    path = os.path.abspath(file)
    known = ["-f", image_format] if image_format else []
    chain = parse_info(file, images.inspect(file, "info", "--output=json", "--backing-chain", *known, path))
    for image in chain:
        check(file, image["format"], image["filename"])
    return Image(path, chain[0]["format"], disk_size(file, chain[0]), ["-f", chain[0]["format"]])


def parse_info(file: str, said: str) -> list[dict[str, Any]]:
    """What qemu-img says of an image, or of each of a chain: "format", "filename", "virtual-size" and more. EIO:
    it says something else."""
    try:
        found = json.loads(said)
    except (ValueError, RecursionError):
        found = None
    chain = found if isinstance(found, list) else [found]
    if not chain or not all(map(is_image, chain)):
        raise XsegError(errno.EIO, f"{file}: {images.PROGRAM} does not say what image that is")
    return chain


def is_image(said: object) -> bool:
    """True for what qemu-img says of an image."""
    return (isinstance(said, dict) and isinstance(said.get("format"), str) and isinstance(said.get("filename"), str)
            and type(said.get("virtual-size")) is int and said["virtual-size"] >= 0)


def check(file: str, image_format: str, source: str, files: tuple[int, ...] = ()) -> None:
    """EIO...: one that was cut short would read as zeros beyond its end."""
    if image_format in CHECKS:
        known = [] if source.startswith("json:") else ["-f", image_format]
        images.inspect(f"{file} is damaged or cut short", "check", "-q", *known, source,
                       good=images.CHECK_GOOD, files=files)


def disk_size(file: str, info: dict[str, Any]) -> int:
    """Bytes of the disk. EINVAL: none."""
    if not info["virtual-size"]:
        raise Invalid(f"{file}: it is empty, so there is no disk in it")
    return int(info["virtual-size"])
