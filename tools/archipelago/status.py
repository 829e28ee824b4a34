# SPDX-License-Identifier: Apache-2.0
"""Shows each peer: role, type, process, port, pid, state, requests in flight, served, errors, and how
often its process was restarted after a death, how many requests it took over then, and how the last died.

States: running; starting: its process runs, the peer is not ready; frozen: a signal has stopped its
process; dead: its process ended without being told to; failed: it died too often, and what is asked of
it is answered with EHOSTDOWN until `archipelago restart`; fenced: it runs, but another node has taken over
and all it is asked for fails; stopped. Exit status 0 when all run, 3 when some do not.

Below: whether a supervisor is there, and clients that others may suffer from: which hold nearly all the
requests or buffers they may, or are frozen, or died and have requests under way.
"""
from __future__ import annotations

import argparse
from typing import Any

from tools import cli
from tools.archipelago.instance import Instance
from tools.xsegtool import look
from xseg._native import ffi, lib
from xseg.errors import NotRunning
from xseg.segment import Segment

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


def _peer(instance: Instance, segment: Segment | None, name: str, held: Any, deaths: dict) -> dict[str, Any]:
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


def notes(instance: Instance, segment: Segment | None) -> list[str]:
    """Sentences about what an operator should know."""
    if not segment:
        return []
    said = [] if instance.supervised() else ["no supervisor: what dies stays dead; `archipelago start` makes one"]
    return [*filter(None, [segment.fenced()]), *said, *look.culprits(segment)]


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
    player = ffi.string(segment.c.ports[port].role).decode() if port is not None else target
    return player if player == target else f"{player} (for {target})"


def run(args: argparse.Namespace) -> int:
    instance = Instance(args.home)
    try:
        segment = Segment.of_home(args.home)
    except NotRunning:
        segment = None
    shown = peers(instance, segment)
    if args.json:
        cli.print_json({"home": args.home, "segment": instance.segment_name if segment else None,
                        "layout": instance.config.layout, "peers": shown,
                        "mapped": [entry.name for entry in instance.mapped()],
                        "notes": notes(instance, segment)})
    elif args.picture:
        print(picture(instance, segment))
    else:
        cli.print_table([[peer[key] if peer[key] is not None else "-" for key in COLUMNS] for peer in shown],
                        [key.replace("_", " ") for key in COLUMNS])
        for line in notes(instance, segment):
            print(line)
    return 0 if all(peer["state"] == "running" for peer in shown) else NOT_ALL_RUN
