# SPDX-License-Identifier: Apache-2.0
"""The mapper's verbs: what tools may ask of it with CONTROL.

A verb is a coroutine (mapper, arguments, room) -> msgpack-able map; room is the bytes its answer may
have. Failures are raised as errors with a sentence. `name` is the volume meant; sizes are in bytes. A
`token` (a random 64-bit number) makes create, clone, snapshot, rename and remove repeatable: the same request
sent again, because the mapper was killed before it answered, finds its own work instead of EEXIST. A remove
notes in its request's `arg` that it is about to give back the name: what has that name afterwards is another's.

    verb      arguments                                     answer
    create    name, size, [block_size], [token]             id, name
    clone     name (snapshot or volume), names or pattern   count, snapshot (the one made for a live volume)
              with count and [first], [size], [token]
    snapshot  name, snapshot, [token]                       id, name
    list      [cursor]                                      volumes, cursor
    info      name                                          see info()
    rename    name, to, [token]                             id
    resize    name, size                                    size
    remove    name, [force], [token]                        objects (removed)
    open      name                                          handle
    close     name, [force]                                 still_open_by
    lock      name                                          number
    unlock    name, [force]                                 -
    mapinfo   name, [cursor]                                entries, cursor: see mapper_walk.py
    check     name, [cursor]                                blocks, objects, problems, left_out, cursor
    du        name, [cursor]                                logical, blocks, objects, exclusive, shared, cursor

Answers with a cursor are asked for again with it until it is 0.
"""
import errno
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from peers import mapper_walk
from peers.mapper_header import (
    BLOCK_DEFAULT_SHIFT,
    ENTRIES_PER_PAGE_SHIFT,
    Header,
    check_block_size,
    check_name,
    check_size,
    id_text,
)
from peers.mapper_journal import STRETCHES_LIMIT, Stretch
from peers.mapper_store import HEADER, LOCK, MapStore, gather_bounded, named
from peers.mapper_tree import View, own, page_name, tree_pages
from peers.mapper_volume import Volume, read_header
from xseg._native import lib
from xseg.errors import Busy, Damaged, NotFound, XsegError
from xseg.errors import error as fail
from xseg.request import objects
from xseg.segment import text

if TYPE_CHECKING:
    from peers.mapper import Mapper

CLONES_MAX = 100_000                # of one request
BULK_AT_ONCE = 1024                 # requests under way while clones are made
ROW_MAX = 512                       # bytes a listed volume takes at most, about
LIST_ROOM, LIST_ROOM_MIN = 65536, 4096  # bytes of object names asked for: whole buffers
ENTRY_ROOM = 400                    # bytes of a mapinfo entry at most
NAME_BYTES = 40                     # of an object's name in a LIST
CHECK_CACHE = 4 << 20               # bytes of pages kept for one portion of a check
WALK_TRIES = 4                      # of a portion of a walk that a checkpoint overtakes
REMOVED = 1 << 63                   # in a remove's slot, with a count: a mapper that is killed now has but to answer
NO_EPOCH = 1 << 32                  # later than any: a volume that is writable since then has nothing of its own
AUTO_NAME_BYTES = 220               # of the volume's name that a snapshot made for cloning keeps

Arguments = dict[str, Any]


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


# --- making -----------------------------------------------------------------------------------------

async def create(m: "Mapper", a: Arguments, room: int) -> dict:
    """A new, empty volume. EEXIST, EINVAL."""
    name, size = check_name(a["name"]), check_size(a["size"])
    shift = check_block_size(a["block_size"]) if a.get("block_size") else BLOCK_DEFAULT_SHIFT
    header = Header(id=m.ids.next(), name=name, kind="volume", size=size, block_shift=shift,
                    created=now_ms(), token=a.get("token", 0))
    await make_all(m, [header])
    return {"id": id_text(header.id), "name": name}


