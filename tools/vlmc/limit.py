# SPDX-License-Identifier: Apache-2.0
"""Limits what machines may have of a volume a second: `vlmc limit disk iops=500 write_bps=20M burst_ms=2000`.

There are iops, read_iops, write_iops (requests) and bps, read_bps, write_bps (bytes; K, M, G behind them are powers
of 1024); what was not used in burst_ms milliseconds (1000 if nothing is said) may come at once. The words are all the
limits there are from now on; `none` takes them back; with no words they are shown. They are kept with the volume and
count at once, where a filter of the type throttle stands before vlmc (`archipelago route --insert throttle --before
vlmc --type throttle`). What is done in the background is not limited by them.
"""
from __future__ import annotations

import argparse

from tools.vlmc._common import add_json, control
from xseg import throttle
from xseg.errors import Invalid

HELP = "limit requests and bytes a second"
NONE = "none"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="VOLUME", help="a volume or snapshot")
    parser.add_argument("limits", metavar="LIMIT=N", nargs="*", help="what it may have; or none")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    if args.limits:
        try:
            text = "" if args.limits == [NONE] else throttle.text_of(throttle.parse(args.limits))
        except ValueError as wrong:
            raise Invalid(str(wrong)) from None
        control(args, "limit", name=args.name, limits=text)
        return 0
    text = control(args, "info", name=args.name)["limits"]
    if args.json:
        from tools import cli
        cli.print_json(throttle.limits_of(text))
    else:
        print(text or NONE)
    return 0
