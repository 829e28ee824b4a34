# SPDX-License-Identifier: Apache-2.0
"""Raw disks through pipes: what `vlmc import` reads of standard input and `vlmc export` writes to standard output.

`-` is standard input or output; /dev/stdin, /dev/stdout and /dev/fd/N (as a shell's `<(...)` is called) are the
descriptors that they name. qemu-img wants to seek, so such data go through the segment, a piece at a time.
"""
from __future__ import annotations

import os
import re
import select
import stat
from collections.abc import Callable, Iterator

from tools import image_source, images
from xseg.client import IO_MAX, Volume, pieces
from xseg.errors import Invalid

UNIT = 65536                            # bytes; what is all zeros is left out by these, the smallest blocks
ZEROS = bytes(IO_MAX)
NUMBERED = re.compile(r"/dev/fd/(\d{1,9})")


def descriptor(file: str, standard: int) -> int | None:
    """The descriptor that a file's name says, `-` being `standard`; None: it is an ordinary name. OSError: it is not
    open. Invalid: it is a terminal."""
    numbered = NUMBERED.fullmatch(file)
    names = {"-": standard, "/dev/stdin": 0, "/dev/stdout": 1}
    number = int(numbered[1]) if numbered else names.get(file)
    if number is None:
        return None
    try:
        os.fstat(number)
    except OSError as failure:
        raise images.about(file, failure) from None
    if os.isatty(number):
        raise Invalid(f"{file}: it is a terminal, and a disk is nothing to be typed or shown")
    return number


def path_of(number: int) -> str | None:
    """The path of the plain file or block device behind a descriptor of which nothing is read yet. None: it is a pipe
    or the like, or has no path any more."""
    mode = os.fstat(number).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)) or os.lseek(number, 0, os.SEEK_CUR):
        return None
    path = os.path.realpath(f"/dev/fd/{number}")
    try:
        return path if os.path.samestat(os.stat(path), os.fstat(number)) else None
    except OSError:
        return None


def wait(number: int, event: int) -> None:
    """Until there is something to do at a descriptor, which may be one that does not wait by itself."""
    poll = select.poll()
    poll.register(number, event)
    poll.poll()


def read(file: str, number: int, size: int) -> bytes:
    """`size` bytes; fewer at the end. OSError that names the file."""
    data = bytearray()
    try:
        while len(data) < size:
            wait(number, select.POLLIN)
            piece = os.read(number, size - len(data))
            if not piece:
                break
            data += piece
    except OSError as failure:
        raise images.about(file, failure) from None
    return bytes(data)


def write(file: str, number: int, data: bytes) -> None:
    """All of it. BrokenPipeError: nobody reads it. OSError that names the file."""
    rest = memoryview(data)
    try:
        while rest:
            wait(number, select.POLLOUT)
            rest = rest[os.write(number, rest):]
    except BrokenPipeError:
        raise
    except OSError as failure:
        raise images.about(file, failure) from None


def first(file: str, number: int, image_format: str | None) -> bytes:
    """The first piece of a disk. Invalid: it is the beginning of something that is no raw disk, or there is none."""
    data = read(file, number, IO_MAX)
    if not data:
        raise Invalid(f"{file}: it is empty, so there is no disk in it")
    found = image_format or image_source.detect(data)
    if found != "raw":
        raise Invalid(f"{file}: it is a {found} image, and only a raw one can come through a pipe: store it in a file "
                      "first, or convert it by `qemu-img convert -O raw`")
    if not image_format:
        image_source.refuse_no_image(file, data)
    return data


def bring_in(volume: Volume, file: str, number: int, data: bytes, make_room: Callable[[int], None],
             progress: images.Progress) -> int:
    """Writes `data`, the first piece, and all that follows into an empty volume, but for what is zeros; how many bytes
    came. `make_room(end)` is called before anything is written below `end`; `progress` is told the bytes."""
    at = 0
    while data:
        make_room(at + len(data))
        for start, end in runs(data):
            volume.write(at + start, data[start:end])
        at += len(data)
        progress(at)
        data = read(file, number, IO_MAX)
    return at


def runs(data: bytes) -> Iterator[tuple[int, int]]:
    """Where there is something but zeros: (start, end) by whole units, apart from each other."""
    start = None
    for at in range(0, len(data), UNIT):
        unit = data[at:at + UNIT]
        if unit != ZEROS[:len(unit)]:
            start = at if start is None else start
        elif start is not None:
            yield start, at
            start = None
    if start is not None:
        yield start, len(data)


def send_out(volume: Volume, file: str, number: int, progress: images.Progress) -> None:
    """Writes all of a volume to a descriptor, and makes it durable where that can be."""
    for extent in volume.extents():
        for at, size in pieces(extent.offset, extent.length, IO_MAX):
            write(file, number, ZEROS[:size] if extent.zero else volume.read(at, size))
            progress((at + size) / volume.size)
    mode = os.fstat(number).st_mode
    if stat.S_ISREG(mode) or stat.S_ISBLK(mode):
        os.fsync(number)
