# SPDX-License-Identifier: Apache-2.0
"""Looks over a whole store, or one VOLUME, while it is in use: is all of it intact?

Checks headers, name pointers, journals and pages of the map, that each object they name is there, and the
content of objects that are named by it; counts objects that nothing reaches. It only reads, unless --repair is given:
then a volume that its name does not lead to gets that name again, or lost-ID where another has it. Exit status 1 when
something is wrong and stays so; what is unreachable is not: it is what cut-short work left, and takes nothing but
space.
"""
from __future__ import annotations

import argparse
import sys
from typing import Any, Never

from tools import cli

HELP = "look over the whole store: headers, names, maps, objects, what nothing reaches"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("volume", metavar="VOLUME", nargs="?", help="only this volume or snapshot")
    parser.add_argument("--repair", action="store_true", help="give volumes that no name leads to a name")
    parser.add_argument("--json", action="store_true", help="for programs")


def scrub(home: str, volume: str | None) -> dict[str, Any]:
    """The result of Scrub.run(), or as much of it as there is for one volume."""
    import asyncio

    from tqdm import tqdm

    from peers.mapper.making import state_of
    from peers.mapper.scrub import Scrub, scrub_one
    from peers.mapper.store import MapStore
    from xseg._native import lib
    from xseg.aio import AsyncPort, Hub
    from xseg.segment import Segment

    async def work(segment: Segment, bar: tqdm[Never]) -> dict[str, Any]:
        hub = Hub(segment)
        port = AsyncPort(hub, role="check")

        def sender(role: str) -> Any:
            number = segment.port_of(role)
            return lambda op, **fields: port.call(number, op, **fields)

        def committed(volume_id: int) -> int:
            for place in range(segment.c.volume_count):
                shared = segment.c.volumes[place]
                if shared.state == lib.XVOL_OPEN and shared.id == volume_id:
                    return int(shared.commit_seq)
            return 0

        def stage(what: str, count: int) -> None:
            bar.reset(count or None)
            bar.set_description(what)

        def progress() -> None:
            bar.update()

        store = MapStore(sender("blockerm"), sender("blockerb"))
        work = Scrub(store, committed, progress, stage,
                     lambda mark: state_of(mark, segment, segment.c.header.created_ns | 1, home))
        try:
            if volume is None:
                return await work.run()
            return {"volumes": [(await scrub_one(work, volume)).told()], "problems": []}
        finally:
            hub.close()

    bar: tqdm[Never]
    with Segment.of_home(home) as segment, tqdm(disable=None, leave=False, unit="", file=sys.stderr) as bar:
        return asyncio.run(work(segment, bar))


def repair(home: str, volumes: list[dict[str, Any]]) -> None:
    """Gives names to volumes that have lost theirs; what cannot be mended is a problem more."""
    from xseg.client import Client
    from xseg.volume_name import by_id
    with Client(home, "check") as client:
        for found in volumes:
            try:
                found["name"] = client.control("repair", name=by_id(found["id"]))["name"]
                found["problems"].remove(found["unnamed"])
                print(f"{found['id']}: {found['unnamed']}: it is called {found['name']} now", file=sys.stderr)
            except OSError as failure:
                found["problems"].append(f"it gets no name: {failure}")


def show(result: dict[str, Any]) -> None:
    """For people."""
    for found in result["volumes"]:
        count = len(found["problems"]) + found["left_out"]
        name = found["name"] or found["id"]
        print(f"{name}: {found['blocks']} blocks, {found['objects']} objects, {found['pages']} pages, "
              f"{found['journals']} journals: {f'{count} problems' if count else 'good'}")
        for problem in found["problems"]:
            print(f"  {problem}")
        if found["left_out"]:
            print(f"  ... and {found['left_out']} more")
    for problem in result["problems"]:
        print(problem)
    if "unreachable" in result:
        rest = ", ".join(f"{count} {kind}" for kind, count in result["unreachable"].items() if count) or "none"
        print(f"{len(result['volumes'])} volumes and snapshots, {result['names']} names, {result['contents']} contents")
        print(f"unreachable objects: {rest}; leftover names: {result['leftover']}; "
              f"removed, waiting for the collector: {result['removed']}")


def run(args: argparse.Namespace) -> int:
    result = scrub(args.home, args.volume)
    if args.repair:
        repair(args.home, [found for found in result["volumes"] if found["unnamed"]])
    if args.json:
        cli.print_json(result)
    else:
        show(result)
    return 1 if result["problems"] or any(found["problems"] for found in result["volumes"]) else 0
