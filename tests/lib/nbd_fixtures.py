# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the NBD server's tests: one running instance for each module and layout, and in it
a fresh volume for each test. A module asks for them by pytest_plugins = ["nbd_fixtures"].
"""
from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
from nbd_support import Server, Wire
from support import Instance

from xseg.segment import Segment, name_for

MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else "/tmp"     # what is tested here needs no disk
LAYOUTS = os.environ.get("ARCHIPELAGO_TEST_LAYOUTS", "colocated,separate").split(",")


@pytest.fixture(scope="module", params=LAYOUTS)
def server(request: Any) -> Iterator[Server]:
    """One running instance for all tests of a module, on each layout."""
    home = tempfile.mkdtemp(prefix="ar-", dir=MEMORY)
    instance = Instance(home, f'layout = "{request.param}"\n[peers.nbd]\nhandshake_s = 4\n')
    try:
        instance.start()
        yield Server(instance)
    finally:
        print(instance.logs())
        try:
            instance.finish()
        finally:
            Segment.unlink(name_for(home))
            shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def volume(server: Server) -> str:
    """A new volume of SIZE bytes in blocks of BLOCK bytes; its name."""
    return server.make()


@pytest.fixture
def handle(server: Server, volume: str) -> Iterator[Any]:
    """A libnbd handle on the volume, with structured replies and base:allocation."""
    made = server.connect(volume)
    yield made
    made.shutdown()


@pytest.fixture
def wire(server: Server) -> Iterator[Wire]:
    """A connection on which nothing was said yet."""
    made = server.wire()
    yield made
    made.close()


@pytest.fixture
def memory_home() -> Iterator[str]:
    """A folder for an instance of the test's own, in memory; removed afterwards."""
    home = tempfile.mkdtemp(prefix="ar-", dir=MEMORY)
    yield home
    Segment.unlink(name_for(home))
    shutil.rmtree(home, ignore_errors=True)
