# SPDX-License-Identifier: Apache-2.0
"""The end of an instance. What was acknowledged and is not on the store yet lies in the segment and nowhere else, so
the segment is removed only when no volume in it holds anything. Whatever ends an instance comes here: `archipelago
stop`, the supervisor on SIGTERM, a start that fails.

1. What is missing is started, if a volume is open: stopped by an operator, killed, given up.
2. The header's `closing` is set (segment/layout.h): endpoints finish what their clients sent and end their
   connections, and nobody opens anything any more.
3. The mapper closes all volumes (mapper/verbs/end.py): vlmc commits each. Should a process die meanwhile, all of this
   begins again; `stop_s` of archipelago.toml bounds it.
4. If a volume still holds changes then, the end is refused: Unsaved names the volumes and why. The instance goes on,
   and so do its clients. With `force` they are lost, and named all the same.
5. Processes are stopped in order, then the segment is removed.

Killed at any moment, this leaves a segment from which the next start or stop goes on. It runs with run/lock held and
with nobody who would start again what dies: the supervisor lets go of its processes before.
"""
from __future__ import annotations

import contextlib
import errno
import functools
import time
from collections.abc import Callable
from typing import Any

from tools.instance.instance import Instance
from xseg._native import lib
from xseg.client import Client, control_answer
from xseg.errors import NotRunning, TimedOut, XsegError
from xseg.request import Call, take_reply
from xseg.segment import Segment, text

DRAIN_S = 10.0                  # for endpoints to finish what their clients have sent
STOP_ALL_S = 12.0               # for all processes to end, once nothing can be lost
STOP_LEAST_S = 1.0              # for each of them, when those before have taken long
AGAIN_S = 0.2                   # before a failed try to close all is followed by the next
TRIES = 4                       # with a store that fails
NAMES_TOLD = 16                 # volumes that an error names
POLL_S = 0.02
LOOK_S = 0.2                    # between looks at whether a process has died meanwhile
ANSWER_BYTES = 1 << 16
Say = Callable[[str], None]
Sockets = Callable[[str], dict[str, int]]
Launch = Callable[[str], None]


class Unsaved(XsegError):
    """The end was refused, as acknowledged writes would be lost by it."""

    default_errno = errno.EBUSY


def open_places(segment: Segment) -> list[int]:
    """Places of the volume table that are in use."""
    return [place for place in range(segment.c.volume_count) if segment.c.volumes[place].state != lib.XVOL_FREE]


def unsaved(segment: Segment) -> list[str]:
    """Names of volumes that have changes in the segment which are not on the store."""
    return [text(segment.c.volumes[place].name) for place in open_places(segment)
            if lib.export_unsaved(segment.c, place)]


def end(instance: Instance, force: bool, say: Say, sockets: Sockets | None = None) -> list[str]:
    """Ends the instance; the names of the processes that ran. Unsaved: refused, and the instance goes on.

    With `force` nothing refuses: what could not be saved is lost, and said. `sockets` tells what a process inherits
    when it is started, see Instance.spawn()."""
    launch = functools.partial(launch_with, instance, sockets or (lambda process: {}))
    ran = [process for process in everything(instance) if instance.pid_of(process)]
    with contextlib.ExitStack() as stack:
        segment = join(instance, force, say)
        if segment is not None:
            stack.enter_context(segment)
            lib.export_closing(segment.c, 1)
            try:
                close_volumes(instance, segment, launch, force, say)
            except BaseException:
                lib.export_closing(segment.c, 0)
                raise
            segment.c.header.ending = 1             # who stops now leaves for good
        stop_processes(instance, everything(instance), say)
        if segment is not None and not force and (left := unsaved(segment)):
            raise refusal(instance, left, ["they were opened while the instance was stopped"])
        instance.remove_segment()
    return ran


def join(instance: Instance, force: bool, say: Say) -> Segment | None:
    """The segment; None: there is none, or (with force) none that these programs can read."""
    try:
        return Segment.of_home(instance.home)
    except NotRunning:
        return None
    except OSError as failure:
        if not force:
            raise
        say(f"note: {failure}. What volumes hold there that is not on the store is lost")
        return None


def everything(instance: Instance) -> list[str]:
    """All processes there may be, in the order to stop them."""
    try:
        return [*instance.config.stop_order(), *instance.strangers()]
    except OSError:                     # the file is faulty
        return instance.known()


# --- closing

