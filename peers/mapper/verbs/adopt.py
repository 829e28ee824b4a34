# SPDX-License-Identifier: Apache-2.0
"""The verb of the mapper that makes a map from a list of digests: adopt. See mapper/contents.py."""
import errno
from contextlib import suppress

from peers.mapper.contents import LIST_BYTES, ContentTree, portions
from peers.mapper.header import Header, check_block_size, id_text, now_ms
from peers.mapper.making import Making
from peers.mapper.verbs.arguments import Answer, Arguments
from peers.mapper.verbs.make import make_all, undo_all
from peers.mapper.volumes import Volumes
from xseg.errors import error as fail
from xseg.request import DIGEST_SIZE

TRIES = 4                           # of writing a map, while peers die


def check_list(a: Arguments, header: Header) -> None:
    """EINVAL: the list is not one of this volume's blocks."""
    inline, contents = a["hashes"] or b"", a["lists"] or []
    given = len(inline) // DIGEST_SIZE
    if bool(inline) == bool(contents):
        raise fail(errno.EINVAL, "adopt: either hashes or lists must be given")
    if inline and given != header.blocks:
        raise fail(errno.EINVAL, f"adopt: {given} hashes are given, but {header.size} bytes are {header.blocks} blocks "
                                 f"of {header.block_size} bytes")
    if contents and len(contents) != -(-header.blocks * DIGEST_SIZE // LIST_BYTES):
        raise fail(errno.EINVAL, f"adopt: {len(contents)} lists are given, but {header.blocks} blocks have "
                                 f"{-(-header.blocks * DIGEST_SIZE // LIST_BYTES)}")


async def adopt(hand: Volumes, a: Arguments, room: int) -> Answer:
    """A volume whose blocks are contents that the store has. EEXIST, EINVAL. ENOENT: which contents it has not.

    As long as its pages are being written it is its maker's alone, so that they are nobody's garbage.
    """
    if not a["token"]:
        raise fail(errno.EINVAL, "adopt: a token is needed, by which a request that comes again is known")
    header = Header(id=hand.ids.next(), name=a["name"], kind="volume", size=a["size"],
                    block_shift=check_block_size(a["block_size"]), created=now_ms(), token=a["token"])
    check_list(a, header)
    header.making = hand.marks.new(a["request"], id_text(header.id))
    async with hand.under_way.making(a["request"], a["token"]) as made:
        await make_all(hand, [header], made)
        await fill(hand, a, header, made)
    return {"id": id_text(header.id), "name": header.name}


async def fill(hand: Volumes, a: Arguments, header: Header, made: Making) -> None:
    """Gives a volume that was made, now or by an attempt of the same token before, its map. On failure it goes."""
    async with hand.using(header.id) as volume:
        known = await volume.read_header()
        if await hand.marks.is_whole(known):
            return
        try:
            if known.root is None:
                tree = await built(hand, a, known)
                made.go_on()
                async with hand.locked(volume):
                    tree.check_clock()
                    await volume.write_header(root=list(tree.root) if tree.root else None, level=tree.level,
                                              next_page=tree.next_page)
        except BaseException as failure:
            await undo_all(hand, [known], known.making, failure, [])
            raise
    await hand.marks.take(known.making)


async def built(hand: Volumes, a: Arguments, header: Header) -> ContentTree:
    """The tree of its list, durable. On failure nothing of it is left, as far as the store can. No page gets a name
    that an attempt has used, as what is written over that may seem durable and not be."""
    for _ in range(TRIES):
        header.next_page += hand.ids.next() >> 2
        lists = portions(hand.store, a["hashes"] or b"", a["lists"] or [], header.blocks)
        tree = ContentTree(hand.store, header, lists)
        try:
            if await tree.build():
                return tree
        except BaseException:
            with suppress(OSError):
                await hand.store.delete_all(tree.made)
            raise
    raise fail(errno.EAGAIN, f"volume '{header.name}': peers die too often while its map is written: try again")
