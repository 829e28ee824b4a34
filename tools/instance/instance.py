# SPDX-License-Identifier: Apache-2.0
"""An instance on disk and in memory: its folders, its segment, its processes.

A process is known by run/PROCESS.pid, "PID START\\n", where START is its start time in clock
ticks after boot, so that a pid that was used again is not taken for it. Whoever starts or stops
processes holds run/lock meanwhile.

Processes are started and stopped by the supervisor (tools/supervisor/) where there is one: it is
asked over run/supervisor.sock, one JSON object a line and an answer. What it knows of deaths is in
run/supervisor.json.
"""
from __future__ import annotations

import contextlib
import errno
import functools
import glob
import json
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from typing import IO, Any

from tools.instance import config, locking, messages, stores
from tools.instance.config import Role
from tools.instance.process import KILL_TIMEOUT_S, runs, send_signal, start_time, wait_for_end
from xseg import look, ours
from xseg._native import lib
from xseg.errors import Busy, Invalid, NotOurs, OtherStore, TimedOut, Unfinished, XsegError
from xseg.removed import ELSEWHERE, supervisor_answers
from xseg.segment import Segment, name_for, names_of, new_name, record, text

STOP_TIMEOUT_S = 10.0
POLL_S = 0.005
LOG_LINES = 15                  # of a process that died, shown to the operator
PASSAGE_MODE = 0o711            # others may pass through to what they know the name of, and see nothing
FOLDERS = {"run": PASSAGE_MODE, "run/mapped": ours.FOLDER_MODE, "log": ours.FOLDER_MODE}
LOOK_S = 1.0                    # between looks at whether a supervisor that does not answer is frozen
RECEIVE_BYTES = 65536
ASK_TIMEOUT_S = 120.0           # of a supervisor beyond start_s and stop_s: it may have many processes to start


def peer_pid(made: socket.socket) -> int:
    """Pid of who listens at the other side of a connection; 0: it cannot be seen from here."""
    return ours.peer_of(made)[0]


log = logging.getLogger("instance")


