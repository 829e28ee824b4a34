# SPDX-License-Identifier: Apache-2.0
"""Makes a snapshot of a stream that `vlmc send` has written, which comes from standard input.

NAME is there when all of the stream has come, is intact and durable, and not before: of one that is cut short or
damaged nothing is left. What a kill -9 of this command leaves is told by `vlmc list`, is nobody's to use, and `vlmc
remove` removes it.

A stream of `send --from` builds on a snapshot that must be here: the one that it was made from, or one that was
received of it, whatever it is called. It is found by its id; --base says where it must be. What is received then is a
snapshot whose parent that is, shares all that is the same, and can be a base itself. `vlmc clone` makes a volume of it.
"""
from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from tools.vlmc._common import LONG_S, add_json, token

if TYPE_CHECKING:
    from tools.images import Progress
    from tools.vlmc._stream import Head, Reader
    from xseg.client import Client

HELP = "make a snapshot of a stream"
SUBJECT = "standard input"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of the new snapshot")
    parser.add_argument("--base", metavar="SNAP", help="the snapshot that the stream builds on")
    parser.add_argument("--progress", action="store_true", help="show a bar though stderr is no terminal")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    import sys

    from tools import cli, images, streams
    from tools.vlmc._stream import Reader
    from xseg.client import Client
    from xseg.errors import Damaged, Invalid
    number = streams.descriptor("-", 0)
    assert number is not None
    try:
        reader = Reader(lambda size: streams.read(SUBJECT, number, size))
        wanted = args.progress or sys.stderr.isatty()
        with Client(args.home, "vlmc") as client, images.progress_bar(args.name, reader.head.size, wanted) as progress:
            made = receive(client, args, reader, progress)
    except (Damaged, Invalid) as failure:
        raise type(failure)(f"{SUBJECT}: {failure}") from None
    if args.json:
        cli.print_json(made)
    else:
        print(f"received {made['name']}, {cli.human(made['size'])}"
              + (f", which builds on {made['parent']}" if made["parent"] else ""))
    return 0


def receive(client: Client, args: argparse.Namespace, reader: Reader, progress: Progress) -> dict[str, Any]:
    """Makes the snapshot; what is known of it."""
    from tools.vlmc._making import remove
    from xseg.volume_name import by_id
    head, key = reader.head, token()
    base = base_of(client, args.base, head) if head.base else None
    try:
        ours = by_id(make(client, args.name, head, base, key), key)
        fill(client, ours, reader, progress)
        client.control("seal", name=ours, origin=head.id, timeout=LONG_S)
    except BaseException:
        remove(client, args.name, key)
        raise
    return client.control("info", name=ours)


def make(client: Client, name: str, head: Head, base: dict[str, Any] | None, key: int) -> str:
    """The id of a volume that holds what the base does, or zeros, and is nobody else's yet."""
    from xseg.volume_name import by_id
    if base is None:
        made: str = client.control("create", name=name, size=head.size, block_size=head.block_size, token=key,
                                   making=True)["id"]
        return made
    client.control("clone", name=by_id(base["id"]), names=[name], size=max(head.size, base["size"]), token=key,
                   making=True, timeout=LONG_S)
    made = client.control("info", name=name)["id"]
    if head.size < base["size"]:
        client.control("resize", name=by_id(made, key), size=head.size, timeout=LONG_S)
    return made


def fill(client: Client, ours: str, reader: Reader, progress: Progress) -> None:
    """Writes all that the stream tells of, and makes it durable."""
    with client.open(ours) as volume:
        for piece in reader.pieces():
            if piece.data is None:
                volume.zeroes(piece.offset, piece.length)
            else:
                volume.write(piece.offset, piece.data)
            progress((piece.offset + piece.length) / reader.head.size)
        volume.flush()
    progress(1.0)


def base_of(client: Client, name: str | None, head: Head) -> dict[str, Any]:
    """The snapshot here that a stream builds on. Invalid: `name` is another. NotFound: there is none."""
    from xseg.errors import Invalid, NotFound
    wanted = f"'{head.base_name}' (id {head.base:016x})"
    if name:
        info = client.control("info", name=name)
        if not is_base(info, head):
            raise Invalid(f"it builds on snapshot {wanted}, and '{name}' is another")
        return info
    for asked in candidates(client, head):
        try:
            info = client.control("info", name=asked)
        except NotFound:
            continue
        if is_base(info, head):
            return info
    raise NotFound(f"{SUBJECT}: it builds on snapshot {wanted}, which is not here, nor was it received: receive that "
                   "first")


def candidates(client: Client, head: Head) -> Any:
    """Names of what may be the base, the likely ones first."""
    from xseg.volume_name import by_id
    yield head.base_name
    yield by_id(f"{head.base:016x}")
    cursor = 0
    while True:
        answer = client.control("list", cursor=cursor)
        for row in answer["volumes"]:
            if row.get("origin") == f"{head.base:016x}":
                yield by_id(row["id"])
        cursor = answer["cursor"]
        if cursor == 0:
            return


def is_base(info: dict[str, Any], head: Head) -> bool:
    """Whether it holds what a stream builds on."""
    from tools.vlmc._stream import identity
    return info["kind"] == "snapshot" and not info["making"] and identity(info) == head.base
