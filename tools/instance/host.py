# SPDX-License-Identifier: Apache-2.0
"""One process of a pipeline: python -m tools.instance.host --home HOME --process NAME.

It joins the segment and runs the peers that the configuration puts into it: the native ones in
one C loop on a thread of its own, those served by Python in an asyncio loop on the main thread.
`archipelago` starts and stops it. SIGTERM: finishes what is under way, for DRAIN_S at most;
what is left over stays in the segment for the next process of this name. Exit status 0 then, 1
when a peer cannot start (the last line of the log says why) or the loop ended by itself.

With --gate FD it stands by (tools/supervisor/spares.py): it loads all the code it will need, and begins when a byte
comes from that pipe. If the pipe ends instead, whoever held the other side has died, or needs it no more, and so it
ends.
"""
from __future__ import annotations

import argparse
import contextlib
import errno
import logging
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from tools.instance import config
from tools.instance.messages import parse_pid, parse_sockets
from tools.instance.process import FILES_WANTED
from xseg import ours
from xseg._native import ffi, lib
from xseg.errors import NotRunning, XsegError, check
from xseg.segment import Segment

if TYPE_CHECKING:
    from xseg.peer import Peer

DRAIN_S = 8.0
KNOWN_S = 5.0                   # after which whoever started this process must have written its pid file
FILES_LEAST = 1024              # below that errors would soon reach guests
log = logging.getLogger("host")


def inherited_sockets(role: str) -> list[tuple[str, str]]:
    """What the supervisor hands on in ARCHIPELAGO_SOCKETS, "ROLE.OPTION=FD ...": (option, fd) of this role."""
    given = parse_sockets(os.environ.get("ARCHIPELAGO_SOCKETS", ""))
    return [(name.removeprefix(role + "."), str(fd)) for name, fd in given.items() if name.startswith(role + ".")]


class NativeLoop:
    """The C loop of this process and the thread that runs it."""

    def __init__(self, segment: Segment, roles: list[config.Role], everyone: Iterable[config.Role] = (),
                 tuning: Mapping[str, str] | None = None) -> None:
        """`everyone`: the roles of all processes, if there are others. `tuning`: mechanisms that are "on" or "off"."""
        self.everyone = list(everyone) or roles
        out = ffi.new("struct loop **")
        check(lib.loop_new(segment.c, self.spin_us(roles), out), "the loop cannot start")
        self.c = out[0]
        for mechanism, how in (tuning or {}).items():
            if how != "auto":
                check(lib.loop_force(self.c, mechanism.encode(), how == "on"), mechanism)
        self.thread = threading.Thread(target=self._run, name="loop", daemon=True)
        self.drain_ms = int(DRAIN_S * 1000)
        self.status = 0
        self.stopping = False
        for role in roles:
            self._add(role)

    @staticmethod
    def spin_us(roles: list[config.Role]) -> int:
        """How long the process looks for work before it sleeps; found out where a peer of it may and none says so."""
        wishes = [role.options["spin_us"] for role in roles if "spin_us" in role.options]
        said = [wish for wish in wishes if wish is not None]
        return max(said) if said else lib.LOOP_SPIN_AUTO if wishes else 0

    def _add(self, role: config.Role) -> None:
        assert role.native
        keep: list[Any] = []

        def c_text(text: str) -> Any:
            keep.append(ffi.new("char[]", os.fsencode(text)))
            return keep[-1]

        def c_option(name: str, value: str | None) -> Any:
            return c_text(name), ffi.NULL if value is None else c_text(value)

        targets = [c_text(target) for target in role.targets]
        options = [c_option(name, option.native(role.options[name])) for name, option in role.cls.options.items()]
        inherited = dict(inherited_sockets(role.name))
        options += [c_option(name + "_fd", inherited.get(name)) for name in (*role.cls.listens, *role.cls.keeps)]
        if told := role.cls.told:
            options.append(c_option(told + "_all", self.told(role.cls, told)))
        peer = ffi.new("struct peer **")
        rc = lib.loop_add(self.c, role.native.encode(), role.name.encode(), targets, len(targets),
                          options, len(options), peer)
        if rc < 0:
            why = ffi.string(peer[0].error).decode(errors="replace") if peer[0] != ffi.NULL else os.strerror(-rc)
            raise XsegError(-rc, f"{role.name} ({role.type}) cannot start: {why}")

    def told(self, cls: type[Peer], option: str) -> str:
        """What a peer is told of all roles of its type."""
        return "".join(f"{role.name} {role.options[option]}\n" for role in self.everyone
                       if role.cls is cls and role.options[option])

    def _run(self) -> None:
        self.status = lib.loop_run(self.c, self.drain_ms)
        if not self.stopping:
            log.error("the loop ended by itself: %s", os.strerror(-self.status))
            os.kill(os.getpid(), signal.SIGTERM)

    def stop(self, seconds: float) -> None:
        """Lets it finish what is under way; then closes its peers' ports."""
        self.stopping = True
        lib.loop_stop(self.c)
        self.thread.join(seconds + 1)
        if self.thread.is_alive():
            log.warning("the loop did not stop; what it holds is done again by its successor")
            return
        if self.status < 0:
            log.warning("not all requests were finished: %s", os.strerror(-self.status))
            return
        lib.loop_free(self.c)


