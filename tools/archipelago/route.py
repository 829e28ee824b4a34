# SPDX-License-Identifier: Apache-2.0
"""Changes the pipeline while it runs: puts filters in and takes them out, turns edges. No request fails.

    archipelago route --insert slow --before blockerb --type delay --option us=100
    archipelago route --remove slow
    archipelago route "vlmc>blockerb" other     # what vlmc sends to blockerb goes to the role other
    archipelago route "vlmc>blockerb" --reset   # as the file says
    archipelago route                           # only shows the pipeline

A filter gets a process of its own, and all that was sent to the role it stands before. It is taken out
when the edges that led to it have been turned on to its target, and it has nothing in flight any more.
Prints the pipeline before and after. What is changed lasts until `archipelago stop`.
"""
from __future__ import annotations

import argparse
import copy
import errno
import os
import time
from typing import Any

from tools.archipelago.start import bring_up
from tools.archipelago.status import picture
from tools.archipelago.stop import take_down
from tools.instance import config
from tools.instance.instance import Instance
from xseg._native import ffi, lib
from xseg.errors import Exists, Invalid, NotRunning, TimedOut, XsegError
from xseg.segment import Segment

HELP = "put a filter into the running pipeline, take it out, or turn an edge"
DRAIN_S = 60.0
QUIET_S = 0.25                  # without a request before a filter that was passed by is stopped
POLL_S = 0.01
REMOVE_TRIES = 8


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("edge", nargs="?", metavar="EDGE", help='"from>to", as the picture shows them')
    parser.add_argument("role", nargs="?", metavar="ROLE", help="the role that EDGE leads to from now on")
    parser.add_argument("--reset", action="store_true", help="EDGE leads where archipelago.toml says")
    parser.add_argument("--insert", metavar="NAME", help="put in a filter, which gets this role")
    parser.add_argument("--before", metavar="ROLE", help="--insert: the role whose requests it gets")
    parser.add_argument("--type", help="--insert: the filter's peer type: delay, error...")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="--insert: of that type")
    parser.add_argument("--remove", metavar="NAME", help="take a filter out that --insert put in")


def check_usage(args: argparse.Namespace) -> None:
    """Invalid: the words do not make one thing to do."""
    given = [bool(args.edge), bool(args.insert), bool(args.remove)]
    wrong = (sum(given) > 1 or bool(args.edge) != bool(args.role or args.reset) or (args.role and args.reset)
             or bool(args.insert) != bool(args.before and args.type) or (args.option and not args.insert))
    if wrong:
        raise Invalid("say EDGE ROLE, EDGE --reset, --insert NAME --before ROLE --type TYPE, or --remove NAME")


def value_of(text: str) -> Any:
    """An option's value as archipelago.toml would have it: a number, true, false, or text."""
    import tomllib
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


# --- in the segment

def edges_to(segment: Segment, instance: Instance, role: str) -> list[str]:
    """The edges that lead to a role now."""
    port, routes = segment.port_of(role), segment.routes()
    return [edge for edge in edges(instance) if routes.get(edge) == port]


def edges(instance: Instance) -> list[str]:
    return [f"{role.name}>{target}" for role in instance.config.roles.values() for target in role.targets]


def in_flight(segment: Segment, role: str) -> int:
    """Requests that wait for a role, that it serves, or that it has sent on."""
    port = segment.port_of(role)
    held = ffi.new("uint32_t[]", lib.XSEG_PORTS)
    lib.export_in_flight(segment.c, held)
    away = sum(segment.c.slots[slot].state != lib.XREQ_FREE for slot in segment.slots_of(port))
    return int(held[port]) + int(away)


def wait_until_idle(segment: Segment, role: str) -> None:
    """Returns when nothing was in flight for QUIET_S: somebody may have looked at an edge just before it was
    turned. TimedOut."""
    end = time.monotonic() + DRAIN_S
    quiet_since = received = None
    while quiet_since is None or time.monotonic() - quiet_since < QUIET_S:
        now = segment.c.ports[segment.port_of(role)].received
        if in_flight(segment, role) or now != received or quiet_since is None:
            quiet_since, received = time.monotonic(), now
        if time.monotonic() > end:
            raise TimedOut(f"{role} still has {in_flight(segment, role)} requests in flight after {DRAIN_S:g} s; "
                           "nothing is sent to it any more: try again to remove it")
        time.sleep(POLL_S)


