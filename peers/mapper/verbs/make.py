# SPDX-License-Identifier: Apache-2.0
"""Verbs of the mapper that make something: create, finish, cancel, clone, snapshot. See mapper/verbs/."""
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from peers.mapper.frames import read_header
from peers.mapper.header import Header, check_block_size, check_new_name, id_text, now_ms
from peers.mapper.journal import STRETCHES_LIMIT
from peers.mapper.making import Making
from peers.mapper.names import missing
from peers.mapper.store import HEADER, gather_bounded, named
from peers.mapper.tree import View
from peers.mapper.verbs.arguments import Answer, Arguments
from peers.mapper.verbs.change import clear_away, remove_space
from peers.mapper.volume import EPOCH_LAST, Volume, log
from peers.mapper.volumes import Volumes
from xseg._native import lib
from xseg.errors import NotFound
from xseg.errors import error as fail
from xseg.volume_name import token_in

BULK_AT_ONCE = 1024                 # requests under way while clones are made
EPOCHS_OF_SNAPSHOT = 1024           # that an open volume must have left: what vlmc may be ahead, and some more
SOURCE_TRIES = 4                    # of clones whose source is folded meanwhile
AUTO_NAME_BYTES = 220               # of the volume's name that a snapshot made for cloning keeps


async def create(hand: Volumes, a: Arguments, room: int) -> Answer:
    """A new, empty volume; with `making`, one that is its maker's alone until `finish`. EEXIST, EINVAL."""
    header = Header(id=hand.ids.next(), name=a["name"], kind="volume", size=a["size"],
                    block_shift=check_block_size(a["block_size"]), created=now_ms(), token=a["token"])
    if a["making"]:
        if not a["token"]:
            raise fail(errno.EINVAL, "create: who makes a volume bit by bit needs a token")
        header.making = hand.marks.new(a["request"], id_text(header.id))
    async with hand.under_way.making(a["request"], a["token"]) as made:
        await make_all(hand, [header], made)
    return {"id": id_text(header.id), "name": header.name}


async def finish(hand: Volumes, a: Arguments, room: int) -> Answer:
    """What was being made is whole from now on. EPERM: not by who makes it."""
    header = await hand.names.lookup(a["name"])
    if not token_in(a["name"]) or token_in(a["name"]) != header.token:
        raise fail(errno.EPERM, f"volume '{header.name}' is finished by who makes it, by a name with its token")
    if header.making:
        await hand.marks.take(header.making)
    return {}


async def seal(hand: Volumes, a: Arguments, room: int) -> Answer:
    """As finish, and what was made is a snapshot from then on, of the bytes that the snapshot `origin` had elsewhere.
    EBUSY: it is open."""
    async with hand.by_name(a["name"]) as volume:
        if not token_in(a["name"]) or token_in(a["name"]) != volume.header.token or not volume.header.making:
            raise fail(errno.EPERM, f"volume '{volume.header.name}' is finished by who makes it, by a name with its "
                                    "token")
        if volume.handle:
            raise fail(errno.EBUSY, f"volume '{volume.header.name}' is open: close it before it becomes a snapshot")
        if not volume.header.readonly:
            async with hand.locked(volume):
                await volume.load()
                await volume.close_journal()
                volume.epoch = min(EPOCH_LAST, volume.epoch + 1)    # no object has it: so all are shared
                volume.writable_since = volume.epoch + 1
                await volume.write_header(kind="snapshot", origin=a["origin"])
        await hand.marks.take(volume.header.making)
    return {}


async def cancel(hand: Volumes, a: Arguments, room: int) -> Answer:
    """Has what is made with this token undone, and waits for that. running: whether there was something."""
    return {"running": await hand.under_way.cancel(a["token"])}


async def make_all(hand: Volumes, headers: list[Header], made: Making, source: Header | None = None) -> None:
    """Claims the names of new volumes, all of them before the first header is made. Of a token's
    earlier attempt, what is there is kept. On failure none of them stays. EEXIST names the first. ECANCELED.
    What they are made from must still be as it was when all are there: see confirm().

    Many have a mark until all are there; one that has a mark keeps it."""
    mark = headers[0].making
    resumed = bool(mark) and await hand.marks.is_there(mark)       # after an attempt that came as far as that
    claimed: list[Header] = []
    todo: list[Header] = []

    async def claim(header: Header) -> None:
        made.go_on()
        mine = await hand.names.claim(header.name, header.id, header.token)
        if mine is not None:
            header.id = mine.id
        else:
            todo.append(header)
        if mine is None or resumed:
            claimed.append(header)

    async def make(header: Header) -> None:
        made.go_on()
        await hand.names.make(header)

    async with hand.names.locked(header.name for header in headers):
        try:
            await gather_bounded(claim, headers, BULK_AT_ONCE)
            if mark and todo:
                await hand.marks.put(mark, [header.id for header in headers])
            await gather_bounded(make, todo, BULK_AT_ONCE)
            if source is not None:
                await confirm(hand, source)
        except BaseException as failure:
            await undo_all(hand, claimed, mark, failure, headers if resumed else [])
            raise
        if len(headers) > 1:
            await hand.marks.take(mark)


