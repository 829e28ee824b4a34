# SPDX-License-Identifier: Apache-2.0
"""Verbs of the mapper that change volumes: resize, remove. See mapper/verbs/."""
import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from peers.mapper import walk
from peers.mapper.frames import read_header
from peers.mapper.header import ENTRIES_PER_PAGE_SHIFT, Header, now_ms
from peers.mapper.journal import Stretch
from peers.mapper.names import missing
from peers.mapper.store import HEADER, LOCK, named
from peers.mapper.tree import View, own, page_name, tree_pages
from peers.mapper.verbs.arguments import Answer, Arguments
from peers.mapper.volume import Volume, log
from peers.mapper.volumes import Volumes
from xseg._native import lib
from xseg.errors import Busy, Damaged, NotFound
from xseg.errors import error as fail
from xseg.volume_name import id_in

REMOVED = 1 << 63                   # in a remove's slot, with a count: a mapper that is killed now has but to answer
FIRST_EPOCH = 1                     # of a new volume
NO_EPOCH = 1 << 32                  # later than any: a volume that is writable since then has nothing of its own


async def resize(hand: Volumes, a: Arguments, room: int) -> Answer:
    """Another size. What a smaller one cuts off is gone, and zeros when it grows again. EROFS, EINVAL."""
    size = a["size"]
    async with hand.by_name(a["name"]) as volume:
        if volume.header.readonly:
            raise fail(errno.EROFS, f"'{a['name']}' is a snapshot: its size cannot change, but a clone may be larger")
        if size > volume.header.size:
            await grow(hand, volume, size)
        elif size < volume.header.size:
            await shrink(hand, volume, size)
    return {"size": size}


async def grow(hand: Volumes, volume: Volume, size: int) -> None:
    """Only the header knows the size."""
    if not volume.handle:
        async with hand.locked(volume):
            await volume.load()
            await volume.close_journal()
            await volume.write_header(size=size)
        return
    await hand.vlmc(lib.XOP_VOL_FREEZE, volume)
    try:
        await volume.write_header(size=size)
        volume.shared.size = size
    finally:
        await hand.vlmc(lib.XOP_VOL_THAW, volume)


