# SPDX-License-Identifier: Apache-2.0
"""The processes of an instance as the supervisor sees them: what state each is in, and what changes it.

    stopped --- start ---> starting --- all that were started with it are ready ---> running
                           starting --- one of them is not in time ---> stopped (after `restart`: failed)
    found running --- adopt ---> running
    running --- dies ---> waiting --- its back-off is over ---> running
    running --- dies once too often, or cannot be launched ---> failed
    any --- stop ---> stopped

* **Deaths** are heard of by a pidfd. A process that died without being told to is started again at once; if it
  lives for less than QUICK_S, again and again, then after 0.1, 0.2, 0.4 s ... `back_off_ms` at most. After `deaths`
  within `window_s`, or so many in a row without becoming ready, it is given up: a stand-in takes its roles' ports and
  answers what waits there and what comes with EHOSTDOWN, until an operator starts or restarts the process.
* **Starts.** One that is not ready after `start_s` is killed, and has died. One that waits for the answer of
  another peer meanwhile is not to blame, and goes on waiting.
* **Spares.** A spare stands by for each process (tools/supervisor/spares.py) and is the next one when it dies.
* **Bells.** Whenever somebody dies all are rung, so that nobody sleeps on what the dead one did not say.
"""
from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from tools.instance.instance import Instance
from tools.supervisor.parking import Parking
from tools.supervisor.sockets import Sockets
from tools.supervisor.spares import Spares
from xseg._native import lib
from xseg.aio import AsyncPort, Hub
from xseg.errors import XsegError
from xseg.request import Request
from xseg.segment import Segment

FIRST_WAIT_S = 0.1
QUICK_S = 1.0                   # a process that lives for less dies quickly
SPARE_AFTER_S = 0.05            # from a start, so that this one has the machine for itself
log = logging.getLogger("supervisor")


@dataclass
class Watched:
    """A process of the pipeline."""

    name: str
    state: str = "stopped"                  # starting (by an operator), running, waiting, failed or stopped
    pid: int = 0
    pidfd: int = -1
    child: subprocess.Popen[bytes] | None = None   # None: adopted
    since: float = 0.0                      # when it was launched or adopted, monotonic
    late: asyncio.TimerHandle | None = None     # when it must be ready
    killed_late: bool = False
    recent: deque[float] = field(default_factory=deque)     # deaths within the window, monotonic
    quick: int = 0                          # deaths in a row that came quickly
    deaths: int = 0
    restarts: int = 0
    last_death: str = ""
    again: asyncio.TimerHandle | None = None
    stand_ins: list[AsyncPort] = field(default_factory=list)


def exit_status(watched: Watched) -> int | None:
    """Of a process that has ended; None: it was somebody else's child."""
    if watched.child:
        return watched.child.wait()
    try:
        pid, status = os.waitpid(watched.pid, os.WNOHANG)       # adopted, but perhaps ours: before execve()
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status) if pid else None


async def refuse(request: Request) -> None:
    """What a stand-in does."""
    request.reply(errno.EHOSTDOWN)


