# SPDX-License-Identifier: Apache-2.0
"""Verbs of the mapper about what a volume was, and is to be: protect, unprotect, limit, schedule, rollback. See
mapper/verbs/.

What is protected is not removed, not thinned by a schedule, and not rolled back unless what it was before is kept. The
header says so, so it is the same on all nodes.

A rollback is one replacement of the header of a volume that nobody has open: it gets the root, the journals and the
size of one of its snapshots. Nothing else is touched, whatever the size. In steps:

    1. the name of the snapshot that is to keep what the volume was is claimed
    2. the volume's epoch is raised, so that all it has is shared and never written again
    3. the header of that snapshot is made
    4. the volume's header is replaced: the commit point

Whoever dies before the last step leaves the volume as it was, beside a snapshot of that at most; the same request, sent
again, finds that snapshot by its token, and the volume too if it is rolled back already. Where nothing is to be kept
only the last step is there, and then what the volume alone had is removed; as the snapshot is older than that, it has
none of it.
"""
import errno
import time

from peers.mapper import walk
from peers.mapper.frames import read_header
from peers.mapper.header import Header, id_text
from peers.mapper.journal import Stretch, load_stretches
from peers.mapper.names import exists, means, missing
from peers.mapper.tree import View
from peers.mapper.verbs.arguments import Answer, Arguments
from peers.mapper.verbs.change import refuse_protected, volume_may_go
from peers.mapper.verbs.make import SOURCE_TRIES, Moved, confirm
from peers.mapper.volume import EPOCH_LAST, Volume, log
from peers.mapper.volumes import Volumes
from xseg import throttle
from xseg.errors import NotFound
from xseg.errors import error as fail

NAME_BYTES = 220                    # of the volume's name that the snapshot which keeps what it was gets


# --- protect

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


# --- limits

async def limit(hand: Volumes, a: Arguments, room: int) -> Answer:
    """Notes what a guest may have of a volume or snapshot; one that is open here has it at once. EBUSY."""
    async with hand.by_name(a["name"]) as volume, hand.locked(volume):
        if not volume.handle:
            await volume.read_header()
        if volume.header.limits != a["limits"]:
            await volume.note(limits=a["limits"])
        if volume.handle:
            throttle.share(a["limits"], volume.shared)
    return {}


# --- schedules

async def schedule(hand: Volumes, a: Arguments, room: int) -> Answer:
    """Notes the rule by which snapshots of a volume are taken. EROFS: it is a snapshot. EBUSY."""
    async with hand.by_name(a["name"]) as volume:
        if volume.header.readonly:
            raise fail(errno.EROFS, f"'{a['name']}' is a snapshot, which never changes: only volumes have schedules")
        async with hand.locked(volume):
            if not volume.handle:
                await volume.read_header()
            if volume.header.schedule != a["rule"]:
                await volume.note(schedule=a["rule"])
    return {}


# --- rollback

async def rollback(hand: Volumes, a: Arguments, room: int) -> Answer:
    """Makes a volume what one of its snapshots is. What it was before is kept as the snapshot `keep`, or one whose name
    is chosen here; not with `discard`. EBUSY: it is open, here or elsewhere. EINVAL: the snapshot is another's."""
    token, kept = a["token"], a["keep"]
    named = (await hand.names.lookup(a["name"])).name
    if a["discard"] and kept:
        raise fail(errno.EINVAL, "rollback: what the volume was is either kept or discarded")
    if not a["discard"] and not kept:
        kept = f"{named.encode()[:NAME_BYTES].decode(errors='ignore')}@rollback-{token or hand.ids.next():x}"
    async with hand.names.locked([kept] if kept else []), hand.by_name(a["name"]) as volume:
        if not rolled_back(volume, token):
            if volume.header.readonly:
                raise fail(errno.EROFS, f"'{named}' is a snapshot: it never changes")
            await volume_may_go(hand, volume, volume.header.name)
            async with hand.locked(volume):
                await roll_back(hand, volume, a, kept)
    return {"snapshot": kept}


def rolled_back(volume: Volume, token: int) -> bool:
    """True if an earlier attempt with this token has done it."""
    return token != 0 and volume.header.token == token


