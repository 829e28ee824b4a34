# SPDX-License-Identifier: Apache-2.0
"""The Python targets. See __init__.py."""
from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import random
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgpack

from peers.mapper.header import HEADER_MAGIC, NAME_MAGIC, STORED, Header, pack_frame, unpack_header, unpack_name
from tools import image_source
from tools.instance import config, messages
from tools.mapping import mapping
from tools.vlmc._stream import DATA_MAX, Head, Reader, Writer, unpack_head
from xseg import hashes
from xseg.client import control_answer
from xseg.errors import Damaged, Invalid, XsegError
from xseg.request import Reply

from . import mutate
from .maps import journal_round, page_round

Round = Callable[[random.Random], None]


def run(name: str, seed: int, go_on: Callable[[int], bool]) -> int:
    """Rounds of a target, while go_on(their number). How many; a finding is raised, with its seed and number."""
    number = 0
    with TARGETS[name]() as work:
        while go_on(number):
            try:
                work(random.Random(f"{name} {seed} {number}"))
            except BaseException as found:
                found.add_note(f"target {name}, seed {seed}, round {number}: "
                               f"python -m tests.fuzz --here --seed {seed} --rounds {number + 1} {name}")
                raise
            number += 1
    return number


def plain(work: Round) -> Callable[[], Any]:
    """A target that needs nothing to be made ready."""
    return lambda: contextlib.nullcontext(work)


# --- what lies on the store

GOOD = Header(id=5, name="volume", kind="volume", size=1 << 30, block_shift=16, root=[5, 1, 3], level=1,
              journals=[[5, 1, 1, 512], [5, 2, 2, None]])


def frame(dice: random.Random, magic: bytes, payload: Any) -> bytes:
    """A header or name pointer with a changed payload and the right checksum, or with changed bytes."""
    how = dice.randrange(4)
    generation = dice.choice(mutate.NUMBERS) & (1 << 64) - 1 if how == 0 else 1
    packed = msgpack.packb(mutate.value(dice, payload) if how != 1 else payload, default=str)
    made = pack_frame(magic, generation, (mutate.data(dice, packed) if how == 2 else packed)[:60000])
    return mutate.data(dice, made) if how == 1 else made


def header(dice: random.Random) -> None:
    """What is taken for a header is one, and every number of it fits where it is put."""
    try:
        found = unpack_header(frame(dice, HEADER_MAGIC, {key: getattr(GOOD, key) for key in STORED}), 5)
    except ValueError as refusal:
        assert str(refusal)
        return
    assert unpack_header(found.pack(), 5) == found
    assert found.id == 5 and 0 < len(found.name.encode()) <= 255 and found.blocks >= 0
    struct.pack("<QQIIIQQ", found.size, found.parent, found.block_shift, found.epoch, found.writable_since,
                found.next_journal + 1, found.next_page + 1)
    for volume, epoch, number, _end in found.journals:
        struct.pack("<QIQ", volume, epoch, number)


def name_pointer(dice: random.Random) -> None:
    """What is taken for a name pointer leads to an id."""
    try:
        _generation, volume = unpack_name(frame(dice, NAME_MAGIC, {"id": 5, "name": "v"}), "v")
    except ValueError as refusal:
        assert str(refusal)
    else:
        assert 0 < volume < 1 << 64


# --- what programs say to each other, and note

def text(dice: random.Random, good: Any) -> str:
    """JSON of a changed value, perhaps changed itself."""
    made = json.dumps(mutate.value(dice, good))
    return mutate.data(dice, made.encode()).decode(errors="replace") if dice.random() < 0.3 else made


def order(dice: random.Random) -> None:
    """A line to the supervisor."""
    with contextlib.suppress(XsegError):
        asked = messages.parse_order(text(dice, {"verb": dice.choice(messages.VERBS), "force": False,
                                                 "processes": ["nbd+vlmc", "mapper"]}).encode())
        assert asked.verb in messages.VERBS and isinstance(asked.force, bool)
        assert all("/" not in name and name.isascii() for name in asked.processes)