async def make_all(m: "Mapper", headers: list[Header]) -> None:
    """Claims the names of new volumes, all of them before the first header is made. Of a token's
    earlier attempt, what is there is kept. On failure none of them stays. EEXIST names the first."""
    claimed: list[Header] = []
    todo: list[Header] = []

    async def claim(header: Header) -> None:
        mine = await m.names.claim(header.name, header.id, header.token)
        if mine is not None:
            header.id = mine.id
            return
        claimed.append(header)
        todo.append(header)

    async def undo(header: Header) -> None:
        await m.store.delete(named(HEADER, header.id))
        await m.names.release(header.name, header.id)

    async with m.names.locked(header.name for header in headers):
        try:
            await gather_bounded(claim, headers, BULK_AT_ONCE)
            await gather_bounded(m.names.make, todo, BULK_AT_ONCE)
        except BaseException:
            await gather_bounded(undo, claimed)
            raise


def new_names(a: Arguments) -> list[str]:
    """The names that a clone request asks for. EINVAL."""
    if a.get("names"):
        names = [check_name(name) for name in a["names"]]
    else:
        pattern, count, first = a["pattern"], a["count"], a.get("first", 1)
        if not isinstance(pattern, str) or pattern.count("{}") != 1:
            raise fail(errno.EINVAL, f"name '{pattern}': for several clones it must hold {{}} once, as in 'vm-{{}}'")
        if not isinstance(count, int) or not 1 <= count <= CLONES_MAX:
            raise fail(errno.EINVAL, f"count {count}: it must be from 1 to {CLONES_MAX}")
        names = [pattern.replace("{}", str(number)) for number in range(first, first + count)]
        check_name(names[0])
        check_name(names[-1])
    if len(names) > CLONES_MAX:
        raise fail(errno.EINVAL, f"{len(names)} clones at once: {CLONES_MAX} at most")
    if len(set(names)) != len(names):
        raise fail(errno.EEXIST, "the same name is asked for twice")
    return names


async def clone(m: "Mapper", a: Arguments, room: int) -> dict:
    """Clones of a snapshot; a volume gets a snapshot first. ENOENT, EEXIST, EINVAL."""
    names, token = new_names(a), a.get("token", 0)
    source = await m.names.lookup(a["name"])
    made = None
    if source.kind == "volume":
        made = f"{a['name'].encode()[:AUTO_NAME_BYTES].decode(errors='ignore')}@clone-{token or m.ids.next():x}"
        source = await take_snapshot(m, a["name"], made, token, auto=True)
    if len(source.journals) > STRETCHES_LIMIT:
        source = await fold_snapshot(m, source)
    size = check_size(a["size"]) if a.get("size") else source.size
    if size < source.size:
        raise fail(errno.EINVAL, f"size {size}: a clone cannot be smaller than its snapshot '{source.name}' "
                                 f"({source.size} bytes)")
    template = {"kind": "volume", "size": size, "block_shift": source.block_shift, "parent": source.id,
                "root": source.root, "level": source.level, "journals": source.journals,
                "created": now_ms(), "token": token}
    await make_all(m, [Header(id=m.ids.next(), name=name, **template) for name in names])
    return {"count": len(names), "snapshot": made}


async def fold_snapshot(m: "Mapper", source: Header) -> Header:
    """Folds the long list of stretches of a snapshot into pages, once for all clones to come."""
    async with m.using(source.id) as volume:
        if volume.handle:
            await volume.checkpoint()
            return volume.header
        await volume.read_header()
        await m.take_lock(volume)
        try:
            await volume.load()
            await volume.checkpoint()
        finally:
            await m.drop_lock(volume)
        return volume.header


async def snapshot(m: "Mapper", a: Arguments, room: int) -> dict:
    """A snapshot. EROFS: of a snapshot. EEXIST, ENOENT."""
    made = await take_snapshot(m, a["name"], check_name(a["snapshot"]), a.get("token", 0))
    return {"id": id_text(made.id), "name": made.name}


