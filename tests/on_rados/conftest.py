# SPDX-License-Identifier: Apache-2.0
"""Fixtures: a private Ceph cluster for the whole session, and python-rados to look into it."""
import os
import sys
import tempfile

import pytest
from support import DIST_PACKAGES

from tools import cluster as tool

HERE = os.path.dirname(__file__)


def pytest_collection_modifyitems(items):
    lacking = tool.missing()
    skip = pytest.mark.skip(reason=f"no Ceph cluster can be made: apt-get install {' '.join(lacking)}")
    for item in items if lacking else ():
        if str(item.path).startswith(HERE):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def cluster():
    """A running cluster: one OSD (bluestore, so that it may be killed), pools "volumes" and "maps"."""
    folder = tempfile.mkdtemp(prefix="arc-", dir="/tmp")
    made = tool.Cluster(folder)
    try:
        made.up(("volumes", "maps"))
        yield made
    finally:
        made.destroy()


@pytest.fixture(scope="session")
def rados(cluster):
    """A client of python-rados, an implementation that has nothing of ours."""
    if DIST_PACKAGES not in sys.path:
        sys.path.append(DIST_PACKAGES)
    module = pytest.importorskip("rados", reason="the binding for this Python is missing (python3-rados)")
    with module.Rados(conffile=cluster.conf) as client:
        yield client
