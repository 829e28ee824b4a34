# SPDX-License-Identifier: Apache-2.0
"""Work on many volumes, some of them at one time: walks over their maps, removals."""
from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from tools.vlmc._common import LONG_S, token
from xseg._native import lib
from xseg.aio import AsyncPort, Hub
from xseg.client import DEAD_PEER_TIMEOUT_S, control_answer, is_coming_back, packed
from xseg.errors import NotFound, NotRunning
from xseg.segment import Segment

AT_ONCE = 8                     # volumes that are worked on at one time
LOOK_S = 0.5                    # between two looks at whether the mapper lives

T = TypeVar("T")
Ask = Callable[..., Awaitable[dict[str, Any]]]      # a verb and its arguments; the mapper's answer


def walk_all(args: argparse.Namespace, verb: str, names: list[str], skip_gone: bool = False
             ) -> list[list[dict[str, Any]] | None]:
    """The answers of a verb that has a cursor, for each of the volumes, in the order of their names. None: it is gone,
    if that is to be no failure. NotRunning, and what the mapper says."""
    return with_mapper(args, lambda ask: side_by_side(ask, verb, names, skip_gone))


def with_mapper(args: argparse.Namespace, work: Callable[[Ask], Coroutine[Any, Any, T]]) -> T:
    """The result of some work that asks the mapper many things at one time. NotRunning: it ended meanwhile."""
    with Segment.of_home(args.home) as segment:
        return asyncio.run(_with_mapper(args.home, segment, work))


async def _with_mapper(home: str, segment: Segment, begin: Callable[[Ask], Coroutine[Any, Any, T]]) -> T:
    hub = Hub(segment)
    try:
        port, mapper = AsyncPort(hub, role="vlmc"), segment.port_of("mapper")

        async def ask(verb: str, **arguments: Any) -> dict[str, Any]:
            data = packed({"verb": verb, **arguments})
            return control_answer(verb, await port.call(mapper, lib.XOP_CONTROL, data=data, room=lib.XSEG_IO_MAX,
                                                        timeout=LONG_S, check=False))

        work = asyncio.ensure_future(begin(ask))
        death = asyncio.ensure_future(_death(home, segment, mapper))
        await asyncio.wait([work, death], return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            work.cancel()
            raise NotRunning("the mapper is not running: start it with `archipelago restart mapper`")
        death.cancel()
        return work.result()
    finally:
        hub.close()


async def _death(home: str, segment: Segment, port: int) -> None:
    """Returns when no process has served a port for DEAD_PEER_TIMEOUT_S, and none is coming back."""
    missed = 0.0
    while missed < DEAD_PEER_TIMEOUT_S or is_coming_back(home, segment.process_of(port)):
        await asyncio.sleep(LOOK_S)
        missed = 0.0 if segment.alive(port) else missed + LOOK_S


async def side_by_side(ask: Ask, verb: str, names: list[str], skip_gone: bool) -> list[list[dict[str, Any]] | None]:
    """walk_all(), by who asks the mapper."""
    room = asyncio.Semaphore(AT_ONCE)

    async def walk(name: str) -> list[dict[str, Any]] | None:
        async with room:
            try:
                return await _walk(ask, verb, name)
            except NotFound:
                if not skip_gone:
                    raise
                return None

    return await asyncio.gather(*map(walk, names))


async def remove_all(ask: Ask, names: list[str], force: bool) -> list[OSError]:
    """Removes volumes; what stood in the way, in the order of their names."""
    room = asyncio.Semaphore(AT_ONCE)

    async def remove(name: str) -> OSError | None:
        async with room:
            try:
                await ask("remove", name=name, force=force, token=token())
                return None
            except OSError as failure:
                return failure

    return [failure for failure in await asyncio.gather(*map(remove, names)) if failure]


async def _walk(ask: Ask, verb: str, name: str) -> list[dict[str, Any]]:
    cursor, found = 0, []
    while True:
        answer = await ask(verb, name=name, cursor=cursor)
        cursor = answer.pop("cursor")
        found.append(answer)
        if cursor == 0:
            return found
