# SPDX-License-Identifier: Apache-2.0
"""Takes the snapshots that schedules ask for, and removes those that are more than they keep.

What is to be done follows from what the mapper lists and the clock (xseg/schedule.py); so a round that was cut short is
gone on with by the next one, and of two nodes that are at it the second finds it done. A volume that another node has
open is that node's. Only what a schedule took, and what is called as it was then and not protected, is removed.
"""
from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable
from typing import Any

from tools.vlmc._common import token
from xseg import schedule
from xseg.volume_name import by_id

AT_ONCE = 8                     # volumes that are worked on at one time
Ask = Callable[..., Awaitable[dict[str, Any]]]      # a verb and its arguments; the mapper's answer
Row = dict[str, Any]            # of `vlmc list`
Taken = set[tuple[str, str]]    # (id of a volume, mark)


async def rows_of(ask: Ask) -> list[Row]:
    """All volumes and snapshots whose headers can be read, and that are whole."""
    found: list[Row] = []
    cursor = 0
    while True:
        answer = await ask("list", cursor=cursor)
        found += [row for row in answer["volumes"] if "name" in row and not row["making"]]
        if (cursor := answer["cursor"]) == 0:
            return found


def taken_by_rule(rows: list[Row]) -> dict[str, list[Row]]:
    """By the volumes' ids: the snapshots that their schedules took."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row["kind"] == "snapshot" and row["schedule"]:
            found.setdefault(row["parent_id"], []).append(row)
    return found


class Keeper:
    """Remembers, beside what is there, what it has taken in the present periods: so what somebody removes right away is
    not taken again. `clock` tells seconds since 1970; `say` gets a sentence for each thing that could not be done."""

    def __init__(self, ask: Ask, clock: Callable[[], float], say: Callable[[str], None]) -> None:
        self.ask, self.clock, self.say = ask, clock, say
        self.taken: Taken = set()

    async def round(self, only: str | None = None) -> bool:
        """Looks after all volumes that have a schedule, or the one of an id. False: something failed, and is to be
        tried again."""
        rows, room = await rows_of(self.ask), asyncio.Semaphore(AT_ONCE)
        snapshots, present = taken_by_rule(rows), Taken()

        async def keep(row: Row) -> bool:
            async with room:
                return await self.keep(row, snapshots.get(row["id"], []), present)

        done = await asyncio.gather(*(keep(row) for row in rows if row["kind"] == "volume" and row["schedule"]
                                      and only in (None, row["id"])))
        self.taken = present
        return all(done)

    async def keep(self, row: Row, snapshots: list[Row], present: Taken) -> bool:
        """Looks after one. False: something failed."""
        rule, now = schedule.parse(row["schedule"].split(" ")), self.clock()
        marks = {snapshot["schedule"] for snapshot in snapshots}
        mine = {s["schedule"]: s for s in snapshots if not s["protected"] and s["name"].endswith("@" + s["schedule"])}
        counted, done = list(mine), True
        for mark in schedule.due(rule, marks, now):
            if (row["id"], mark) in self.taken:
                continue
            if await self.take(row, mark):
                present.add((row["id"], mark))
                counted.append(mark)
            else:
                done = False
        present |= {(row["id"], mark) for mark in (schedule.mark_of(kind, now) for kind in rule)
                    if mark in marks or (row["id"], mark) in self.taken}
        for mark in schedule.surplus(rule, counted, now):
            done &= mark not in mine or await self.thin(mine[mark])
        return done

    async def take(self, row: Row, mark: str) -> bool:
        """Takes one. False: it is to be tried again."""
        name = schedule.name_of(row["name"], row["id"], mark)
        return await self.done(f"'{row['name']}': its schedule cannot take {name}", {errno.EBUSY, errno.ENOENT},
                               "snapshot", name=by_id(row["id"]), snapshot=name, schedule=mark)

    async def thin(self, row: Row) -> bool:
        """Removes one, unless somebody reads it, or has removed, renamed or protected it. False: as above."""
        return await self.done(f"'{row['name']}' is more than its schedule keeps, and cannot be removed",
                               {errno.EBUSY, errno.ENOENT, errno.EPERM}, "remove", name=by_id(row["id"]),
                               schedule=row["schedule"])

    async def done(self, what: str, no_failure: set[int], verb: str, **arguments: Any) -> bool:
        """Asks for something that is done once. False: it is to be tried again."""
        try:
            await self.ask(verb, token=token(), **arguments)
        except OSError as failure:
            if failure.errno in no_failure:
                return True
            self.say(f"{what}: {failure}")
            return failure.errno == errno.EEXIST        # something else has the name, and will have it
        return True
