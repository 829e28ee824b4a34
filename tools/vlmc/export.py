# SPDX-License-Identifier: Apache-2.0
"""Copies a volume or snapshot into a disk image, raw or qcow2.

Zeros take no space in it. FILE appears when it is complete and durable; until then the copy has no name, and nothing
of it is left when the command fails or is killed. (Where the file system cannot do that, it is called
FILE.part-SOMETHING, which only a kill -9 leaves.) Of a volume that is being written to,
export a snapshot.

FILE may be a block device, with --force, that nobody else uses: what it held in the volume's size is gone, zeros
included, and stays behind that. When the command fails, a part of it is written. FILE may be - or /dev/stdout, for a
raw disk through a pipe; there only the exit status tells whether all came.
"""
from __future__ import annotations

import argparse

from tools.vlmc._common import add_json, control, served_uri

HELP = "copy a volume into a disk image"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a volume or snapshot")
    parser.add_argument("file", metavar="FILE", help="the image to make, or a block device; - is standard output")
    parser.add_argument("--format", choices=("raw", "qcow2"), default="raw", help="default: raw")
    parser.add_argument("-f", "--force", action="store_true", help="replace FILE if it is there")
    parser.add_argument("--progress", action="store_true", help="show a bar though stderr is no terminal")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    import os
    import sys

    from tools import cli, images, streams
    from xseg.volume_name import by_id
    number = streams.descriptor(args.file, 1)
    if number is not None:
        return send_out(args, number)
    info = control(args, "info", name=args.name)
    target = os.path.realpath(args.file)
    on_device = is_device(args, target)
    place = images.device(args.file, target, info["size"]) if on_device else images.partial(args.file, target)
    with place as part, \
            images.progress_bar(args.name, info["size"], args.progress or sys.stderr.isatty()) as progress:
        source = served_uri(args.home, by_id(info["id"]))
        kept = ["-n"] if on_device else []
        words = [*kept, "-W", "-f", "raw", "-O", args.format, source, f"/dev/fd/{part}"]
        images.convert(args.file, words, progress, (part,))
    stored = info["size"] if on_device else os.stat(target).st_blocks * 512
    if args.json:
        cli.print_json({"name": args.name, "file": target, "format": args.format, "size": info["size"],
                        "stored": stored})
    else:
        print(f"exported {args.name} to {args.file} ({args.format}, {cli.human(stored)} stored)")
    return 0


def send_out(args: argparse.Namespace, number: int) -> int:
    """The volume goes to a descriptor, and nothing else does."""
    import sys

    from tools import images, streams
    from xseg.client import Client
    from xseg.errors import Invalid
    if args.format != "raw":
        raise Invalid(f"{args.file}: only a raw disk can go through a pipe, no {args.format} image")
    if args.json:
        raise Invalid(f"{args.file}: --json would stand among the data")
    with Client(args.home, "vlmc") as client, client.open(args.name, readonly=True) as volume, \
            images.progress_bar(args.name, volume.size, args.progress or sys.stderr.isatty()) as progress:
        streams.send_out(volume, args.file, number, progress)
    return 0


def is_device(args: argparse.Namespace, target: str) -> bool:
    """Whether the target is a block device, or else a plain file or not there. Exists: it is there without --force.
    Invalid: something else is there, or that format cannot lie on a device."""
    import os
    import stat

    from tools import images
    from xseg.errors import Exists, Invalid
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        return False
    block = stat.S_ISBLK(mode)
    if not block and not stat.S_ISREG(mode):
        raise images.no_file(args.file, mode)
    if block and args.format != "raw":
        raise Invalid(f"{args.file}: only a raw disk can lie on a block device, no {args.format} image")
    if not args.force:
        raise Exists(f"{args.file} is there already; --force {'overwrites' if block else 'replaces'} it")
    return block
