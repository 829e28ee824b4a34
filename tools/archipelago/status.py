# SPDX-License-Identifier: Apache-2.0
"""Shows each peer: role, type, process, port, pid, state, requests in flight, served, errors, and how
often its process was restarted after a death, how many requests it took over then, and how the last died.

States: running; starting: its process runs, the peer is not ready; frozen: a signal has stopped its
process; dead: its process ended without being told to; failed: it died too often, and what is asked of
it is answered with EHOSTDOWN until `archipelago restart`; fenced: it runs, but another node has taken over
and all it is asked for fails; stopped. Exit status 0 when all run, 3 when some do not.

Below: whether a supervisor is there and moves, whether stores are there, processes that may have too few files open,
and clients that others may suffer from: which hold nearly all the requests or buffers they may, or are frozen, or
died and have requests under way. The last line is about the collector, if it has been at work here.
"""
from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import time
from typing import Any

from tools import cli
from tools.instance.instance import Instance
from tools.instance.process import FILES_WANTED
from xseg import look, ours
from xseg._native import ffi, lib
from xseg.errors import Busy, NotRunning, Unfinished
from xseg.removed import ELSEWHERE, supervisor_answers
from xseg.segment import Segment, text

HELP = "show each peer and its state"
NOT_ALL_RUN = 3
COLUMNS = ("role", "type", "process", "port", "pid", "state", "in_flight", "served", "errors", "restarts", "recovered",
           "last_death")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--picture", action="store_true", help="draw the pipeline")


def peers(instance: Instance, segment: Segment | None) -> list[dict[str, Any]]:
    """One dict a role, with the keys of COLUMNS."""
    held = ffi.new("uint32_t[]", lib.XSEG_PORTS)
    if segment:
        lib.export_in_flight(segment.c, held)
    deaths = instance.deaths()
    return [_peer(instance, segment, name, held, deaths) for name in instance.config.roles]


def _peer(instance: Instance, segment: Segment | None, name: str, held: Any, deaths: dict[str, Any]) -> dict[str, Any]:
    role = instance.config.roles[name]
    pid = instance.pid_of(role.process)
    shown = {"role": name, "type": role.type, "process": role.process, "port": None, "pid": pid or None,
             "state": "stopped", "in_flight": 0, "served": 0, "errors": 0, "restarts": 0,
             "recovered": 0, "last_death": None}
    if noted := deaths.get(role.process):
        shown |= {"restarts": noted["restarts"], "last_death": noted["last_death"] or None}
    if not pid and noted and noted["state"] == "failed":
        shown["state"] = "failed"
    elif not pid and instance.pid_file_exists(role.process):
        shown["state"] = "dead"
    if not segment:
        return shown
    try:
        number = segment.port_of(name)
    except FileNotFoundError:
        return shown                    # the file knows it, the running pipeline does not yet
    port = segment.c.ports[number]
    if pid:
        running = "fenced" if segment.fenced() else "running"
        shown["state"] = running if port.ready and segment.alive(number) else "starting"
        if look.is_frozen(pid):
            shown["state"] = "frozen"
    return shown | {"port": number, "in_flight": held[number], "served": port.served, "errors": port.errors,
                    "recovered": port.recovered}


def joined(instance: Instance) -> tuple[Segment | None, list[str]]:
    """The segment, if it runs, and what there is to say if it only begins to."""
    try:
        return Segment.of_home(instance.home), []
    except NotRunning:
        return None, []
    except Unfinished:
        return None, ["its segment is not completely made: it is being started, or a start was killed; then "
                      "`archipelago start` makes it anew"]


def notes(instance: Instance, segment: Segment | None) -> list[str]:
    """Sentences about what an operator should know."""
    if not segment:
        return [ELSEWHERE.format(instance.home)] if supervisor_answers(instance.home) else []
    said = [segment.fenced(), supervisor_note(instance), closing_note(segment), removed_note(segment)]
    return [*filter(None, said), *store_notes(instance), *file_notes(instance), *look.culprits(segment)]


def supervisor_note(instance: Instance) -> str:
    """What is wrong with the supervisor; "": nothing."""
    try:
        pid = instance.supervisor_pid()
    except Busy as failure:
        return str(failure)
    if pid and look.is_frozen(pid):
        return (f"the supervisor (pid {pid}) is stopped by a signal: what dies stays dead, and commands wait for it; "
                f"continue it by `kill -CONT {pid}`")
    return "" if instance.supervised() else "no supervisor: what dies stays dead; `archipelago start` makes one"