async def roll_back(hand: Volumes, volume: Volume, a: Arguments, kept: str | None) -> None:
    """The steps, for a volume that is closed and locked. All that can be refused is before the first of them."""
    await volume.load()
    if rolled_back(volume, a["token"]):
        return
    if not means(a["name"], volume.header):         # renamed by another node, until it was locked
        raise missing(a["name"])
    if kept is None:
        refuse_protected(volume.header)
    source = await own_snapshot(hand, volume, a["snapshot"])
    stretches = await load_stretches(hand.store, source)
    await volume.close_journal()
    before, since = volume.view(), volume.writable_since
    if kept is None:
        raise_epoch(volume)
        await become(hand, volume, source, stretches, a["token"])
        await discard(hand, volume, before, since)
        return
    await keep(hand, volume, before, kept, a["token"])
    try:
        await become(hand, volume, source, stretches, a["token"])
    except OSError as failure:
        raise fail(failure.errno or errno.EIO, f"{failure}. What '{volume.header.name}' was is kept as '{kept}' in any "
                                               "case") from None


async def own_snapshot(hand: Volumes, volume: Volume, name: str) -> Header:
    """The header of one of a volume's snapshots. ENOENT, EINVAL."""
    source = await hand.names.lookup(name)
    await hand.marks.refuse_unfinished(source, name)
    if source.kind != "snapshot" or source.parent != volume.id or source.block_shift != volume.header.block_shift:
        raise fail(errno.EINVAL, f"'{name}' is no snapshot of '{volume.header.name}', which can only become what it "
                                 f"was itself: `vlmc clone` makes a new volume of '{name}'")
    return source


def raise_epoch(volume: Volume) -> None:
    """All that a volume which is not open has is shared, once its header says so."""
    volume.epoch = min(EPOCH_LAST, volume.epoch + 1)        # no object has it
    volume.writable_since = volume.epoch


async def become(hand: Volumes, volume: Volume, source: Header, stretches: list[Stretch], token: int) -> None:
    """Gives a volume the map of a snapshot, which may be folded or hashed meanwhile. ENOENT. EAGAIN: it is, all the
    time."""
    for _ in range(SOURCE_TRIES):
        try:
            await switch(hand, volume, source, stretches, token)
            return
        except Moved:
            source = await read_header(hand.store, source.id)
            stretches = await load_stretches(hand.store, source)
    raise fail(errno.EAGAIN, f"the map of '{source.name}' changes too fast to be rolled back to: try again")


async def switch(hand: Volumes, volume: Volume, source: Header, stretches: list[Stretch], token: int) -> None:
    """The commit point. If the snapshot is not as it was any more by then, the volume becomes again what it was: the
    collector may have met neither of them. ENOENT, Moved."""
    was, before = volume.header, volume.stretches
    volume.stretches = stretches
    await volume.write_header(root=source.root, level=source.level, size=source.size, seq=0, token=token)
    try:
        await confirm(hand, source)
    except (NotFound, Moved):
        volume.stretches = before
        await volume.write_header(root=was.root, level=was.level, size=was.size, seq=0, token=was.token)
        raise


async def keep(hand: Volumes, volume: Volume, before: View, name: str, token: int) -> None:
    """Makes the snapshot of what a volume is, unless it is there from an earlier attempt. EEXIST."""
    header = Header(
        id=hand.ids.next(), name=name, kind="snapshot", size=volume.header.size,
        block_shift=volume.header.block_shift, parent=volume.id, root=list(before.root) if before.root else None,
        level=before.level, journals=[stretch.listed() for stretch in before.stretches],
        created=time.time_ns() // 1_000_000, token=token)
    mine = await hand.names.claim(name, header.id, token)
    if mine is not None:
        if (mine.parent, mine.size, mine.root, mine.journals) != (volume.id, header.size, header.root, header.journals):
            log.warning("volume '%s' has changed since '%s' was taken by a rollback that was cut short",
                        volume.header.name, name)
            raise exists(name)
        return
    try:
        raise_epoch(volume)
        await volume.write_header()
        header.epoch, header.writable_since = volume.epoch, volume.epoch + 1
        await hand.names.make(header)
    except BaseException:
        await hand.names.release(name, header.id)
        raise


async def discard(hand: Volumes, volume: Volume, before: View, since: int) -> None:
    """Removes what only the volume had, and has no more. What cannot be removed is left to the collector."""
    def damage(failure: object) -> None:
        log.warning("what volume '%s' (%s) was is not removed wholly, and left to the collector: %s",
                    volume.header.name, id_text(volume.id), failure)

    try:
        async for names in walk.own_objects(hand.store, before, volume.header, since, damage=damage):
            await hand.store.delete_all(names)
        await hand.store.delete_all(
            [name async for name in walk.own_map(hand.store, before, volume.header, since, damage)])
    except OSError as failure:
        damage(failure)
