# SPDX-License-Identifier: Apache-2.0
"""Changes to good inputs: of bytes, and of values such as JSON, TOML and msgpack have."""
from __future__ import annotations

import random
from typing import Any

NUMBERS = [0, 1, -1, 2, 7, 255, 256, 511, 512, 4095, 4096, 65535, 65536, (1 << 31) - 1, 1 << 31, (1 << 32) - 1,
           1 << 32, (1 << 53) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -(1 << 31), -(1 << 63)]
TEXTS = ["", " ", "\0", "\n", "/", "..", "../x", "-", ".", "a", "x" * 255, "x" * 256, "x" * 5000, "ü" * 128, "{}",
         "\u2028", "nbd", "volume", "snapshot", "removed", "start", "true", "0", "-1", "1e9", "0x10", "1.5e400G",
         "nan", "9" * 40 + "P", "{{}}", "%s"]
OTHERS = [None, True, False, 0.5, -0.0, 1e308, float("inf"), [], {}, [[]], [None], {"": 0}, {"a": {"b": []}}]
LIST_MAX = 100                  # values in a list that is made longer
CHANGES_MAX = 4                 # of one input
DEPTH_MAX = 300                 # of lists in lists


def odd(dice: random.Random) -> Any:
    """A value that somebody may not have thought of."""
    kind = dice.randrange(8)
    if kind < 3:
        return dice.choice(NUMBERS)
    if kind < 5:
        return dice.choice(TEXTS)
    if kind == 5:
        return dice.getrandbits(dice.randrange(1, 64))
    if kind == 6 and dice.random() < 0.1:
        deep: Any = 0
        for _ in range(dice.randrange(DEPTH_MAX)):
            deep = [deep]
        return deep
    return dice.choice(OTHERS)


def value(dice: random.Random, good: Any) -> Any:
    """A value with some places changed; the good one stays as it is."""
    for _ in range(dice.randrange(1, CHANGES_MAX + 1)):
        good = changed(dice, good)
    return good


def changed(dice: random.Random, good: Any) -> Any:
    """A value with one place changed."""
    if dice.random() < 0.1 or not isinstance(good, (dict, list)) or not good:
        return near(dice, good)
    if isinstance(good, list):
        place, copy = dice.randrange(len(good)), list(good)
        how = dice.randrange(8)
        if how == 0:
            del copy[place]
        elif how == 1:
            copy.insert(place, good[dice.randrange(len(good))])
        elif how == 2:
            copy *= dice.randrange(1, max(2, LIST_MAX // len(copy)))
        else:
            copy[place] = changed(dice, good[place])
        return copy
    key, copy = dice.choice(list(good)), dict(good)
    how = dice.randrange(8)
    if how == 0:
        del copy[key]
    elif how == 1:
        copy[odd_key(dice)] = copy.pop(key)
    elif how == 2:
        copy[odd_key(dice)] = odd(dice)
    else:
        copy[key] = changed(dice, good[key])
    return copy


def odd_key(dice: random.Random) -> str:
    """A key of a table."""
    return dice.choice(TEXTS)


def near(dice: random.Random, good: Any) -> Any:
    """Something like the value, or nothing like it."""
    if type(good) is int and dice.random() < 0.5:
        return good + dice.choice((-1, 1, 1 << 32, -good * 2, good, 512))
    if isinstance(good, (str, bytes)) and good and dice.random() < 0.5:
        cut = dice.randrange(len(good))
        return dice.choice((good[:cut], good[cut:], good + good, good[:cut] + good[cut + 1:]))
    return odd(dice)


def data(dice: random.Random, good: bytes) -> bytes:
    """Bytes with some places changed."""
    made = bytearray(good)
    for _ in range(dice.randrange(1, CHANGES_MAX + 1)):
        at = dice.randrange(len(made) + 1)
        how = dice.randrange(6)
        if how == 0:
            del made[at:at + dice.choice((1, 4, 64, len(made)))]
        elif how == 1:
            made[at:at] = dice.randbytes(dice.randrange(1, 9))
        elif how == 2:
            made[at:at + 8] = dice.choice(NUMBERS).to_bytes(9, "little", signed=True)[:dice.choice((1, 2, 4, 8))]
        elif how == 3:
            start = dice.randrange(len(made) + 1)
            made[at:at] = made[start:start + dice.randrange(64)]
        elif at < len(made):
            made[at] ^= 1 << dice.randrange(8)
    return bytes(made)