async def take_snapshot(m: "Mapper", name: str, snap: str, token: int, auto: bool = False) -> Header:
    """Claims the name, fixes what the volume is at this instant, makes the header."""
    if (await m.names.lookup(name)).readonly:
        raise fail(errno.EROFS, f"'{name}' is a snapshot already: it never changes, clone it instead")
    fresh_id = m.ids.next()
    async with m.names.locked([snap]):
        mine = await m.names.claim(snap, fresh_id, token)
        if mine is not None:
            return mine
        try:
            async with m.by_name(name) as volume:
                view = await fix_open(m, volume) if volume.handle else await fix_closed(m, volume)
                header = Header(
                    id=fresh_id, name=snap, kind="snapshot", size=volume.header.size,
                    block_shift=volume.header.block_shift, epoch=volume.epoch, writable_since=volume.epoch + 1,
                    parent=volume.id, root=list(view.root) if view.root else None, level=view.level,
                    journals=[stretch.listed() for stretch in view.stretches],
                    created=now_ms(), token=token, auto=auto)
                await m.names.make(header)
        except BaseException:
            await m.names.release(snap, fresh_id)
            raise
    return header


async def fix_open(m: "Mapper", volume: Volume) -> View:
    """What an open volume is when vlmc has let the writes under way finish."""
    await volume.keep_up()
    volume.marked = None
    await m.vlmc(lib.XOP_VOL_SNAPSHOT, volume)
    if volume.marked is None:
        raise fail(errno.EIO, f"volume '{volume.header.name}': vlmc took a snapshot without committing it")
    return volume.marked


async def fix_closed(m: "Mapper", volume: Volume) -> View:
    """What a volume is that is not open; from now on its objects are shared."""
    async with m.locked(volume):
        await volume.load()
        await volume.keep_up()
        volume.epoch += 1
        volume.writable_since = volume.epoch
        await volume.write_header()
        return volume.view()


# --- looking ----------------------------------------------------------------------------------------

async def list_volumes(m: "Mapper", a: Arguments, room: int) -> dict:
    """Volumes and snapshots, in no order. One whose header is damaged has `id` and `damaged` only."""
    names_room = LIST_ROOM if room >= LIST_ROOM // NAME_BYTES * ROW_MAX else LIST_ROOM_MIN
    reply = await m.store.blockerm(lib.XOP_LIST, object=named(HEADER, 0), arg=a.get("cursor", 0), room=names_room)
    rows = await gather_bounded(lambda name: row(m, name.volume), objects(reply.data))
    return {"volumes": [found for found in rows if found], "cursor": reply.arg}


async def row(m: "Mapper", volume_id: int) -> dict | None:
    """What list says of one volume."""
    volume = m.volumes.get(volume_id)
    is_open = volume is not None and volume.handle != 0
    try:
        header = volume.header if is_open else await read_header(m.store, volume_id)
    except NotFound:
        return None
    except Damaged as damage:
        return {"id": id_text(volume_id), "damaged": str(damage)}
    if header.kind == "removed":
        return None
    return {"id": id_text(header.id), "name": header.name, "kind": header.kind, "size": header.size,
            "block_size": header.block_size, "readonly": header.readonly, "parent_id": id_or_none(header.parent),
            "created": header.created, "open": is_open, "auto": header.auto}


def id_or_none(volume: int) -> str | None:
    """An id as text, or None for 0."""
    return id_text(volume) if volume else None


async def info(m: "Mapper", a: Arguments, room: int) -> dict:
    """All that is known of one volume; of an open one, who has it open and its counters."""
    header = await m.names.lookup(a["name"])
    volume = m.volumes.get(header.id)
    if volume is not None and volume.handle:
        header = volume.header
    answer = {
        "name": header.name, "id": id_text(header.id), "kind": header.kind, "size": header.size,
        "block_size": header.block_size, "epoch": header.epoch, "writable_since": header.writable_since,
        "readonly": header.readonly, "parent": None, "parent_id": id_or_none(header.parent),
        "created": header.created, "auto": header.auto, "journals": len(header.journals),
        "map_level": header.level, "open": None, "lock_number": 0}
    if header.parent:
        answer["parent"] = await name_of(m, header.parent)
    if volume is not None:
        answer["lock_number"] = volume.lock_number
        if volume.handle:
            answer |= {"epoch": volume.shared.epoch, "writable_since": volume.shared.writable_since,
                       "open": usage(m, volume)}
    return answer


