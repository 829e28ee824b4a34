# SPDX-License-Identifier: Apache-2.0
"""Stops the pipeline and removes its segment. Volumes that are open are closed first: what was written to them is
then on the store, flushed or not. Processes that this needs and that do not run are started for it.

If a volume cannot be closed and has writes that are not on the store, nothing is stopped: the command says which
volume and why, with exit status 1. --force stops all the same, saves what can be saved, and says what is lost.

With ROLE, stops the process that hosts that role; what is sent to it waits for its return.
Refused while volumes are mapped to block devices, unless --force: their I/O then waits or fails.
A process that does not end within 10 s of being told is killed, which loses nothing.
"""
from __future__ import annotations

import argparse
import errno
import os

from tools.instance import ending
from tools.instance.instance import Instance
from tools.mapping import mapping
from xseg.errors import XsegError

HELP = "stop the pipeline, or the process of one role"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("role", nargs="?", metavar="ROLE", help="stop only the process that hosts this role")
    parser.add_argument("--force", action="store_true", help="though volumes are mapped, or writes would be lost")


def take_down(instance: Instance, processes: list[str]) -> None:
    """Stops these processes one after the other. The supervisor does not start them again."""
    if instance.supervised():
        for line in instance.ask_supervisor("stop", processes):
            print(line)
        return
    for process in processes:
        if not instance.terminate(process):
            print(f"{process} did not end in time and was killed")


def end_by_supervisor(instance: Instance, force: bool) -> list[str]:
    """What it says. With force, nothing: it is of another build, knows of no such thing, and has quit."""
    try:
        return instance.ask_supervisor("end", [], force)
    except XsegError as failure:
        if not force or failure.errno != errno.EINVAL:
            raise
    instance.ask_supervisor("quit", [])
    return []


def end(instance: Instance, force: bool) -> None:
    """Ends the instance, by its supervisor where there is one: its programs are those that made the segment."""
    instance.refuse_elsewhere()
    running = any(instance.pid_of(process) for process in ending.everything(instance))
    if running and not force:
        mapping.refuse_while_mapped(instance.home, "their I/O then waits or fails")
    if not running and not instance.supervised() and not instance.has_segment():
        print(f"not running (home {instance.home})")
        return
    lines = end_by_supervisor(instance, force) if instance.supervised() else []
    if not lines:
        ran = ending.end(instance, force, lines.append)
        lines.append(f"stopped {', '.join(ran)}" if ran else f"the volumes that were open are closed (home "
                     f"{instance.home}); nothing ran")
    print("\n".join(lines))


def run(args: argparse.Namespace) -> int:
    instance = Instance(args.home)
    if not os.path.isdir(instance.path("run")):
        print(f"not running (home {args.home})")
        return 0
    with instance.locked():
        if not args.role:
            end(instance, args.force)
            return 0
        process = instance.config.process_of(args.role)
        running = bool(instance.pid_of(process))
        if running and not args.force:
            mapping.refuse_while_mapped(instance.home, "their I/O then waits or fails")
        take_down(instance, [process])
    print(f"stopped {process}" if running else f"not running (home {args.home})")
    return 0
