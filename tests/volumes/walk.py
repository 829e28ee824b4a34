# SPDX-License-Identifier: Apache-2.0
"""A random walk that one seed decides: many cheap steps on bytes for each costly one on volumes.

    python tests/volumes/walk.py HOME [--seed N] [--steps N] [--minutes N]

walks over volumes of the instance that runs in HOME.
"""
from __future__ import annotations

import argparse
import os
import random
import sys
import time

sys.path.append(os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))

from world import BLOCK, LEAF_BYTES, Change, World  # noqa: E402

VOLUMES_MAX = 14
CHECK_EACH = 200                    # steps after which one volume is compared as a whole
KINDS = ("write",) * 6 + ("fua", "zero", "no_hole", "discard", "read", "read")
UNITS = (1, 1, 512, 4096, 4096, BLOCK)
STEPS = {"bytes": 60, "whole_blocks": 4, "flush": 3, "reopen": 2, "snapshot": 3, "snapshot_under_load": 2,
         "clone": 3, "adopt": 2, "hash": 3, "create": 1, "resize": 2, "rename": 1, "remove": 5,
         "beyond_the_end": 1, "deepen": 1}
MAKING = ("create", "clone", "adopt", "snapshot", "snapshot_under_load")
ROLES = ("vlmc", "mapper", "blockerb", "blockerm", "nbd")


class Walk:
    """Steps through `world` as `seed` says. `restarts`: one process is restarted each so many steps, 0: none."""

    def __init__(self, world: World, seed: int, restarts: int = 0) -> None:
        self.world = world
        self.dice = random.Random(seed)
        self.restarts = restarts
        self.steps = 0
        self.weights = STEPS

    def run(self, steps: int, seconds: float = float("inf")) -> None:
        """At most so many steps, and no new one after so many seconds; everything is checked at the end."""
        end = time.monotonic() + seconds
        while self.steps < steps and time.monotonic() < end:
            self.step()
        self.world.check_all()
        self.world.remove_all()

    def step(self) -> None:
        self.steps += 1
        writable = [name for name, image in self.world.images.items() if not image.readonly]
        kind = self.dice.choices(list(self.weights), list(self.weights.values()))[0]
        if not writable:
            kind = "create"
        elif len(self.world.images) >= VOLUMES_MAX and kind in MAKING:
            kind = "remove"
        getattr(self, kind)()
        if self.restarts and self.steps % self.restarts == 0:
            self.world.restart(self.dice.choice(ROLES))
        if self.steps % CHECK_EACH == 0:
            self.world.compare(self.any())

    # --- choosing

    def any(self, writable: bool = False) -> str:
        return self.world.chosen(self.dice.randrange(1 << 16), writable)

    def size(self) -> int:
        if self.dice.random() < 0.2:
            return LEAF_BYTES + 512 * self.dice.randrange(-1000, 1000)
        return 512 * self.dice.choice((self.dice.randrange(1, 300), self.dice.randrange(1, 3000)))

    def start(self, size: int) -> int:
        """Where something begins: often near the beginning, or at the edge of a leaf."""
        if size > LEAF_BYTES - BLOCK and self.dice.random() < 0.6:
            return min(size - 1, LEAF_BYTES + self.dice.randrange(-2 * BLOCK, 2 * BLOCK))
        return self.dice.randrange(min(size, self.dice.choice((BLOCK, 6 * BLOCK, size))))

    def changes(self, name: str, kinds: tuple[str, ...] = KINDS) -> list[Change]:
        """Changes that do not overlap, in one or two blocks or spread over some."""
        size = self.world.images[name].size
        at, unit, found = self.start(size), self.dice.choice(UNITS), []
        at = at // unit * unit
        for _ in range(self.dice.choice((1, 1, 2, 6, 20, 60))):
            length = self.dice.choice((unit, self.dice.randrange(1, 9000), self.dice.randrange(1, 3 * BLOCK)))
            length = min(max(unit, length // unit * unit), size - at)
            if length <= 0:
                break
            found.append(Change(self.dice.choice(kinds), at, length, self.dice.randrange(1 << 32)))
            at += length + self.dice.choice((0, 0, unit))
        self.dice.shuffle(found)
        return found

    # --- steps

    def bytes(self) -> None:
        name = self.any(writable=self.dice.random() < 0.9)
        self.world.batch(name, self.changes(name))

    def whole_blocks(self) -> None:
        name = self.any(writable=True)
        size = self.world.images[name].size
        offset = self.start(size) // BLOCK * BLOCK
        length = min(size - offset, BLOCK * self.dice.randrange(1, 4))
        self.world.batch(name, [Change(self.dice.choice(("zero", "discard", "write")), offset, length, self.steps)])

    def flush(self) -> None:
        self.world.flush(self.any())

    def reopen(self) -> None:
        name = self.any()
        self.world.close(name)
        self.world.compare(name)

    def snapshot(self) -> None:
        self.world.snapshot(self.any(writable=True))

    def snapshot_under_load(self) -> None:
        name = self.any(writable=True)
        self.world.snapshot_under_load(name, self.changes(name, KINDS[:-2]))

    def clone(self) -> None:
        self.world.clone(self.any(), self.dice.choice((0, 0, 512, 5 * BLOCK, LEAF_BYTES)))

    def adopt(self) -> None:
        self.world.adopt(self.any())

    def hash(self) -> None:
        self.world.hash(self.any())

    def create(self) -> None:
        self.world.create(self.size())

    def resize(self) -> None:
        self.world.resize(self.any(writable=True), self.size())

    def rename(self) -> None:
        self.world.rename(self.any())

    def remove(self) -> None:
        self.world.remove(self.any())

    def beyond_the_end(self) -> None:
        self.world.beyond_the_end(self.any())

    def deepen(self) -> None:
        """Layers on the same blocks, more than a stack takes."""
        name = self.any(writable=True)
        for _ in range(self.dice.randrange(2, 8)):
            snap = self.world.snapshot(name)
            self.bytes_of(name)
            if self.dice.random() < 0.8:
                self.world.remove(snap)

    def bytes_of(self, name: str) -> None:
        """A small write near the beginning of the volume, or at the edge of a leaf."""
        size = self.world.images[name].size
        base = LEAF_BYTES - BLOCK if size > LEAF_BYTES else 0
        offset = base + self.dice.randrange(min(size - base, 2 * BLOCK))
        length = min(size - offset, self.dice.randrange(1, 3 * 4096))
        self.world.batch(name, [Change(self.dice.choice(("write", "write", "zero", "discard")), offset, length,
                                       self.steps)])


def main() -> None:
    from support import Instance
    parser = argparse.ArgumentParser()
    parser.add_argument("home")
    parser.add_argument("--seed", type=int, default=time.time_ns() % (1 << 32))
    parser.add_argument("--steps", type=int, default=1 << 60)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--restarts", type=int, default=0)
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    walk = Walk(World(Instance(args.home), f"s{args.seed}"), args.seed, args.restarts)
    try:
        walk.run(args.steps, args.minutes * 60)
    finally:
        print(f"seed {args.seed}: {walk.steps} steps", flush=True)


if __name__ == "__main__":
    main()