def usage(m: "Mapper", volume: Volume) -> dict:
    """Of an open volume: users and counters."""
    ports: dict[str, int] = {}
    for (port, _incarnation), times in volume.holders.items():
        role = text(m.segment.c.ports[port].role) or f"port {port}"
        ports[role] = ports.get(role, 0) + times
    counters = ("reads", "writes", "bytes_read", "bytes_written", "first_writes", "merges", "flushes",
                "commits", "snapshots")
    by_hand = volume.shared.administrative
    return {"handle": volume.handle, "by": ports, "administrative": bool(by_hand & lib.XVOL_BY_OPEN),
            "locked": bool(by_hand & lib.XVOL_BY_LOCK),
            "journal_bytes": sum(stretch.end for stretch in volume.view().stretches)} | {
        counter: getattr(volume.shared, counter) for counter in counters}


async def name_of(m: "Mapper", volume_id: int) -> str | None:
    """A volume's present name, or None if it is gone or damaged."""
    header = await m.header_or_none(volume_id)
    return header.name if header and header.kind != "removed" else None


async def at_rest(m: "Mapper", name: str, store: MapStore | None = None) -> tuple[Volume, View]:
    """A volume and its committed map, for walks: the open one, or one loaded for the purpose."""
    header = await m.names.lookup(name)
    volume = m.volumes.get(header.id)
    if volume is None or not volume.handle:
        volume = Volume(store or m.store, header.id)
        await volume.load()
    return volume, volume.view()


async def walk(m: "Mapper", name: str, work: Callable[[Volume, View], Awaitable[dict]]) -> dict:
    """One portion of a walk, begun again when a checkpoint replaces pages under it."""
    for _ in range(WALK_TRIES):
        volume, view = await at_rest(m, name)
        try:
            return await work(volume, view)
        except NotFound:
            if (await at_rest(m, name))[1].root == view.root:
                raise fail(errno.EBADMSG, f"volume '{name}': a page of its map is missing") from None
    raise fail(errno.EAGAIN, f"the map of '{name}' changes too fast to be walked: try again")


async def mapinfo(m: "Mapper", a: Arguments, room: int) -> dict:
    """Blocks that are not zeros, and the objects they lie in."""
    most = room // ENTRY_ROOM
    return await walk(m, a["name"], lambda _v, view: mapper_walk.mapinfo(m.store, view, a.get("cursor", 0), most))


async def du(m: "Mapper", a: Arguments, room: int) -> dict:
    """Space: logical size, and what its objects take, by whether only it can have them."""
    async def work(volume: Volume, view: View) -> dict:
        used = mapper_walk.Usage(volume.id, volume.writable_since)
        return {"logical": volume.header.size} | await mapper_walk.du(m.store, view, used, a.get("cursor", 0))

    return await walk(m, a["name"], work)


async def check(m: "Mapper", a: Arguments, room: int) -> dict:
    """Whether the map is intact and every object it names is there. Damage is reported, not raised.
    It reads what is on the store, not what the mapper remembers."""
    store = MapStore(m.store.blockerm, m.store.blockerb, CHECK_CACHE)
    try:
        _volume, view = await at_rest(m, a["name"], store)
    except Damaged as damage:
        return {"blocks": 0, "objects": 0, "problems": [str(damage)], "left_out": 0, "cursor": 0}
    return await mapper_walk.Check(store, view).run(a.get("cursor", 0))


# --- changing ---------------------------------------------------------------------------------------

