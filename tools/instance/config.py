# SPDX-License-Identifier: Apache-2.0
"""archipelago.toml: what peers an instance has, and how they are cut into processes.

All of it is optional; without the file the instance is this:

    layout = "colocated"        # or "separate": a process a peer; or which roles share a process:
                                # [["nbd", "vlmc", "blockerb"], ["mapper", "blockerm"]]

    [segment]                   # static_slots, dynamic_slots, clients, volumes, buffers, frames, stacks, contents: see
                                # native/segment/xseg.h, and SEGMENT_MINIMA below

    [peers.nbd]                 # a table a role: its type, and the options of that type
    type = "nbd"

    [peers.vlmc]
    type = "vlmc"

    [peers.blockerb]
    type = "blocker-file"
    path = "data"               # relative paths lie below the instance's home

    [peers.mapper]
    type = "mapper"

    [peers.blockerm]
    type = "blocker-file"
    path = "map"

    [routes]                    # who plays a role for whom, where it is not the role's own peer:
                                # "vlmc>blockerb" = "delay"

    [tuning]                    # mechanisms that each process finds the use of by trying, while it runs; "on" and
                                # "off" have them so for good, to measure them. See native/loop/tune.h
    naps = "auto"               # let requests come together where a client is busy anyway
    alone = "auto"              # wait for one active client by itself
    hold = "auto"               # keep some reads back, so that a disk is never without
    reads = "auto"              # large reads from the page cache by a worker
    writes = "auto"             # large writes into it by a worker

    [supervisor]
    deaths = 8                  # a process that dies so often ...
    window_s = 60               # ... within so many seconds is not restarted any more
    back_off_ms = 5000          # longest wait before a restart; it grows while deaths come quickly
    start_s = 30                # a process that is not ready after so many seconds is killed, and has died
    stop_s = 120                # the end of the instance is refused if its volumes cannot be saved in so many seconds
    spares = 1                  # a process stands by for each, to take its place at once; 0: none, to save memory
    schedule_s = 60             # from the start until snapshots are taken that schedules ask for, and between attempts

    [collector]                 # enabled, every_s, grace_s, claim_s, ops_per_s, bytes_per_s, memory: COLLECTOR below

A role other than these five needs a type. In an explicit layout each role that has a table must
appear, and the five do not exist unless they appear. Every error names the file and the key.

A running instance goes by the copy that was made when it was started, run/archipelago.toml: what is edited meanwhile
counts from the next `archipelago start` or `restart` on, so that no death takes it in unseen.

What `archipelago route` changes in a running pipeline is kept in run/pipeline.json until the
pipeline is stopped, so that processes which are restarted know it: filters, each in a process of
its own, and edges that were turned.
"""
from __future__ import annotations

import functools
import glob
import importlib
import json
import os
import re
import tomllib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tools.instance.messages import parse_changes
from xseg import ours
from xseg._native import lib
from xseg.errors import Invalid, NotOurs, XsegError
from xseg.segment import PARAMETERS

if TYPE_CHECKING:
    from xseg.peer import Peer

    PeerClass = type[Peer]

FILE = "archipelago.toml"
IN_FORCE = os.path.join("run", FILE)
CHANGES = os.path.join("run", "pipeline.json")
SUPERVISOR = {"deaths": 8, "window_s": 60, "back_off_ms": 5000, "start_s": 30, "stop_s": 120, "spares": 1,
              "schedule_s": 60}
# Seconds, requests and bytes a second (0: any), bytes; the least of each. claim_s is that of mapper/contents.py.
COLLECTOR = {"enabled": True, "every_s": 86400, "grace_s": 3600, "claim_s": 86400, "ops_per_s": 1000,
             "bytes_per_s": 64 << 20, "memory": 256 << 20}