def answer(dice: random.Random) -> None:
    """What the supervisor answers, or reports of its start."""
    good = dice.choice(({"said": ["vlmc was killed"]}, {"errno": 16, "error": "busy"}, {}))
    try:
        assert all(isinstance(line, str) for line in messages.parse_answer(text(dice, good).encode()))
    except XsegError as failure:
        assert 0 < failure.errno < 4096 and isinstance(str(failure), str)


def notes(dice: random.Random) -> None:
    """Pid files, run/supervisor.json, run/pipeline.json, and the sockets a process was started with."""
    pid, started = messages.parse_pid(mutate.data(dice, b"4711 123456\n").decode(errors="replace"))
    assert (pid, started) == (0, 0) or (0 < pid <= messages.PID_MAX and started > 0)
    death = {"state": "running", "deaths": 2, "restarts": 2, "last_death": "SIGKILL, 2026-01-01 00:00:00"}
    for name, noted in messages.parse_deaths(text(dice, {"processes": {"nbd+vlmc": death}})).items():
        assert "/" not in name and noted["deaths"] >= 0 and noted["state"] in messages.STATES
    with contextlib.suppress(XsegError):
        changes = messages.parse_changes(text(dice, {"filters": {"slow": {"type": "delay", "ms": 5}},
                                                     "routes": {"vlmc>blockerb": "slow"}}))
        assert all(isinstance(role, str) for role in changes["routes"].values())
    words = mutate.data(dice, b"nbd.socket=7 nbd.listen=8").decode(errors="replace")
    assert all(0 <= fd < messages.FD_MAX for fd in messages.parse_sockets(words).values())


def mapped_entry(dice: random.Random) -> None:
    """run/mapped/ID.json."""
    good = {"name": "v", "id": "00000000000000a1", "readonly": False, "method": "nbdfuse", "device": "/dev/loop3",
            "pid": 4711, "start_time": 99, "since": "2026-01-01T00:00:00+0000", "boot": "b", "mountpoint": "/x"}
    entry = mapping.parse_entry(text(dice, good), "/home", "00000000000000a1")
    if entry:
        assert entry.home == "/home" and entry.base == "/home/run/mapped/00000000000000a1"
        assert entry.implementation and 0 <= entry.pid <= messages.PID_MAX and "\0" not in entry.device


def image(dice: random.Random) -> None:
    """What qemu-img says of an image, and the first bytes of one."""
    said = {"format": "qcow2", "filename": "/x", "virtual-size": 1 << 30, "children": [{"name": "file"}]}
    with contextlib.suppress(XsegError):
        for one in image_source.parse_info("x", text(dice, dice.choice((said, [said, said])))):
            image_source.disk_size("x", one)
    head = struct.pack(">4sIQI", b"QFI\xfb", 3, 0, 0) + bytes(52) + struct.pack(">QQQII", 4, 0, 0, 4, 104) \
        + struct.pack(">II", 0x44415441, 5) + b"/etc/" + bytes(32)
    made = mutate.data(dice, head)
    image_source.detect(made)
    image_source.data_file_name(made)
    with contextlib.suppress(XsegError):
        image_source.refuse_references("x", made, NOTHING)


NOTHING = os.open(os.devnull, os.O_RDONLY)


def mapper_answer(dice: random.Random) -> None:
    """What the mapper answers to a verb."""
    packed = msgpack.packb(mutate.value(dice, dice.choice(({"id": "a1", "name": "v"}, {"error": "no"}))), default=str)
    data = mutate.data(dice, packed) if dice.random() < 0.5 else packed
    with contextlib.suppress(XsegError):
        assert isinstance(control_answer("info", Reply(dice.choice((0, 2, 4095)), len(data), 0, 0, data)), dict)


# --- what a person wrote