def removed_note(segment: Segment) -> str:
    """For a file that a cleaner took for old."""
    return "" if Segment.exists(segment.name) else (
        f"somebody has removed /dev/shm{segment.name}: all goes on until the last process has ended; `archipelago "
        "stop` and start it when you can, and have cleaners spare /dev/shm/archipelago-*")


def closing_note(segment: Segment) -> str:
    """For an end that was killed midway."""
    return ("it is being stopped, and nothing is opened: if no `archipelago stop` is at work any more, stop or start "
            "it again") if segment.c.header.closing else ""


def store_notes(instance: Instance) -> list[str]:
    """Which stores somebody has removed."""
    stores = ((role.name, role.options.get("path")) for role in instance.config.roles.values()
              if role.type == "blocker-file")
    return [f"the store of {name}, {path}, is gone or emptied: what is written there is lost" for name, path in stores
            if path and not (os.path.isdir(path) and os.listdir(path))]


def file_notes(instance: Instance) -> list[str]:
    """Which processes may have too few files open."""
    said = []
    for process in instance.config.processes:
        with contextlib.suppress(OSError):
            pid = instance.pid_of(process)
            limit = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1] if pid else resource.RLIM_INFINITY
            if limit != resource.RLIM_INFINITY and limit < FILES_WANTED:
                said.append(f"{process} may have {limit} files open, and will want up to {FILES_WANTED}: raise the "
                            "hard limit (ulimit -Hn, LimitNOFILE= of a unit) and restart it")
    return said


def collector(instance: Instance) -> dict[str, Any]:
    """What the last cycle of the collector on this instance told; empty: there was none."""
    try:
        found = json.loads(ours.read(instance.path("run", "collector.json")))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def collector_line(found: dict[str, Any]) -> list[str]:
    """The same in a line, if there is something to say."""
    if not isinstance(found.get("ended"), int):
        return []
    ago = f"the collector, {max(0, time.time() - found['ended'] / 1000):.0f} s ago"
    if found.get("refused"):
        return [f"{ago}, deleted nothing: {found['refused']}"]
    freed = sum(kind["freed_bytes"] for kind in found.get("kinds", {}).values())
    return [f"{ago}: {cli.human(freed)} freed; {found.get('waiting', 0)} removed volumes and snapshots wait"]


def picture(instance: Instance, segment: Segment | None) -> str:
    """The pipeline: a box a process, and below it who sends to whom."""
    lines = []
    for process, roles in instance.config.processes.items():
        inside = "  ".join(f"{role} ({instance.config.roles[role].type})" for role in roles)
        pid = instance.pid_of(process)
        title = f" {process} " + (f"pid {pid} " if pid else "not running ")
        width = max(len(inside), len(title)) + 2
        lines += [f"+-{title:-<{width - 1}}+", f"| {inside:<{width - 2}} |", f"+{'-' * width}+"]
    for role in instance.config.roles.values():
        targets = [_target(segment, f"{role.name}>{target}", target) for target in role.targets]
        if targets:
            lines.append(f"  {role.name} --> {', '.join(targets)}")
    return "\n".join(lines)


def _target(segment: Segment | None, edge: str, target: str) -> str:
    """Where an edge leads now, and for whom it stands when that is another."""
    port = segment.routes().get(edge) if segment else None
    player = text(segment.c.ports[port].role) if segment and port is not None else target
    return player if player == target else f"{player} (for {target})"


def run(args: argparse.Namespace) -> int:
    instance = Instance(args.home, looks=True)
    segment, said = joined(instance)
    shown = peers(instance, segment)
    said += notes(instance, segment)
    collected = collector(instance)
    if args.json:
        from tools.mapping import mapping  # takes long to import

        cli.print_json({"home": args.home, "segment": instance.segment_name if segment else None,
                        "layout": instance.config.layout, "peers": shown,
                        "mapped": [entry.name for entry in mapping.mapped(instance.home)],
                        "collector": collected, "notes": said})
    elif args.picture:
        print(picture(instance, segment))
    else:
        cli.print_table([[peer[key] if peer[key] is not None else "-" for key in COLUMNS] for peer in shown],
                        [key.replace("_", " ") for key in COLUMNS])
        for line in [*said, *collector_line(collected)]:
            print(line)
    return 0 if all(peer["state"] == "running" for peer in shown) else NOT_ALL_RUN
