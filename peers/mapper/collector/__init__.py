# SPDX-License-Identifier: Apache-2.0
"""The collector: deletes what nothing reaches any more. `archipelago collect` is the program around it.

It runs in a process of its own and goes by what lies on the stores, through the blockers. No verb waits for it and it
is in no I/O's way; what it knows is gone with it, and the next one begins again. One is at work on a store at a time:
it has the lock of "volume" 1 there, which another node gets only when this one is fenced.

A cycle is one or more passes, each for a range of hashes (marks.py), so that its memory is what the option says,
whatever the store's size. A pass

    1. reads the headers one after the other, and marks what each reaches (roots.py);
    2. lists them again, and marks what those reach that have come since;
    3. lists objects, and deletes those that are not marked and that nobody can be about to make (sweep.py).

Then names, marks and locks of what is gone are deleted, and tombstones that were old when the cycle began.

Why nothing goes that something reaches
---------------------------------------
Maps only ever come from maps: what a header reaches later than it was read is what it reached then, or carries an epoch
that nobody had used. So the objects of a volume's present epoch and later are never deleted, and marks stay good, as
long as every header that is made comes from one that is marked.

* A header that is there when they are listed for the second time is marked. (That it is listed is promised: it is
  there from the beginning to the end of the listing. `remove` does not delete it but leaves a *tombstone*, and the
  collector alone deletes those. A volume's header may go at once: whoever makes something of a volume has its lock.)
* A snapshot is made under the volume's lock, and until its header is there the volume's own mentions all that it will
  reach: no checkpoint comes between (verbs/make.py, fixed()). Of a volume that may be open all is marked that its pages
  and journals mention, so that it does not matter how far its writer has come since.
* A clone's header may be written long after its source was read. So the source is looked at once more when the header
  is there (verbs/make.py, confirm()). If it is unchanged then, it was so all the time since it was read, and whichever
  of the two a cycle met has marked what they share. If it is a tombstone or gone, the clone is taken back.
* A tombstone is a root, too, until it is `grace_s` old when a cycle begins: for those who have read it before and are
  about to be told.
* A content goes only if nobody has claimed it since `claim_s` before the cycle began: what relies on an older claim was
  there to be marked (mapper/contents.py).
* If a header or page cannot be read nobody knows what it reaches, and nothing is deleted at all.
"""
from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import Any

import msgpack

from peers.mapper.collector.marks import HASH_END, Marks
from peers.mapper.collector.roots import MapRoots, RootSource, listed
from peers.mapper.collector.sweep import COLLECTOR, KINDS, Sweep, Swept
from peers.mapper.contents import CLAIM_S
from peers.mapper.frames import create_frame, read_header, replace_frame
from peers.mapper.header import NAME_MAGIC, Header, now_ms, pack_frame, unpack_frame
from peers.mapper.making import ELSEWHERE
from peers.mapper.names import COLLECTOR_STATE, pointer
from peers.mapper.store import HEADER, MapStore, gather_bounded
from xseg.errors import Damaged, NotFound, Stale

__all__ = ["COLLECTOR", "Cycle", "last_state", "put_state"]

MEMORY = 256 << 20
HEADERS_AT_ONCE = 16


