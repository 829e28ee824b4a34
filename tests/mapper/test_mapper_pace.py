# SPDX-License-Identifier: Apache-2.0
"""Commits wait for a checkpoint that lags behind, as far as they make it lag more."""
import asyncio
from types import SimpleNamespace

import pytest
from test_mapper_leaves import Growing

from peers.mapper import volume
from peers.mapper.volume import Volume
from xseg._native import lib

LEFT = 1000                         # leaves that the checkpoint has to write
TURNS = 20                          # of the loop, in which a commit that may be answered is


class Lagging:
    """A volume with a checkpoint under way and a journal of 10 leaves."""

    def __init__(self, monkeypatch, limit):
        monkeypatch.setattr(volume, "PACE_LOOK_S", 0)
        self.journal = Growing()
        self.volume = Volume(SimpleNamespace(journal_limit=limit), 1)
        self.volume.current = self.journal.stretch
        self.volume.tree = self.tree = SimpleNamespace(left=LEFT)
        self.written = 0
        self.write(10)

    def write(self, leaves):
        self.journal.append({(self.written + n) * lib.XMAP_LEAF: 1 for n in range(leaves)})
        self.written += leaves

    async def answered(self, commit):
        """Whether it is, or will be before anything else happens."""
        for _ in range(TURNS):
            await asyncio.sleep(0)
        return commit.done()


def test_a_commit_waits_until_as_many_leaves_are_written_as_it_adds(monkeypatch):
    async def work():
        lagging = Lagging(monkeypatch, limit=1)
        monkeypatch.setattr(volume, "PACE_S", 1000)
        for added in (10, 3, 1):
            before = lagging.tree.left
            commit = asyncio.ensure_future(lagging.volume.keep_pace())
            for left in range(before, before - added, -1):
                lagging.tree.left = left
                assert not await lagging.answered(commit)
            lagging.tree.left = before - added
            assert await lagging.answered(commit)
            lagging.write({10: 3, 3: 1, 1: 1}[added])

    asyncio.run(work())


def test_a_commit_that_adds_no_leaf_does_not_wait(monkeypatch):
    async def work():
        lagging = Lagging(monkeypatch, limit=1)
        monkeypatch.setattr(volume, "PACE_S", 1000)
        lagging.volume.paced = lagging.journal.stretch, lagging.written
        lagging.journal.append({0: 2})
        await asyncio.wait_for(lagging.volume.keep_pace(), 100)

    asyncio.run(work())


@pytest.mark.parametrize("why", ["no checkpoint", "little journal", "the checkpoint ends", "it takes too long"])
def test_a_commit_does_not_wait_for_nothing(monkeypatch, why):
    async def work():
        lagging = Lagging(monkeypatch, limit=1 << 20 if why == "little journal" else 1)
        monkeypatch.setattr(volume, "PACE_S", 0 if why == "it takes too long" else 1000)
        if why == "no checkpoint":
            lagging.volume.tree = None
        commit = asyncio.ensure_future(lagging.volume.keep_pace())
        await asyncio.sleep(0)
        if why == "the checkpoint ends":
            lagging.volume.tree = None
        await asyncio.wait_for(commit, 100)

    asyncio.run(work())