async def run_python(segment: Segment, home: str, roles: list[config.Role], stop: Any) -> None:
    """Serves the Python peers until `stop` is set, then drains them."""
    import asyncio

    from xseg.aio import AsyncPort, Hub
    hub = Hub(segment)
    peers = []
    for role in roles:
        port = AsyncPort(hub, segment.port_of(role.name), role.name)
        peers.append(role.cls(port, home, role.name, role.options))
    for peer in peers:
        await peer.start()
        peer.port.serve(peer.handle)
        peer.port.ready()
        log.info("%s is ready", peer.role)
    await stop.wait()
    for peer in peers:
        peer.port.pause()
    try:
        async with asyncio.timeout(DRAIN_S):
            for peer in peers:
                await peer.port.drained()
                await peer.stop()
    except TimeoutError:
        log.warning("not all requests were finished within %g s; they are done again at the next start", DRAIN_S)
    tasks = [task for peer in peers for task in peer.port.tasks]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    hub.close()


def serve_python(segment: Segment, home: str, roles: list[config.Role]) -> None:
    """Runs the Python peers in an event loop of their own until SIGTERM."""
    import asyncio

    import uvloop

    async def main() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
        await run_python(segment, home, roles, stop)

    uvloop.run(main())


def serve(segment: Segment, cfg: config.Config, process: str) -> int:
    """Runs the process until SIGTERM. Its exit status."""
    roles = [cfg.roles[name] for name in cfg.processes[process]]
    native = [role for role in roles if role.native]
    python = [role for role in roles if not role.native]
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)     # before threads are made: they inherit it
    loop = NativeLoop(segment, native, cfg.roles.values(), cfg.tuning) if native else None
    if loop:
        loop.thread.start()
        log.info("ready: %s", ", ".join(role.name for role in native))
    if python:
        serve_python(segment, cfg.home, python)
    else:
        signal.sigwait(signals)
    log.info("stopping")
    began, failed = time.monotonic(), False
    if loop:
        failed = not loop.thread.is_alive()
        loop.stop(max(1.0, DRAIN_S - (time.monotonic() - began)))
    log.info("stopped")
    return 1 if failed else 0


def wait_until_known(home: str, process: str) -> None:
    """Returns when run/PROCESS.pid names this process. Whoever was to write it may have been killed before:
    then nobody knows of this process, and it must not be there when another is started. NotRunning."""
    path, end = os.path.join(home, "run", process + ".pid"), time.monotonic() + KNOWN_S
    while time.monotonic() < end:
        with contextlib.suppress(FileNotFoundError, UnicodeDecodeError):
            if parse_pid(ours.read(path))[0] == os.getpid():
                return
        time.sleep(0.01)
    raise NotRunning(f"{path} does not name this process: whoever started it has died")


def pass_gate(home: str, process: str, gate: int) -> bool:
    """Stands by. False: it is not needed any more."""
    with contextlib.suppress(OSError, KeyError):        # a faulty file: by the time it is needed it may be mended
        cfg = config.read_in_force(home)                         # loads what the peers are made of
        if not all(cfg.roles[role].native for role in cfg.processes[process]):
            import uvloop  # noqa: F401

            import xseg.aio  # noqa: F401
    needed = bool(os.read(gate, 1))
    os.close(gate)
    return needed


def raise_limits() -> None:
    """As many open files as the system lets us have. XsegError (EMFILE): those are too few."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY or hard >= FILES_WANTED:
        return
    said = (f"a process may have {hard} files open here, and will want up to {FILES_WANTED}: raise the hard limit "
            "(ulimit -Hn, LimitNOFILE= of a unit)")
    if hard < FILES_LEAST:
        raise XsegError(errno.EMFILE, said)
    log.warning("%s", said)


def main() -> int:
    parser = argparse.ArgumentParser(prog="tools.instance.host", description="One process of a pipeline.")
    parser.add_argument("--home", required=True, help="home of the instance")
    parser.add_argument("--process", required=True, help="name of the process in the layout")
    parser.add_argument("--gate", type=int, metavar="FD", help="stand by until a byte comes from this pipe")
    args = parser.parse_args()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO,
                        format="%(asctime)s.%(msecs)03d %(name)s %(levelname)s %(message)s",
                        datefmt="%Y-%m-%d %H:%M:%S")
    ours.close_umask()
    if args.gate is not None and not pass_gate(args.home, args.process, args.gate):
        return 0
    try:
        raise_limits()
        wait_until_known(args.home, args.process)
        cfg = config.read_in_force(args.home)
        segment = Segment.of_home(args.home)
        return serve(segment, cfg, args.process)
    except OSError as failure:
        log.error("%s", failure)
        return 1


if __name__ == "__main__":
    status = main()
    logging.shutdown()
    sys.stderr.flush()
    os._exit(status)            # no thread of a loop that would not stop may hold the process