class Instance:
    """The instance whose home is `home`. `looks`: the configuration that a running one goes by is not checked again."""

    def __init__(self, home: str, looks: bool = False) -> None:
        self.home = home
        self.looks = looks
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    @functools.cached_property
    def config(self) -> config.Config:
        """What a running instance goes by; else what the file says. Invalid: it is faulty."""
        return config.read_in_force(self.home, not self.looks) if self.has_segment() else config.read(self.home)

    def take_in(self) -> bytes | None:
        """Goes by what the operator's file says now; what was in force until now. Invalid: it is faulty, or has another
        layout while something runs: that must end first."""
        new, running = config.read(self.home), self.running()
        if running and new.processes != self.config.processes:
            raise Invalid(f"{self.path(config.FILE)} has another layout ({', '.join(new.processes)}) than the instance "
                          f"that runs ({', '.join(self.config.processes)}): `archipelago restart`, of all, takes it in")
        return self.go_by(config.text_of(self.home, config.FILE))

    def wanted(self, role: str | None) -> list[str]:
        """The processes that are to be started, by what the operator's file says now. Under run/lock."""
        self.refuse_elsewhere()
        if self.has_segment():
            self.forget_end()
            self.take_in()
            self.make_folders()
        return [self.config.process_of(role)] if role else list(self.config.processes)

    def go_by(self, text: bytes | None) -> bytes | None:
        """Goes by this text; what was in force until now."""
        before = config.text_of(self.home, config.IN_FORCE)
        if text != before:
            config.put_in_force(self.home, text)
        self.__dict__.pop("config", None)
        return before

    def path(self, *parts: str) -> str:
        return os.path.join(self.home, *parts)

    def make_folders(self) -> None:
        """What others may see: that there is a home, and in run/ what they know the name of and may use, a socket."""
        if not os.path.exists(self.home):
            ours.make_folder(self.home, PASSAGE_MODE)
        ours.check_home(self.home)
        for name, mode in FOLDERS.items():
            ours.make_folder(self.path(name), mode)
        for role in self.config.roles.values():     # stores elsewhere must exist: a typing error makes none
            store = role.options.get("path") if role.type == "blocker-file" else None
            if store:
                self._check_store(role.name, store)
            for option, kind in role.cls.listens.items():
                if kind == "unix" and role.options.get(option):
                    self._check_socket(role, option)

    def _check_store(self, role: str, store: str) -> None:
        """NotOurs. One that lies in the home is made if need be. The blocker looks at the folder itself."""
        try:
            ours.resolve(store)
        except NotOurs as failure:
            raise NotOurs(f"the store of {role} cannot be used: {failure}") from None
        if os.path.dirname(store) == self.home and not os.path.exists(store):
            ours.make_folder(store)

    def _check_socket(self, role: Role, option: str) -> None:
        """NotOurs: somebody else could put his own in the place of a socket. Says so if those it is opened to cannot
        come near it."""
        path = role.options[option]
        folder = os.path.dirname(path)
        try:
            ours.check_folder(folder, sticky=True)
        except NotOurs as failure:
            raise NotOurs(f"the socket of {role.name} cannot be there: {failure}") from None
        others = role.options.get(option + "_owner") or role.options.get(option + "_group")
        if others and path.startswith(self.home + "/") and not os.stat(self.home).st_mode & stat.S_IXOTH:
            print(f"note: {path} is opened to others, who cannot pass through {self.home}: `chmod go+x {self.home}`")

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Holds the instance against others that start or stop. Busy."""
        return locking.locked(self.path("run", "lock"), f"another archipelago command is at work on {self.home}")

    # --- processes

    def pid_of(self, process: str) -> int:
        """Pid of a process that runs; 0: it does not."""
        try:
            pid, started = messages.parse_pid(ours.read(self.path("run", process + ".pid")))
        except (FileNotFoundError, UnicodeDecodeError):
            return 0
        return pid if runs(pid, started, "tools.instance.host", process) else 0

    def pid_file_exists(self, process: str) -> bool:
        return os.path.exists(self.path("run", process + ".pid"))

    def running(self) -> list[str]:
        """Names of the processes that run."""
        return [process for process in self.config.processes if self.pid_of(process)]

    def known(self) -> list[str]:
        """Names of the processes that have a pid file, running or not, whatever the configuration says."""
        return sorted(os.path.basename(path).removesuffix(".pid") for path in glob.glob(self.path("run", "*.pid")))

    def strangers(self) -> list[str]:
        """Running processes of this instance that the configuration no longer knows."""
        return [name for name in self.known() if name not in self.config.processes and self.pid_of(name)]

    def child_of(self, process: str) -> subprocess.Popen[bytes] | None:
        """It, if this program has started it and it runs."""
        child = self._children.get(process)
        return child if child and child.poll() is None else None

    def launch(self, process: str, sockets: dict[str, int] | None = None) -> subprocess.Popen[bytes]:
        """Starts a process; see spawn(). Waits for nothing."""
        child = self.spawn(process, sockets or {})
        self.admit(process, child)
        return child

    def spawn(self, process: str, sockets: dict[str, int], gate: int | None = None) -> subprocess.Popen[bytes]:
        """Starts a program that can become a process once it is admitted, detached, its output in log/PROCESS.log.

        `sockets`: "ROLE.OPTION" -> a descriptor that listens, for it to inherit. `gate`: see tools/instance/host.py.
        """
        inherited = " ".join(f"{name}={fd}" for name, fd in sockets.items())
        gates = [] if gate is None else [gate]
        with self.log_file(process) as log:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "tools.instance.host", "--home", self.home, "--process", process,
                 *(word for gate in gates for word in ("--gate", str(gate)))],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/",
                pass_fds=(*sockets.values(), *gates), env={**os.environ, "ARCHIPELAGO_SOCKETS": inherited})

    def log_file(self, process: str) -> IO[bytes]:
        """Its log, to write to; /dev/null on a file system that takes no writes."""
        try:
            return ours.appending(self.path("log", process + ".log"))
        except OSError as failure:
            if failure.errno != errno.EROFS:
                raise
            return open(os.devnull, "ab")

    def admit(self, process: str, child: subprocess.Popen[bytes]) -> None:
        """Makes a program that was spawned the process of that name: it waits for its pid file."""
        self._children[process] = child
        ours.replace(self.path("run", process + ".pid"), f"{child.pid} {start_time(child.pid)}\n")

    def log_tail(self, process: str) -> str:
        return "".join(ours.read(self.path("log", process + ".log"), "replace").splitlines(True)[-LOG_LINES:])

    def wait_ready(self, segment: Segment, processes: list[str]) -> None:
        """Returns when every role of these processes is ready. An error shows the log of one that died."""
        start_s = self.config.supervisor["start_s"]
        end = time.monotonic() + start_s
        waiting = set(processes)
        while waiting:
            for process in sorted(waiting):
                if self.is_ready(segment, process):
                    waiting.discard(process)
                elif not self.pid_of(process):
                    raise XsegError(errno.ESRCH, f"the process {process} did not start; the end of "
                                    f"{self.path('log', process + '.log')}:\n{self.log_tail(process)}".rstrip())
            if waiting and time.monotonic() > end:
                late = ", ".join(sorted(waiting))
                raise XsegError(errno.ETIMEDOUT, f"not ready after {start_s} s: {late}; see {self.path('log')}")
            time.sleep(POLL_S)

    def is_ready(self, segment: Segment, process: str) -> bool:
        """True if every role of a process is ready, and lives."""
        numbers = [segment.port_of(role) for role in self.config.processes[process]]
        return all(segment.c.ports[number].ready and segment.alive(number) for number in numbers)

    def terminate(self, process: str, seconds: float = STOP_TIMEOUT_S) -> bool:
        """Ends a process: SIGTERM, then SIGKILL. False: it had to be killed."""
        pid = self.pid_of(process)
        clean = not pid or self._signal_and_wait(process, pid, signal.SIGTERM, min(seconds, STOP_TIMEOUT_S))
        if not clean:
            self.kill(process)
        ours.forget(self.path("run", process + ".pid"))
        return clean

    def kill(self, process: str) -> None:
        """Ends a process that does not listen. Busy: not even so."""
        pid = self.pid_of(process)
        if pid and not self._signal_and_wait(process, pid, signal.SIGKILL, KILL_TIMEOUT_S):
            raise Busy(f"the process {process} (pid {pid}) does not end, even by SIGKILL: it waits in the kernel")

    def is_frozen(self, process: str) -> bool:
        """True if it runs, and a signal or a debugger has stopped it."""
        pid = self.pid_of(process)
        return bool(pid) and look.is_frozen(pid)

    def _signal_and_wait(self, process: str, pid: int, number: int, seconds: float) -> bool:
        send_signal(pid, start_time(pid), number)
        end = time.monotonic() + seconds
        while self.pid_of(process):
            if process in self._children:
                self._children[process].poll()          # so that it is no zombie
            if time.monotonic() > end:
                return False
            time.sleep(POLL_S)
        return True

    # --- the supervisor

    def supervisor_socket(self) -> socket.socket | None:
        """A connection to the supervisor; None: there is none. The path may be longer than sockets allow."""
        folder = os.open(self.path("run"), os.O_RDONLY | os.O_DIRECTORY)
        made = socket.socket(socket.AF_UNIX)
        try:
            made.settimeout(LOOK_S)
            made.connect(f"/proc/self/fd/{folder}/supervisor.sock")
            ours.check_server(made, self.path("run", "supervisor.sock"))
            return made
        except (FileNotFoundError, ConnectionError):
            made.close()
            return None
        except (TimeoutError, BlockingIOError):
            made.close()
            raise Busy(f"the supervisor of {self.home} takes nobody in: is it stopped by a signal?") from None
        except BaseException:
            made.close()
            raise
        finally:
            os.close(folder)

    def _patience_s(self) -> float:
        """For how long a supervisor that moves may take to answer."""
        try:
            limits = self.config.supervisor
        except Invalid:                     # `archipelago stop` works all the same
            limits = config.SUPERVISOR
        return ASK_TIMEOUT_S + limits["start_s"] + limits["stop_s"]

    def supervised(self) -> bool:
        try:
            made = self.supervisor_socket()
        except FileNotFoundError:
            return False
        except Busy:
            return True
        if made:
            made.close()
        return made is not None

    def supervisor_pid(self) -> int:
        """Pid of the supervisor; 0: there is none, or none that can be seen from here. Busy: it takes nobody in."""
        with contextlib.suppress(FileNotFoundError):
            if made := self.supervisor_socket():
                with made:
                    return peer_pid(made)
        return 0

    def ask_supervisor(self, verb: str, processes: list[str], force: bool = False) -> list[str]:
        """Has the supervisor do something; the lines it has to say. Its failure is raised here; Busy: a signal has
        stopped it."""
        made = self.supervisor_socket()
        if made is None:
            raise XsegError(errno.ESRCH, "the supervisor has ended meanwhile: try again")
        with made:
            pid = peer_pid(made)
            made.sendall(json.dumps({"verb": verb, "processes": processes, "force": force}).encode() + b"\n")
            line = self._hear(made, pid, until_end=verb == "renew")     # which ends when the old program does
        if not line:
            raise XsegError(errno.ESRCH, f"the supervisor ended meanwhile; see {self.path('log', 'supervisor.log')}")
        said = messages.parse_answer(line)
        if verb in ("quit", "end"):
            wait_for_end(pid)
        return said

    def _hear(self, made: socket.socket, pid: int, until_end: bool) -> bytes:
        """The supervisor's line, or all it says until the connection ends. Busy, TimedOut."""
        came, end = b"", time.monotonic() + self._patience_s()
        while until_end or not came.endswith(b"\n"):
            try:
                more = made.recv(RECEIVE_BYTES)
            except TimeoutError:
                if look.is_frozen(pid):
                    raise Busy(f"the supervisor (pid {pid}) is stopped by a signal and does nothing: continue it by "
                               f"`kill -CONT {pid}`, or `kill -9 {pid}` and try again") from None
                if time.monotonic() > end:
                    raise TimedOut(f"the supervisor (pid {pid}) does not answer; see "
                                   f"{self.path('log', 'supervisor.log')}") from None
                continue
            if not more:
                break
            came += more
        return came

    def deaths(self) -> dict[str, dict[str, Any]]:
        """What the supervisor noted: process -> state, deaths, restarts, last_death."""
        try:
            return messages.parse_deaths(ours.read(self.path("run", "supervisor.json")))
        except (FileNotFoundError, UnicodeDecodeError):
            return {}

    # --- the segment

    def prepare(self, processes: list[str]) -> Segment:
        """The segment, made if it is not there; the roles of these processes are not ready in it."""
        segment = self.open_or_create()
        try:
            self.know_stores(segment, processes)
        except OtherStore as failure:
            if self.running():
                raise
            segment = self._begin_anew(segment, failure)
            self.know_stores(segment, processes)
        lib.export_closing(segment.c, 0)
        segment.c.header.ending = 0
        self.mark_unready(segment, processes)
        return segment

    def forget_end(self) -> None:
        """An end that was cut short is over: volumes may be opened again."""
        with contextlib.suppress(Unfinished), Segment.of_home(self.home) as segment:
            lib.export_closing(segment.c, 0)

    def know_stores(self, segment: Segment, processes: list[str]) -> None:
        """Notes which stores these processes are started on. OtherStore: the segment knows another one."""
        known = segment.c.header.stores
        for role in (self.config.roles[name] for process in processes for name in self.config.processes[process]):
            now = stores.identity(role.options["path"]) if role.type == "blocker-file" else 0
            port = segment.port_of(role.name)
            if now and known[port] and known[port] != now:
                raise OtherStore(f"the store of {role.name}, {role.options['path']}, is not the one that the segment "
                                 "knows: it was replaced, or its file system mounted anew. What was not flushed there "
                                 "is lost: `archipelago stop --force`, then start")
            known[port] = now or known[port]

    def _begin_anew(self, segment: Segment, why: OtherStore) -> Segment:
        """A new segment where nothing runs: what this one knows of is gone, as after a power cut."""
        lost = [text(segment.c.volumes[place].name) for place in range(segment.c.volume_count)
                if lib.export_unsaved(segment.c, place)]
        log.warning("%s. It is started as after a power cut%s", str(why).partition(". What")[0],
                    f": lost is what was written since their last flush to {', '.join(lost)}" if lost else "")
        segment.close()
        self.remove_segment()
        return self.open_or_create()

    def mark_unready(self, segment: Segment, processes: list[str]) -> None:
        """Has their roles count as not ready until they say so anew."""
        for process in processes:
            for role in self.config.processes[process]:
                segment.c.ports[segment.port_of(role)].ready = 0

    @property
    def segment_name(self) -> str:
        return name_for(self.home)

    def has_segment(self) -> bool:
        return Segment.exists_for(self.home)

    def open_or_create(self) -> Segment:
        """The segment, made if it is not there. One whose making was cut short is made anew. WrongVersion: another
        build made it, so what volumes hold there cannot be read."""
        if not self.has_segment():
            self.go_by(config.text_of(self.home, config.FILE))
        try:
            segment = Segment.of_home(self.home) if self.has_segment() else self._create()
        except Unfinished:
            self.remove_segment()
            segment = self._create()
        self.declare(segment)
        return segment

    def _create(self) -> Segment:
        """A new segment, of a name that is written down before: a kill leaves none that nobody knows."""
        self.refuse_other_lives()
        name = new_name(self.home)
        record(self.home, name)
        try:
            return Segment.create(name, self.path("run"), **self.config.segment)
        except BaseException:
            record(self.home, "")
            raise

    def refuse_elsewhere(self) -> None:
        """Busy: the instance of this home runs where this program does not see its segment."""
        if not self.has_segment() and supervisor_answers(self.home):
            raise Busy(ELSEWHERE.format(self.home))

    def refuse_other_lives(self) -> None:
        """Busy: the instance of this home runs where this program does not see it, or processes still run of one whose
        home was emptied. What such a one has left otherwise is removed, if nothing is lost with it."""
        self.refuse_elsewhere()
        for name in names_of(self.home):
            try:
                with Segment.open(name) as segment:
                    pids = {segment.c.ports[port].pid for port in range(lib.XSEG_STATIC_PORTS) if segment.alive(port)}
                    left = [place for place in range(segment.c.volume_count) if lib.export_unsaved(segment.c, place)]
            except OSError as failure:
                log.warning("it is left as it is: %s", failure)
                continue
            if pids:
                raise Busy(f"processes of an earlier instance of {self.home} still run (pids "
                           f"{', '.join(map(str, sorted(pids)))}): its home was emptied or replaced. End them first")
            if left:
                log.warning("an earlier home at %s has left /dev/shm%s, with %d volumes that were not saved: remove it "
                            "when that home is gone for good", self.home, name, len(left))
            else:
                Segment.unlink(name)

    def declare(self, segment: Segment) -> None:
        """Sets aside a port for each role and makes each edge of the pipeline lead where the file says."""
        for role in self.config.roles.values():
            segment.declare(role.name, role.type, role.process)
        for role in self.config.roles.values():
            for target in role.targets:
                segment.route(role.name, target)
                edge = f"{role.name}>{target}"
                segment.set_route(edge, segment.port_of(self.config.routes.get(edge, target)))

    def remove_segment(self) -> None:
        Segment.unlink(self.segment_name)
        record(self.home, "")
        for path in [*glob.glob(self.path("run", "bell.*")), self.path("run", "supervisor.json"),
                     self.path("run", "supervisor.sock"), self.path("run", "park.sock"), self.path(config.CHANGES),
                     self.path(config.IN_FORCE)]:
            ours.forget(path)