async def shrink(hand: Volumes, volume: Volume, size: int) -> None:
    """Zeroes the rest of the block that the new end cuts, cuts the map, then removes what lay beyond."""
    await hand.open_here(volume)
    try:
        block = volume.header.block_size
        tail = min(volume.header.size, -(-size // block) * block) - size
        if tail:
            await hand.vlmc(lib.XOP_WRITE_ZEROES, volume, offset=size, size=tail)
        await hand.vlmc(lib.XOP_VOL_FREEZE, volume)
        try:
            folded = await volume.fold(cut_to=size)
            assert folded is not None           # as it was told to cut
            tree, before = folded
            volume.shared.size = size
            volume.shared.epoch = volume.epoch
        finally:
            await hand.vlmc(lib.XOP_VOL_THAW, volume)
        await drop_beyond(hand, volume, before, -(-size // block))
        await volume.drop_folded(tree, before)
    finally:
        await hand.close_if_unused(volume)


async def drop_beyond(hand: Volumes, volume: Volume, before: View, first_block: int) -> None:
    """Removes data objects and pages beyond a new end that only this volume had."""
    since = volume.writable_since
    async for names in walk.own_objects(hand.store, before, volume.header, since, first_block):
        await hand.store.delete_all(names)
    if before.root:
        last_leaf = (first_block - 1) >> ENTRIES_PER_PAGE_SHIFT
        pages = [page_name(ref) async for ref, level, index in tree_pages(
            hand.store, before, before.root, before.level, 0, last_leaf + 1,
            enter=lambda ref: own(ref, volume.id, since)) if index << ENTRIES_PER_PAGE_SHIFT * level > last_leaf]
        await hand.store.delete_all(pages)


async def remove(hand: Volumes, a: Arguments, room: int) -> Answer:
    """Frees the name at once, then gives back the space that only this volume had. EBUSY: it is open.

    With force, one whose header is damaged is removed as well; its space is left to the collector. With `making`, it
    is removed only if it is still being made with that token; with `schedule`, only if it was taken with that mark and
    has its name still. Who names it by its id means no other. EPERM: it is protected."""
    name, token, request = a["name"], a["token"], a["request"]
    slot = request.c
    if id_in(name) is not None:
        if slot.arg & REMOVED:
            return {"objects": slot.arg & ~REMOVED}
        name = await name_by_id(hand, name)
    async with hand.names.locked([name]):
        try:
            _generation, volume_id = await hand.names.target(name)
            header = await read_header(hand.store, volume_id)
        except NotFound:
            if slot.arg & REMOVED:
                return {"objects": slot.arg & ~REMOVED}
            header = await hand.names.lookup(name)
        except Damaged:
            if not a["force"]:
                await hand.names.lookup(name)
            return await remove_damaged(hand, name)
        if header.kind != "removed" or header.name != name or not token or header.token != token:
            if slot.arg & REMOVED:          # somebody else's, made since
                return {"objects": slot.arg & ~REMOVED}
            header = await hand.names.lookup(name)
            await hand.marks.may_be_removed(header, a["name"], a["making"], a["force"])
            refuse_not_scheduled(header, a["schedule"])
    if id_in(a["name"]) not in (None, header.id):
        raise missing(a["name"])
    async with hand.using(header.id) as volume:
        await refuse_gone(hand, header.id, name, token)
        await volume_may_go(hand, volume, name)
        with gone_all_the_same(volume, name):
            async with hand.locked(volume):
                count, since = await remove_space(hand, volume, name, token)
            slot.arg = REMOVED | max(count, slot.arg & ~REMOVED)
            lib.xreq_note(request.port, slot)
    with gone_all_the_same(volume, name):
        await clear_away(hand, volume.header, shared_nothing(header, since))
    return {"objects": slot.arg & ~REMOVED}


async def refuse_gone(hand: Volumes, volume_id: int, name: str, token: int) -> None:
    """ENOENT: another request has removed the volume since its name was looked up."""
    try:
        header = await read_header(hand.store, volume_id)
    except NotFound:
        raise missing(name) from None
    if header.kind == "removed" and (not token or header.token != token):
        raise missing(name)


async def name_by_id(hand: Volumes, name: str) -> str:
    """The name of the volume whose id a name holds; of one that is being removed, too. ENOENT."""
    try:
        return (await read_header(hand.store, id_in(name) or 0)).name
    except NotFound:
        raise missing(name) from None


@contextmanager
def gone_all_the_same(volume: Volume, name: str) -> Iterator[None]:
    """What fails once the header says that the volume is removed: its sentence says that it is."""
    try:
        yield
    except OSError as failure:
        if volume.known_header is None or volume.header.kind != "removed":
            raise
        raise fail(failure.errno or errno.EIO, f"'{name}' is removed, but not all of the space that it took is given "
                                               f"back, which is left to the collector: {failure}") from None


async def clear_away(hand: Volumes, header: Header, wholly: bool) -> None:
    """Gives back the names of a volume whose space is given back, and removes what is left of it. Of what may
    share something the header stays as a tombstone, which the collector deletes."""
    async with hand.names.locked([header.name]):
        await hand.names.release(header.name, header.id)
    if header.renaming:
        await hand.names.release(header.renaming, header.id)
    with suppress(Busy):                # another node tries to open what is gone
        await hand.store.delete(named(LOCK, header.id))
    if wholly:
        await hand.store.delete(named(HEADER, header.id))
    await hand.marks.removed(header)


def shared_nothing(header: Header, since: int) -> bool:
    """True of a volume that neither came from another nor was another made from it. `since` it is writable in place."""
    return header.kind == "volume" and not header.parent and since <= FIRST_EPOCH


async def volume_may_go(hand: Volumes, volume: Volume, name: str) -> None:
    """EBUSY, naming who has it open; else it is closed after this."""
    if volume.handle and (volume.opens() or volume.shared.administrative):
        raise fail(errno.EBUSY, f"volume '{name}' is open by {hand.openers(volume)}: unmap, disconnect or close it "
                                "first")
    if volume.handle:
        await hand.close_here(volume)
    await volume.read_header()
    if volume.header.name != name:          # renamed meanwhile
        raise missing(name)


def refuse_not_scheduled(header: Header, mark: str) -> None:
    """ENOENT: a schedule wants to remove one that it did not take, or that somebody has given a name since."""
    if mark and (header.kind != "snapshot" or header.schedule != mark or not header.name.endswith("@" + mark)):
        raise missing(header.name)


def refuse_protected(header: Header) -> None:
    """EPERM: nobody takes anything away from what is protected."""
    if header.protected:
        raise fail(errno.EPERM, f"'{header.name}' is protected: `vlmc unprotect {header.name}` first")


async def remove_space(hand: Volumes, volume: Volume, name: str, token: int) -> tuple[int, int]:
    """Marks the header removed, which frees the name, and removes what the volume alone had: how many objects, and
    since which epoch they are its own."""
    def damage(failure: object) -> None:
        log.warning("removing '%s': %s: its space is left to the collector", name, failure)

    try:
        await volume.load()
        since = volume.writable_since
    except Damaged as failure:
        if volume.header.kind == "removed":     # an earlier attempt got as far as the journals, which go last
            volume.stretches = [Stretch(*listed[:3]) for listed in volume.header.listed]
            since = volume.header.writable_since
        else:                                   # nobody knows what the journal's marks have shared
            damage(failure)
            volume.stretches, since = [], NO_EPOCH
    if volume.header.kind != "removed":
        refuse_protected(volume.header)
        await volume.write_header(kind="removed", token=token, removed_at=now_ms())
    view, count = volume.view(), 0
    async for names in walk.own_objects(hand.store, view, volume.header, since, damage=damage):
        count += await hand.store.delete_all(names)
    names = [found async for found in walk.own_map(hand.store, view, volume.header, since, damage)]
    return count + await hand.store.delete_all(names), since


async def remove_damaged(hand: Volumes, name: str) -> Answer:
    """Removes a header that cannot be read, or a name pointer."""
    try:
        _generation, volume_id = await hand.names.target(name)
        volume = hand.by_id.get(volume_id)
        if volume is not None and volume.handle:
            raise fail(errno.EBUSY, f"volume '{name}' is open by {hand.openers(volume)}: close it first")
        await hand.store.delete(named(HEADER, volume_id))
        await hand.names.release(name, volume_id)
    except Damaged:
        await hand.names.drop(name)
    return {"objects": 0}
