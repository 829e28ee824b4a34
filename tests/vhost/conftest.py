# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the peer `vhost`: an instance that serves it, disks on it."""
from types import SimpleNamespace

import pytest
from guests import CONFIG
from support import unsynced

SIZE = 64 << 20


@pytest.fixture(scope="module")
def served():
    """A supervised instance that serves vhost, for all tests of a module."""
    with unsynced(CONFIG, supervised=True) as made:
        yield made


@pytest.fixture
def disk(served, request):
    """A volume of the test's own, attached."""
    name = "".join(c for c in request.node.name if c.isalnum() or c == "_")[-60:]
    served.vlmc("create", name, "--size", str(SIZE))
    return SimpleNamespace(name=name, path=served.vlmc("attach", name, "--queues", "2").stdout.strip(), size=SIZE)
