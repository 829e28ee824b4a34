# SPDX-License-Identifier: Apache-2.0
"""Verbs of the mapper that make something: create, clone, snapshot. See mapper/verbs/."""
import errno
import time
from typing import TYPE_CHECKING

from peers.mapper.header import Header, check_block_size, check_name, id_text
from peers.mapper.journal import STRETCHES_LIMIT
from peers.mapper.making import (
    Making,
    is_marked,
    making,
    mark_for,
    put_mark,
    refuse_unfinished,
    take_mark,
)
from peers.mapper.store import HEADER, gather_bounded, named
from peers.mapper.tree import View
from peers.mapper.verbs.change import clear_away, remove_space
from peers.mapper.volume import Volume
from xseg._native import lib
from xseg.errors import error as fail

if TYPE_CHECKING:
    from peers.mapper import Mapper
    from peers.mapper.verbs import Arguments

BULK_AT_ONCE = 1024                 # requests under way while clones are made
EPOCHS_OF_SNAPSHOT = 2              # of a volume that is not open: its next, and writable_since of the snapshot
AUTO_NAME_BYTES = 220               # of the volume's name that a snapshot made for cloning keeps


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


async def create(m: "Mapper", a: "Arguments", room: int) -> dict:
    """A new, empty volume; with `making`, one that is its maker's alone until `finish`. EEXIST, EINVAL."""
    header = Header(id=m.ids.next(), name=a["name"], kind="volume", size=a["size"],
                    block_shift=check_block_size(a["block_size"]), created=now_ms(), token=a["token"])
    if a["making"]:
        if not a["token"]:
            raise fail(errno.EINVAL, "create: who makes a volume bit by bit needs a token")
        header.making = mark_for(m, a["request"], id_text(header.id))
    async with making(m, a["request"], a["token"]) as made:
        await make_all(m, [header], made)
    return {"id": id_text(header.id), "name": header.name}


async def make_all(m: "Mapper", headers: list[Header], made: Making) -> None:
    """Claims the names of new volumes, all of them before the first header is made. Of a token's
    earlier attempt, what is there is kept. On failure none of them stays. EEXIST names the first. ECANCELED.

    Many have a mark until all are there; one that has a mark keeps it."""
    mark = headers[0].making
    resumed = bool(mark) and await is_marked(m, mark)       # after an attempt that came as far as that
    claimed: list[Header] = []
    todo: list[Header] = []

    async def claim(header: Header) -> None:
        made.go_on()
        mine = await m.names.claim(header.name, header.id, header.token)
        if mine is not None:
            header.id = mine.id
        else:
            todo.append(header)
        if mine is None or resumed:
            claimed.append(header)

    async def make(header: Header) -> None:
        made.go_on()
        await m.names.make(header)

    async with m.names.locked(header.name for header in headers):
        try:
            await gather_bounded(claim, headers, BULK_AT_ONCE)
            if mark and todo:
                await put_mark(m, mark)
            await gather_bounded(make, todo, BULK_AT_ONCE)
        except BaseException as failure:
            await undo_all(m, claimed, mark, failure)
            raise
        if len(headers) > 1:
            await take_mark(m, mark)


async def undo_all(m: "Mapper", claimed: list[Header], mark: str, failure: BaseException) -> None:
    """Removes what was made, by its ids, before it was anybody's. What is left of it has the mark still."""
    async def undo(header: Header) -> None:
        await m.store.delete(named(HEADER, header.id))
        await m.names.release(header.name, header.id)

    try:
        await gather_bounded(undo, claimed)
        if mark:
            await take_mark(m, mark)
    except OSError as again:
        code = failure.errno if isinstance(failure, OSError) and failure.errno else errno.EIO
        raise fail(code, f"{failure}. Some of it was made and is left, as it cannot be removed: {again}") from None


def new_names(a: "Arguments") -> list[str]:
    """The names that a clone request asks for. EINVAL."""
    names, pattern = a["names"], a["pattern"]
    if (names is None) == (pattern is None) or (pattern is None) != (a["count"] is None):
        raise fail(errno.EINVAL, "clone: either names or a pattern and a count must be given")
    if pattern is not None:
        if pattern.count("{}") != 1:
            raise fail(errno.EINVAL, f"name '{pattern}': for several clones it must hold {{}} once, as in 'vm-{{}}'")
        names = [pattern.replace("{}", str(number)) for number in range(a["first"], a["first"] + a["count"])]
        check_name(names[0])
        check_name(names[-1])
    if len(set(names)) != len(names):
        raise fail(errno.EEXIST, "the same name is asked for twice")
    return names


async def clone(m: "Mapper", a: "Arguments", room: int) -> dict:
    """Clones of a snapshot; a volume gets a snapshot first, which goes again if they fail. ENOENT, EEXIST, EINVAL."""
    names, made = new_names(a), None
    async with making(m, a["request"], a["token"]) as wanted:
        source = await m.names.lookup(a["name"])
        await refuse_unfinished(m, source, a["name"])
        if source.kind == "volume":
            name = source.name.encode()[:AUTO_NAME_BYTES].decode(errors="ignore")
            made = f"{name}@clone-{a['token'] or m.ids.next():x}"
            source = await take_snapshot(m, a["name"], made, a["token"], auto=True)
        try:
            await clone_all(m, source, names, a, wanted)
        except OSError:
            if made:
                await drop_snapshot(m, source)
            raise
    return {"count": len(names), "snapshot": made}


async def clone_all(m: "Mapper", source: Header, names: list[str], a: "Arguments", wanted: Making) -> None:
    """Clones of a snapshot."""
    token = a["token"]
    if len(source.journals) > STRETCHES_LIMIT:
        source = await fold_snapshot(m, source)
    size = a["size"] or source.size
    if size < source.size:
        raise fail(errno.EINVAL, f"size {size}: a clone cannot be smaller than its snapshot '{source.name}' "
                                 f"({source.size} bytes)")
    template = {"kind": "volume", "size": size, "block_shift": source.block_shift, "parent": source.id,
                "root": source.root, "level": source.level, "journals": source.journals,
                "created": now_ms(), "token": token}
    if len(names) > 1:
        template["making"] = mark_for(m, a["request"], f"{token or m.ids.next():x}")
    await make_all(m, [Header(id=m.ids.next(), name=name, **template) for name in names], wanted)


async def drop_snapshot(m: "Mapper", snapshot: Header) -> None:
    """Removes one that was made only for clones that failed, unless somebody uses it already."""
    try:
        async with m.using(snapshot.id) as volume:
            if volume.handle:
                return
            await volume.read_header()
            await remove_space(m, volume, snapshot.name, m.ids.next())
        await clear_away(m, snapshot)
    except OSError as failure:
        m.log.warning("the snapshot '%s' was made for clones that failed, and is left: %s", snapshot.name, failure)


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


async def snapshot(m: "Mapper", a: "Arguments", room: int) -> dict:
    """A snapshot. EROFS: of a snapshot. EEXIST, ENOENT."""
    made = await take_snapshot(m, a["name"], a["snapshot"], a["token"])
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
        await volume.close_journal()
        volume.need_epochs(EPOCHS_OF_SNAPSHOT)
        volume.epoch += 1
        volume.writable_since = volume.epoch
        await volume.write_header()
        return volume.view()
