# SPDX-License-Identifier: Apache-2.0
"""What looks at all volumes does so side by side, with a bound; a long list is had in pages."""
import asyncio
import errno

import pytest

from peers.mapper.scrub import VOLUMES_AT_ONCE, Found, Scrub
from tools.vlmc import _walks
from tools.vlmc.list import page
from xseg.errors import NotFound, error

MANY = 100


class Mapper:
    """Answers each walk in three portions, and sees how many are under way."""

    def __init__(self, gone=()):
        self.gone, self.now, self.most = gone, 0, 0

    async def ask(self, verb, name, cursor):
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        if name in self.gone:
            raise error(errno.ENOENT, f"there is no volume '{name}'")
        return {"verb": verb, "name": name, "part": cursor, "cursor": (cursor + 1) % 3}


def walk(mapper, names, skip_gone=False):
    return asyncio.run(_walks.side_by_side(mapper.ask, "du", names, skip_gone))


def test_walks_are_side_by_side_and_come_in_order():
    mapper, names = Mapper(), [f"v{number}" for number in range(MANY)]
    found = walk(mapper, names)
    assert found == [[{"verb": "du", "name": name, "part": part} for part in range(3)] for name in names]
    assert mapper.most == _walks.AT_ONCE


def test_one_that_is_gone_meanwhile_is_left_out_only_where_nobody_named_it():
    names = ["a", "b", "c"]
    assert [answers is None for answers in walk(Mapper({"b"}), names, skip_gone=True)] == [False, True, False]
    with pytest.raises(NotFound, match="'b'"):
        walk(Mapper({"b"}), names)


def test_removals_are_side_by_side_and_failures_come_in_order():
    mapper, names = Mapper({"v3", "v70"}), [f"v{number}" for number in range(MANY)]

    def ask(verb, name, force, token):
        return mapper.ask(verb, name, 0)

    failures = asyncio.run(_walks.remove_all(ask, names, False))
    assert [str(failure) for failure in failures] == ["there is no volume 'v3'", "there is no volume 'v70'"]
    assert mapper.most == _walks.AT_ONCE


class Counting(Scrub):
    """Has so many volumes to look at, and sees how many it looks at together."""

    now = most = 0

    async def headers(self):
        return list(range(MANY))

    async def volume(self, volume):
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        return Found(volume) if volume % 2 else None

    async def names(self):
        return 0

    async def nothing(self):
        pass

    all_contents = rest = nothing


def test_a_check_of_the_store_looks_at_some_volumes_together_and_tells_of_them_in_order():
    scrub = Counting(None)
    found = asyncio.run(scrub.run())["volumes"]
    assert [int(volume["id"], 16) for volume in found] == list(range(1, MANY, 2))
    assert scrub.most == VOLUMES_AT_ONCE


ROWS = [{"name": name, "id": name * 2} for name in "abcd"] + [{"id": name * 2, "damaged": "bad"} for name in "ef"]


def test_pages_make_up_the_list():
    for most in range(1, len(ROWS) + 2):
        after, seen = None, []
        while True:
            found, left = page(ROWS, after, most)
            seen += found
            assert len(found) <= most and left == len(ROWS) - len(seen)
            if not left:
                break
            after = found[-1].get("name", found[-1]["id"])
        assert seen == ROWS


def test_a_page_begins_behind_a_name_that_need_not_be_there():
    assert page(ROWS, "bb", 1) == ([ROWS[2]], 3)
    assert page(ROWS, "z", None) == (ROWS[4:], 0)
    assert page(ROWS, None, None) == (ROWS, 0)
