# SPDX-License-Identifier: Apache-2.0
"""What the programs of an instance say to each other and note in files, decoded.

Whoever wrote it may have been another version, another program or a person, or was killed midway: every field's type
and range is checked here, and nowhere else is any of it believed. What is no such thing is an Invalid that says why,
or, where the notes of the dead are concerned, nothing.
"""
from __future__ import annotations

import errno
import json
import re
from typing import Any, NamedTuple

from xseg.errors import Invalid, XsegError

VERBS = ("start", "stop", "restart", "renew", "quit", "end")
PROCESSES_MAX = 256             # named in one request
PROCESS = re.compile(r"[a-z][a-z0-9_+-]{0,30}")         # tools/instance/config.py makes them of roles
PID_MAX = 1 << 22               # of Linux
COUNT_LIMIT = 1 << 63
ERRNO_MAX = 4095
FD_MAX = 1 << 30
STATES = ("starting", "running", "waiting", "failed", "stopped")


class Order(NamedTuple):
    """What an operator asks of the supervisor."""

    verb: str
    processes: list[str]
    force: bool = False


def from_json(text: str | bytes, what: str) -> dict[str, Any]:
    """A JSON object. Invalid."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as failure:
        raise Invalid(f"{what} is no JSON: {failure}") from None
    if not isinstance(value, dict):
        raise Invalid(f"{what} is no JSON object")
    return value


def is_number(value: object, low: int, limit: int) -> bool:
    """True for a whole number in [low, limit)."""
    return type(value) is int and low <= value < limit


def is_texts(value: object, most: int) -> bool:
    """True for a list of at most so many texts."""
    return isinstance(value, list) and len(value) <= most and all(isinstance(item, str) for item in value)


# --- between operators and the supervisor

def parse_order(line: bytes) -> Order:
    """A line to the supervisor. Invalid."""
    asked = from_json(line, "the request")
    verb, processes = asked.get("verb"), asked.get("processes", [])
    if not isinstance(verb, str) or verb not in VERBS:
        raise Invalid(f"there is no verb {str(verb)[:40]!r}; there are: {', '.join(VERBS)}")
    if not is_texts(processes, PROCESSES_MAX):
        raise Invalid(f"processes must be a list of {PROCESSES_MAX} names at most")
    for process in processes:
        if not PROCESS.fullmatch(process):
            raise Invalid(f"{process[:40]!r} is no name of a process")
    if not isinstance(force := asked.get("force", False), bool):
        raise Invalid("force must be true or false")
    return Order(verb, processes, force)


def parse_answer(line: bytes) -> list[str]:
    """What the supervisor says, or said while it started; nothing is no lines. Its failure is raised."""
    answer = from_json(line, "the supervisor's answer")
    if "error" in answer:
        code = answer.get("errno")
        raise XsegError(code if is_number(code, 1, ERRNO_MAX + 1) else errno.EIO, str(answer["error"]))
    said = answer.get("said", [])
    if not is_texts(said, len(line)):
        raise Invalid("the supervisor's answer has no lines for people")
    return list(said)


# --- notes in the run folder

def parse_pid(text: str) -> tuple[int, int]:
    """Pid and start time of a pid file; zeros: it has none."""
    words = text.split()
    if len(words) != 2 or not all(word.isascii() and word.isdigit() and len(word) < 20 for word in words):
        return 0, 0
    pid, started = map(int, words)
    return (pid, started) if 0 < pid <= PID_MAX and started else (0, 0)


def parse_deaths(text: str) -> dict[str, dict[str, Any]]:
    """run/supervisor.json: process -> state, deaths, restarts, last_death. What is damaged is left out."""
    try:
        noted = from_json(text, "it").get("processes")
    except Invalid:
        return {}
    return {name: values for name, values in noted.items() if PROCESS.fullmatch(name) and is_death(values)} \
        if isinstance(noted, dict) else {}


def is_death(values: object) -> bool:
    """True for what the supervisor notes of one process."""
    return (isinstance(values, dict) and {"state", "deaths", "restarts", "last_death"} <= set(values)
            and values["state"] in STATES and isinstance(values["last_death"], str)
            and all(is_number(values[key], 0, COUNT_LIMIT) for key in ("deaths", "restarts")))


def parse_changes(text: str) -> dict[str, dict[str, Any]]:
    """run/pipeline.json: {"filters": {role: {option: value}}, "routes": {edge: role}}. Invalid."""
    changes = from_json(text, "it")
    filters, routes = changes.get("filters"), changes.get("routes")
    if set(changes) != {"filters", "routes"} or not isinstance(filters, dict) or not isinstance(routes, dict) \
            or not all(isinstance(table, dict) for table in filters.values()) \
            or not all(isinstance(role, str) for role in routes.values()):
        raise Invalid("it does not say which filters and routes there are")
    return {"filters": filters, "routes": routes}


def parse_sockets(words: str) -> dict[str, int]:
    """ARCHIPELAGO_SOCKETS, "ROLE.OPTION=FD ...": name -> descriptor. What is none is left out."""
    pairs = (word.partition("=") for word in words.split())
    return {name: int(fd) for name, _, fd in pairs
            if name.count(".") == 1 and fd.isascii() and fd.isdigit() and len(fd) < 10 and int(fd) < FD_MAX}