def close_volumes(instance: Instance, segment: Segment, launch: Launch, force: bool, say: Say) -> None:
    """Steps 1 to 4. Returns at once where nothing is open."""
    limit_s = instance.config.supervisor["stop_s"] if open_places(segment) else 0
    until = time.monotonic() + limit_s
    why: list[str] = []
    for n in range(TRIES):
        if not open_places(segment):
            return
        if n:
            time.sleep(AGAIN_S)
        try:
            start_missing(instance, segment, launch)
            wait_for_endpoints(instance, segment, until)
            answer = ask_to_close(instance, segment, launch, until)
            why = [f"{name}: {sentence}" for name, sentence in answer["failed"]]
        except OSError as failure:
            why = [str(failure)]
        if time.monotonic() > until:
            why.append(f"it has taken {limit_s} s (stop_s in archipelago.toml)")
            break
    left = unsaved(segment)
    if left and not force:
        raise refusal(instance, left, why)
    if left:
        say(f"lost: what was written to {named(left)} since the last flush, as it cannot be saved: {'; '.join(why)}")


def refusal(instance: Instance, left: list[str], why: list[str]) -> Unsaved:
    return Unsaved(f"not stopped: {named(left)} would lose what was written since the last flush, as it cannot be "
                   f"saved now: {'; '.join(why)}. Mend that and stop again (see {instance.path('log')}), or lose it "
                   "by `archipelago stop --force`")


def named(volumes: list[str]) -> str:
    more = len(volumes) - NAMES_TOLD
    return ", ".join(f"'{name}'" for name in volumes[:NAMES_TOLD]) + (f" and {more} more" if more > 0 else "")


def launch_with(instance: Instance, sockets: Sockets, process: str) -> None:
    instance.launch(process, sockets(process))


def start_missing(instance: Instance, segment: Segment, launch: Launch) -> None:
    """Starts what does not run, or does not move: a process that a signal has stopped is replaced. Endpoints that
    come along in a process accept nobody, as `closing` is set."""
    needed = [name for name, roles in instance.config.processes.items()
              if any(not instance.config.roles[role].cls.listens for role in roles)]
    for process in needed:
        if instance.is_frozen(process):
            instance.kill(process)
    missing = [process for process in needed if not instance.pid_of(process)]
    instance.know_stores(segment, missing)
    instance.mark_unready(segment, missing)
    for process in missing:
        launch(process)
    instance.wait_ready(segment, needed)


def wait_for_endpoints(instance: Instance, segment: Segment, until: float) -> None:
    """Returns when no endpoint that lives has a volume open, or after DRAIN_S."""
    until = min(until, time.monotonic() + DRAIN_S)
    serving = [segment.port_of(role.name) for role in instance.config.roles.values()
               if role.cls.listens or role.cls.endpoint]

    def served(place: int) -> bool:
        volume: Any = segment.c.volumes[place]
        return any(volume.opens[port] and volume.opened_by[port] == segment.c.ports[port].incarnation
                   and segment.alive(port) for port in serving)

    while any(map(served, open_places(segment))) and time.monotonic() < until:
        time.sleep(POLL_S)


def ask_to_close(instance: Instance, segment: Segment, launch: Launch, until: float) -> dict[str, Any]:
    """Has the mapper close all, while all it needs is kept running. What it says; TimedOut."""
    import msgpack
    with Client(instance.home, "stop") as client:
        request = client.port.get(ANSWER_BYTES)
        Call(lib.XOP_CONTROL, data=msgpack.packb({"verb": "close_all"}), room=ANSWER_BYTES).put(
            client.port.c, request.c)
        client.port.send(client.segment.port_of("mapper"), [request])
        while not client.port.receive(LOOK_S):
            if time.monotonic() > until:
                raise TimedOut("the store or a process does not answer")
            start_missing(instance, segment, launch)
        reply = take_reply(client.port.c, request.c, ANSWER_BYTES)
        return control_answer("close_all", reply)


# --- stopping

def discard(instance: Instance, say: Say) -> None:
    """After a start that failed: removes the segment that it made, unless a volume holds something there already."""
    with contextlib.suppress(NotRunning), Segment.of_home(instance.home) as segment:
        if left := unsaved(segment):
            say(f"{named(left)} holds writes that are not on the store: `archipelago start` goes on from there")
            return
    instance.remove_segment()



def stop_processes(instance: Instance, processes: list[str], say: Say) -> None:
    """Stops them one after the other; those that do not end in time are killed, which loses nothing."""
    until = time.monotonic() + STOP_ALL_S
    for process in processes:
        if not instance.terminate(process, max(STOP_LEAST_S, until - time.monotonic())):
            say(f"{process} did not end in time and was killed")