class Cycle:
    """One cycle over a whole store. `maker(mark)` says whether what has a mark is still being made; `remove(header)`
    removes a volume that was half made by who is gone; `still_ours()` raises when the collector's lock is lost;
    `others` are root sources beside the maps; `stage(what)` is told when another part begins."""

    def __init__(self, store: MapStore, *, grace_s: float, claim_s: float = CLAIM_S, memory: int = MEMORY,
                 dry_run: bool = False,
                 maker: Callable[[str], str] = lambda mark: ELSEWHERE,
                 remove: Callable[[Header], Awaitable[None]] | None = None,
                 still_ours: Callable[[], Awaitable[None]] | None = None,
                 others: Sequence[RootSource] = (), stage: Callable[[str], None] = lambda what: None,
                 now: Callable[[], int] = now_ms) -> None:
        self.store, self.memory, self.dry_run, self.maker = store, memory, dry_run, maker
        self.remove, self.still_ours, self.others, self.stage = remove, still_ours, others, stage
        self.began = now()
        self.young = self.began - int(grace_s * 1000)
        self.unclaimed_since = (self.began - int(claim_s * 1000)) * 1_000_000
        self.swept = Swept()
        self.passes = self.entries = self.pages = 0

    async def run(self) -> dict[str, Any]:
        """All of it; the account. EBADMSG, and what the store says: nothing more is deleted after that."""
        clock, low = time.monotonic(), 0
        ended = await self.old_tombstones()
        while low < HASH_END:
            marks, roots = Marks(self.memory, low), MapRoots(self.store, self.memory, ended)
            sweep = Sweep(self.store, self.swept, self.young, self.unclaimed_since, self.maker, self.dry_run)
            await self.one_pass(marks, roots, sweep)
            low = marks.high
        self.stage("names")
        await sweep.rest(roots.known, ended)
        await self.half_made(sweep.half_made)
        return self.account(roots, time.monotonic() - clock)

    async def one_pass(self, marks: Marks, roots: MapRoots, sweep: Sweep) -> None:
        """See above."""
        self.stage("maps")
        sources: list[RootSource] = [roots, *self.others]
        for source in sources:
            await source.mark(marks)
        for source in sources:
            await source.mark_again(marks)
        marks.settle()
        await self.store.sync(0)            # what was read may have been in memory only
        if self.still_ours:
            await self.still_ours()
        for kind in KINDS:
            self.stage("objects")
            await sweep.objects(kind, marks, roots.known)
        self.passes, self.entries, self.pages = self.passes + 1, self.entries + marks.entries, self.pages + roots.pages

    async def old_tombstones(self) -> dict[int, int]:
        """Those that are no roots any more, with their generations."""
        self.stage("headers")
        found: dict[int, int] = {}

        async def look(volume: int) -> None:
            try:
                header = await read_header(self.store, volume)
            except (NotFound, Damaged):
                return
            if header.kind == "removed" and header.removed_at < self.young:
                found[volume] = header.generation

        async for names in listed(self.store, HEADER):
            await gather_bounded(look, [int(volume) for volume in names["volume"]], HEADERS_AT_ONCE)
        return found

    async def half_made(self, headers: list[Header]) -> None:
        """Has volumes removed that nobody makes any more: their space comes back when they are old tombstones."""
        for header in headers:
            if self.remove is not None and not self.dry_run:
                await self.remove(header)
            self.swept.half_made += 1

    def account(self, roots: MapRoots, seconds: float) -> dict[str, Any]:
        """For programs. Times are milliseconds since 1970."""
        waiting = roots.tombstones - self.swept.headers
        return {**asdict(self.swept), "began": self.began, "ended": now_ms(), "seconds": round(seconds, 3),
                "passes": self.passes, "entries": self.entries, "pages": self.pages, "roots": roots.roots,
                "volumes": roots.volumes, "waiting": max(0, waiting), "dry_run": self.dry_run}


# --- what is told of the last cycle, on the store, so that every node knows it ------------------------

def unpack_state(data: bytes) -> tuple[int, dict[str, Any]]:
    """Generation and account out of its object. ValueError."""
    generation, payload = unpack_frame(NAME_MAGIC, data)
    state = payload.get("state")
    if not isinstance(state, dict):
        raise ValueError("it says nothing")
    return generation, state


async def last_state(store: MapStore) -> dict[str, Any]:
    """The account of the last cycle, with `cycles`, `total_freed_objects`, `total_freed_bytes` and, of one that failed,
    `refused`; empty: there was none."""
    try:
        return unpack_state(await store.read_frame(pointer(COLLECTOR_STATE)))[1]
    except (NotFound, ValueError):
        return {}


async def put_state(store: MapStore, account: dict[str, Any]) -> None:
    """Notes the account of a cycle. Of one that failed: when, and `refused`; the rest stays as the last one left it."""
    name, generation = pointer(COLLECTOR_STATE), 0
    try:
        data = await store.read_frame(name)
        generation, before = unpack_state(data)
    except NotFound:
        before = {}
    except ValueError:
        generation, before = int.from_bytes(data[:8], "little"), {}
    state = {**before, "refused": "", **account, "cycles": before.get("cycles", 0) + 1}
    freed = list(account.get("kinds", {}).values())
    for key in ("freed_objects", "freed_bytes"):
        state[f"total_{key}"] = before.get(f"total_{key}", 0) + sum(kind[key] for kind in freed)
    payload = msgpack.packb({"id": COLLECTOR, "name": COLLECTOR_STATE, "state": state})
    packed = pack_frame(NAME_MAGIC, generation + 1, payload)
    try:
        if generation:
            await replace_frame(store, name, packed, generation)
        else:
            await create_frame(store, name, packed)
    except (NotFound, Stale):               # another was quicker
        return
