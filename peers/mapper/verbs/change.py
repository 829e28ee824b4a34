# SPDX-License-Identifier: Apache-2.0
"""Verbs of the mapper that change volumes: resize, remove. See mapper/verbs/."""
import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from peers.mapper import walk
from peers.mapper.header import ENTRIES_PER_PAGE_SHIFT, Header
from peers.mapper.journal import Stretch
from peers.mapper.making import may_be_removed, removed
from peers.mapper.names import missing
from peers.mapper.store import HEADER, LOCK, named
from peers.mapper.tree import View, own, page_name, tree_pages
from peers.mapper.volume import Volume, read_header
from xseg._native import lib
from xseg.errors import Busy, Damaged, NotFound
from xseg.errors import error as fail
from xseg.volume_name import id_in

if TYPE_CHECKING:
    from peers.mapper import Mapper
    from peers.mapper.verbs import Arguments

REMOVED = 1 << 63                   # in a remove's slot, with a count: a mapper that is killed now has but to answer
NO_EPOCH = 1 << 32                  # later than any: a volume that is writable since then has nothing of its own


async def resize(m: "Mapper", a: "Arguments", room: int) -> dict:
    """Another size. What a smaller one cuts off is gone, and zeros when it grows again. EROFS, EINVAL."""
    size = a["size"]
    async with m.by_name(a["name"]) as volume:
        if volume.header.readonly:
            raise fail(errno.EROFS, f"'{a['name']}' is a snapshot: its size cannot change, but a clone may be larger")
        if size > volume.header.size:
            await grow(m, volume, size)
        elif size < volume.header.size:
            await shrink(m, volume, size)
    return {"size": size}


async def grow(m: "Mapper", volume: Volume, size: int) -> None:
    """Only the header knows the size."""
    if not volume.handle:
        async with m.locked(volume):
            await volume.load()
            await volume.close_journal()
            await volume.write_header(size=size)
        return
    await m.vlmc(lib.XOP_VOL_FREEZE, volume)
    try:
        await volume.write_header(size=size)
        volume.shared.size = size
    finally:
        await m.vlmc(lib.XOP_VOL_THAW, volume)