class Processes:
    """All that are watched. Everything happens in one event loop; what blocks (waiting for a start or an end) in a
    thread. `note` is called whenever what is known of one has changed."""

    def __init__(self, instance: Instance, segment: Segment, hub: Hub, sockets: Sockets,
                 parking: Parking, note: Callable[[], None]) -> None:
        self.instance = instance            # another after renew()
        self.segment = segment
        self.hub = hub
        self.sockets = sockets
        self.parking = parking
        self.note = note
        self.watched: dict[str, Watched] = {}
        self.spares = Spares()
        self.loop = asyncio.get_running_loop()

    def forget_stopped(self) -> None:
        """Forgets those that are stopped and that the configuration does not know any more."""
        self.watched = {name: w for name, w in self.watched.items()
                        if w.state != "stopped" or name in self.instance.config.processes}

    def renew(self) -> None:
        """Has the configuration read again. Invalid."""
        again = Instance(self.instance.home)
        again._children = self.instance._children
        _ = again.config
        self.instance = again

    def _watch(self, watched: Watched, pid: int, child: subprocess.Popen[bytes] | None) -> None:
        watched.pid, watched.child, watched.since = pid, child, time.monotonic()
        watched.pidfd = os.pidfd_open(pid)
        watched.late = self.loop.call_later(self.instance.config.supervisor["start_s"], self._late, watched)
        self.loop.add_reader(watched.pidfd, self._died, watched)
        if self.instance.config.supervisor["spares"]:
            self.loop.call_later(SPARE_AFTER_S, self._stand_by, watched, pid)

    def _stand_by(self, watched: Watched, pid: int) -> None:
        """Has a spare made, if that process is still the one."""
        if watched.pid != pid or watched.pidfd < 0 or watched.state == "stopped":
            return
        try:
            self.spares.prepare(self.instance, watched.name, self.sockets.of(self.instance.config, watched.name))
        except OSError as failure:
            log.warning("no spare for %s: %s", watched.name, failure)

    def _late(self, watched: Watched) -> None:
        """Its start has taken `start_s`."""
        start_s = self.instance.config.supervisor["start_s"]
        if watched.state != "running" or self.instance.is_ready(self.segment, watched.name):
            return                          # one that an operator starts is waited for elsewhere
        if self._waits_for_others(watched):
            watched.late = self.loop.call_later(start_s, self._late, watched)
            return
        log.error("%s (pid %d) is not ready after %d s and is killed", watched.name, watched.pid, start_s)
        watched.killed_late = True
        signal.pidfd_send_signal(watched.pidfd, signal.SIGKILL)

    def _waits_for_others(self, watched: Watched) -> bool:
        """True if another peer has a request of one of its roles, and not against the pipeline's direction."""
        for role in self.instance.config.processes[watched.name]:
            number = self.segment.port_of(role)
            slots = self.segment.slots_of(number)
            if any(c.state != lib.XREQ_FREE and c.owner != number and not c.flags & lib.XREQ_ASIDE
                   for c in self.segment.c.slots[slots.start:slots.stop]):
                return True
        return False

    def adopt(self, process: str) -> None:
        """A process that somebody else has started."""
        watched = self.watched[process] = Watched(process, "running")
        pid = self.instance.pid_of(process)
        with contextlib.suppress(ProcessLookupError):
            self._watch(watched, pid, None)
        if not pid or watched.pidfd < 0:    # it has ended since it was seen; if it does from now on, that is heard of
            self._restart(watched)
            return
        self.sockets.adopt(self.instance.config, pid, watched.pidfd)
        noted = self.instance.deaths().get(process, {})
        for what in ("deaths", "restarts", "last_death"):
            setattr(watched, what, noted.get(what, getattr(watched, what)))
        log.info("%s (pid %d) runs already", process, pid)

    def inherit(self) -> None:
        """What a predecessor has noted of processes that are not there: given up, or about to be started."""
        for process, noted in self.instance.deaths().items():
            if process in self.watched or process not in self.instance.config.processes or noted["state"] == "stopped":
                continue
            watched = self.watched[process] = Watched(process, deaths=noted["deaths"], restarts=noted["restarts"],
                                                      last_death=noted["last_death"])
            if noted["state"] == "failed":
                self._give_up(watched)
            else:
                self._restart(watched)

    def end_standing_in(self) -> None:
        """Leaves the ports of those that were given up."""
        for watched in self.watched.values():
            for port in watched.stand_ins:
                port.close()

    def _launch(self, watched: Watched) -> None:
        sockets = self.sockets.of(self.instance.config, watched.name)
        self.instance.know_stores(self.segment, [watched.name])
        for role in self.instance.config.processes[watched.name]:
            self.segment.c.ports[self.segment.port_of(role)].ready = 0
        child = (self.spares.take(self.instance, watched.name, sockets)
                 or self.instance.launch(watched.name, sockets))
        self._watch(watched, child.pid, child)

    def _died(self, watched: Watched) -> None:
        """The pidfd of a process has become readable: all its threads have ended."""
        self.loop.remove_reader(watched.pidfd)
        os.close(watched.pidfd)
        watched.pidfd = -1
        if watched.late:
            watched.late.cancel()
        status = exit_status(watched)
        for bell in range(self.segment.c.bell_count):
            lib.bell_ring(self.segment.c, bell)
        if watched.state != "running":
            return                          # an operator's doing
        self._count(watched, status)
        limits = self.instance.config.supervisor
        if len(watched.recent) >= limits["deaths"]:
            self._give_up(watched)
            return
        n = watched.quick
        wait_s = 0.0 if n < 2 else min(FIRST_WAIT_S * 2 ** min(n - 2, 30), limits["back_off_ms"] / 1000)
        watched.state = "waiting"
        self.note()
        if wait_s:
            watched.again = self.loop.call_later(wait_s, self._restart, watched)
        else:
            self._restart(watched)

    def _count(self, watched: Watched, status: int | None) -> None:
        """Notes a death, and its exit status if that is known."""
        how = "ended" if status is None else f"exit status {status}" if status >= 0 else signal.Signals(-status).name
        if watched.killed_late:
            how = f"not ready after {self.instance.config.supervisor['start_s']} s"
        log.warning("%s (pid %d) died: %s", watched.name, watched.pid, how)
        now, was_ready = time.monotonic(), self._was_ready(watched.name)
        watched.killed_late = False
        watched.deaths += 1
        watched.last_death = f"{how}, {time.strftime('%Y-%m-%d %H:%M:%S')}"
        watched.recent.append(now)
        watched.quick = watched.quick + 1 if now - watched.since < QUICK_S or not was_ready else 1
        window_s = self.instance.config.supervisor["window_s"]
        while was_ready and watched.recent[0] < now - window_s:
            watched.recent.popleft()

    def _was_ready(self, process: str) -> bool:
        """True if a process that is dead had become ready."""
        roles = self.instance.config.processes.get(process, [])
        return all(self.segment.c.ports[self.segment.port_of(role)].ready for role in roles)

    def _restart(self, watched: Watched) -> None:
        watched.again = None
        watched.state = "running"
        watched.restarts += 1
        try:
            self.renew()
        except OSError as failure:
            log.error("%s", failure)        # it is started as it was
        try:
            self._launch(watched)
        except (OSError, KeyError) as failure:
            log.error("%s cannot be started: %s", watched.name, failure)
            self._give_up(watched)
        self.note()

    def _give_up(self, watched: Watched) -> None:
        """Its roles' requests are answered with an error from now on, and who connects to them is refused."""
        watched.state = "failed"
        self.sockets.close_those_of(self.instance.config, watched.name)
        self.parking.forget(self.instance.config.processes.get(watched.name, []))
        self.spares.drop(watched.name)
        log.error("%s is given up after %d deaths, the last by %s; see %s. `archipelago restart` tries again",
                  watched.name, watched.deaths, watched.last_death or "nothing",
                  self.instance.path("log", watched.name + ".log"))
        for role in self.instance.config.processes.get(watched.name, []):
            number = self.segment.port_of(role)
            self.segment.c.ports[number].ready = 0
            port = AsyncPort(self.hub, number, role)
            port.serve(refuse)
            watched.stand_ins.append(port)
        self.note()

    def let_go(self) -> None:
        """Watches none any more, as the instance is being ended: what dies now is not started from here."""
        for watched in self.watched.values():
            self._calm(watched)
            self.spares.drop(watched.name)
            if watched.pidfd >= 0:
                self.loop.remove_reader(watched.pidfd)
                os.close(watched.pidfd)
                watched.pidfd = -1
                if watched.late:
                    watched.late.cancel()

    def take_up(self) -> None:
        """After let_go(): watches again what runs. What does not, and should, has died."""
        for watched in self.watched.values():
            pid = self.instance.pid_of(watched.name)
            with contextlib.suppress(ProcessLookupError):
                if pid:
                    self._watch(watched, pid, self.instance.child_of(watched.name))
                    watched.state = "running"
            if watched.pidfd < 0 and watched.state == "running":
                self._restart(watched)
        self.note()

    # --- what operators ask for

    async def start(self, processes: list[str]) -> list[str]:
        """Starts processes that do not run and waits until they are ready; on failure, stops these again."""
        made = []
        for process in processes:
            watched = self.watched.setdefault(process, Watched(process))
            self._calm(watched)
            if watched.pidfd < 0:
                self.spares.drop(process)   # an operator may have changed the program
                watched.state = "starting"
                made.append(watched)
        self.instance.declare(self.segment)     # ports and edges for what the file says now
        try:
            for watched in made:
                self._launch(watched)
            await asyncio.to_thread(self.instance.wait_ready, self.segment, [watched.name for watched in made])
        except BaseException:
            await self.stop([watched.name for watched in made])
            raise
        for watched in made:
            watched.state = "running"
            if watched.pidfd < 0:           # it has died since it became ready
                watched.again = self.loop.call_later(0, self._restart, watched)
        return []

    async def restart(self, processes: list[str]) -> list[str]:
        """Stops processes and starts them again. When that fails all are given up: what waits for them must not
        wait for ever."""
        said = await self.stop(processes)
        try:
            return said + await self.start(processes)
        except OSError as failure:
            for process in processes:
                self._give_up(self.watched[process])
            roles = ", ".join(role for process in processes for role in self.instance.config.processes[process])
            raise XsegError(failure.errno or errno.EIO, f"{failure}\nNow requests to {roles} are answered with an "
                            "error (EHOSTDOWN): mend that, then `archipelago restart` again") from None

    def _calm(self, watched: Watched) -> None:
        """Ends waiting and standing in; forgets earlier deaths."""
        if watched.again:
            watched.again.cancel()
            watched.again = None
        for port in watched.stand_ins:
            port.close()
        watched.stand_ins.clear()
        watched.recent.clear()
        watched.quick = 0
        if watched.state in ("waiting", "failed"):
            watched.state = "stopped"

    async def stop(self, processes: list[str]) -> list[str]:
        """Stops processes one after the other; says which had to be killed."""
        said = []
        for process in processes:
            watched = self.watched.get(process)
            self.spares.drop(process)
            if watched:
                self._calm(watched)
                watched.state = "stopped"
            if not await asyncio.to_thread(self.instance.terminate, process):
                said.append(f"{process} did not end in time and was killed")
        return said