COLLECTOR_MINIMA = {"every_s": 1, "claim_s": 86400, "memory": 1 << 20}
SUPERVISOR_BOUNDS = {"spares": (0, 1)}
SUPERVISOR_USUAL = (1, 1000000)         # bounds of the others
DEFAULT_PEERS: dict[str, dict[str, Any]] = {
    "nbd": {"type": "nbd"},
    "vlmc": {"type": "vlmc"},
    "blockerb": {"type": "blocker-file", "path": "data"},
    "mapper": {"type": "mapper"},
    "blockerm": {"type": "blocker-file", "path": "map"},
}
COLOCATED = [["nbd", "vlmc", "blockerb"], ["mapper", "blockerm"]]
KEYS = ("layout", "segment", "peers", "routes", "tuning", "supervisor", "collector")
TUNING = {"naps": "auto", "alone": "auto", "hold": "auto", "reads": "auto", "writes": "auto"}
TUNING_CHOICES = ("auto", "on", "off")
LAYOUTS = ("colocated", "separate")
ROLE = re.compile(r"[a-z][a-z0-9_-]{0,30}")
PROCESS_NAME_MAX = 31
PROCESS_PEERS_MAX = 16
PARAMETER_MAX = 1 << 22
PARAMETER_MAXIMA = {"clients": lib.XSEG_PORTS - lib.XSEG_STATIC_PORTS, "volumes": lib.XSEG_VOLUMES}
# With fewer, requests wait for each other for ever. Slots: a mapper has half of its own under way with vlmc, which
# needs it to finish them by the other half, and a walk of vlmc over a stack takes a handful. Buffers: a client may hold
# an eighth of a class, and all peers need some. Frames: those of one set. Stacks: a leaf page that is loaded has one
# for each of its blocks, if each was written partly since a snapshot.
SEGMENT_MINIMA: dict[str, int | tuple[int, ...]] = {
    "static_slots": 16, "dynamic_slots": 4, "clients": 32, "volumes": 16, "buffers": (16, 16, 16), "frames": 8,
    "stacks": (1024, 1024, 1024), "contents": 1024}
SCANTY = "ARCHIPELAGO_SCANTY"           # set: tests want to see what happens with fewer
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PEERS_FOLDER = os.path.join(ROOT, "peers")


def peer_modules() -> dict[str, str]:
    """Every peer type there is, and the module in peers/ that describes it. Imports none of them."""
    types = {}
    for path in sorted([*glob.glob("*.py", root_dir=PEERS_FOLDER), *glob.glob("*/__init__.py", root_dir=PEERS_FOLDER)]):
        with open(os.path.join(PEERS_FOLDER, path), encoding="utf-8") as source:
            for peer_type in re.findall(r'^    type = "([^"]+)"', source.read(), flags=re.M):
                types[peer_type] = "peers." + path.removesuffix(".py").removesuffix("/__init__")
    return types


@functools.cache
def peer_class(peer_type: str) -> type[Peer]:
    """The class of a peer type. Invalid: there is none; the error lists those there are."""
    modules = peer_modules()
    if peer_type not in modules:
        raise Invalid(no_such_type(peer_type))
    module = importlib.import_module(modules[peer_type])
    return next(cls for cls in vars(module).values()
                if isinstance(cls, type) and getattr(cls, "type", None) == peer_type)


def no_such_type(peer_type: object) -> str:
    """A sentence that says which there are."""
    return f"there is no peer type {peer_type!r}; there are: {', '.join(sorted(peer_modules()))}"


@dataclass
class Role:
    """A peer of the pipeline. Its class is imported, and its options are parsed, when they are first asked for."""

    name: str
    type: str                               # there is one of that name
    values: dict[str, Any]                  # of options, as the file has them
    reader: _Reader
    process: str = ""

    @functools.cached_property
    def cls(self) -> PeerClass:
        return peer_class(self.type)

    @functools.cached_property
    def options(self) -> dict[str, Any]:
        """Every option of the type; paths are absolute. Invalid."""
        return self.reader.options(f"[peers.{self.name}]", self.cls, self.values)

    @property
    def native(self) -> str | None:
        return self.cls.native_type(self.options)

    @property
    def targets(self) -> list[str]:
        return self.cls.target_roles(self.options)


