# SPDX-License-Identifier: Apache-2.0
"""The supervisor of an instance: python -m tools.supervisor --home HOME [PROCESS...]

`archipelago start` leaves one, or is one (--foreground). It starts processes (tools/instance/host.py) and holds a
pidfd of each, so it hears of a death at once. What a dead peer held is recovered by its successor
when it binds the port (native/segment/layout.h); all the supervisor has to do is to start it.

This file is its life: how it begins, ends, and goes on as another. What it does meanwhile:

    processes.py    the states of a process: start, time-out, death, restart, giving up
    spares.py       processes that stand by
    clients.py      finishes for clients that died
    schedules.py    snapshots that volumes' schedules ask for
    collecting.py   cycles of the collector
    sockets.py      sockets that peers listen at, kept while their process is restarted
    parking.py      run/park.sock: descriptors that endpoints have the supervisor keep for their next life
    operators.py    run/supervisor.sock and its verbs

* **Its own death** harms nobody: processes go on, unwatched, until `archipelago start` makes a new
  supervisor, which finds them by their pid files and the start times therein, and takes their listening
  sockets over from them. A process whose pid file was not written any more ends by itself.
* **Its own restart** (`archipelago restart --supervisor`, after an upgrade) is just that, only that it becomes
  its successor by execve(): it stays the same process for systemd, and the parent of what it has started. It hands
  its listening sockets on, and processes that wait to be started, or are given up, by way of run/supervisor.json.
* **Its end**, by SIGTERM or `archipelago stop`, is the instance's: tools/instance/ending.py.

What is known of deaths is in run/supervisor.json, for `archipelago status` as well.
"""
from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import json
import logging
import os
import signal
import socket
import sys
from typing import Any

from tools.instance import ending
from tools.instance.instance import Instance
from tools.supervisor.clients import Clients
from tools.supervisor.collecting import Collectors
from tools.supervisor.operators import Operators
from tools.supervisor.parking import Parking
from tools.supervisor.processes import Processes
from tools.supervisor.schedules import Schedules
from tools.supervisor.sockets import Sockets
from xseg import ours
from xseg.aio import Hub
from xseg.errors import Busy

FINISH_S = 5.0                  # that a successor waits for what dead clients had under way
END_MORE_S = 60                 # that the end takes beside start_s and stop_s, at most
log = logging.getLogger("supervisor")


class Notifier:
    """Tells systemd how things are; does nothing where NOTIFY_SOCKET is not set. See sd_notify(3)."""

    def __init__(self) -> None:
        self.path = os.environ.get("NOTIFY_SOCKET", "").replace("@", "\0", 1)
        self.watchdog_s = int(os.environ.get("WATCHDOG_USEC", "0")) / 2e6

    def say(self, *lines: str) -> None:
        if self.path:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
                made.sendto("\n".join(lines).encode(), self.path)


