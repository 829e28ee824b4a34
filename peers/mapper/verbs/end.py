# SPDX-License-Identifier: Apache-2.0
"""The mapper's part in the end of an instance (tools/instance/ending.py): the verb close_all."""

from peers.mapper.store import gather_bounded
from peers.mapper.verbs.arguments import Answer, Arguments
from peers.mapper.volume import Volume
from peers.mapper.volumes import Volumes

FAILURES_TOLD = 64                  # volumes that one answer names; the others are counted


async def close_all(hand: Volumes, a: Arguments, room: int) -> Answer:
    """Commits and closes every open volume, whoever has it open. One that cannot be closed stays as it was, open by
    whom it was open by; the others are closed all the same."""
    closed, failed = 0, []

    async def close(volume: Volume) -> None:
        nonlocal closed
        async with hand.using(volume.id):
            if not volume.handle:
                return
            try:
                await hand.close_here(volume)
                closed += 1
            except OSError as failure:
                failed.append([volume.header.name, str(failure)])

    await gather_bounded(close, list(hand.handles.values()))
    return {"closed": closed, "failed": failed[:FAILURES_TOLD], "left_out": len(failed[FAILURES_TOLD:])}
