# SPDX-License-Identifier: Apache-2.0
"""The mapper's verbs: what tools may ask of it with CONTROL. They are in make.py, look.py, diff.py, change.py,
rename.py, lineage.py, hold.py and end.py.

A verb is a coroutine (mapper, arguments, room) -> msgpack-able map; room is the bytes its answer may
have. Failures are raised as errors with a sentence. `name` is the volume meant; sizes are in bytes. A
`token` (a random 64-bit number) makes create, clone, snapshot, rename and remove repeatable: the same request
sent again, because the mapper was killed before it answered, finds its own work instead of EEXIST. A remove
notes in its request's `arg` that it is about to give back the name: what has that name afterwards is another's.

    verb      arguments                                     answer
    create    name, size, [block_size], [token], [making]   id, name
    adopt     name, size, [block_size], token, hashes (raw digests) or lists (digests of contents that hold them)
                                                            id, name: see mapper/contents.py
    finish    name (with id and token)                      -: see mapper/making.py
    seal      name (with id and token), origin              -: see make.py
    cancel    token (of a create or clone under way)        running
    clone     name (snapshot or volume), names or pattern   count, snapshot (the one made for a live volume)
              with count and [first], [size], [token],
              [making]
    snapshot  name, snapshot, [token], [schedule: its mark] id, name
    schedule  name, rule                                    -: see xseg/schedule.py
    hash      name (snapshot), [cursor]                     blocks, hashed, of (leaves), cursor: see mapper/hashing.py
    hashes    name, [cursor]                                id, size, block_size, hashes (raw digests), cursor
    list      [cursor]                                      volumes, cursor
    info      name                                          see info()
    rename    name, to, [token]                             id
    resize    name, size                                    size
    remove    name, [force], [token], [making: its token], [schedule: its mark]  objects (removed)
    open      name                                          handle
    close     name, [force]                                 still_open_by
    lock      name                                          number
    unlock    name, [force]                                 -
    mapinfo   name, [cursor]                                entries, cursor: see mapper/walk.py
    close_all -                                             closed, failed: name and sentence of each (end.py)
    check     name, [cursor]                                blocks, objects, problems, left_out, cursor
    repair    name (that holds the id)                      name: see rename.py
    rollback  name, snapshot, [keep or discard], [token]    snapshot (that keeps what it was): see lineage.py
    flatten   name, [cursor], [since]                       cursor, since, blocks: see flatten.py
    limit     name, limits                                  -: see xseg/throttle.py
    protect   name                                          -: see lineage.py
    unprotect name                                          -
    du        name, [cursor]                                logical, blocks, objects, exclusive, shared, cursor
    diff      name, [base], [cursor]                        ranges, size, cursor: see diff.py

Answers with a cursor are asked for again with it until it is 0. Types and bounds of the arguments are in
arguments.py; what breaks them is refused before anything is done.
"""
import errno
import os
from collections.abc import Awaitable, Callable
from typing import Any

import msgpack

from peers.mapper.verbs.adopt import adopt
from peers.mapper.verbs.arguments import Answer, Arguments, parse, shown
from peers.mapper.verbs.change import remove, resize
from peers.mapper.verbs.diff import diff
from peers.mapper.verbs.end import close_all
from peers.mapper.verbs.flatten import flatten
from peers.mapper.verbs.hash import hash_snapshot, hashes
from peers.mapper.verbs.hold import close_volume, lock, open_volume, unlock
from peers.mapper.verbs.lineage import limit, protect, rollback, schedule, unprotect
from peers.mapper.verbs.look import check, du, info, list_volumes, mapinfo
from peers.mapper.verbs.make import cancel, clone, create, finish, seal, snapshot
from peers.mapper.verbs.rename import rename, repair
from peers.mapper.volume import log
from peers.mapper.volumes import Volumes
from xseg.errors import error as fail
from xseg.peer import tell_failure
from xseg.request import Request

ANSWER_MIN = 1024                   # bytes of a control request that its arguments must leave
SENTENCE_FRAME = 16                 # bytes of {"error": sentence} beside the sentence

VERBS: dict[str, Callable[[Volumes, Arguments, int], Awaitable[Answer]]] = {
    "create": create, "adopt": adopt, "hash": hash_snapshot, "hashes": hashes,
    "clone": clone, "snapshot": snapshot, "list": list_volumes, "info": info,
    "rename": rename, "resize": resize, "remove": remove, "open": open_volume, "close": close_volume,
    "lock": lock, "unlock": unlock, "close_all": close_all, "mapinfo": mapinfo, "check": check, "du": du,
    "repair": repair, "finish": finish, "cancel": cancel, "protect": protect, "unprotect": unprotect,
    "rollback": rollback, "diff": diff, "schedule": schedule, "flatten": flatten,
    "seal": seal, "limit": limit,
}


async def control(hand: Volumes, request: Request) -> None:
    """CONTROL: unpacks the arguments, runs the verb, packs its answer or what became of it."""
    verb, name, room = "control", "", len(request.data) - request.c.size
    try:
        verb, given = unpack(request.payload)
        arguments = parse(verb, given)
        name = arguments.get("name", "")
        if room < ANSWER_MIN:
            raise fail(errno.EMSGSIZE, f"{verb}: beside its arguments there are {room} bytes for the answer")
        result = msgpack.packb(await VERBS[verb](hand, arguments | {"request": request}, room))
        if len(result) > room:
            raise fail(errno.EMSGSIZE, f"the answer has {len(result)} bytes, more than the request has room for")
        request.reply(data=result)
    except OSError as failure:
        sentence = str(failure)
        if sentence == os.strerror(failure.errno or 0):
            sentence = f"{verb} '{name}': the store says: {sentence}"
        refuse(hand, request, failure.errno or errno.EIO, sentence)
    except Exception as failure:
        tell_failure(log, f"verb {verb}", failure)
        refuse(hand, request, errno.EIO, f"{verb} '{name}': the mapper failed: {type(failure).__name__} {failure}; "
                                      "its log says where")


def unpack(data: bytes) -> tuple[str, dict[Any, Any]]:
    """The verb of a control request, and what came with it. EOPNOTSUPP: there is no such verb, or no request."""
    try:
        given = msgpack.unpackb(data)
        verb = given.pop("verb")
    except Exception:                   # msgpack has many
        raise fail(errno.EOPNOTSUPP, "a control request must be a msgpack map with a verb") from None
    if not isinstance(verb, str) or verb not in VERBS:
        raise fail(errno.EOPNOTSUPP, f"the mapper has no verb {shown(verb)}; it has {', '.join(VERBS)}")
    return verb, given


def refuse(hand: Volumes, request: Request, code: int, sentence: str) -> None:
    """Answers with an error and a sentence for people, as far as there is room for one."""
    room = max(0, len(request.data) - request.c.size - SENTENCE_FRAME)
    words = sentence.encode()[:room].decode(errors="ignore")
    request.reply(code, data=msgpack.packb({"error": words}) if room else b"")
