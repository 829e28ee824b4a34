# SPDX-License-Identifier: Apache-2.0
"""Verbs of the mapper that give a volume another name: rename, and repair of one that no name leads to.

A rename in steps, each of which is conditional and may be done again (mapper/names.py says why no other node comes
between):

    1. the header says which name it is about to get (`renaming`)
    2. the new name is claimed
    3. the header has the new name and is about to get none: from now on it is called so
    4. the old name is given back

What fails before the third is undone, so that a rename that reports a failure has not happened; where that fails as
well, the sentence says so. One that failed in the fourth has happened, and reports that: the old pointer counts no
more, and whoever wants the name takes it over. A rename whose mapper and client both died in between is taken back
by who opens the volume for writing, or wants the name: the volume's lock says whether it may still be completed.
"""
import errno

from peers.mapper.frames import read_header
from peers.mapper.header import Header, id_text
from peers.mapper.names import exists, missing
from peers.mapper.verbs.arguments import Answer, Arguments
from peers.mapper.volume import Volume, log
from peers.mapper.volumes import Volumes
from xseg._native import lib
from xseg.errors import Busy, Damaged, NotFound, Stale
from xseg.errors import error as fail


async def rename(hand: Volumes, a: Arguments, room: int) -> Answer:
    """Another name. An open volume is frozen for the instant that the segment's copy changes."""
    old, new, token = a["name"], a["to"], a["token"]
    async with hand.names.locked([old, new]):
        renamed = await renamed_before(hand, new, token)
        if renamed:
            await release_quietly(hand, old, renamed.id)
            return {"id": id_text(renamed.id)}
        if old != new:
            await settle_holder(hand, new)
        async with hand.by_name(old) as volume:
            if old != new:
                async with hand.locked(volume):
                    await change_name(hand, volume, new, token)
            return {"id": id_text(volume.id)}


async def renamed_before(hand: Volumes, new: str, token: int) -> Header | None:
    """The header that an earlier attempt with the same token renamed."""
    if not token:
        return None
    try:
        header = await hand.names.lookup(new)
    except (NotFound, Damaged):
        return None
    return header if header.token == token else None


async def change_name(hand: Volumes, volume: Volume, new: str, token: int) -> None:
    """The four steps, for a volume whose control lock and lock are held. EEXIST."""
    old, earlier = volume.header.name, volume.header.renaming
    await volume.rename(old, volume.header.token, renaming=new)
    try:
        if await hand.names.take(new, volume.id) is not None:
            raise exists(new)
        await write_name(hand, volume, new, token)
    except OSError as failure:
        await take_back(hand, volume, old, new, failure)
        raise
    for name in {old, earlier} - {"", new}:
        await release_quietly(hand, name, volume.id)


async def take_back(hand: Volumes, volume: Volume, old: str, new: str, failure: OSError) -> None:
    """Undoes what was done before a failure. What becomes of that is in the sentence of who gets it."""
    try:
        async with volume.writing_header:
            stored = await read_header(hand.store, volume.id)
            if stored.generation == volume.header.generation + 1 and stored.name == new:
                volume.header.generation = stored.generation    # what failed has happened
        if new in (stored.name, stored.renaming):
            await write_name(hand, volume, old, volume.header.token)
        await release_quietly(hand, new, volume.id)
    except OSError as again:
        raise fail(failure.errno or errno.EIO, f"{failure}. Whether the volume is called '{old}' or '{new}' now cannot "
                                               f"be told, as this failed as well: {again}") from None


async def write_name(hand: Volumes, volume: Volume, name: str, token: int) -> None:
    """Changes the name in the header and, if it is open, in the segment."""
    if not volume.handle:
        await volume.rename(name, token)
        return
    await hand.vlmc(lib.XOP_VOL_FREEZE, volume)
    try:
        await volume.rename(name, token)
        volume.shared.name = name.encode()
    finally:
        await hand.vlmc(lib.XOP_VOL_THAW, volume)


async def release_quietly(hand: Volumes, name: str, volume_id: int) -> None:
    """Gives back a name that counts no more: if that fails, whoever wants it takes it over."""
    try:
        await hand.names.release(name, volume_id)
    except OSError as failure:
        log.warning("the name '%s', which is no volume's any more, is not given back yet: %s", name, failure)


# --- what was cut short -----------------------------------------------------------------------------

async def settle_holder(hand: Volumes, name: str) -> None:
    """Settles a rename to a name, if there was one that was cut short. EEXIST."""
    try:
        _generation, volume_id = await hand.names.target(name)
        header = await read_header(hand.store, volume_id)
    except (NotFound, Damaged):
        return
    if header.renaming == name != header.name and header.kind != "removed":
        await settle(hand, name, volume_id)


async def settle(hand: Volumes, name: str, volume_id: int) -> None:
    """Takes back a rename of a volume to a name. EEXIST: another node may be at it."""
    async with hand.using(volume_id) as volume:
        try:
            if not volume.handle:
                await volume.read_header()
            async with hand.locked(volume):
                if not volume.handle:
                    await volume.read_header()
                if volume.header.renaming == name != volume.header.name:
                    log.info("a rename of '%s' to '%s' was cut short: it is taken back", volume.header.name, name)
                    await volume.rename(volume.header.name, volume.header.token)
        except NotFound:
            return
        except (Busy, Stale):
            raise fail(errno.EEXIST, f"'{name}' is about to be the name of the volume that is called "
                                     f"'{volume.header.name}' now: choose another name") from None


async def repair(hand: Volumes, a: Arguments, room: int) -> Answer:
    """Gives a volume that no name leads to its name again, or lost-ID where that is another's by now. ENOENT."""
    found = await hand.names.lookup(a["name"])
    name, lost = found.name, f"lost-{id_text(found.id)}"
    async with hand.names.locked([name, lost]), hand.using(found.id) as volume:
        if not volume.handle:
            await volume.read_header()
        if volume.header.kind == "removed" or volume.header.name != name:
            raise missing(a["name"])
        async with hand.locked(volume):
            try:
                holder = await hand.names.take(name, volume.id)
            except Damaged:
                await hand.names.drop(name)
                holder = await hand.names.take(name, volume.id)
            if holder is not None:
                await change_name(hand, volume, lost, volume.header.token)
    return {"name": volume.header.name}