class Moved(Exception):
    """What clones were made from has another map by now, which says the same."""


async def confirm(hand: Volumes, source: Header) -> None:
    """Looks at what clones were made from once their headers are there. If it is as it was, the collector has seen
    either it or them, however long this took, and has kept what they share. ENOENT: it is removed. Moved."""
    try:
        now = await read_header(hand.store, source.id)
    except NotFound:
        raise missing(source.name) from None
    if now.kind == "removed":
        raise missing(source.name)
    if (now.root, now.level, now.journals) != (source.root, source.level, source.journals):
        raise Moved


async def undo_all(hand: Volumes, claimed: list[Header], mark: str, failure: BaseException,
                   resumed: list[Header]) -> None:
    """Removes what was made, by its ids, before it was anybody's; of those `resumed`, what an earlier attempt made or
    claimed, too: it may have come further. What is left of it has the mark still."""
    async def undo(header: Header) -> None:
        await hand.store.delete(named(HEADER, header.id), header.generation)     # unless somebody has opened it since
        await hand.names.release(header.name, header.id)

    async def undo_earlier(header: Header) -> None:
        with suppress(NotFound):
            _generation, header.id = await hand.names.target(header.name)
            if header.id in earlier:
                await undo(header)

    try:
        earlier = set(await hand.marks.ids(mark)) if resumed else set()
        await gather_bounded(undo, claimed)
        await gather_bounded(undo_earlier, resumed)
        if mark:
            await hand.marks.take(mark)
    except OSError as again:
        code = failure.errno if isinstance(failure, OSError) and failure.errno else errno.EIO
        raise fail(code, f"{failure}. Some of it was made and is left, as it cannot be removed: {again}") from None


def new_names(a: Arguments) -> list[str]:
    """The names that a clone request asks for. EINVAL."""
    names: list[str] | None = a["names"]
    pattern: str | None = a["pattern"]
    if (names is None) == (pattern is None) or (pattern is None) != (a["count"] is None):
        raise fail(errno.EINVAL, "clone: either names or a pattern and a count must be given")
    if pattern is not None:
        if pattern.count("{}") != 1:
            raise fail(errno.EINVAL, f"name '{pattern}': for several clones it must hold {{}} once, as in 'vm-{{}}'")
        names = [pattern.replace("{}", str(number)) for number in range(a["first"], a["first"] + a["count"])]
        check_new_name(names[0])
        check_new_name(names[-1])
    assert names is not None
    if len(set(names)) != len(names):
        raise fail(errno.EEXIST, "the same name is asked for twice")
    return names


async def clone(hand: Volumes, a: Arguments, room: int) -> Answer:
    """Clones of a snapshot; a volume gets a snapshot first, which goes again if they fail. ENOENT, EEXIST, EINVAL."""
    names, made = new_names(a), None
    if a["making"] and (len(names) > 1 or not a["token"]):
        raise fail(errno.EINVAL, "clone: who makes a clone bit by bit makes one at a time, and needs a token")
    async with hand.under_way.making(a["request"], a["token"]) as wanted:
        source = await hand.names.lookup(a["name"])
        await hand.marks.refuse_unfinished(source, a["name"])
        if source.kind == "volume":
            name = source.name.encode()[:AUTO_NAME_BYTES].decode(errors="ignore")
            made = f"{name}@clone-{a['token'] or hand.ids.next():x}"
            source = await take_snapshot(hand, a["name"], made, a["token"], auto=True)
        try:
            await clone_all(hand, source, names, a, wanted)
        except OSError:
            if made:
                await drop_snapshot(hand, source)
            raise
    return {"count": len(names), "snapshot": made}


async def clone_all(hand: Volumes, source: Header, names: list[str], a: Arguments, wanted: Making) -> None:
    """Clones of a snapshot. EAGAIN: its map is folded all the time."""
    for _ in range(SOURCE_TRIES):
        try:
            await clone_once(hand, source, names, a, wanted)
            return
        except Moved:
            source = await read_header(hand.store, source.id)
    raise fail(errno.EAGAIN, f"the map of '{source.name}' changes too fast to be cloned: try again")


