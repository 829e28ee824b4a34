# SPDX-License-Identifier: Apache-2.0
"""Schedules of snapshots: what a volume's rule says, and the marks of the snapshots that are taken by it.

A rule is a text in the volume's header, as in "hourly=24 daily=7": of each kind, how many snapshots are kept. A mark is
in the header of a snapshot that was taken by a rule: its kind and the period that it is of, in UTC. One is taken for
each period, and its name is VOLUME@MARK:

    hourly-2026-11-26T23    daily-2026-11-26    weekly-2026-W48    monthly-2026-11

Marks of one kind are in order of time when they are in order as texts. What is due, and what is more than is kept,
follows from a moment and the marks that are there; nothing else is remembered. So

* a time that was missed is made up once: only the period that it is now can be due;
* a clock that jumps does no harm: thinning counts, and never looks how old something is. What has the mark of a period
  that is still to come is left alone, unless there are more of them than the rule keeps, too.
"""
from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime

PERIODS = {"hourly": "%Y-%m-%dT%H", "daily": "%Y-%m-%d", "weekly": "%G-W%V", "monthly": "%Y-%m"}
KEPT_MAX = 1000                 # snapshots of one kind
NONE = "none"                   # for people: no rule
PART = re.compile("([a-z]+)=([0-9]{1,9})")
MARK = re.compile("(hourly-[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}|daily-[0-9]{4}-[0-9]{2}-[0-9]{2}|"
                  "weekly-[0-9]{4}-W[0-9]{2}|monthly-[0-9]{4}-[0-9]{2})")
NAME_BYTES = 220                # of a volume's name that the names of its snapshots begin with

Rule = dict[str, int]


def parse(words: Iterable[str]) -> Rule:
    """A rule out of its parts. ValueError, with a sentence."""
    rule: Rule = {}
    for word in words:
        found = PART.fullmatch(word)
        if not found or found[1] not in PERIODS:
            parts = ", ".join(f"{known}=N" for known in PERIODS)
            raise ValueError(f"{word!r} is no part of a schedule: there are {parts}; or {NONE}, alone")
        kind, count = found[1], int(found[2])
        if not 1 <= count <= KEPT_MAX:
            raise ValueError(f"{word!r}: from 1 to {KEPT_MAX} can be kept; leave {kind} out for none")
        if kind in rule:
            raise ValueError(f"{kind} is there twice")
        rule[kind] = count
    return {kind: rule[kind] for kind in PERIODS if kind in rule}


def text_of(rule: Rule) -> str:
    """A rule as the header has it; "": none."""
    return " ".join(f"{kind}={count}" for kind, count in rule.items())


def good_text(text: object) -> bool:
    """True for what text_of() returns."""
    try:
        return isinstance(text, str) and text_of(parse(text.split(" ") if text else [])) == text
    except ValueError:
        return False


def good_mark(mark: object) -> bool:
    """True for a mark, and for "": it was not taken by a rule."""
    return isinstance(mark, str) and (not mark or MARK.fullmatch(mark) is not None)


def mark_of(kind: str, now: float) -> str:
    """The mark of the period that a moment (seconds since 1970) lies in."""
    return f"{kind}-{datetime.fromtimestamp(now, UTC).strftime(PERIODS[kind])}"


def name_of(volume: str, identity: str, mark: str) -> str:
    """The name of a volume's snapshot with that mark. Of one whose name is too long for that, its id is in it."""
    if len(volume.encode()) > NAME_BYTES:
        volume = volume.encode()[:NAME_BYTES - len(identity) - 1].decode(errors="ignore").rstrip() + "-" + identity
    return f"{volume}@{mark}"


def due(rule: Rule, marks: Iterable[str], now: float) -> list[str]:
    """Marks of the snapshots that are to be taken at a moment."""
    there = set(marks)
    return [mark for kind in rule if (mark := mark_of(kind, now)) not in there]


def surplus(rule: Rule, marks: Iterable[str], now: float) -> list[str]:
    """Marks of the snapshots that are more than a rule keeps, oldest first. Of kinds that it does not name: none."""
    marks, found = list(marks), []
    for kind, kept in rule.items():
        present = mark_of(kind, now)
        mine = sorted(mark for mark in marks if mark.startswith(kind + "-"))
        past = [mark for mark in mine if mark <= present]
        to_come = [mark for mark in mine if mark > present]
        found += past[:-kept] + to_come[:-kept]
    return found
