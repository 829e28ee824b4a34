# SPDX-License-Identifier: Apache-2.0
"""Words of a running segment are overwritten while its processes serve: none dies, none spins, and they serve on.

Each word is overwritten, left so for a moment under load, and put back unless somebody has written it meanwhile.
OUTCOMES says what it may cost until then and afterwards; that a process dies it never may. "Who can hurt whom" in
native/segment/layout.h has the reasons.
"""
import contextlib
import math
import os
import random
import threading
import time
import zlib

import pytest
from support import libnbd, wait_until

from xseg._native import ffi, lib
from xseg.errors import Damaged

MIB = 1 << 20
STAY_S = 0.05                   # how long a word stays overwritten
SERVES_S = 60.0                 # within which requests are answered again
PATIENCE_S = 4.0                # before the processes of what stands still are started anew, where that may be
IDLE_CPU_S = 0.5                # that a process may use in a second without load
FEW = 5                         # words of each area in the short run
SOAK_S = float(os.environ.get("ARCHIPELAGO_SOAK_MINUTES", "1")) * 60

REQUEST = "a request that is under way fails, or its connection"
VOLUME = "and the volume that it is of may be lost"
PROCESS = "and what stands still goes on when the process it is of is restarted"
# What overwriting a word of an area may cost, and of some fields more than that.
OUTCOMES = {
    "header": REQUEST, "bells": REQUEST, "routes": REQUEST, "slots": PROCESS, "owners": REQUEST, "ports": PROCESS,
    "volumes": VOLUME, "frames": VOLUME, "stacks": VOLUME,
}


