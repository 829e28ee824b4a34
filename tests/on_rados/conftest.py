# SPDX-License-Identifier: Apache-2.0
"""Fixtures: a private Ceph cluster for the whole session, python-rados to look into it, and the
instances of tests/conftest.py with everything in that cluster."""
import os
import shutil
import sys
import tempfile
from contextlib import contextmanager

import pytest
from support import DIST_PACKAGES, Instance
from two_nodes import SIZE

from tools import cluster as tool
from xseg.segment import Segment, name_for

HERE = os.path.dirname(__file__)
BORROWED = ("blockers", "kill", "mapper", "tools", "volumes")      # folders whose tests run here, too
sys.path += [os.path.join(os.path.dirname(HERE), name) for name in BORROWED]


def pytest_configure(config):
    config.addinivalue_line("markers", "options(name=value): of the blockers of the test's two nodes")


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
    limits = {"client_mount_timeout": "60", "rados_mon_op_timeout": "60", "rados_osd_op_timeout": "60"}
    with module.Rados(conffile=cluster.conf, conf=limits) as client:
        yield client


@contextmanager
def running(cluster, request, name, config, layout="colocated"):
    """An instance that keeps its volumes in a namespace `name` of the cluster."""
    path = tempfile.mkdtemp(prefix="ar-", dir="/tmp")
    made = Instance(path, f'layout = "{layout}"\n' + config + tool.instance_config(cluster.conf, namespace=name))
    before = request.session.testsfailed
    try:
        made.start()
        yield made
        made.finish()
    finally:
        if request.session.testsfailed > before or sys.exc_info()[0]:
            print(made.logs())
        Segment.unlink(name_for(path))
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def node(cluster, request):
    """A running pipeline that the tests of a module share."""
    with running(cluster, request, request.node.name, "") as made:
        yield made


@pytest.fixture(scope="module")
def shared_instance(cluster, request):
    """The same, with the CONFIG of the module that has the tests."""
    with running(cluster, request, request.node.name, getattr(request.module, "CONFIG", "")) as made:
        yield made


@pytest.fixture
def instance(cluster, request, layout):
    """A running pipeline of one test, on each layout in turn."""
    marker = request.node.get_closest_marker("config")
    config = marker.args[0] if marker else ""
    with running(cluster, request, request.node.name[:60], config, layout) as made:
        yield made


@pytest.fixture
def nodes(cluster, request):
    """Two running instances that share a namespace of their own."""
    made = []
    marker = request.node.get_closest_marker("options")
    options = marker.kwargs if marker else {}
    layout, config = map(request.node.get_closest_marker, ("layout", "config"))
    text = f'layout = "{layout.args[0] if layout else "colocated"}"\n' + (config.args[0] if config else "")
    text += tool.instance_config(
        cluster.conf, namespace=request.node.name[:60], **options)
    try:
        for _ in range(2):
            home = tempfile.mkdtemp(prefix="ar-", dir="/tmp")
            made.append(Instance(home, text))
            made[-1].start()
        yield made
        if getattr(request.node, "failed", False):
            print(*(node.logs() for node in made))
    finally:
        for node in made:
            node.stop()
            Segment.unlink(name_for(node.home))
            shutil.rmtree(node.home)


@pytest.fixture
def volume(nodes):
    nodes[0].vlmc("create", "v", "--size", str(SIZE))
    return "v"
