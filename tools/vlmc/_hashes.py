# SPDX-License-Identifier: Apache-2.0
"""Making a volume from a list of hashes."""
from __future__ import annotations

import argparse
import sys

from tools.vlmc._common import LONG_S, token
from xseg import hashes
from xseg.client import Client
from xseg.contents import Contents
from xseg.errors import Invalid

INLINE_MAX = 256 << 10          # bytes of digests that go with the request; more go as contents of LIST_BYTES
LIST_BYTES = 1 << 20


def read(path: str) -> hashes.Hashes:
    """The list in a file, or of standard input. Invalid, and why the file cannot be read."""
    try:
        if path == "-":
            return hashes.read(sys.stdin, "standard input")
        with open(path, encoding="ascii", newline="") as file:
            return hashes.read(file, path)
    except UnicodeDecodeError:
        raise Invalid(f"{path}: it is no list of hashes, as it is no text") from None


def adopt(args: argparse.Namespace) -> None:
    """`vlmc create NAME --from-hashes FILE`."""
    wanted = read(args.from_hashes)
    with Client(args.home, "vlmc") as client:
        client.control("adopt", timeout=LONG_S, name=args.name, size=wanted.size, block_size=wanted.block_size,
                       token=token(), **given(client, wanted.digests))


def given(client: Client, digests: bytes) -> dict[str, object]:
    """How the mapper is given a list: in the request, or as contents."""
    if len(digests) <= INLINE_MAX:
        return {"hashes": digests}
    parts = (digests[at:at + LIST_BYTES] for at in range(0, len(digests), LIST_BYTES))
    return {"lists": Contents(client).put_all(parts)}