@dataclass
class Config:
    """An instance as its file describes it."""

    home: str
    layout: str                             # "colocated", "separate" or "explicit"
    roles: dict[str, Role]                  # in the order of their processes
    processes: dict[str, list[str]]         # name of a process -> its roles
    routes: dict[str, str] = field(default_factory=dict)    # "from>to" -> role
    segment: dict[str, Any] = field(default_factory=dict)
    supervisor: dict[str, int] = field(default_factory=dict)
    collector: dict[str, int] = field(default_factory=dict)
    written_routes: dict[str, str] = field(default_factory=dict)    # `routes` without what `archipelago route` did
    tuning: dict[str, str] = field(default_factory=dict)

    def process_of(self, role: str) -> str:
        """The process that hosts a role. Invalid: no such role; the error lists them."""
        if role not in self.roles:
            raise Invalid(f"there is no role {role!r} in this pipeline; there are: {', '.join(self.roles)}")
        return self.roles[role].process

    def serving(self, process: str) -> list[Role]:
        """The roles of a process whose clients have connections to it."""
        return [role for role in map(self.roles.__getitem__, self.processes[process]) if role.cls.listens]

    def stop_order(self) -> list[str]:
        """Processes, those first that others do not need to finish their work."""
        return sorted(self.processes, key=lambda name: not any(self.roles[r].targets for r in self.processes[name]))


