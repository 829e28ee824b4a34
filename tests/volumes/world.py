# SPDX-License-Identifier: Apache-2.0
"""Volumes of a running instance beside the oracle's images of them.

Every operation is done to both. Reads are compared at once; compare() looks at every byte that
either says is not zero. Numbers that choose things (`pick`) may be any: they are taken modulo
what there is, so that a generator needs to know nothing of the state.
"""
from __future__ import annotations

import errno
import random
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import msgpack
from oracle import Image
from support import Instance, wait_until

from xseg._native import lib
from xseg.client import Client, Volume
from xseg.contents import NOTHING, Contents
from xseg.errors import NoBuffers, NoSlots, XsegError
from xseg.request import Call, Reply, take_reply
from xseg.segment import OPS

ANSWER_S = 60.0
AT_ONCE = 64                        # requests of one batch in flight
BLOCK = 65536
LEAF_BYTES = BLOCK * lib.XMAP_LEAF
# Of an archipelago.toml: so little of everything that leaf pages are evicted, stacks run short and are merged often,
# and requests wait for slots.
SCANTY = """
[segment]
static_slots = 160
frames = 16
stacks = [96, 64, 64]
contents = 96
buffers = [160, 48, 16]

[peers.mapper]
journal_limit = 16384

[peers.vlmc]
layers = 4
"""


class Change(NamedTuple):
    """One request of a batch: "read", "write", "fua", "zero", "no_hole", "discard" or "own"."""

    kind: str
    offset: int
    length: int
    seed: int


def pattern(seed: int, length: int) -> bytes:
    """Bytes that tell one write from another; now and then all zeros."""
    return bytes(length) if seed % 16 == 0 else random.Random(seed).randbytes(length)


def call_of(volume: Volume, change: Change) -> Call:
    fields = {"volume": volume.handle, "offset": change.offset, "size": change.length}
    if change.kind == "read":
        return Call(lib.XOP_READ, room=change.length, **fields)
    if change.kind in ("write", "fua"):
        return Call(lib.XOP_WRITE, data=pattern(change.seed, change.length),
                    flags=lib.XREQ_FUA if change.kind == "fua" else 0, **fields)
    if change.kind == "discard":
        return Call(lib.XOP_DISCARD, **fields)
    if change.kind == "own":
        return Call(lib.XOP_OWN, **fields)
    return Call(lib.XOP_WRITE_ZEROES, flags=lib.XREQ_NO_HOLE if change.kind == "no_hole" else 0, **fields)


def token() -> int:
    """Of one operation, which may be done again when the mapper dies under it."""
    return random.SystemRandom().getrandbits(63) | 1


def brief(call: Call) -> str:
    return f"{OPS.get(call.op, call.op)} {call.size} bytes at {call.offset}"


def apply(image: Image, change: Change) -> None:
    """What a change that is no read does to the image."""
    if change.kind in ("write", "fua"):
        image.write(change.offset, pattern(change.seed, change.length))
    elif change.kind == "discard":
        image.discard(change.offset, change.length)
    elif change.kind not in ("read", "own"):
        image.zero(change.offset, change.length)


