# SPDX-License-Identifier: Apache-2.0
"""The supervisor of an instance: python -m tools.supervisor --home HOME [PROCESS...]

`archipelago start` leaves one, or is one (--foreground). It starts processes (tools/host.py) and holds a
pidfd of each, so it hears of a death at once. What a dead peer held is recovered by its successor
when it binds the port (native/layout.h); all the supervisor has to do is to start it.

* **Deaths.** A process that died without being told to is started again at once; if it lives for less than
  QUICK_S, again and again, then after 0.1, 0.2, 0.4 s ... `back_off_ms` at most. After `deaths` within
  `window_s`, or so many in a row without becoming ready, it is given up: a stand-in takes its roles' ports
  and answers what waits there and what comes with EHOSTDOWN, until an operator starts or restarts the process.
* **Starts.** One that is not ready after `start_s` is killed, and has died. One that waits for the answer of
  another peer meanwhile is not to blame, and goes on waiting.
* **Spares.** A spare stands by for each process (tools/spares.py) and is the next one when it dies.
* **Clients** have ports, too, and nobody starts them again. When one has died, the sweep binds its port
  in its place, lets what it had under way come home, gives its buffers back, and frees the port. What
  volumes it had open is the mapper's to close (peers/mapper.py).
* **Bells.** Whenever somebody dies all are rung, so that nobody sleeps on what the dead one did not say.
* **Sockets** that peers listen at (Peer.listens) are made here and inherited, so that they stay when the
  process dies: who connects meanwhile waits in their backlog.
* **Its own death** harms nobody: processes go on, unwatched, until `archipelago start` makes a new
  supervisor, which finds them by their pid files and the start times therein, and takes their listening
  sockets over from them. A process whose pid file was not written any more ends by itself.
* **Its own restart** (`archipelago restart --supervisor`, after an upgrade) is just that, only that it becomes
  its successor by execve(): it stays the same process for systemd, and the parent of what it has started.

Operators are served one at a time over run/supervisor.sock; see Instance.ask_supervisor(). What is known
of deaths is in run/supervisor.json, for `archipelago status`.
"""
from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import errno
import json
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from tools.archipelago.instance import Instance, start_time
from tools.spares import Spares
from xseg._native import lib
from xseg.aio import AsyncPort, Hub
from xseg.errors import Busy, XsegError
from xseg.request import Request
from xseg.segment import Segment, text

FIRST_WAIT_S = 0.1
QUICK_S = 1.0                   # a process that lives for less dies quickly
SPARE_AFTER_S = 0.05            # from a start, so that this one has the machine for itself
SWEEP_S = 0.5
BACKLOG = 128
SOCKET_MODE = 0o660
PIDFD_GETFD = 438               # the system call's number, on all architectures
LINE_MAX = 65536                # bytes of an operator's request
log = logging.getLogger("supervisor")


@dataclass
class Watched:
    """A process of the pipeline."""

    name: str
    state: str = "stopped"                  # starting (by an operator), running, waiting, failed or stopped
    pid: int = 0
    pidfd: int = -1
    child: subprocess.Popen | None = None   # None: adopted
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


class Notifier:
    """Tells systemd how things are; does nothing where NOTIFY_SOCKET is not set. See sd_notify(3)."""

    def __init__(self) -> None:
        self.path = os.environ.get("NOTIFY_SOCKET", "").replace("@", "\0", 1)
        self.watchdog_s = int(os.environ.get("WATCHDOG_USEC", "0")) / 2e6

    def say(self, *lines: str) -> None:
        if self.path:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
                made.sendto("\n".join(lines).encode(), self.path)


async def refuse(request: Request) -> None:
    """What a stand-in does."""
    request.reply(errno.EHOSTDOWN)


def listening_socket(kind: str, address: str) -> socket.socket:
    """A socket that listens at a path ("unix") or at host:port ("tcp"). A dead server's is replaced, and nothing
    else that is there: EEXIST."""
    if kind == "tcp":
        host, _, port = address.rpartition(":")
        family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
        return socket.create_server((host.strip("[]"), int(port)), family=family, backlog=BACKLOG)
    made = socket.socket(socket.AF_UNIX)
    try:
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            if not stat.S_ISSOCK(os.lstat(address).st_mode):
                raise FileExistsError(errno.EEXIST, "there is something that is no socket")
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(address)
            raise OSError(errno.EADDRINUSE, "another server listens there")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(address)
        made.bind(address)
        os.chmod(address, SOCKET_MODE)
        made.listen(BACKLOG)
    except OSError:
        made.close()
        raise
    return made


