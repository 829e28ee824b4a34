# SPDX-License-Identifier: Apache-2.0
"""Restarts the process that hosts ROLE, or all, one after the other. The segment stays.

Requests wait in the segment meanwhile: guests see a pause, no error; those of the NBD server must
connect again. A process that had died, or was given up, is started. Takes in changed programs, as
long as they are of the same segment version, and a changed archipelago.toml, as far as the processes
restarted go; where the layout has changed, all are stopped before any is started. What
dies comes back as it was when it was last started by a command, whatever the file says by then.

Devices mapped by nbdfuse connect again. Those of the kernel's NBD client do not: the NBD server's process is not
restarted under them, unless --force. The others are: name their roles.

--supervisor restarts only the supervisor, after an upgrade: no peer stops, no client notices.

If a process does not come up, the command fails and says why, those that were to come later stay as they
are, and what is asked of its roles is answered with EHOSTDOWN until a restart goes well.
"""
from __future__ import annotations

import argparse
import time

from tools.archipelago.start import bring_up
from tools.archipelago.stop import take_down
from tools.instance import config
from tools.instance.instance import POLL_S, Instance
from tools.mapping import mapping
from xseg.errors import NotRunning, TimedOut

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
    if not instance.has_segment():
        raise NotRunning(f"not running (home {args.home}): start it with `archipelago start`")
    with instance.locked():
        if args.supervisor:
            renew_supervisor(instance)
            print("restarted the supervisor")
            return 0
        now, new = instance.config, config.read(args.home)
        wanted = [new.process_of(args.role)] if args.role else new.stop_order()
        ending = [name for name in now.stop_order() if not args.role or name in wanted]
        serving = [role.name for name in ending for role in now.serving(name)]
        if serving and not args.force:
            mapping.refuse_while_mapped(
                args.home, f"a restart of {', '.join(serving)} ends their connections, and who uses them gets I/O "
                "errors. Other processes can be restarted one by one: `archipelago restart ROLE`", restart=True)
        if not args.role and new.processes != now.processes:
            take_down(instance, [*ending, *instance.strangers()])
        before = instance.take_in()
        try:
            for step in [wanted] if not instance.running() else [[process] for process in wanted]:
                replace(instance, step)
        except BaseException:
            instance.go_by(before)          # what dies now comes back as it was
            raise
    print(f"restarted {', '.join(wanted)}")
    return 0
