# SPDX-License-Identifier: Apache-2.0
"""Shows the requests that are not free: what is asked, from whom, who has it, for how long.

States: held: its owner works on it; queued: it waits in its owner's inbox; replied: the answer
waits there. `flow` is the same for all requests that serve one request of an endpoint.
"""
from __future__ import annotations

import argparse
from itertools import islice

from tools import cli
from xseg import look
from xseg.segment import Segment

HELP = "requests under way: operation, owner, age"
COLUMNS = ("slot", "op", "state", "from", "to", "owner", "age_us", "target", "offset", "size", "flow", "parent")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("-n", "--count", type=int, default=1000, metavar="N", help="N at most (default 1000)")


def run(args: argparse.Namespace) -> int:
    with Segment.of_home(args.home) as segment:
        shown = [look.request(segment, c) for c in islice(segment.busy(), args.count)]
    if args.json:
        cli.print_json({"requests": shown})
    else:
        cli.print_table([[row[key] if row[key] is not None else "-" for key in COLUMNS] for row in shown],
                        [name.replace("_", " ") for name in COLUMNS])
    return 0