async def shrink(m: "Mapper", volume: Volume, size: int) -> None:
    """Zeroes the rest of the block that the new end cuts, cuts the map, then removes what lay beyond."""
    await m.open_here(volume)
    try:
        block = volume.header.block_size
        tail = min(volume.header.size, -(-size // block) * block) - size
        if tail:
            await m.vlmc(lib.XOP_WRITE_ZEROES, volume, offset=size, size=tail)
        await m.vlmc(lib.XOP_VOL_FREEZE, volume)
        try:
            tree, before = await volume.fold(cut_to=size)
            volume.shared.size = size
            volume.shared.epoch = volume.epoch
        finally:
            await m.vlmc(lib.XOP_VOL_THAW, volume)
        await drop_beyond(m, volume, before, -(-size // block))
        await volume.drop_folded(tree, before)
    finally:
        await m.close_if_unused(volume)


async def drop_beyond(m: "Mapper", volume: Volume, before: View, first_block: int) -> None:
    """Removes data objects and pages beyond a new end that only this volume had."""
    since = volume.writable_since
    async for names in walk.own_objects(m.store, before, volume.header, since, first_block):
        await m.store.delete_all(names)
    if before.root:
        last_leaf = (first_block - 1) >> ENTRIES_PER_PAGE_SHIFT
        pages = [page_name(ref) async for ref, level, index in tree_pages(
            m.store, before, before.root, before.level, 0, last_leaf + 1,
            enter=lambda ref: own(ref, volume.id, since)) if index << ENTRIES_PER_PAGE_SHIFT * level > last_leaf]
        await m.store.delete_all(pages)


async def remove(m: "Mapper", a: "Arguments", room: int) -> dict:
    """Frees the name at once, then gives back the space that only this volume had. EBUSY: it is open.

    With force, one whose header is damaged is removed as well; its space is left to the collector. With `making`, it
    is removed only if it is still being made with that token. Who names it by its id means no other."""
    name, token, request = a["name"], a["token"], a["request"]
    slot = request.c
    if id_in(name) is not None:
        if slot.arg & REMOVED:
            return {"objects": slot.arg & ~REMOVED}
        name = await name_by_id(m, name)
    async with m.names.locked([name]):
        try:
            _generation, volume_id = await m.names.target(name)
            header = await read_header(m.store, volume_id)
        except NotFound:
            if slot.arg & REMOVED:
                return {"objects": slot.arg & ~REMOVED}
            header = await m.names.lookup(name)
        except Damaged:
            if not a["force"]:
                await m.names.lookup(name)
            return await remove_damaged(m, name)
        if header.kind != "removed" or header.name != name or not token or header.token != token:
            if slot.arg & REMOVED:          # somebody else's, made since
                return {"objects": slot.arg & ~REMOVED}
            header = await m.names.lookup(name)
            await may_be_removed(m, header, a)
    if id_in(a["name"]) not in (None, header.id):
        raise missing(a["name"])
    async with m.using(header.id) as volume:
        await volume_may_go(m, volume, name)
        with gone_all_the_same(volume, name):
            async with m.locked(volume):
                count = await remove_space(m, volume, name, token)
            slot.arg = REMOVED | max(count, slot.arg & ~REMOVED)
            lib.xreq_note(request.port, slot)
    with gone_all_the_same(volume, name):
        await clear_away(m, header)
    return {"objects": slot.arg & ~REMOVED}


async def name_by_id(m: "Mapper", name: str) -> str:
    """The name of the volume whose id a name holds; of one that is being removed, too. ENOENT."""
    try:
        return (await read_header(m.store, id_in(name) or 0)).name
    except NotFound:
        raise missing(name) from None


@contextmanager
def gone_all_the_same(volume: Volume, name: str) -> Iterator[None]:
    """What fails once the header says that the volume is removed: its sentence says that it is."""
    try:
        yield
    except OSError as failure:
        if volume.header is None or volume.header.kind != "removed":
            raise
        raise fail(failure.errno or errno.EIO, f"'{name}' is removed, but not all of the space that it took is given "
                                               f"back, which is left to the collector: {failure}") from None


async def clear_away(m: "Mapper", header: Header) -> None:
    """Gives back the names of a volume whose space is given back, and removes the last that is left of it."""
    async with m.names.locked([header.name]):
        await m.names.release(header.name, header.id)
    if header.renaming:
        await m.names.release(header.renaming, header.id)
    with suppress(Busy):                # another node tries to open what is gone
        await m.store.delete(named(LOCK, header.id))
    await m.store.delete(named(HEADER, header.id))
    await removed(m, header)


async def volume_may_go(m: "Mapper", volume: Volume, name: str) -> None:
    """EBUSY, naming who has it open; else it is closed after this."""
    if volume.handle and (volume.opens() or volume.shared.administrative):
        raise fail(errno.EBUSY, f"volume '{name}' is open by {m.openers(volume)}: unmap, disconnect or close it first")
    if volume.handle:
        await m.close_here(volume)
    await volume.read_header()
    if volume.header.name != name:          # renamed meanwhile
        raise missing(name)


async def remove_space(m: "Mapper", volume: Volume, name: str, token: int) -> int:
    """Marks the header removed, which frees the name, and removes what the volume alone had."""
    def damage(failure: object) -> None:
        m.log.warning("removing '%s': %s: its space is left to the collector", name, failure)

    try:
        await volume.load()
    except Damaged as failure:
        if volume.header.kind == "removed":     # an earlier attempt got as far as the journals, which go last
            volume.stretches = [Stretch(*listed[:3]) for listed in volume.header.journals]
            volume.writable_since = volume.header.writable_since
        else:                                   # nobody knows what the journal's marks have shared
            damage(failure)
            volume.stretches, volume.writable_since = [], NO_EPOCH
    if volume.header.kind != "removed":
        await volume.write_header(kind="removed", token=token)
    view, since, count = volume.view(), volume.writable_since, 0
    async for names in walk.own_objects(m.store, view, volume.header, since, damage=damage):
        count += await m.store.delete_all(names)
    names = [found async for found in walk.own_map(m.store, view, volume.header, since, damage)]
    return count + await m.store.delete_all(names)


async def remove_damaged(m: "Mapper", name: str) -> dict:
    """Removes a header that cannot be read, or a name pointer."""
    try:
        _generation, volume_id = await m.names.target(name)
        volume = m.volumes.get(volume_id)
        if volume is not None and volume.handle:
            raise fail(errno.EBUSY, f"volume '{name}' is open by {m.openers(volume)}: close it first")
        await m.store.delete(named(HEADER, volume_id))
        await m.names.release(name, volume_id)
    except Damaged:
        await m.names.drop(name)
    return {"objects": 0}
