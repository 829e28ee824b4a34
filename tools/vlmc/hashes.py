# SPDX-License-Identifier: Apache-2.0
"""Prints the digest of each block of a snapshot or volume, as `vlmc create --from-hashes` reads it.

Each block must have a content name, as after `vlmc hash`. A digest is the SHA-256 of the block without the zeros at its
end; a block of zeros is "-".
"""
from __future__ import annotations

import argparse
import sys

from tools.vlmc._common import add_json, portions
from xseg import hashes
from xseg.request import DIGEST_SIZE

HELP = "print the digests of a volume's blocks"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="snapshot or volume")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    answers = list(portions(args, "hashes", name=args.name))
    digests = [answer["hashes"][at:at + DIGEST_SIZE] for answer in answers
               for at in range(0, len(answer["hashes"]), DIGEST_SIZE)]
    size, block_size = answers[0]["size"], answers[0]["block_size"]
    if args.json:
        from tools import cli
        cli.print_json({"name": args.name, "size": size, "block_size": block_size,
                        "hashes": [digest.hex() for digest in digests]})
        return 0
    sys.stdout.write(hashes.head(size, block_size))
    sys.stdout.writelines(map(hashes.line, digests))
    return 0