class World:
    """The volumes of one run. They are named with `prefix`, so that runs may share an instance."""

    def __init__(self, instance: Instance, prefix: str) -> None:
        self.instance = instance
        self.prefix = prefix
        self.images: dict[str, Image] = {}
        self.open: dict[str, Volume] = {}
        self.made = 0
        self.mine: set[str] = set()             # snapshots that cloning a live volume left

    @property
    def client(self) -> Client:
        return self.instance.client

    # --- choosing

    def fresh(self) -> str:
        self.made += 1
        return f"{self.prefix}-{self.made}"

    def chosen(self, pick: int, writable: bool = False) -> str:
        names = sorted((n for n, image in self.images.items() if not (writable and image.readonly)),
                       key=lambda name: (len(name), name))
        return names[pick % len(names)]

    def volume(self, name: str) -> Volume:
        """The volume, opened if need be."""
        if name not in self.open:
            self.open[name] = self.client.open(name)
            assert self.open[name].size == self.images[name].size
            assert self.open[name].readonly == self.images[name].readonly
        return self.open[name]

    # --- volumes

    def create(self, size: int, block_size: int = BLOCK) -> str:
        name = self.fresh()
        self.client.control("create", name=name, size=size, block_size=block_size, token=token())
        self.images[name] = Image(size)
        return name

    def snapshot(self, name: str) -> str:
        snap = self.fresh()
        self.client.control("snapshot", name=name, snapshot=snap, token=token())
        self.images[snap] = self.images[name].copy(readonly=True)
        self.images[snap].of = self.images[name]
        return snap

    def rollback(self, name: str, pick: int, keep: bool) -> None:
        """To one of its snapshots, if it has any; of what it was, nothing or one more."""
        image = self.images[name]
        snaps = sorted(snap for snap, found in self.images.items() if found.of is image)
        if not snaps:
            return
        self.close(name)
        kept = self.fresh() if keep else None
        to = snaps[pick % len(snaps)]
        answer = self.client.control("rollback", name=name, snapshot=to, keep=kept, discard=not keep, token=token())
        assert answer["snapshot"] == kept
        if kept:
            self.images[kept] = image.copy(readonly=True)
            self.images[kept].of = image
        image.size, image.chunks = self.images[to].size, dict(self.images[to].chunks)

    def clone(self, name: str, more: int = 0) -> str:
        """Of a snapshot or a live volume, `more` bytes larger."""
        clone, size = self.fresh(), self.images[name].size + more
        result = self.client.control("clone", name=name, names=[clone], size=size, token=token())
        if result["snapshot"]:
            self.mine.add(result["snapshot"])
        self.images[clone] = self.images[name].copy(size)
        return clone

    def adopt(self, name: str) -> str:
        """A volume with the same content as another, made from a list of its blocks' hashes."""
        made, image, contents = self.fresh(), self.images[name], Contents(self.client)
        digests = b""
        for offset in range(0, image.size, BLOCK):
            length = min(BLOCK, image.size - offset)
            digests += NOTHING if image.is_zero(offset, length) else contents.put(image.read(offset, length))
        self.client.control("adopt", name=made, size=image.size, block_size=BLOCK, hashes=digests, token=token())
        self.images[made] = image.copy()
        return made

    def flatten(self, name: str) -> None:
        """Nothing of it is another's afterwards, nor older than the beginning."""
        self.volume(name)
        cursor = since = 0
        while True:
            answer = self.client.control("flatten", name=name, cursor=cursor, since=since)
            cursor, since = answer["cursor"], answer["since"]
            if cursor == 0:
                break
        info = self.client.control("info", name=name)
        assert info["parent_id"] is None
        for portion in self.portions("mapinfo", name):
            for block, layers in portion["entries"]:
                assert all(layer[:2] == ["data", info["id"]] and layer[2] >= since for layer in layers), (block, layers)

    def hash(self, name: str) -> None:
        """Content names for a snapshot; nothing for what is none."""
        cursor = -1
        while self.images[name].readonly and cursor:
            cursor = self.client.control("hash", name=name, cursor=max(cursor, 0))["cursor"]

    def rename(self, name: str) -> None:
        to = self.fresh()
        self.client.control("rename", name=name, to=to, token=token())
        self.images[to] = self.images.pop(name)
        if name in self.open:
            self.open[to] = self.open.pop(name)
            assert self.open[to].name == to

    def resize(self, name: str, size: int) -> None:
        self.client.control("resize", name=name, size=size)
        self.images[name].resize(size)
        if name in self.open:
            assert self.open[name].size == size

    def close(self, name: str) -> None:
        if name in self.open:
            self.open.pop(name).close()

    def remove(self, name: str) -> None:
        self.close(name)
        self.client.control("remove", name=name, token=token())
        del self.images[name]

    def remove_all(self) -> None:
        for name in list(self.open):
            self.close(name)
        self.remove_at_once([*self.images, *self.mine])
        self.images.clear()
        self.mine.clear()

    def remove_at_once(self, names: list[str]) -> None:
        """Removes volumes that are closed, many at the same time."""
        replies = self.submit("remove", [("mapper", Call(lib.XOP_CONTROL, room=4096, data=msgpack.packb(
            {"verb": "remove", "name": name, "token": token()}))) for name in names])
        for name, reply in zip(names, replies, strict=True):
            assert not reply.error, f"{name}: {reply.data!r}"

    def restart(self, role: str) -> None:
        """An orderly restart of the process that hosts a role, under open volumes."""
        self.instance.restart(role)

    # --- bytes

    def submit(self, name: str, calls: list[tuple[str, Call]], meanwhile: Callable[[], None] | None = None
               ) -> list[Reply]:
        """Sends (role, call), as many at once as there are slots and buffers; all answers. What is to be
        done `meanwhile` is done when the first have been sent."""
        port, segment = self.client.port, self.client.segment
        todo, waiting, replies = deque(enumerate(calls)), {}, {}
        while todo or waiting:
            while todo and len(waiting) < AT_ONCE:
                place, (role, call) = todo[0]
                try:
                    request = port.get(call.buffer_size())
                except (NoSlots, NoBuffers):
                    assert waiting, "this client holds nothing and gets nothing"
                    break                   # when answers have come
                todo.popleft()
                call.put(port.c, request.c)
                waiting[request.c.index] = place
                lib.xreq_send(port.c, request.c, segment.port_of(role))
            port.ring()
            if meanwhile:
                meanwhile()
                meanwhile = None
            came = port.receive(ANSWER_S)
            assert came, f"{name}: not answered: {[brief(calls[place][1]) for place in waiting.values()]}"
            for request in came:
                place = waiting.pop(request.c.index)
                replies[place] = take_reply(port.c, request.c, calls[place][1].room)
                port.put(request)
        return [replies[place] for place in range(len(calls))]

    def batch(self, name: str, changes: list[Change], meanwhile: Callable[[], None] | None = None) -> None:
        """Requests on ranges that do not overlap, in flight at the same time."""
        image, volume = self.images[name], self.volume(name)
        replies = self.submit(name, [("vlmc", call_of(volume, change)) for change in changes], meanwhile)
        for change, reply in zip(changes, replies, strict=True):
            wanted = errno.EROFS if image.readonly and change.kind != "read" else 0
            assert reply.error == wanted, f"{name}: {change} was answered with {reply.error}"
            if change.kind == "read":
                self.same(name, change.offset, reply.data, image.read(change.offset, change.length))
        if not image.readonly:
            for change in changes:
                apply(image, change)

    def snapshot_under_load(self, name: str, changes: list[Change]) -> str:
        """A snapshot asked for among changes: each of them is in it as a whole, or not at all."""
        snap, volume, before = self.fresh(), self.volume(name), self.images[name]
        verb = Call(lib.XOP_CONTROL, room=4096, data=msgpack.packb(
            {"verb": "snapshot", "name": name, "snapshot": snap, "token": token()}))
        calls = [("vlmc", call_of(volume, change)) for change in changes]
        replies = self.submit(name, [*calls[:len(calls) // 2], ("mapper", verb), *calls[len(calls) // 2:]])
        assert not any(reply.error for reply in replies), [reply.error for reply in replies]
        image = before.copy(readonly=True)
        self.images[snap] = image
        for change in changes:
            with_it = image.copy()
            apply(with_it, change)
            found = self.volume(snap).read(change.offset, change.length)
            if found != image.read(change.offset, change.length):
                self.same(snap, change.offset, found, with_it.read(change.offset, change.length))
                image.chunks = with_it.chunks
            apply(before, change)
        return snap

    def flush(self, name: str) -> None:
        self.volume(name).flush()

    def beyond_the_end(self, name: str) -> None:
        """A request that crosses the end is refused and changes nothing."""
        image, volume = self.images[name], self.volume(name)
        offset = max(0, image.size - 100)
        read, write = self.submit(name, [("vlmc", call_of(volume, Change(kind, offset, 4096, 1)))
                                         for kind in ("read", "write")])
        assert read.error == errno.EINVAL
        assert write.error == (errno.EROFS if image.readonly else errno.ENOSPC)

    # --- comparing

    def same(self, name: str, offset: int, found: bytes, wanted: bytes) -> None:
        if found == wanted:
            return
        assert len(found) == len(wanted), f"{name}: {len(found)} bytes at {offset} instead of {len(wanted)}"
        first = next(i for i in range(len(wanted)) if found[i] != wanted[i])
        raise AssertionError(f"{name}: byte {offset + first} (block {(offset + first) // BLOCK}) is "
                             f"{found[first:first + 8].hex()}, not {wanted[first:first + 8].hex()}; "
                             f"the read was [{offset}, {offset + len(wanted)})")

    def compare(self, name: str) -> None:
        """All bytes, by way of what BLOCK_STATUS says of them."""
        image, volume, at = self.images[name], self.volume(name), 0
        for extent in volume.extents():
            assert extent.offset == at and extent.length > 0
            at += extent.length
            if extent.zero:
                assert image.is_zero(extent.offset, extent.length), f"{name}: {extent} is not all zeros"
                length = min(extent.length, 2 * BLOCK)
                start = extent.offset + (extent.length - length) // 2
                self.same(name, start, volume.read(start, length), bytes(length))
            else:
                self.same(name, extent.offset, volume.read(extent.offset, extent.length),
                          image.read(extent.offset, extent.length))
        assert at == image.size, f"{name}: the extents end at {at} of {image.size}"

    def portions(self, verb: str, name: str) -> list[dict]:
        """All portions of a verb that answers with a cursor."""
        found, cursor = [], 0
        while not found or cursor:
            found.append(self.client.control(verb, name=name, cursor=cursor))
            cursor = found[-1]["cursor"]
        return found

    def check(self, name: str) -> None:
        """The map is sane as the mapper sees it, and what it says of space can be."""
        for portion in self.portions("check", name):
            assert portion["problems"] == [], f"{name}: {portion['problems']}"
        for portion in self.portions("du", name):
            assert portion["logical"] == self.images[name].size
            assert portion["exclusive"] >= 0 and portion["shared"] >= 0
        assert self.client.control("info", name=name)["size"] == self.images[name].size

    def check_all(self) -> None:
        """Everything, as it is and again after all has been closed; and nothing is under way."""
        for name in self.images:
            self.compare(name)
        for name in list(self.open):
            self.close(name)
        for name in self.images:
            self.check(name)
            self.compare(name)
            self.close(name)
        assert set(self.images) | self.mine == {n for n in self.client.names() if n.startswith(self.prefix)}
        wait_until(lambda: not self.under_way(), "no request is under way")

    def under_way(self) -> int:
        """Requests anywhere in the segment that are not answered yet."""
        return int((self.client.segment.requests["state"] != lib.XREQ_FREE).sum())


def refused(world: World, code: int, verb: str, **arguments: object) -> str:
    """Asserts that a verb fails with that errno; its sentence."""
    try:
        world.client.control(verb, **arguments)
    except XsegError as failure:
        assert failure.errno == code, f"{verb}: {failure.errno} ({failure}) instead of {code}"
        return str(failure)
    raise AssertionError(f"{verb} {arguments} was not refused")
