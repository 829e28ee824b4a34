# SPDX-License-Identifier: Apache-2.0
"""The files of this repository, and circles in what uses what."""
from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PARTS = ("native", "xseg", "peers", "tools", "tests", "benchmarks")     # folders that have all the code


def paths(*endings: str, parts: Iterable[str] = PARTS) -> list[str]:
    """Paths, from the root, of the files below `parts` with one of the endings; all of them if there is none."""
    found = []
    for part in parts:
        for folder, below, names in os.walk(os.path.join(ROOT, part)):
            below[:] = [name for name in below if name != "__pycache__"]
            found += [os.path.relpath(os.path.join(folder, name), ROOT) for name in names
                      if name.endswith(endings or "") and not name.startswith("_native")]
    return sorted(found)


def read(path: str) -> str:
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read()


def texts(*endings: str, parts: Iterable[str] = PARTS) -> dict[str, str]:
    """What is in these files, by path."""
    return {path: read(path) for path in paths(*endings, parts=parts)}


def reached(start: str, uses: Mapping[str, Iterable[str]]) -> set[str]:
    """All that `start` uses, directly or not."""
    found: set[str] = set()
    ahead = [start]
    while ahead:
        new = set(uses.get(ahead.pop(), ())) - found
        found |= new
        ahead += new
    return found


def circles(uses: Mapping[str, Iterable[str]]) -> Iterator[tuple[str, ...]]:
    """The largest groups in which each uses each, directly or not."""
    reach = {name: reached(name, uses) for name in uses}
    seen: set[str] = set()
    for name in sorted(uses):
        if name in reach[name] and name not in seen:
            circle = {other for other in reach[name] if name in reach.get(other, ())}
            seen |= circle
            yield tuple(sorted(circle))
