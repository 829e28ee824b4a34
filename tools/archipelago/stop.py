# SPDX-License-Identifier: Apache-2.0
"""Stops the pipeline and removes its segment. Volumes that are open are closed.

With ROLE, stops the process that hosts that role; what is sent to it waits for its return.
Refused while volumes are mapped to block devices, unless --force: their I/O then waits or fails.
A process that does not end within 10 s of being told is killed; nothing acknowledged is lost.
"""
from __future__ import annotations

import argparse
import os

from tools.archipelago.instance import Instance
from xseg.errors import Invalid

HELP = "stop the pipeline, or the process of one role"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("role", nargs="?", metavar="ROLE", help="stop only the process that hosts this role")
    parser.add_argument("--force", action="store_true", help="though volumes are mapped")


def take_down(instance: Instance, processes: list[str]) -> None:
    """Stops these processes one after the other. The supervisor does not start them again."""
    if instance.supervised():
        for line in instance.ask_supervisor("stop", processes):
            print(line)
        return
    for process in processes:
        if not instance.terminate(process):
            print(f"{process} did not end in time and was killed")


def everything(instance: Instance) -> list[str]:
    """All processes there may be, in the order to stop them. A faulty archipelago.toml is no hindrance."""
    try:
        return [*instance.config.stop_order(), *instance.strangers()]
    except Invalid as failure:
        print(f"note: {failure}")
        return instance.known()


def run(args: argparse.Namespace) -> int:
    instance = Instance(args.home)
    if not os.path.isdir(instance.path("run")):
        print(f"not running (home {args.home})")
        return 0
    with instance.locked():
        wanted = [instance.config.process_of(args.role)] if args.role else everything(instance)
        running = [process for process in wanted if instance.pid_of(process)]
        if running and not args.force:
            instance.refuse_while_mapped("their I/O then waits or fails")
        if not args.role:
            instance.end_segment()
        take_down(instance, wanted)
        if not args.role:
            if instance.supervised():
                instance.ask_supervisor("quit", [])
            instance.remove_segment()
    print(f"stopped {', '.join(running)}" if running else f"not running (home {args.home})")
    return 0