async def clone_once(hand: Volumes, source: Header, names: list[str], a: Arguments, wanted: Making) -> None:
    """The same if nobody folds its map meanwhile. Moved."""
    token = a["token"]
    if len(source.journals) > STRETCHES_LIMIT:
        source = await fold_snapshot(hand, source)
    size = a["size"] or source.size
    if size < source.size:
        raise fail(errno.EINVAL, f"size {size}: a clone cannot be smaller than its snapshot '{source.name}' "
                                 f"({source.size} bytes)")
    template = {"kind": "volume", "size": size, "block_shift": source.block_shift, "parent": source.id,
                "root": source.root, "level": source.level, "journals": source.journals,
                "created": now_ms(), "token": token}
    if len(names) > 1:
        template["making"] = hand.marks.new(a["request"], f"{token or hand.ids.next():x}")
    headers = [Header(id=hand.ids.next(), name=name, **template) for name in names]
    if a["making"]:
        headers[0].making = hand.marks.new(a["request"], id_text(headers[0].id))
    await make_all(hand, headers, wanted, source)


async def drop_snapshot(hand: Volumes, snapshot: Header) -> None:
    """Removes one that was made only for clones that failed, unless somebody uses it already."""
    try:
        async with hand.using(snapshot.id) as volume:
            if volume.handle:
                return
            await volume.read_header()
            await remove_space(hand, volume, snapshot.name, hand.ids.next())
        await clear_away(hand, snapshot, False)
    except OSError as failure:
        log.warning("the snapshot '%s' was made for clones that failed, and is left: %s", snapshot.name, failure)


async def fold_snapshot(hand: Volumes, source: Header) -> Header:
    """Folds the long list of stretches of a snapshot into pages, once for all clones to come. As another node may be
    at it, too, or a life that was cut short was, the numbers of the pages are nobody else's."""
    async with hand.using(source.id) as volume:
        volume.pages_used = max(volume.pages_used, hand.ids.next() >> 1)
        if volume.handle:
            await volume.checkpoint()
            return volume.header
        await volume.read_header()
        await hand.take_lock(volume)
        try:
            await volume.load()
            await volume.checkpoint()
        finally:
            await hand.drop_lock(volume)
        return volume.header


async def snapshot(hand: Volumes, a: Arguments, room: int) -> Answer:
    """A snapshot. EROFS: of a snapshot. EEXIST, ENOENT."""
    made = await take_snapshot(hand, a["name"], a["snapshot"], a["token"], schedule=a["schedule"])
    return {"id": id_text(made.id), "name": made.name}


async def take_snapshot(hand: Volumes, name: str, snap: str, token: int, auto: bool = False,
                        schedule: str = "") -> Header:
    """Claims the name, fixes what the volume is at this instant, makes the header."""
    if (await hand.names.lookup(name)).readonly:
        raise fail(errno.EROFS, f"'{name}' is a snapshot already: it never changes, clone it instead")
    fresh_id = hand.ids.next()
    async with hand.names.locked([snap]):
        mine = await hand.names.claim(snap, fresh_id, token)
        if mine is not None:
            return mine
        try:
            async with hand.by_name(name) as volume, fixed(hand, volume) as view:
                header = Header(
                    id=fresh_id, name=snap, kind="snapshot", size=volume.header.size,
                    block_shift=volume.header.block_shift, epoch=volume.epoch, writable_since=volume.epoch + 1,
                    parent=volume.id, root=list(view.root) if view.root else None, level=view.level,
                    journals=[stretch.listed() for stretch in view.stretches],
                    created=now_ms(), token=token, auto=auto, schedule=schedule)
                await hand.names.make(header)
        except BaseException:
            await hand.names.release(snap, fresh_id)
            raise
    return header


@asynccontextmanager
async def fixed(hand: Volumes, volume: Volume) -> AsyncIterator[View]:
    """What a volume is at this instant. Until a header says so, too, the volume's own does: nobody folds its journal,
    and no other node opens it. So the collector meets what the view reaches in one of them."""
    if volume.handle:
        await volume.keep_up()
        async with volume.folding:
            yield await fix_open(hand, volume)
    else:
        async with hand.locked(volume):
            yield await fix_closed(volume)


async def fix_open(hand: Volumes, volume: Volume) -> View:
    """What an open volume is when vlmc has let the writes under way finish."""
    volume.need_epochs(EPOCHS_OF_SNAPSHOT)
    volume.marked = None
    await hand.vlmc(lib.XOP_VOL_SNAPSHOT, volume)
    if volume.marked is None:
        raise fail(errno.EIO, f"volume '{volume.header.name}': vlmc took a snapshot without committing it")
    return volume.marked


async def fix_closed(volume: Volume) -> View:
    """What a volume is that is not open, and whose lock is ours; from now on its objects are shared."""
    await volume.load()
    await volume.close_journal()
    volume.epoch = min(EPOCH_LAST, volume.epoch + 1)     # no object has it: so all are shared
    volume.writable_since = volume.epoch
    await volume.write_header()
    return volume.view()
