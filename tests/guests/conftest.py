# SPDX-License-Identifier: Apache-2.0
"""Fixtures of tests with real guests: a supervised instance with a vhost peer, runners of guests."""
import tempfile

import guests
import pytest
from support import Instance

from xseg.segment import Segment, name_for


@pytest.fixture
def served(request):
    """A supervised instance that serves vhost."""
    path = tempfile.mkdtemp(prefix="ar-", dir="/tmp")
    made = Instance(path, guests.CONFIG, supervised=True)
    try:
        made.start()
        yield made
        if getattr(request.node, "failed", False):
            print(made.logs())
        made.finish()
    finally:
        Segment.unlink(name_for(path))
        guests.remove(path)


@pytest.fixture
def uml(served):
    """Guests of user-mode Linux; they end with the test."""
    folder = tempfile.mkdtemp(prefix="ar-", dir="/tmp")
    made = guests.Uml(folder)
    yield made
    made.close()
    guests.remove(folder)


@pytest.fixture
def qemu():
    """Guests of QEMU; they end with the test."""
    folder = tempfile.mkdtemp(prefix="ar-", dir="/tmp")
    made = guests.Qemu(folder)
    yield made
    made.close()
    guests.remove(folder)