class _Reader:
    """Reads one file; every complaint names it."""

    def __init__(self, home: str, file: str = FILE) -> None:
        self.home = home
        self.path = os.path.join(home, file)

    @functools.cached_property
    def types(self) -> dict[str, str]:
        return peer_modules()

    def fail(self, text: str) -> XsegError:
        return Invalid(f"{self.path}: {text}")

    def load(self) -> dict[str, Any]:
        try:
            return tomllib.loads(ours.read_linked(self.path).decode())
        except FileNotFoundError:
            return {}
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as failure:
            raise self.fail(str(failure)) from None
        except NotOurs as failure:
            raise Invalid(str(failure)) from None
        except OSError as failure:
            raise self.fail(os.strerror(failure.errno or 0)) from None

    def supervisor(self, raw: dict[str, Any]) -> dict[str, int]:
        for key, value in raw.items():
            if key not in SUPERVISOR:
                raise self.fail(f"[supervisor]: there is no key {key}; there are: {', '.join(SUPERVISOR)}")
            low, high = SUPERVISOR_BOUNDS.get(key, SUPERVISOR_USUAL)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise self.fail(f"[supervisor]: {key} = {value!r} must be from {low} to {high}")
        return {**SUPERVISOR, **raw}

    def tuning(self, raw: dict[str, Any]) -> dict[str, str]:
        for key, value in raw.items():
            if key not in TUNING:
                raise self.fail(f"[tuning]: there is no key {key}; there are: {', '.join(TUNING)}")
            if value not in TUNING_CHOICES:
                raise self.fail(f"[tuning]: {key} = {value!r} must be one of {', '.join(TUNING_CHOICES)}")
        return {**TUNING, **raw}

    def collector(self, raw: dict[str, Any]) -> dict[str, int]:
        for key, value in raw.items():
            if key not in COLLECTOR:
                raise self.fail(f"[collector]: there is no key {key}; there are: {', '.join(COLLECTOR)}")
            if key == "enabled":
                if not isinstance(value, bool):
                    raise self.fail(f"[collector]: {key} = {value!r} must be true or false")
                continue
            least = COLLECTOR_MINIMA.get(key, 0)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 1 << 63:
                raise self.fail(f"[collector]: {key} = {value!r} must be a whole number, {least} at least")
        return {**COLLECTOR, **raw}

    def table(self, raw: dict[str, Any], key: str) -> dict[str, Any]:
        value = raw.get(key, {})
        if not isinstance(value, dict):
            raise self.fail(f"{key} must be a table: [{key}]")
        return value

    # --- peers

    def role(self, name: str, raw: dict[str, Any]) -> Role:
        where = f"[peers.{name}]"
        if not ROLE.fullmatch(name):
            raise self.fail(f"{where}: a role is named by up to 31 of a-z, 0-9, - and _, a letter first")
        values = {**DEFAULT_PEERS.get(name, {}), **raw}
        default_type = DEFAULT_PEERS.get(name, {}).get("type")
        peer_type = values.pop("type", None)
        if peer_type is None:
            raise self.fail(f"{where}: the key type is missing; one of {', '.join(sorted(self.types))}")
        if peer_type != default_type:           # the defaults' options are the default type's
            values = {key: value for key, value in raw.items() if key != "type"}
        if str(peer_type) not in self.types:
            raise self.fail(f"{where} type: {no_such_type(peer_type)}")
        return Role(name, str(peer_type), values, self)

    def options(self, where: str, cls: type[Peer], values: dict[str, Any]) -> dict[str, Any]:
        from xseg.peer import below_home
        for key in values:
            if key not in cls.options:
                known = ", ".join(cls.options) or "none"
                raise self.fail(f"{where}: {key} is no option of the type {cls.type}; it has: {known}")
        options = {}
        for key, option in cls.options.items():
            value = values.get(key, option.default)
            if key in values:
                try:
                    value = option.parse(value)
                except Invalid as failure:
                    raise self.fail(f"{where}: {key} = {values[key]!r} {failure}") from None
            if option.kind == "path" and value:
                value = below_home(value, self.home)
            options[key] = value
        return options

    # --- layout

    def groups(self, layout: Any, named: list[str]) -> tuple[str, list[list[str]]]:
        """The kind of layout, and the roles of each process."""
        if layout == "separate":
            return layout, [[role] for role in [*DEFAULT_PEERS, *(r for r in named if r not in DEFAULT_PEERS)]]
        if layout == "colocated":
            return layout, [list(group) for group in COLOCATED]
        if isinstance(layout, list) and layout and all(isinstance(group, list) and group for group in layout):
            self.check_groups(layout, named)
            return "explicit", layout
        raise self.fail(f"layout = {layout!r} must be one of {', '.join(map(repr, LAYOUTS))} or a list of lists of "
                        "roles")

    def check_groups(self, layout: list[list[Any]], named: list[str]) -> None:
        listed = [role for group in layout for role in group]
        for role in listed:
            if not isinstance(role, str):
                raise self.fail(f"layout: {role!r} is no name of a role")
            if role not in DEFAULT_PEERS and role not in named:
                known = ", ".join(dict.fromkeys([*DEFAULT_PEERS, *named]))
                raise self.fail(f"layout: there is no role {role!r}; there are: {known}")
            if listed.count(role) > 1:
                raise self.fail(f"layout: the role {role} is listed twice")
        for role in named:
            if role not in listed:
                raise self.fail(f"layout: the role {role} has a table [peers.{role}] but is in no process")
        for group in layout:
            if len(group) > PROCESS_PEERS_MAX:
                raise self.fail(f"layout: {len(group)} roles in one process; {PROCESS_PEERS_MAX} at most")

    def place(self, groups: list[list[str]], kind: str, roles: dict[str, Role]) -> None:
        """Puts roles that a ready-made layout does not know beside their like."""
        for role in roles.values():
            if kind == "colocated" and role.name not in DEFAULT_PEERS:
                groups[0 if role.native else 1].append(role.name)

    # --- the rest

    def segment(self, raw: dict[str, Any]) -> dict[str, Any]:
        for key, value in raw.items():
            if key not in PARAMETERS:
                raise self.fail(f"[segment]: there is no key {key}; there are: {', '.join(PARAMETERS)}")
            many = key in ("buffers", "stacks")
            numbers = value if many else [value]
            if not isinstance(numbers, list) or (many and len(numbers) != 3):
                raise self.fail(f"[segment]: {key} = {value!r} must be a list of three numbers, one a class")
            low = SEGMENT_MINIMA[key]
            lows = [1] * len(numbers) if os.environ.get(SCANTY) else low if isinstance(low, tuple) else [low]
            most = PARAMETER_MAXIMA.get(key, PARAMETER_MAX)
            for number, least in zip(numbers, lows, strict=True):
                if not isinstance(number, int) or isinstance(number, bool) or not least <= number <= most:
                    raise self.fail(f"[segment]: {key} = {value!r}: {least} at least, {most} at most")
        return raw

    def routes(self, raw: dict[str, Any], roles: dict[str, Role]) -> dict[str, str]:
        for edge, player in raw.items():
            source, arrow, target = edge.partition(">")
            if not arrow or not isinstance(player, str):
                raise self.fail(f'[routes]: {edge!r} = {player!r} must be of the form "from>to" = "role"')
            for role in (source, target, player):
                if role not in roles:
                    raise self.fail(f"[routes] {edge!r} = {player!r}: there is no role {role!r}; there are: "
                                    f"{', '.join(roles)}")
            if target not in roles[source].targets:
                raise self.fail(f"[routes]: {source} sends nothing to {target}; it sends to: "
                                f"{', '.join(roles[source].targets) or 'nobody'}")
        return raw

    def check_roles(self, roles: dict[str, Role]) -> None:
        edges = sum(len(role.targets) for role in roles.values())
        if len(roles) > lib.XSEG_STATIC_PORTS or edges > lib.XSEG_ROUTES:
            raise self.fail(f"{len(roles)} roles with {edges} targets; {lib.XSEG_STATIC_PORTS} roles and "
                            f"{lib.XSEG_ROUTES} targets at most: remove some of [peers.*], or filters by "
                            "`archipelago route`")
        for role in roles.values():
            assert role.options is not None         # parsed, whoever has no target
            for target in role.targets:
                if target not in roles:
                    raise self.fail(f"the role {role.name} (type {role.type}) sends to the role {target!r}, which "
                                    f"this pipeline has not; it has: {', '.join(roles)}")

    def read(self, checked: bool) -> Config:
        """`checked`: options of peers are looked at now, and what they say of each other."""
        raw = self.load()
        for key in raw:
            if key not in KEYS:
                raise self.fail(f"there is no key {key}; there are: {', '.join(KEYS)}")
        changes = read_changes(self.home)
        tables = self.table(raw, "peers")
        for name, table in tables.items():
            if not isinstance(table, dict):
                raise self.fail(f"peers.{name} must be a table: [peers.{name}]")
        kind, groups = self.groups(raw.get("layout", "colocated"), list(tables))
        names = [role for group in groups for role in group]
        names += [name for name in tables if name not in names]
        made = {name: self.role(name, tables.get(name, {})) for name in names}
        self.place(groups, kind, made)
        filters = [name for name in changes["filters"] if name not in made]
        made |= {name: self.role(name, changes["filters"][name]) for name in filters}
        groups = [*groups, *([name] for name in filters)]
        processes = {process_name(group): group for group in groups}
        for process, group in processes.items():
            for role in group:
                made[role].process = process
        roles = {role: made[role] for group in groups for role in group}
        if checked:
            self.check_roles(roles)
        written = self.table(raw, "routes")
        routes = {**written, **changes["routes"]}
        return Config(self.home, kind, roles, processes, self.routes(routes, roles) if checked else routes,
                      self.segment(self.table(raw, "segment")), self.supervisor(self.table(raw, "supervisor")),
                      self.collector(self.table(raw, "collector")), written, self.tuning(self.table(raw, "tuning")))


