# SPDX-License-Identifier: Apache-2.0
"""Starts the pipeline: its folders, its segment, its processes, and a supervisor that keeps them running.

With ROLE, starts the process that hosts that role, in a pipeline that is there already. What a
peer that died had in hand is done again. Fails if everything runs already, or if a process does
not become ready: then what this command started is stopped again.

The supervisor restarts a process that dies, at once the first time and then after growing waits; one
that keeps dying is given up, and what is asked of its roles is answered with EHOSTDOWN, until
`archipelago restart` (see [supervisor] in archipelago.toml). If the supervisor itself has died,
processes go on, and this command makes a new one that watches them.

--foreground: this command itself becomes the supervisor, for systemd (tools/systemd) and other
managers of services; it speaks sd_notify. SIGTERM stops the pipeline. --unsupervised: no supervisor
is left; what dies stays dead until `archipelago restart`.
"""
from __future__ import annotations

import argparse
import os
import subprocess
import sys

from tools.instance import ending, messages
from tools.instance.instance import Instance
from xseg import ours
from xseg.errors import Exists, XsegError

HELP = "start the pipeline, or the process of one role"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("role", nargs="?", metavar="ROLE", help="start only the process that hosts this role")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--foreground", action="store_true", help="be the supervisor, until SIGTERM")
    how.add_argument("--unsupervised", action="store_true", help="leave no supervisor")


def bring_up(instance: Instance, processes: list[str]) -> None:
    """Starts these processes and waits until they are ready; on failure, undoes what it did."""
    if instance.supervised():
        instance.ask_supervisor("start", processes)
        return
    fresh = not instance.has_segment()
    try:
        with instance.prepare(processes) as segment:
            for process in processes:
                instance.launch(process)
            instance.wait_ready(segment, processes)
    except BaseException:
        for process in processes:
            instance.terminate(process)
        if fresh:
            ending.discard(instance, print)
        raise


def leave_supervisor(instance: Instance, processes: list[str]) -> None:
    """Starts a supervisor, which starts these processes and watches all. Returns when they are ready."""
    here, there = os.pipe()
    with ours.appending(instance.path("log", "supervisor.log")) as log:
        child = subprocess.Popen([sys.executable, "-P", "-m", "tools.supervisor", "--home", instance.home,
                                  "--report", str(there), *processes],
                                 stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/",
                                 pass_fds=(there,))
    os.close(there)
    with open(here, "rb") as pipe:
        said = pipe.read()
    if not said:
        raise XsegError(f"the supervisor ended with status {child.wait()}; see "
                        f"{instance.path('log', 'supervisor.log')}")
    try:
        messages.parse_answer(said)
    except OSError:
        child.wait()
        raise


def run(args: argparse.Namespace) -> int:
    instance = Instance(args.home)
    instance.make_folders()
    if args.foreground:
        from tools.supervisor import supervisor
        return supervisor.foreground(instance, args.role)
    with instance.locked():
        wanted = instance.wanted(args.role)
        todo = to_start(instance, wanted, args.unsupervised)
        if args.unsupervised or instance.supervised():
            bring_up(instance, todo)
        else:
            leave_supervisor(instance, todo)
    print(f"started {', '.join(todo) or 'a supervisor'} (home {args.home})")
    return 0


def to_start(instance: Instance, wanted: list[str], unsupervised: bool) -> list[str]:
    """Which of these processes do not run. Exists: all do, and need no supervisor."""
    strangers = instance.strangers()
    if strangers:
        raise Exists(f"processes of an earlier layout still run: {', '.join(strangers)}; `archipelago stop` first")
    running = instance.running()
    todo = [process for process in wanted if process not in running]
    if not todo and (unsupervised or instance.supervised()):
        raise Exists(f"already running: {', '.join(wanted)} (home {instance.home})")
    return todo