def inherited_by(pid: int, pidfd: int) -> dict[str, socket.socket]:
    """The listening sockets that a process was started with: "ROLE.OPTION" -> a descriptor of our own."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            words = dict(word.partition(b"=")[::2] for word in file.read().split(b"\0"))
    except OSError:
        return {}
    found = {}
    for name, _, fd in (word.partition("=") for word in words.get(b"ARCHIPELAGO_SOCKETS", b"").decode().split()):
        mine = ctypes.CDLL(None).syscall(PIDFD_GETFD, pidfd, int(fd), 0)
        if mine >= 0:                       # else we may not: it is made anew when the process dies
            found[name] = socket.socket(fileno=mine)
    return found


class Supervisor:
    """Everything happens in one event loop; what blocks (waiting for a start or an end) in a thread."""

    def __init__(self, home: str) -> None:
        self.home = home
        self.instance = Instance(home)
        self.processes: dict[str, Watched] = {}
        self.sockets: dict[str, tuple[str, socket.socket]] = {}     # "ROLE.OPTION" -> its address, the socket
        self.sweeping: dict[int, AsyncPort] = {}
        self.spares = Spares()
        self.swept = 0
        self.operating = asyncio.Lock()
        self.ended = asyncio.Event()
        self.notifier = Notifier()

    # --- life

    async def begin(self, processes: list[str]) -> None:
        """Makes or joins the segment, adopts what runs, starts these processes. On failure nothing is left."""
        fresh = not Segment.exists(self.instance.segment_name)
        self.loop = asyncio.get_running_loop()
        try:
            self.segment = self.instance.prepare(processes)
            self.hub = Hub(self.segment)
            for process in self.instance.running():
                if process not in processes:
                    self._adopt(process)
            self.server = await self._listen()
            await self.start(processes)
        except BaseException:
            if fresh:
                self.instance.remove_segment()
                for name in list(self.sockets):
                    self._close_socket(name)
            raise
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(number, self._told_to_end)
        self.loop.call_later(SWEEP_S, self._sweep)
        self._watchdog()
        self.note()
        self.notifier.say("READY=1")

    async def _listen(self) -> asyncio.Server:
        """Operators' socket. Its path may be longer than sockets allow, so it goes by way of a descriptor."""
        path = self.instance.path("run", "supervisor.sock")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        folder = os.open(self.instance.path("run"), os.O_RDONLY | os.O_DIRECTORY)
        made = socket.socket(socket.AF_UNIX)
        made.bind(f"/proc/self/fd/{folder}/supervisor.sock")
        os.close(folder)
        os.chmod(path, SOCKET_MODE)
        return await asyncio.start_unix_server(self._operator, sock=made, limit=LINE_MAX)

    def _told_to_end(self) -> None:
        """SIGTERM: stops the pipeline and ends."""
        async def end() -> None:
            self.notifier.say("STOPPING=1", "STATUS=stopping")
            async with self.operating:
                await self.stop([*self._stop_order(), *self.instance.strangers()])
            self.instance.remove_segment()
            self.ended.set()
        self.ending = self.loop.create_task(end())

    def _stop_order(self) -> list[str]:
        try:
            return Instance(self.home).config.stop_order()
        except OSError:                     # the file is faulty by now
            return self.instance.known()

    def close(self) -> None:
        self.server.close()
        self.spares.close()
        for name in list(self.sockets):
            self._close_socket(name)
        self.hub.close()
        self.segment.close()

    def _close_socket(self, name: str) -> None:
        address, made = self.sockets.pop(name)
        if made.family == socket.AF_UNIX:
            with contextlib.suppress(OSError):
                os.unlink(address)
        made.close()

    def _watchdog(self) -> None:
        if self.notifier.watchdog_s:
            self.notifier.say("WATCHDOG=1")
            self.loop.call_later(self.notifier.watchdog_s, self._watchdog)

    def note(self) -> None:
        """Writes down what is known of deaths."""
        shown = {name: {"state": w.state, "deaths": w.deaths, "restarts": w.restarts, "last_death": w.last_death}
                 for name, w in self.processes.items()}
        path = self.instance.path("run", "supervisor.json")
        with contextlib.suppress(FileNotFoundError):
            with open(path + ".new", "w", encoding="utf-8") as file:
                json.dump({"pid": os.getpid(), "clients_swept": self.swept, "processes": shown}, file, indent=1)
            os.replace(path + ".new", path)
        bad = [f"{name} is {w.state}" for name, w in self.processes.items() if w.state != "running"]
        self.notifier.say("STATUS=" + (", ".join(bad) or f"{len(self.processes)} processes run"))

    # --- processes

    def _renew(self) -> None:
        """Has the configuration read again. Invalid."""
        again = Instance(self.home)
        again._children = self.instance._children
        _ = again.config
        self.instance = again

    def _watch(self, watched: Watched, pid: int, child: subprocess.Popen | None) -> None:
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
            self.spares.prepare(self.instance, watched.name, self._sockets_of(watched.name))
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
            first, count = self.segment.c.ports[number].first, self.segment.c.ports[number].count
            if any(c.state != lib.XREQ_FREE and c.owner != number and not c.flags & lib.XREQ_ASIDE
                   for c in self.segment.c.reqs[first:first + count]):
                return True
        return False

    def _adopt(self, process: str) -> None:
        """A process that somebody else has started."""
        watched = self.processes[process] = Watched(process, "running")
        pid = self.instance.pid_of(process)
        with contextlib.suppress(ProcessLookupError):
            self._watch(watched, pid, None)
        if not pid or watched.pidfd < 0 or not start_time(pid):
            raise Busy(f"the process {process} is just ending: try again")
        for name, made in inherited_by(pid, watched.pidfd).items():
            role, _, option = name.partition(".")
            if role in self.instance.config.roles:
                self.sockets[name] = (self.instance.config.roles[role].options.get(option), made)
        noted = self.instance.deaths().get(process, {})
        for what in ("deaths", "restarts", "last_death"):
            setattr(watched, what, noted.get(what, getattr(watched, what)))
        log.info("%s (pid %d) runs already", process, pid)

    def _launch(self, watched: Watched) -> None:
        sockets = self._sockets_of(watched.name)
        for role in self.instance.config.processes[watched.name]:
            self.segment.c.ports[self.segment.port_of(role)].ready = 0
        child = (self.spares.take(self.instance, watched.name, sockets)
                 or self.instance.launch(watched.name, sockets))
        self._watch(watched, child.pid, child)

    def _sockets_of(self, process: str) -> dict[str, int]:
        """The sockets that the peers of a process listen at. One that cannot be had is left to the peer,
        which says what is wrong."""
        found = {}
        for role in self.instance.config.processes[process]:
            options = self.instance.config.roles[role].options
            for option, kind in self.instance.config.roles[role].cls.listens.items():
                name, address = f"{role}.{option}", options.get(option)
                if name in self.sockets and self.sockets[name][0] != address:
                    self._close_socket(name)            # the file says another by now
                if address and name not in self.sockets:
                    try:
                        self.sockets[name] = address, listening_socket(kind, address)
                    except (OSError, ValueError) as failure:
                        log.info("%s: %s: %s", name, address, failure)
                if name in self.sockets:
                    found[name] = self.sockets[name][1].fileno()
        return found

    def _died(self, watched: Watched) -> None:
        """The pidfd of a process has become readable: all its threads have ended."""
        self.loop.remove_reader(watched.pidfd)
        os.close(watched.pidfd)
        watched.pidfd = -1
        watched.late.cancel()
        status = exit_status(watched)
        for bell in range(lib.XSEG_BELLS):
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
            self._renew()
        except OSError as failure:
            log.error("%s", failure)        # it is started as it was
        try:
            self._launch(watched)
        except (OSError, KeyError) as failure:
            log.error("%s cannot be started: %s", watched.name, failure)
            self._give_up(watched)
        self.note()

    def _give_up(self, watched: Watched) -> None:
        """Its roles' requests are answered with an error from now on."""
        watched.state = "failed"
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

    # --- what operators ask for

    async def start(self, processes: list[str]) -> list[str]:
        """Starts processes that do not run and waits until they are ready; on failure, stops these again."""
        made = []
        for process in processes:
            watched = self.processes.setdefault(process, Watched(process))
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
                self._give_up(self.processes[process])
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
            watched = self.processes.get(process)
            self.spares.drop(process)
            if watched:
                self._calm(watched)
                watched.state = "stopped"
            if not await asyncio.to_thread(self.instance.terminate, process):
                said.append(f"{process} did not end in time and was killed")
        return said

    async def _operator(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection: a line, its answer."""
        verb = ""
        with contextlib.suppress(ConnectionError):
            if line := await reader.readline():
                asked = json.loads(line)
                verb = asked["verb"]
                async with self.operating:
                    answer = await self._serve(verb, asked["processes"])
                    writer.write(json.dumps(answer).encode() + b"\n")
                    await writer.drain()
                    if verb == "renew" and "error" not in answer:
                        self._become_successor()
        if verb == "quit":
            self.ended.set()                # the connection ends with this process
        else:
            writer.close()

    def _refuse_unless_calm(self) -> None:
        """Busy: the successor could not take over all, as it adopts only what runs."""
        for name, watched in self.processes.items():
            if watched.state not in ("running", "stopped"):
                raise Busy(f"{name} is {watched.state}: `archipelago restart` it first, or try again")
        if self.sweeping:
            raise Busy("a client has died and is being finished for: try again")

    def _become_successor(self) -> None:
        """Goes on as a new supervisor, of the program as it is on disk now. Nothing in the segment is this
        process's any more, as for others it would still be alive."""
        log.info("goes on as a new one")
        self.server.close()
        self.spares.close()
        self.hub.close()
        self.segment.close()
        os.execv(sys.executable, [sys.executable, "-P", "-m", "tools.supervisor", "--home", self.home])

    async def _serve(self, verb: str, processes: list[str]) -> dict[str, Any]:
        try:
            if verb == "quit":
                return {"said": []}
            if verb == "renew":
                self._refuse_unless_calm()
                return {"said": []}
            if verb == "stop":
                said = await self.stop(processes)
            else:
                self._renew()
                said = await (self.restart if verb == "restart" else self.start)(processes)
        except OSError as failure:
            return {"errno": failure.errno or errno.EIO, "error": str(failure)}
        finally:
            self.processes = {name: w for name, w in self.processes.items()
                              if w.state != "stopped" or name in self.instance.config.processes}
            self.note()
        return {"said": said}

    # --- clients

    def _sweep(self) -> None:
        """Looks for clients that have died, and finishes for them."""
        self.loop.call_later(SWEEP_S, self._sweep)
        for number in range(lib.XSEG_STATIC_PORTS, lib.XSEG_PORTS):
            port = self.segment.c.ports[number]
            if number not in self.sweeping and port.tag and not self.segment.alive(number):
                self._take_over(number, text(port.role), port.pid)
        for number, mine in list(self.sweeping.items()):
            if not mine.c.recovering and not mine.c.orphans and not mine.c.asides:
                mine.close()
                del self.sweeping[number]

    def _take_over(self, number: int, role: str, pid: int) -> None:
        with contextlib.suppress(Busy):     # a new client was first: it recovers the port itself
            port = self.sweeping[number] = AsyncPort(self.hub, number, role)
            port.serve(refuse)
            self.swept += 1
            log.info("client %s:%d (pid %d) died; what it had under way: %d requests", role, number, pid,
                     port.c.orphans + port.c.asides)
            self.note()


async def supervise(home: str, processes: list[str], report: Any) -> None:
    """Runs a supervisor until it is told to end. `report` is told how the start went: None, or an OSError."""
    supervisor = Supervisor(home)
    try:
        await supervisor.begin(processes)
    except OSError as failure:
        report(failure)
        raise
    report(None)
    await supervisor.ended.wait()
    supervisor.close()


def foreground(home: str, wanted: list[str]) -> int:
    """`archipelago start --foreground`: holds run/lock until all processes are ready. Exit status."""
    set_up_log()
    instance = Instance(home)
    with contextlib.ExitStack() as stack:
        stack.enter_context(instance.locked())
        if instance.supervised():
            raise Busy(f"another supervisor is at work (home {home}): `archipelago stop` first")
        running = instance.running()
        todo = [process for process in wanted if process not in running]

        def report(failure: OSError | None) -> None:
            stack.close()

        asyncio.run(supervise(home, todo, report))
    return 0


def set_up_log() -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.INFO,
                        format="%(asctime)s.%(msecs)03d %(name)s %(levelname)s %(message)s",
                        datefmt="%Y-%m-%d %H:%M:%S")


def main() -> int:
    parser = argparse.ArgumentParser(prog="tools.supervisor", description="The supervisor of an instance.")
    parser.add_argument("--home", required=True, help="home of the instance")
    parser.add_argument("--report", type=int, metavar="FD", help="where to say how the start went")
    parser.add_argument("processes", nargs="*", help="processes to start; those that run are watched as well")
    args = parser.parse_args()
    set_up_log()

    def report(failure: OSError | None) -> None:
        if args.report is None:
            return
        answer = {"errno": failure.errno or errno.EIO, "error": str(failure)} if failure else {}
        os.write(args.report, json.dumps(answer).encode())
        os.close(args.report)

    try:
        asyncio.run(supervise(args.home, args.processes, report))
    except OSError as failure:
        log.error("%s", failure)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