def read_changes(home: str) -> dict[str, dict[str, Any]]:
    """What `archipelago route` changed: {"filters": {role: {"type": ..., options}}, "routes": {edge: role}}."""
    try:
        return parse_changes(ours.read(os.path.join(home, CHANGES)))
    except FileNotFoundError:
        return {"filters": {}, "routes": {}}
    except (Invalid, UnicodeDecodeError) as failure:
        raise Invalid(f"{os.path.join(home, CHANGES)} is damaged ({failure}): remove it, and set the routes and "
                      "filters again") from None


def write_changes(home: str, changes: dict[str, dict[str, Any]]) -> None:
    """Replaces what read_changes() gives; a kill leaves the old or the new."""
    ours.replace(os.path.join(home, CHANGES), json.dumps(changes, indent=1))


def process_name(roles: list[str]) -> str:
    """The name of the process that hosts these roles."""
    name = "+".join(roles)
    return name if len(name) <= PROCESS_NAME_MAX else f"{roles[0][:PROCESS_NAME_MAX - 4]}+{len(roles) - 1}"


def read(home: str) -> Config:
    """The configuration as the operator has written it. Invalid: names file, key and what is allowed."""
    return _Reader(home).read(checked=True)


def read_in_force(home: str, checked: bool = True) -> Config:
    """The configuration that the running instance goes by. Invalid. Not checked again: what no role is asked for is not
    looked at, and no peer's module imported."""
    return _Reader(home, IN_FORCE if os.path.exists(os.path.join(home, IN_FORCE)) else FILE).read(checked)


def text_of(home: str, file: str) -> bytes | None:
    """What a file below a home says; None: there is none. Invalid: it is not ours."""
    try:
        return ours.read_linked(os.path.join(home, file))
    except FileNotFoundError:
        return None
    except NotOurs as failure:
        raise Invalid(str(failure)) from None


def put_in_force(home: str, text: bytes | None) -> None:
    """Has the instance go by this text from now on; None: by the defaults. A kill leaves the old or the new."""
    ours.replace(os.path.join(home, IN_FORCE), text or b"")
