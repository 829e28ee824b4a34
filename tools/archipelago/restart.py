# SPDX-License-Identifier: Apache-2.0
"""Restarts the process that hosts ROLE, or all, one after the other. The segment stays.

Requests wait in the segment meanwhile: guests see a pause, no error; those of the NBD server must
connect again. A process that had died, or was given up, is started. Takes in changed programs, as
long as they are of the same segment version, and a changed archipelago.toml, as far as the processes
restarted go; where the layout has changed, all are stopped before any is started.

Devices mapped by nbdfuse connect again. Those of the kernel's NBD client do not: the NBD server's process is not
restarted under them, unless --force. The others are: name their roles.

--supervisor restarts only the supervisor, after an upgrade: no peer stops, no client notices.

If a process does not come up, the command fails and says why, those that were to come later stay as they
are, and what is asked of its roles is answered with EHOSTDOWN until a restart goes well.
"""
from __future__ import annotations

import argparse
import time

from tools.archipelago.instance import POLL_S, Instance
from tools.archipelago.start import bring_up
from tools.archipelago.stop import take_down
from xseg.errors import NotRunning, TimedOut
from xseg.segment import Segment

HELP = "restart the process of one role, or all, one by one; guests see a pause"
RENEW_S = 30.0                  # that a new supervisor may take to come up


def arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group()
    what.add_argument("role", nargs="?", metavar="ROLE", help="restart only the process that hosts this role")
    what.add_argument("--supervisor", action="store_true", help="restart only the supervisor; peers go on")
    parser.add_argument("--force", action="store_true", help="though volumes are mapped")


def replace(instance: Instance, processes: list[str]) -> None:
    """Stops these processes and starts them again."""
    if instance.supervised():
        for line in instance.ask_supervisor("restart", processes):
            print(line)
    else:
        take_down(instance, processes)
        bring_up(instance, processes)


def renew_supervisor(instance: Instance) -> None:
    """Has the supervisor go on as the program that is on disk now."""
    instance.ask_supervisor("renew", [])
    end = time.monotonic() + RENEW_S
    while not instance.supervised():
        if time.monotonic() > end:
            raise TimedOut(f"the supervisor did not come back within {RENEW_S:g} s; processes go on. See "
                           f"{instance.path('log', 'supervisor.log')}, then `archipelago start`")
        time.sleep(POLL_S)


def run(args: argparse.Namespace) -> int:
    instance = Instance(args.home)
    if not Segment.exists(instance.segment_name):
        raise NotRunning(f"not running (home {args.home}): start it with `archipelago start`")
    with instance.locked():
        if args.supervisor:
            renew_supervisor(instance)
            print("restarted the supervisor")
            return 0
        order = instance.config.stop_order()
        wanted = [instance.config.process_of(args.role)] if args.role else order
        strangers = instance.strangers()
        serving = [role.name for name in wanted for role in instance.config.serving(name)]
        if serving and not args.force:
            instance.refuse_while_mapped(f"a restart of {', '.join(serving)} ends their connections, and who uses "
                                         "them gets I/O errors. Other processes can be restarted one by one: "
                                         "`archipelago restart ROLE`", restart=True)
        for step in [wanted] if strangers else [[process] for process in wanted]:
            take_down(instance, strangers)
            replace(instance, step)
    print(f"restarted {', '.join(wanted)}")
    return 0
