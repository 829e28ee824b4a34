# SPDX-License-Identifier: Apache-2.0
"""Shows the segment: its parts, the memory they take, what of them is in use, and the routes."""
from __future__ import annotations

import argparse
import os
from typing import Any

from tools import cli
from xseg import look
from xseg._native import lib
from xseg.segment import SHM, Segment, text

HELP = "the segment's layout, memory and routes"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs")


def parts(segment: Segment) -> list[dict[str, Any]]:
    """Each part of the segment: how many there are, how many are used."""
    c = segment.c
    volumes = sum(c.volumes[i].state != lib.XVOL_FREE for i in range(c.volume_count))
    rows = [
        ("bells", c.bell_count, sum(c.bells[i].tag != 0 for i in range(c.bell_count))),
        ("ports", c.port_count, sum(lib.port_alive(c, i) for i in range(c.port_count))),
        ("routes", lib.XSEG_ROUTES, len(segment.routes())),
        ("requests", c.slot_count, sum(1 for _ in segment.busy())),
        ("volumes", c.volume_count, volumes),
        ("map frames", c.frame_count, lib.export_frames_used(c)),
    ]
    for i in range(lib.XSEG_CLASSES):
        size = lib.xbuffer_size(i)
        rows.append((f"buffers of {size >> 10} KiB", c.buffer_count[i], lib.export_buffers_used(c, i)))
    return [{"part": part, "count": count, "used": used} for part, count, used in rows]


def report(segment: Segment) -> dict[str, Any]:
    c = segment.c
    return {"segment": segment.name, "version": c.header.version, "created_ns": c.created_ns, "size": c.size,
            "resident": os.stat(SHM + segment.name).st_blocks * 512, "run": text(c.run),
            "parts": parts(segment),
            "routes": {edge: look.port_name(segment, port) for edge, port in segment.routes().items()}}


def run(args: argparse.Namespace) -> int:
    with Segment.of_home(args.home) as segment:
        shown = report(segment)
    if args.json:
        cli.print_json(shown)
        return 0
    print(f"segment   {shown['segment']}, version {shown['version']}")
    print(f"memory    {cli.human(shown['resident'])} in use of {cli.human(shown['size'])}")
    print(f"doorbells {shown['run']}\n")
    cli.print_table([list(part.values()) for part in shown["parts"]], ["part", "there are", "in use"])
    print()
    cli.print_table([[edge, port] for edge, port in shown["routes"].items()], ["route", "leads to"])
    return 0
