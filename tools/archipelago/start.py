# SPDX-License-Identifier: Apache-2.0
"""Starts the pipeline: its folders, its segment, its processes.

With ROLE, starts the process that hosts that role, in a pipeline that is there already. What a
peer that died had in hand is done again. Fails if everything runs already, or if a process does
not become ready: then what this command started is stopped again.
"""
from __future__ import annotations

import argparse

from tools.archipelago.instance import Instance
from xseg.errors import Exists
from xseg.segment import Segment

HELP = "start the pipeline, or the process of one role"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("role", nargs="?", metavar="ROLE", help="start only the process that hosts this role")


def bring_up(instance: Instance, processes: list[str]) -> None:
    """Starts these processes and waits until they are ready; on failure, undoes what it did."""
    fresh = not Segment.exists(instance.segment_name)
    try:
        with instance.open_or_create() as segment:
            for process in processes:
                for role in instance.config.processes[process]:
                    segment.c.ports[segment.port_of(role)].ready = 0
            for process in processes:
                instance.launch(process)
            instance.wait_ready(segment, processes)
    except BaseException:
        for process in processes:
            instance.terminate(process)
        if fresh:
            instance.remove_segment()
        raise


def run(args: argparse.Namespace) -> int:
    instance = Instance(args.home)
    wanted = [instance.config.process_of(args.role)] if args.role else list(instance.config.processes)
    instance.make_folders()
    with instance.locked():
        running = instance.running()
        strangers = instance.strangers()
        if strangers:
            raise Exists(f"processes of an earlier layout still run: {', '.join(strangers)}; "
                         "`archipelago stop` first")
        todo = [process for process in wanted if process not in running]
        if not todo:
            raise Exists(f"already running: {', '.join(wanted)} (home {args.home})")
        bring_up(instance, todo)
    print(f"started {', '.join(todo)} (home {args.home})")
    return 0