def words_of(ctype, path="", offset=0):
    """(path, offset, size) of each number in a structure; of an array, the first, the last and one between."""
    if ctype.kind == "primitive":
        yield path, offset, ffi.sizeof(ctype)
    elif ctype.kind == "array":
        size = ffi.sizeof(ctype.item)
        for i in sorted({0, ctype.length // 3, ctype.length - 1}):
            yield from words_of(ctype.item, f"{path}[{i}]", offset + i * size)
    else:
        for name, field in ctype.fields:
            yield from words_of(field.type, f"{path}.{name}", offset + field.offset)


def places(segment, area):
    """Addresses of structures that are in use, and their type."""
    c = segment.c
    bound = [n for n in range(c.port_count) if c.ports[n].tag]
    if area == "header":
        return [c.header], "struct xheader"
    if area == "bells":
        return [c.bells + n for n in range(c.bell_count) if c.bells[n].tag], "struct xbell"
    if area == "ports":
        return [c.ports + n for n in bound], "struct xport"
    if area == "routes":
        return [c.routes + n for n in range(lib.XSEG_ROUTES) if c.routes[n].used], "struct xroute"
    if area == "slots":
        return [c.slots + segment.slots_of(n)[i] for n in bound for i in range(2)], "struct xslot"
    if area == "owners":
        return [c.owners[0] + n for n in range(8)], "uint32_t"
    if area == "volumes":
        return [c.volumes + n for n in range(4)], "struct xvolume"
    if area == "frames":
        return [c.frames + n for n in range(c.frame_count) if c.frames[n].volume_id], "struct xframe"
    used = {c.frames[n].entry[i].stack for n in range(c.frame_count) if c.frames[n].volume_id for i in range(64)}
    stacks = [ffi.cast("struct xstack *", c.stacks[0] + (n - 1) * lib.xstack_size(0)) for n in used if n]
    return stacks or [ffi.cast("struct xstack *", c.stacks[0])], "struct xstack"


def all_words(segment, area):
    """(name, address, size) of every word that is tried."""
    found, ctype = places(segment, area)
    for number, place in enumerate(found):
        for path, offset, size in words_of(ffi.typeof(ctype)):
            yield f"{area}[{number}]{path}", ffi.cast("uint8_t *", place) + offset, size


def values(rng, before, size):
    top = (1 << 8 * size) - 1
    return [0, 1, top, before + 1 & top, before - 1 & top, rng.getrandbits(8 * size)]


class Load:
    """A client that writes and reads 4 KiB here and there, and connects anew when it fails."""

    def __init__(self, instance):
        self.instance, self.nbd = instance, libnbd()
        self.made, self.done, self.errors = 0, 0, 0
        self.go_on, self.over = threading.Event(), threading.Event()
        self.fresh_volume()
        self.go_on.set()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def fresh_volume(self):
        """Goes on with a clone of a snapshot that has data, so that the map has stacks."""
        name = f"base-{self.made}"
        client = self.instance.client
        client.control("create", name=name, size=64 * MIB, block_size=65536)
        with client.open(name) as volume:
            for at in range(0, 4 * MIB, 65536):
                volume.write(at, b"\1" * 65536)
            volume.flush()
        client.control("clone", name=name, names=[f"load-{self.made}"])
        self.name = f"load-{self.made}"
        self.made += 1

    def run(self):
        rng = random.Random(1)
        while not self.over.is_set():
            try:
                handle = self.nbd.NBD()
                handle.connect_uri(self.instance.nbd_uri(self.name))
                name = self.name
                while self.name == name and not self.over.is_set():
                    self.go_on.wait()
                    at = rng.randrange(8 * MIB // 4096) * 4096
                    handle.pwrite(b"\2" * 4096, at)
                    handle.pread(4096, at)
                    if rng.random() < 0.02:
                        handle.flush()
                    self.done += 1
            except self.nbd.Error:
                self.errors += 1
                time.sleep(0.05)

    def goes_on(self, seconds):
        """True once it has done some more."""
        before, end = self.done, time.monotonic() + seconds
        while self.done < before + 3:
            if time.monotonic() > end:
                return False
            time.sleep(0.005)
        return True

    def close(self):
        self.over.set()
        self.go_on.set()
        self.thread.join(SERVES_S)


def cpu_s(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    assert fields[0] not in "ZX", f"process {pid} died"
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Scribbler:
    """Overwrites words of an instance under load and sees that it bears that."""

    def __init__(self, instance):
        self.instance, self.segment = instance, instance.client.segment
        self.load = Load(instance)
        self.pids = self.processes()

    def processes(self):
        return {role: peer["pid"] for role, peer in self.instance.status().items()}

    def nobody_died(self, name):
        for role, pid in self.pids.items():
            try:
                cpu_s(pid)
            except (FileNotFoundError, AssertionError):
                raise AssertionError(f"{name}: the process of {role} died\n{self.instance.logs()}") from None

    def spinning(self):
        """The processes that use much of a CPU for a second."""
        before = {pid: cpu_s(pid) for pid in set(self.pids.values())}
        time.sleep(1)
        return {pid for pid, used in before.items() if cpu_s(pid) - used > IDLE_CPU_S}

    def nobody_spins(self, area):
        self.load.go_on.clear()
        wait_until(lambda: not self.spinning(), f"{area}: none of {self.pids} spins")
        self.load.go_on.set()

    def scribble(self, name, word, size, value, outcome):
        before = bytes(ffi.buffer(word, size))
        scribbled = value.to_bytes(size, "little")
        ffi.memmove(word, scribbled, size)
        time.sleep(STAY_S)
        if bytes(ffi.buffer(word, size)) == scribbled:
            ffi.memmove(word, before, size)
        self.nobody_died(name)
        self.serves_on(f"{name} = {value:#x}", outcome)

    def serves_on(self, name, outcome):
        if self.load.goes_on(SERVES_S if outcome == REQUEST else PATIENCE_S):
            return
        if outcome == PROCESS:
            for role in ("nbd", "vlmc", "blockerb", "mapper", "blockerm"):
                self.instance.restart(role)
            self.pids = self.processes()
        elif outcome == VOLUME:
            with contextlib.suppress(OSError):
                self.load.fresh_volume()
        assert outcome != REQUEST and self.load.goes_on(SERVES_S), f"{name}: nothing goes on\n{self.instance.logs()}"

    def area(self, area, rng, few, end=math.inf):
        words = list(all_words(self.segment, area))
        assert words
        for name, word, size in rng.sample(words, min(few, len(words))):
            value = rng.choice(values(rng, int.from_bytes(ffi.buffer(word, size), "little"), size))
            if time.monotonic() < end:
                self.scribble(name, word, size, value, OUTCOMES[area])


@pytest.fixture
def scribbler(instance):
    made = Scribbler(instance)
    yield made
    made.load.close()


def test_any_word_may_be_scribbled_over(scribbler, layout):
    rng = random.Random(zlib.crc32(layout.encode()))
    for area in OUTCOMES:
        scribbler.area(area, rng, FEW)
    scribbler.nobody_spins(", ".join(OUTCOMES))


def test_processes_begin_on_a_segment_that_was_scribbled_over(instance, layout):
    """All are killed, and what they left of a volume, its map and their requests is overwritten."""
    rng = random.Random(zlib.crc32(layout.encode()))
    scribbler = Scribbler(instance)
    scribbler.load.close()
    for role in scribbler.pids:
        if instance.status()[role]["state"] != "dead":
            instance.kill(role)
    for area in ("slots", "frames", "stacks", "owners"):
        for _name, word, size in rng.sample(words := list(all_words(scribbler.segment, area)), min(200, len(words))):
            ffi.memmove(word, rng.randbytes(size), size)
    place = scribbler.segment.c.volumes[1]
    ffi.memmove(ffi.addressof(place), rng.randbytes(ffi.sizeof(place)), ffi.sizeof(place))
    place.state, place.name = lib.XVOL_OPEN, b"nonsense"
    for role in ("blockerb", "blockerm", "mapper", "vlmc", "nbd"):
        if instance.status()[role]["state"] == "dead":
            instance.restart(role)
    instance.client.control("create", name="after", size=MIB)
    volume = instance.client.open("after")
    volume.write(0, b"after")
    assert volume.read(0, 5) == b"after"


def test_a_volume_whose_place_named_another_is_damaged_and_not_missing(instance):
    """While the mapper began. That there is no such volume is said of names."""
    client = instance.client
    client.control("create", name="v", size=MIB)
    volume = client.open("v")
    volume.write(0, b"data")
    instance.kill("mapper")
    client.segment.c.volumes[volume.handle - 1].id ^= 1 << 40
    instance.restart("mapper")
    wait_until(lambda: "cannot be taken over" in instance.logs(), "the mapper has looked for it")
    client.segment.c.volumes[volume.handle - 1].id ^= 1 << 40
    with pytest.raises(Damaged):
        volume.close()


@pytest.mark.soak
def test_every_word_may_be_scribbled_over(scribbler):
    seed, end = random.randrange(1 << 32), time.monotonic() + SOAK_S
    print("seed", seed)
    rng = random.Random(seed)
    while time.monotonic() < end:
        for area in OUTCOMES:
            scribbler.area(area, rng, 40, end)
            scribbler.nobody_spins(area)
