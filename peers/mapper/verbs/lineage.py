# SPDX-License-Identifier: Apache-2.0
"""Verbs of the mapper about what a volume was and what comes from it: protect, unprotect. See mapper/verbs/.

What is protected is not removed, not thinned by a schedule, and not rolled back unless what it was before is kept. The
header says so, so it is the same on all nodes.
"""
from peers.mapper.verbs.arguments import Answer, Arguments
from peers.mapper.volumes import Volumes


async def protect(hand: Volumes, a: Arguments, room: int) -> Answer:
    """Has `remove` refuse a volume or snapshot. EBUSY: another node has the volume open."""
    return await note_protected(hand, a["name"], True)


async def unprotect(hand: Volumes, a: Arguments, room: int) -> Answer:
    """Takes that back. EBUSY."""
    return await note_protected(hand, a["name"], False)


async def note_protected(hand: Volumes, name: str, protected: bool) -> Answer:
    """Has the header say so; nothing if it does."""
    async with hand.by_name(name) as volume, hand.locked(volume):
        if not volume.handle:
            await volume.read_header()          # by another node, until it was locked
        if volume.header.protected != protected:
            await volume.note(protected=protected)
    return {}