# --- what can be asked for

def insert(home: str, segment: Segment, args: argparse.Namespace) -> None:
    """Starts the filter, then turns the edges to it."""
    instance = Instance(home)
    if args.insert in instance.config.roles:
        raise Exists(f"there is a role {args.insert!r} in this pipeline already")
    instance.config.process_of(args.before)
    turned = edges_to(segment, instance, args.before)
    changes = config.read_changes(home)
    before = copy.deepcopy(changes)
    options = {key: value_of(value) for key, _, value in (word.partition("=") for word in args.option)}
    changes["filters"][args.insert] = {"type": args.type, **options, "target": args.before}
    config.write_changes(home, changes)
    try:
        changed = Instance(home)
        if args.insert not in changed.config.processes:
            raise Exists(f"there is a process {args.insert!r} already")
        bring_up(changed, [args.insert])
    except BaseException:
        config.write_changes(home, before)
        raise
    for edge in turned:
        turn(segment, instance, changes, edge, args.insert)


def remove(home: str, segment: Segment, name: str) -> None:
    """Turns the edges past the filter, waits until it has nothing in hand, stops it."""
    changes = config.read_changes(home)
    if name not in changes["filters"]:
        known = ", ".join(changes["filters"]) or "none"
        raise Invalid(f"{name!r} is no filter that `archipelago route --insert` put in; there are: {known}")
    instance = Instance(home)
    target = instance.config.roles[name].targets[0]
    behind = instance.config.routes.get(f"{name}>{target}", target)
    for edge, player in list(changes["routes"].items()):
        if player == name:
            turn(segment, instance, changes, edge, behind)
    for _ in range(REMOVE_TRIES):
        wait_until_idle(segment, name)
        take_down(instance, [name])
        if not in_flight(segment, name):
            break
        bring_up(instance, [name])              # one more came while it was stopped
    else:
        raise XsegError(errno.EBUSY, f"{name} is sent requests again and again: it stays")
    del changes["filters"][name]
    changes["routes"].pop(f"{name}>{target}", None)
    config.write_changes(home, changes)


def as_written(instance: Instance, edge: str) -> str:
    """Where archipelago.toml has an edge lead."""
    return instance.config.written_routes.get(edge, edge.partition(">")[2])


def turn(segment: Segment, instance: Instance, changes: dict[str, Any], edge: str, role: str) -> None:
    """Notes where an edge leads, unless archipelago.toml says the same; then has it lead there."""
    changes["routes"].pop(edge, None)
    if role != as_written(instance, edge):
        changes["routes"][edge] = role
    config.write_changes(instance.home, changes)
    segment.set_route(edge, segment.port_of(role))


def set_edge(home: str, segment: Segment, edge: str, role: str | None) -> None:
    """Turns one edge; role None: as the file says."""
    instance = Instance(home)
    if edge not in edges(instance):
        raise Invalid(f"there is no edge {edge!r}; there are: {', '.join(edges(instance))}")
    to = role or as_written(instance, edge)
    instance.config.process_of(to)
    turn(segment, instance, config.read_changes(home), edge, to)


def run(args: argparse.Namespace) -> int:
    check_usage(args)
    if not os.path.isdir(os.path.join(args.home, "run")):
        raise NotRunning(f"not running (home {args.home}): start it with `archipelago start`")
    instance = Instance(args.home)
    with Segment.of_home(args.home) as segment, instance.locked():
        print(picture(instance, segment))
        if not (args.edge or args.insert or args.remove):
            return 0
        if args.insert:
            insert(args.home, segment, args)
        elif args.remove:
            remove(args.home, segment, args.remove)
        else:
            set_edge(args.home, segment, args.edge, args.role)
        print("\nnow:\n")
        print(picture(Instance(args.home), segment))
    return 0
