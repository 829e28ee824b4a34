# SPDX-License-Identifier: Apache-2.0
"""Shows each peer: role, type, process, port, pid, state, requests in flight, served, errors.

States: running; starting: its process runs, the peer is not ready; dead: its process ended
without being told to; stopped. Exit status 0 when all run, 3 when some do not.
"""
from __future__ import annotations

import argparse
from typing import Any

from tools import cli
from tools.archipelago.instance import Instance
from xseg._native import ffi, lib
from xseg.errors import NotRunning
from xseg.segment import Segment

HELP = "show each peer and its state"
NOT_ALL_RUN = 3
COLUMNS = ("role", "type", "process", "port", "pid", "state", "in_flight", "served", "errors")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--picture", action="store_true", help="draw the pipeline")


def peers(instance: Instance, segment: Segment | None) -> list[dict[str, Any]]:
    """One dict a role, with the keys of COLUMNS."""
    held = ffi.new("uint32_t[]", lib.XSEG_PORTS)
    if segment:
        lib.export_in_flight(segment.c, held)
    return [_peer(instance, segment, name, held) for name in instance.config.roles]


def _peer(instance: Instance, segment: Segment | None, name: str, held: Any) -> dict[str, Any]:
    role = instance.config.roles[name]
    pid = instance.pid_of(role.process)
    shown = {"role": name, "type": role.type, "process": role.process, "port": None, "pid": pid or None,
             "state": "stopped", "in_flight": 0, "served": 0, "errors": 0}
    if not pid and instance.pid_file_exists(role.process):
        shown["state"] = "dead"
    if not segment:
        return shown
    try:
        number = segment.port_of(name)
    except FileNotFoundError:
        return shown                    # the file knows it, the running pipeline does not yet
    port = segment.c.ports[number]
    if pid:
        shown["state"] = "running" if port.ready and segment.alive(number) else "starting"
    return shown | {"port": number, "in_flight": held[number], "served": port.served, "errors": port.errors}


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
                        "mapped": [entry.get("name") for entry in instance.mapped()]})
    elif args.picture:
        print(picture(instance, segment))
    else:
        cli.print_table([[peer[key] if peer[key] is not None else "-" for key in COLUMNS] for peer in shown],
                        [key.replace("_", " ") for key in COLUMNS])
    return 0 if all(peer["state"] == "running" for peer in shown) else NOT_ALL_RUN
