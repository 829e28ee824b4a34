# SPDX-License-Identifier: Apache-2.0
"""What volumes may hold after a power cut: for each 512-byte sector the states it may be in.

A sector has versions, oldest first; the last is what a read must show. A FLUSH that succeeds drops all that
is older than the last version acknowledged before it was sent; FUA does so for its own sectors. After a cut
a sector may hold any version that is left. Whatever is read then is its only version from then on.
"""
from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

SECTOR = 512
CHUNK = 4096
ZERO = bytes(SECTOR)


class Op:
    """Something that changes bytes: when it was acknowledged, 0: not yet."""

    __slots__ = ("acked",)

    def __init__(self, acked: int = 0) -> None:
        self.acked = acked


PAST = Op(acked=-1)                     # of what was there before
Versions = list[tuple[bytes, Op]]


class Snap:
    """A snapshot that is being taken: what each sector may be in it."""

    def __init__(self, image: Image) -> None:
        self.size, self.of = image.size, image
        self.sectors = {s: [v for v, _op in since_acked(versions)] for s, versions in image.sectors.items()}

    def image(self) -> Image:
        """The snapshot."""
        made = Image(self.size, readonly=True)
        made.of = self.of
        made.sectors = {s: [(value, PAST) for value in values] for s, values in self.sectors.items()}
        return made


def since_acked(versions: Versions, before: int | None = None) -> Versions:
    """Versions from the last on that was acknowledged (before a moment)."""
    for place in range(len(versions) - 1, 0, -1):
        acked = versions[place][1].acked
        if acked and (before is None or acked < before):
            return versions[place:]
    return versions


class Image:
    """The bytes of one volume. A sector that is not listed is zeros, and can be nothing else."""

    clock = 0                           # counts what is issued and acknowledged, over all images

    def __init__(self, size: int, readonly: bool = False) -> None:
        self.size, self.readonly = size, readonly
        self.sectors: dict[int, Versions] = {}
        self.open_sectors: set[int] = set()     # with more than one version
        self.busy: set[int] = set()             # sectors being written now
        self.snaps: list[Snap] = []             # being taken
        self.sizes: tuple[int, ...] = ()        # while it is resized: both
        self.of: Image | None = None            # a snapshot: the volume it was taken of
        self.rolled: Image | None = None        # the snapshot that it may be, wholly, after a cut
        self.name = ""
        self.after_cut()

    def after_cut(self) -> None:
        """Nothing is under way, nobody has it open."""
        self.busy.clear()
        self.snaps.clear()
        self.handle = self.users = self.named = 0   # named: users of its name
        self.alone = self.renaming = False      # somebody has it for himself; its name is about to change
        self.opening = asyncio.Lock()

    @classmethod
    def tick(cls) -> int:
        Image.clock += 1
        return Image.clock

    def copy(self, size: int, readonly: bool = False) -> Image:
        """Another image that holds the same."""
        made = Image(size, readonly)
        made.sectors = {s: [(value, PAST) for value, _op in versions] for s, versions in self.sectors.items()}
        made.open_sectors = {s for s, versions in made.sectors.items() if len(versions) > 1}
        return made

    def become(self, other: Image) -> None:
        """What another holds for certain."""
        self.size = other.size
        self.sectors = {s: [(versions[-1][0], PAST)] for s, versions in other.sectors.items()}
        self.open_sectors.clear()

    def first_difference(self, other: Image) -> int | None:
        """The first sector that two images of one size, which are certain, differ in."""
        return min((s for s in {*self.sectors, *other.sectors} if self.now(s) != other.now(s)), default=None)

    @contextmanager
    def being_taken(self, snap: Snap) -> Iterator[None]:
        """What is written meanwhile may be in the snapshot."""
        self.snaps.append(snap)
        yield
        self.snaps.remove(snap)

    @contextmanager
    def by_name(self) -> Iterator[None]:
        """It keeps its name meanwhile."""
        self.named += 1
        yield
        self.named -= 1

    # --- changing

    def now(self, sector: int) -> bytes:
        return self.sectors[sector][-1][0] if sector in self.sectors else ZERO

    def put(self, sector: int, value: bytes, op: Op) -> None:
        """A new version."""
        versions = self.sectors.setdefault(sector, [(ZERO, PAST)])
        versions.append((value, op))
        self.open_sectors.add(sector)
        for snap in self.snaps:
            snap.sectors.setdefault(sector, [ZERO]).append(value)

    def write(self, offset: int, data: bytes, op: Op) -> None:
        at, end = offset, offset + len(data)
        while at < end:
            sector, begin = divmod(at, SECTOR)
            part = data[at - offset:at - offset + SECTOR - begin]
            if len(part) < SECTOR:
                old = self.now(sector)
                part, at = old[:begin] + part + old[begin + len(part):], at + len(part)
            else:
                at += SECTOR
            self.put(sector, part, op)

    def discard(self, offset: int, length: int, op: Op) -> None:
        """Whole chunks become zeros. The volume's end ends a chunk."""
        first, end = -(-offset // CHUNK) * CHUNK, offset + length
        end = end if end == self.size else end // CHUNK * CHUNK
        if first < end:
            self.write(first, bytes(end - first), op)

    def flushed(self, since: int, sectors: Iterable[int] | None = None) -> None:
        """A flush that was sent at `since` has succeeded."""
        for sector in list(self.open_sectors if sectors is None else sectors):
            versions = since_acked(self.sectors[sector], since)
            self.sectors[sector] = versions
            if len(versions) == 1:
                self.open_sectors.discard(sector)

    def resize(self, size: int) -> None:
        """Done, durably."""
        for sector in [s for s in self.sectors if s * SECTOR >= size]:
            del self.sectors[sector]
            self.open_sectors.discard(sector)
        self.size = size

    # --- comparing

    def same(self, offset: int, found: bytes) -> None:
        """A read of sectors that nobody writes shows what they hold now."""
        first = offset // SECTOR
        for place in range(len(found) // SECTOR):
            wanted = self.now(first + place)
            got = found[place * SECTOR:(place + 1) * SECTOR]
            assert got == wanted, f"{self.name}: sector {first + place} is {show(got)}, not {show(wanted)}"

    def settle(self, offset: int, found: bytes) -> None:
        """After a cut: each sector is what it may be, and stays so."""
        first = offset // SECTOR
        for place in range(len(found) // SECTOR):
            sector, got = first + place, found[place * SECTOR:(place + 1) * SECTOR]
            versions = self.sectors.get(sector)
            if versions is None:
                assert got == ZERO, f"{self.name}: sector {sector} is {show(got)}, and was zeros always"
                continue
            if not any(got == value for value, _op in versions):
                raise AssertionError(f"{self.name}: sector {sector} is {show(got)}; it may be "
                                     + " or ".join(show(value) for value, _op in versions))
            self.sectors[sector] = [(got, PAST)]
            self.open_sectors.discard(sector)

    def settle_zeros(self, offset: int, length: int) -> None:
        """The same for a range said to read as zeros."""
        for sector in [s for s in self.sectors if offset <= s * SECTOR < offset + length]:
            self.settle(sector * SECTOR, ZERO)


def show(value: bytes) -> str:
    """A sector, for people: the beginnings of what it holds, its edges told apart."""
    return "zeros" if value == ZERO else f"{value[:8]!r}..{value[-8:]!r}"