def hash_list(dice: random.Random) -> None:
    """A list of hashes: what is read has as many digests as its blocks, and is written again as it was."""
    digests = [dice.randbytes(32) if dice.random() < 0.8 else hashes.NOTHING for _ in range(dice.randrange(1, 6))]
    good = hashes.head(len(digests) * 65536 - 512 * dice.randrange(2), 65536) + "".join(map(hashes.line, digests))
    text = mutate.data(dice, good.encode()).decode("latin-1") if dice.random() < 0.9 else good
    try:
        found = hashes.read(io.StringIO(text, newline=""), "list")
    except XsegError as refused:
        assert "list" in str(refused) and text != good
        return
    raw = [found.digests[at:at + 32] for at in range(0, len(found.digests), 32)]
    assert len(raw) == -(-found.size // found.block_size)
    assert hashes.head(found.size, found.block_size) + "".join(map(hashes.line, raw)) == text


CONFIG = {"layout": "colocated", "segment": {"static_slots": 256, "buffers": [512, 64, 24]},
          "peers": {"nbd": {"type": "nbd", "connections": 8}, "blockerb": {"type": "blocker-file", "path": "data"},
                    "slow": {"type": "delay", "ms": 3}, "mapper": {"journal_limit": "64K"}},
          "routes": {"vlmc>blockerb": "slow"}, "supervisor": {"deaths": 3, "spares": 0}}


def sent_stream(dice: random.Random) -> None:
    """A stream of `vlmc send`: what is not as it was written is refused, and nothing lies outside the snapshot."""
    out, size = io.BytesIO(), 1 << 22
    writer = Writer(out.write, dice.choice((None, 1)))
    writer.begin(Head("snap", 7, dice.choice((0, 5)), "", size, 65536, 1))
    for at in sorted(dice.sample(range(0, size, 65536), dice.randrange(4))):
        writer.piece(at, dice.choice((bytes(5000), dice.randbytes(300), b"x" * 9000)), zeros_count=True)
    if dice.random() < 0.5:             # records that are in order themselves, and say anything
        kind = dice.choice((b"DATA", b"ZDAT", b"ZERO", b"DONE", b"HEAD", b"XXXX"))
        writer.record(kind, mutate.data(dice, dice.randbytes(dice.randrange(40))))
    writer.end()
    data = mutate.data(dice, out.getvalue()) if dice.random() < 0.5 else out.getvalue()
    try:
        end = 0
        for piece in Reader(io.BytesIO(data).read).pieces():
            assert end <= piece.offset and 0 < piece.length <= size - piece.offset
            assert piece.data is None or len(piece.data) == piece.length <= DATA_MAX
            end = piece.offset + piece.length
    except (Damaged, Invalid) as refused:
        assert str(refused)
    head = mutate.value(dice, {"name": "s", "id": 7, "base": 0, "base_name": "", "size": size, "block_size": 65536,
                               "created": 1})
    with contextlib.suppress(Damaged):
        assert 0 < unpack_head(msgpack.packb(head, default=str)).size <= 1 << 60



def toml(value: Any) -> str:
    """A value as TOML, or something like it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value) if not isinstance(value, float) else repr(value)


@contextmanager
def configuration() -> Iterator[Round]:
    """archipelago.toml: read, or refused with words that name the file."""
    home = tempfile.mkdtemp(prefix="ar-", dir="/tmp")
    path = os.path.join(home, config.FILE)

    def work(dice: random.Random) -> None:
        changed = mutate.value(dice, CONFIG)
        lines = "".join(f"{json.dumps(key)} = {toml(value)}\n" for key, value in changed.items()) \
            if isinstance(changed, dict) else toml(changed)
        data = lines.encode(errors="replace")
        with open(path, "wb") as file:
            file.write(mutate.data(dice, data) if dice.random() < 0.2 else data)
        try:
            read = config.read(home)
        except XsegError as refusal:
            assert path in str(refusal), refusal
        else:
            assert all(read.roles[player].type for player in read.routes.values())
            assert set(read.roles) == {role for roles in read.processes.values() for role in roles}

    yield work
    shutil.rmtree(home)


# --- what clients ask

VERBS = {"create": {"name": "v", "size": 1 << 20, "block_size": 65536, "token": 7}, "list": {"cursor": 0},
         "clone": {"name": "v", "names": ["c"], "size": 1 << 20, "token": 8}, "info": {"name": "v"},
         "snapshot": {"name": "v", "snapshot": "s", "token": 9}, "rename": {"name": "v", "to": "w", "token": 1},
         "resize": {"name": "v", "size": 1 << 21}, "remove": {"name": "w", "force": False, "token": 2},
         "open": {"name": "v"}, "close": {"name": "v", "force": True}, "lock": {"name": "v"},
         "unlock": {"name": "v", "force": False}, "mapinfo": {"name": "v", "cursor": 0}, "close_all": {},
         "check": {"name": "v", "cursor": 0}, "du": {"name": "v", "cursor": 0},
         "diff": {"name": "v", "base": "s", "cursor": 0}, "seal": {"name": "v", "origin": 3}}
LOOK_EACH = 100                     # rounds between two looks at all volumes
VOLUMES_MAX = 30


@contextmanager
def control() -> Iterator[Round]:
    """CONTROL of a running mapper: answered in msgpack, whatever it is; volumes stay whole, and nothing unexpected
    is in the log."""
    from support import Instance

    from xseg._native import lib
    from xseg.segment import Segment, name_for
    home = tempfile.mkdtemp(prefix="ar-", dir="/tmp")
    node = Instance(home, '[peers.blockerb]\nsync = false\n[peers.blockerm]\nsync = false\n')
    node.start()
    count = 0

    def look() -> None:
        names = list(node.client.names())
        for name in names:
            assert node.client.control("check", name=name)["problems"] == []
        for name in names if len(names) > VOLUMES_MAX else []:
            with contextlib.suppress(XsegError):
                node.client.control("close", name=name, force=True)
            with contextlib.suppress(XsegError):
                node.client.control("unlock", name=name)
            node.client.control("remove", name=name)
        assert "Traceback" not in (logs := node.logs()), logs

    def work(dice: random.Random) -> None:
        nonlocal count
        verb = dice.choice(list(VERBS))
        asked = {"verb": verb, **VERBS[verb]}
        packed = msgpack.packb(mutate.value(dice, asked) if dice.random() < 0.8 else asked, default=str)
        data = (mutate.data(dice, packed) if dice.random() < 0.1 else packed)[:lib.XSEG_IO_MAX]
        room = dice.choice((0, 4096, 65536, lib.XSEG_IO_MAX))
        reply = node.client.call("mapper", lib.XOP_CONTROL, data=data, check=False, room=room)
        assert reply.error == 0 or 0 < reply.error < 4096
        if reply.data and room > len(data):     # else the answer is cut here
            assert isinstance(msgpack.unpackb(reply.data), dict)
        count += 1
        if count % LOOK_EACH == 0:
            look()

    try:
        yield work
        look()
    finally:
        node.stop()
        Segment.unlink(name_for(home))
        shutil.rmtree(home)


def in_loop(work: Callable[[random.Random], Any]) -> Callable[[], Any]:
    """A target whose rounds are coroutines."""
    @contextmanager
    def made() -> Iterator[Round]:
        with asyncio.Runner() as runner:
            yield lambda dice: runner.run(work(dice))

    return made


TARGETS: dict[str, Callable[[], Any]] = {
    "header": plain(header), "name": plain(name_pointer), "journal": in_loop(journal_round),
    "page": in_loop(page_round), "order": plain(order), "answer": plain(answer), "notes": plain(notes),
    "mapped": plain(mapped_entry), "image": plain(image), "mapper_answer": plain(mapper_answer),
    "hashes": plain(hash_list), "stream": plain(sent_stream), "config": configuration, "control": control,
}