class Supervisor:
    """Holds its parts together."""

    def __init__(self, home: str) -> None:
        self.home = home
        self.sockets = Sockets()
        self.parking = Parking()
        self.ended = asyncio.Event()
        self.notifier = Notifier()
        self.ending: asyncio.Task[None] | None = None
        self.over = False                   # the instance has ended
        self.clean = True                   # False: told to end, and it could not be done in order

    async def begin(self, processes: list[str], successor: bool = False) -> None:
        """Makes or joins the segment, adopts what runs, starts these processes. On failure nothing is left. A
        successor goes on with those that its predecessor was about to start, or had given up."""
        instance = Instance(self.home)
        fresh = not instance.has_segment()
        self.loop = asyncio.get_running_loop()
        try:
            self.segment = instance.prepare(processes)
            self.hub = Hub(self.segment)
            self.processes = Processes(instance, self.segment, self.hub, self.sockets, self.parking, self.note)
            self.clients = Clients(self.segment, self.hub, self.note)
            self.schedules = Schedules(self.segment, self.hub, instance.config.supervisor["schedule_s"])
            self.collectors = Collectors(instance)
            self.operators = Operators(self.processes, self._become_successor, self.end_instance,
                                       self.ended, self.note)
            if successor:
                self.sockets.inherit(instance.config)
            for process in instance.running():
                if process not in processes:
                    self.processes.adopt(process)
            if successor:
                self.processes.inherit()
            await self.operators.listen(instance.path("run"))
            self.parking.listen(instance.path("run"))
            await self.processes.start(processes)
        except BaseException:
            if fresh:
                ending.discard(instance, log.warning)
                self.sockets.close_all()
                self.parking.close()
            raise
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(number, self._told_to_end)
        self.clients.begin()
        self.schedules.begin()
        self.collectors.begin()
        self._watchdog()
        self.note()
        self.notifier.say("READY=1")

    def _told_to_end(self) -> None:
        """SIGTERM: stops the pipeline and ends. What volumes hold that cannot be saved stays in the segment."""
        async def end() -> None:
            limits = self.processes.instance.config.supervisor
            self.notifier.say("STOPPING=1", "STATUS=stopping",
                              f"EXTEND_TIMEOUT_USEC={(limits['start_s'] + limits['stop_s'] + END_MORE_S) * 1000000}")
            async with self.operators.operating:
                self.clean = await self._end_or_stop()
            self.ended.set()
        if not self.ending:
            self.ending = self.loop.create_task(end())

    async def _end_or_stop(self) -> bool:
        """Ends the instance. Where that is refused, stops its processes, and the next start goes on. False: so."""
        instance = self._let_go()
        try:
            await asyncio.to_thread(self._end_locked, instance)
            return True
        except OSError as failure:
            log.error("%s", failure)
            log.error("the processes are stopped and the segment stays: `archipelago start` goes on from there")
        await asyncio.to_thread(ending.stop_processes, instance, ending.everything(instance), log.warning)
        return False

    async def end_instance(self, force: bool) -> list[str]:
        """What `archipelago stop` asks for, which holds run/lock: ends the instance; lines for people. Unsaved: it goes
        on, as before."""
        said: list[str] = []
        instance = self._let_go()
        try:
            ran = await asyncio.to_thread(ending.end, instance, force, said.append, self._sockets_of)
        except BaseException:
            self.processes.take_up()
            self.schedules.begin()
            self.collectors.begin()
            raise
        self.over = True
        return [*said, f"stopped {', '.join(ran) or 'the supervisor'}"]

    def _let_go(self) -> Instance:
        """Watches nothing any more; the instance as it is configured now."""
        self.schedules.close()
        self.collectors.close()
        self.processes.let_go()
        with contextlib.suppress(OSError):
            self.processes.renew()
        return self.processes.instance

    def _end_locked(self, instance: Instance) -> None:
        """Ends the instance, with run/lock held."""
        with instance.locked():
            ending.end(instance, False, log.warning, self._sockets_of)

    def _sockets_of(self, process: str) -> dict[str, int]:
        return self.sockets.of(self.processes.instance.config, process)

    def close(self) -> None:
        self.operators.close()
        self.schedules.close()
        self.collectors.close()
        self.clients.close()
        self.processes.spares.close()
        self.sockets.close_all()
        self.parking.close()
        self.hub.close()
        self.segment.close()

    def _watchdog(self) -> None:
        if self.notifier.watchdog_s:
            self.notifier.say("WATCHDOG=1")
            self.loop.call_later(self.notifier.watchdog_s, self._watchdog)

    def note(self) -> None:
        """Writes down what is known of deaths, while there is an instance."""
        if self.over:
            return
        shown = {name: {"state": w.state, "deaths": w.deaths, "restarts": w.restarts, "last_death": w.last_death}
                 for name, w in self.processes.watched.items()}
        path = self.processes.instance.path("run", "supervisor.json")
        with contextlib.suppress(OSError):              # a home that takes no writes is no reason to fail
            ours.replace(path, json.dumps({"pid": os.getpid(), "clients_swept": self.clients.swept,
                                           "processes": shown}, indent=1))
        bad = [f"{name} is {w.state}" for name, w in self.processes.watched.items() if w.state != "running"]
        self.notifier.say("STATUS=" + (", ".join(bad) or f"{len(self.processes.watched)} processes run"))

    async def _become_successor(self) -> None:
        """Goes on as a new supervisor, of the program as it is on disk now; it learns from supervisor.json what it does
        not find running. Nothing in the segment is this process's any more, as for others it would still be alive."""
        self.schedules.close()
        self.collectors.close()
        await self.clients.finish(FINISH_S)
        log.info("goes on as a new one")
        self.note()
        self.operators.close()
        self.processes.spares.close()
        self.processes.end_standing_in()
        self.hub.close()
        self.segment.close()
        command = [sys.executable, "-P", "-m", "tools.supervisor", "--home", self.home, "--successor"]
        os.execve(sys.executable, command, self.sockets.hand_on())


async def supervise(home: str, processes: list[str], report: Any, successor: bool = False) -> bool:
    """Runs a supervisor until it is told to end. `report` is told how the start went: None, or an OSError. False: it
    could not end in order."""
    supervisor = Supervisor(home)
    try:
        await supervisor.begin(processes, successor)
    except OSError as failure:
        report(failure)
        raise
    report(None)
    await supervisor.ended.wait()
    supervisor.close()
    return supervisor.clean


def foreground(instance: Instance, role: str | None) -> int:
    """`archipelago start --foreground`: holds run/lock until all processes are ready. Exit status."""
    set_up_log()
    with contextlib.ExitStack() as stack:
        stack.enter_context(instance.locked())
        if instance.supervised():
            raise Busy(f"another supervisor is at work (home {instance.home}): `archipelago stop` first")
        wanted, running = instance.wanted(role), instance.running()
        todo = [process for process in wanted if process not in running]

        def report(failure: OSError | None) -> None:
            stack.close()

        return 0 if asyncio.run(supervise(instance.home, todo, report)) else 1


def set_up_log() -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.INFO,
                        format="%(asctime)s.%(msecs)03d %(name)s %(levelname)s %(message)s",
                        datefmt="%Y-%m-%d %H:%M:%S")


def main() -> int:
    parser = argparse.ArgumentParser(prog="tools.supervisor", description="The supervisor of an instance.")
    parser.add_argument("--home", required=True, help="home of the instance")
    parser.add_argument("--report", type=int, metavar="FD", help="where to say how the start went")
    parser.add_argument("--successor", action="store_true", help="go on where the last one stopped")
    parser.add_argument("processes", nargs="*", help="processes to start; those that run are watched as well")
    args = parser.parse_args()
    ours.close_umask()
    set_up_log()

    def report(failure: OSError | None) -> None:
        if args.report is None:
            return
        answer = {"errno": failure.errno or errno.EIO, "error": str(failure)} if failure else {}
        os.write(args.report, json.dumps(answer).encode())
        os.close(args.report)

    try:
        return 0 if asyncio.run(supervise(args.home, args.processes, report, args.successor)) else 1
    except OSError as failure:
        log.error("%s", failure)
        return 1