async def rename(m: "Mapper", a: Arguments, room: int) -> dict:
    """Another name. An open volume is frozen for the instant that the segment's copy changes."""
    old, new, token = check_name(a["name"]), check_name(a["to"]), a.get("token", 0)
    async with m.names.locked([old, new]):
        renamed = await renamed_before(m, new, token)
        if renamed:
            await m.names.release(old, renamed.id)
            return {"id": id_text(renamed.id)}
        async with m.by_name(old) as volume:
            if old != new:
                await m.names.claim(new, volume.id)
                async with m.locked(volume):
                    await write_name(m, volume, new, token)
                await m.names.release(old, volume.id)
            return {"id": id_text(volume.id)}


async def renamed_before(m: "Mapper", new: str, token: int) -> Header | None:
    """The header that an earlier attempt with the same token renamed."""
    if not token:
        return None
    try:
        header = await m.names.lookup(new)
    except (NotFound, Damaged):
        return None
    return header if header.token == token else None


async def write_name(m: "Mapper", volume: Volume, name: str, token: int) -> None:
    """Changes the name in the header and, if it is open, in the segment."""
    if not volume.handle:
        await volume.rename(name, token)
        return
    await m.vlmc(lib.XOP_VOL_FREEZE, volume)
    try:
        await volume.rename(name, token)
        volume.shared.name = name.encode()
    finally:
        await m.vlmc(lib.XOP_VOL_THAW, volume)


async def resize(m: "Mapper", a: Arguments, room: int) -> dict:
    """Another size. What a smaller one cuts off is gone, and zeros when it grows again. EROFS, EINVAL."""
    size = check_size(a["size"])
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
    async for names in mapper_walk.own_objects(m.store, before, volume.header, since, first_block):
        await m.store.delete_all(names)
    if before.root:
        last_leaf = (first_block - 1) >> ENTRIES_PER_PAGE_SHIFT
        pages = [page_name(ref) async for ref, level, index in tree_pages(
            m.store, before, before.root, before.level, 0, last_leaf + 1,
            enter=lambda ref: own(ref, volume.id, since)) if index << ENTRIES_PER_PAGE_SHIFT * level > last_leaf]
        await m.store.delete_all(pages)


async def remove(m: "Mapper", a: Arguments, room: int) -> dict:
    """Frees the name at once, then gives back the space that only this volume had. EBUSY: it is open.

    With force, one whose header is damaged is removed as well; its space is left to the collector."""
    name, token, slot = a["name"], a.get("token", 0), a["request"].c
    async with m.names.locked([name]):
        try:
            _generation, volume_id = await m.names.target(name)
            header = await read_header(m.store, volume_id)
        except NotFound:
            if slot.arg & REMOVED:
                return {"objects": slot.arg & ~REMOVED}
            header = await m.names.lookup(name)
        except Damaged:
            if not a.get("force"):
                await m.names.lookup(name)
            return await remove_damaged(m, name)
        if header.kind != "removed" or header.name != name or not token or header.token != token:
            if slot.arg & REMOVED:          # somebody else's, made since
                return {"objects": slot.arg & ~REMOVED}
            header = await m.names.lookup(name)
    async with m.using(header.id) as volume:
        await volume_may_go(m, volume, name)
        async with m.locked(volume):
            count = await remove_space(m, volume, name, token)
    slot.arg = REMOVED | max(count, slot.arg & ~REMOVED)
    async with m.names.locked([name]):
        await m.names.release(name, header.id)
    with suppress(Busy):                # another node tries to open what is gone
        await m.store.delete(named(LOCK, header.id))
    await m.store.delete(named(HEADER, header.id))
    return {"objects": slot.arg & ~REMOVED}


async def volume_may_go(m: "Mapper", volume: Volume, name: str) -> None:
    """EBUSY, naming who has it open; else it is closed after this."""
    if volume.handle and (volume.opens() or volume.shared.administrative):
        raise fail(errno.EBUSY, f"volume '{name}' is open by {m.openers(volume)}: unmap, disconnect or close it first")
    if volume.handle:
        await m.close_here(volume)
    await volume.read_header()


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
    async for names in mapper_walk.own_objects(m.store, view, volume.header, since, damage=damage):
        count += await m.store.delete_all(names)
    names = [found async for found in mapper_walk.own_map(m.store, view, volume.header, since, damage)]
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


