# SPDX-License-Identifier: Apache-2.0
"""Copies a disk image, raw or qcow2 (or whatever qemu-img reads), into a new volume.

What is zeros in the image takes no space. The volume has the image's size unless --size is larger. All
of it is durable when the command succeeds; when it fails or is interrupted, the half-made volume is removed. Until
it is complete nobody else can use it; what a kill -9 leaves is told by `vlmc list` and removed by `vlmc remove`.

An image can name other files of this machine or of the network: a backing file, an external data file, extents.
Whoever made it would read them through the volume, so such an image is refused; --follow is for those whose
origin is known. What FILE is, is read from its first bytes; a raw one whose content is a guest's is named by
--format raw, as that content may look like anything.

An image that is cut short is refused, as far as its format tells (raw does not, nor do the last 64 KiB of a qcow2;
of formats that tell nothing a note says so).
So are encrypted and dirty images, archives, what is compressed, and pages of HTML.

FILE may be - or /dev/stdin. A pipe brings a raw disk, whose size is known when it ends: the volume grows meanwhile, and
what was read is said at the end. A pipe tells nobody whether whoever wrote to it came to his end or failed: see
`set -o pipefail` of the shell.
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from tools.vlmc._common import add_json, add_size, served_uri, token

if TYPE_CHECKING:
    from tools.image_source import Image
    from tools.images import Progress
    from xseg.client import Client

FORMATS = ("raw", "qcow2")
HELP = "copy a disk image into a new volume"
SECTOR = 512                    # sizes of volumes are rounded up to these bytes, as qemu-img does with a raw image's
ROOM_FIRST = 1 << 30            # bytes a volume has while it is not known how many will come; then twice as many...


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="the image; - is standard input")
    parser.add_argument("name", metavar="NAME", help="name of the new volume")
    parser.add_argument("--format", choices=FORMATS, help="what FILE is (default: look into it)")
    parser.add_argument("--follow", action="store_true", help="open the files that the image names as well")
    add_size(parser, "--size", help="size of the volume, if larger than the image's")
    add_size(parser, "--block-size", help="a power of two from 64K to 16M (default 4M)")
    parser.add_argument("--progress", action="store_true", help="show a bar though stderr is no terminal")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from tools import image_source, streams
    number = streams.descriptor(args.file, 0)
    path = args.file if number is None else streams.path_of(number)
    if number is not None and path is None:
        data = streams.first(args.file, number, args.format)
        return bring_in(args, args.size or ROOM_FIRST, "raw",
                        lambda client, ours: copy_stream(client, args, number, data, ours))
    with image_source.opened(path or args.file, args.format, args.follow) as image:
        if image.uncheckable:
            print(f"note: whether {args.file}, a {image.format} image, is complete cannot be told", file=sys.stderr)
        return bring_in(args, checked_size(args, image), image.format,
                        lambda client, ours: copy(client, args, image, ours))


def checked_size(args: argparse.Namespace, image: Image) -> int:
    """Bytes the volume is to have. Invalid: the image has more."""
    from xseg.errors import Invalid
    if args.size and args.size < image.size:
        raise Invalid(f"{args.file}: the disk in it has {image.size} bytes, which --size {args.size} cannot hold")
    return args.size or image.size


def bring_in(args: argparse.Namespace, size: int, image_format: str, fill: Callable[[Client, str], None]) -> int:
    """A new volume of that size, which `fill` fills and may resize; it is told the name for who makes the volume."""
    from tools import cli
    from tools.vlmc._making import remove
    from xseg.client import Client
    from xseg.volume_name import by_id
    key = token()
    with Client(args.home, "vlmc") as client:
        try:
            made = client.control("create", name=args.name, size=size, block_size=args.block_size, token=key,
                                  making=True)["id"]
            fill(client, by_id(made, key))
            size = client.control("info", name=by_id(made, key))["size"]
            client.control("finish", name=by_id(made, key))
        except BaseException:
            remove(client, args.name, key)
            raise
    if args.json:
        cli.print_json({"name": args.name, "id": made, "size": size, "format": image_format})
    else:
        checked = "raw, which tells nobody whether it is whole" if image_format == "raw" else image_format
        print(f"imported {args.file} ({checked}) as {args.name}, {cli.human(size)}")
    return 0


def copy(client: Client, args: argparse.Namespace, image: Image, ours: str) -> None:
    """Copies and flushes. The volume is kept open meanwhile, so that the flush is of what was copied."""
    from tools import images
    uri = served_uri(args.home, ours)
    with bar(args, image.size) as progress, client.open(ours) as volume:
        words = ["-n", "--target-is-zero", "-W", *image.words, "-O", "raw", image.source, uri]
        images.convert(args.name, words, progress, image.files)
        volume.flush()


def copy_stream(client: Client, args: argparse.Namespace, number: int, data: bytes, ours: str) -> None:
    """The same of what comes through a pipe, of which `data` came already. Invalid: it is more than --size."""
    from tools import streams
    from xseg.errors import Invalid

    def make_room(end: int) -> None:
        if end <= volume.size:
            return
        if args.size:
            raise Invalid(f"{args.file}: more than {args.size} bytes come, which --size {args.size} cannot hold")
        client.control("resize", name=ours, size=2 * volume.size)

    with bar(args, None) as progress, client.open(ours) as volume:
        came = streams.bring_in(volume, args.file, number, data, make_room, progress)
        volume.flush()
    if not args.size:
        client.control("resize", name=ours, size=-(-came // SECTOR) * SECTOR)


def bar(args: argparse.Namespace, size: int | None) -> AbstractContextManager[Progress]:
    """A bar, if one is wanted."""
    import sys

    from tools import images
    return images.progress_bar(args.name, size, args.progress or sys.stderr.isatty())