# --- opening and locking ----------------------------------------------------------------------------

async def open_volume(m: "Mapper", a: Arguments, room: int) -> dict:
    """Opens a volume and keeps it open until `close`. EBUSY: locked by another."""
    async with m.by_name(a["name"]) as volume:
        await m.open_here(volume)
        volume.shared.administrative |= lib.XVOL_BY_OPEN
        return {"handle": volume.handle}


async def close_volume(m: "Mapper", a: Arguments, room: int) -> dict:
    """Undoes `open`. With force, closes it under whoever else has it open; if it is broken (its lock was
    lost, or its map is damaged), what was not committed is thrown away. EINVAL: not open."""
    async with m.by_name(a["name"]) as volume:
        if not volume.handle or not (volume.shared.administrative & lib.XVOL_BY_OPEN or a.get("force")):
            who = f": it is open by {m.openers(volume)}" if volume.handle else ""
            raise fail(errno.EINVAL, f"volume '{a['name']}' was not opened by `vlmc open`{who}")
        volume.shared.administrative &= 0 if volume.broken else ~lib.XVOL_BY_OPEN & 0xffffffff
        if a.get("force"):
            volume.abandoned = volume.broken is not None
            for holder in list(volume.holders):
                m.forget_opens(volume, holder, volume.holders[holder])
        await m.close_if_unused(volume)
        return {"still_open_by": m.openers(volume)}


async def lock(m: "Mapper", a: Arguments, room: int) -> dict:
    """Takes the volume's lock by hand, so that no other node opens it: it is kept open here, which is noted
    in the segment, and so outlives this process and the blocker's. EBUSY."""
    async with m.by_name(a["name"]) as volume:
        if volume.header.readonly:
            raise fail(errno.EINVAL, f"'{a['name']}' is a snapshot: it needs no lock")
        await m.open_here(volume)
        volume.shared.administrative |= lib.XVOL_BY_LOCK
        return {"number": volume.lock_number}


async def unlock(m: "Mapper", a: Arguments, room: int) -> dict:
    """Gives the lock back; with force, breaks one whose owner is gone. EBUSY, EPERM, EINVAL: not locked."""
    name = a["name"]
    async with m.by_name(name) as volume:
        if volume.handle and volume.shared.administrative == lib.XVOL_BY_LOCK and not volume.opens():
            volume.shared.administrative = 0
            await m.close_here(volume)
            return {}
        if volume.handle and not volume.header.readonly:
            who = m.openers(volume) or "its last user"
            raise fail(errno.EBUSY, f"volume '{name}' is open by {who}: it is unlocked when it is closed")
        volume.lock_number = 0
        try:
            await m.store.release(volume.id, m.token, bool(a.get("force")))
        except NotFound:
            raise fail(errno.EINVAL, f"volume '{name}' is not locked") from None
        except Busy:
            raise fail(errno.EBUSY, f"volume '{name}': the owner of its lock is alive{await owner(m, volume)}: "
                                    "stop that one first") from None
        except XsegError as failure:
            if failure.errno != errno.EPERM:
                raise
            raise fail(errno.EPERM, f"volume '{name}' is locked by another{await owner(m, volume)}: "
                                    "`vlmc unlock -f` breaks the lock if its owner is gone") from None
    return {}


async def owner(m: "Mapper", volume: Volume) -> str:
    """" (who)" of a lock that another has."""
    number, other = await m.store.acquire(volume.id, m.token, "asking")
    if number:
        await m.store.release(volume.id, m.token)
        return ""
    return f" ({other})"


VERBS: dict[str, Callable[["Mapper", Arguments, int], Awaitable[dict]]] = {
    "create": create, "clone": clone, "snapshot": snapshot, "list": list_volumes, "info": info,
    "rename": rename, "resize": resize, "remove": remove, "open": open_volume, "close": close_volume,
    "lock": lock, "unlock": unlock, "mapinfo": mapinfo, "check": check, "du": du,
}
