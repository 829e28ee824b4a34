# SPDX-License-Identifier: Apache-2.0
"""Fixtures: scratch segments, instances of the pipeline, peers by themselves.

ARCHIPELAGO_TEST_LAYOUTS (a list with commas) chooses the layouts that tests of whole pipelines
run on; "colocated,separate" if it is not set.
"""
import faulthandler
import os
import shutil
import signal
import tempfile

import pytest
from support import SMALL_SEGMENT, Instance, config_of, unsynced

from xseg import client
from xseg.segment import Segment, name_for

LAYOUTS = os.environ.get("ARCHIPELAGO_TEST_LAYOUTS", "colocated,separate").split(",")
STUCK = 2                           # of its timeout, until a test is stuck


def pytest_configure(config):
    config.stderr = os.dup(2)
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) == signal.SIG_IGN:      # a run in the background: what it starts would ignore it
            signal.signal(number, usual)
    config.addinivalue_line("markers", "config(text): archipelago.toml of the test's instance, less its layout")
    config.addinivalue_line("markers", "layout(name): run only on this layout of the pipeline")


client.DEAD_PEER_TIMEOUT_S = 60.0       # a test that kills and restarts by hand may do so on a busy machine


def pytest_generate_tests(metafunc):
    if "layout" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("layout")
        metafunc.parametrize("layout", [marker.args[0]] if marker else LAYOUTS)


def on_its_layout(item):
    """False for a test with a shared instance of another layout than its mark says."""
    marker, spec = item.get_closest_marker("layout"), getattr(item, "callspec", None)
    chosen = spec.params.get("shared_instance") if spec else None
    return not marker or chosen is None or chosen == marker.args[0]


def pytest_collection_modifyitems(config, items):
    """Leaves out tests on a layout that they are not for, and, unless `make soak` says how long they are to run,
    those that run for as long as that."""
    items[:] = [item for item in items if on_its_layout(item)]
    if "ARCHIPELAGO_SOAK_MINUTES" not in os.environ:
        soak = [item for item in items if item.get_closest_marker("soak")]
        config.hook.pytest_deselected(items=soak)
        items[:] = [item for item in items if item not in soak]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Ends a run that not even the timeout of a test ends, as the test is stuck in native code; it says where."""
    limit = float(item.config.getini("timeout"))
    if "ARCHIPELAGO_SOAK_MINUTES" not in os.environ:
        faulthandler.dump_traceback_later(STUCK * limit, exit=True, file=item.config.stderr)
    result = yield
    faulthandler.cancel_dump_traceback_later()
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        item.failed = True
    return report


@pytest.fixture
def home():
    """A folder with a short path (unix sockets need that), removed afterwards."""
    path = tempfile.mkdtemp(prefix="ar-", dir="/tmp")
    yield path
    Segment.unlink(name_for(path))
    shutil.rmtree(path, ignore_errors=True)


def finish(instance, request):
    """Stops an instance; shows its logs when the test failed or the end does."""
    try:
        instance.finish()
    except BaseException:
        print(instance.logs())
        raise
    if getattr(request.node, "failed", False):
        print(instance.logs())


@pytest.fixture
def instance(request, layout, home):
    """A running pipeline, on each layout in turn."""
    marker = request.node.get_closest_marker("config")
    made = Instance(home, f'layout = "{layout}"\n' + (marker.args[0] if marker else ""))
    try:
        made.start()
    except BaseException:
        print(made.logs())
        raise
    yield made
    finish(made, request)


@pytest.fixture(scope="module")
def node():
    """A running colocated pipeline that the tests of a module share: each uses names of its own."""
    with unsynced() as made:
        yield made


@pytest.fixture(scope="module", params=LAYOUTS)
def shared_instance(request):
    """A running pipeline on each layout in turn, for all tests of a module, whose `CONFIG` is more of its
    archipelago.toml."""
    path = tempfile.mkdtemp(prefix="ar-", dir="/tmp")
    made = Instance(path, f'layout = "{request.param}"\n' + getattr(request.module, "CONFIG", ""))
    before = request.session.testsfailed
    try:
        made.start()
        yield made
        if request.session.testsfailed > before:
            print(made.logs())
        made.finish()
    finally:
        Segment.unlink(name_for(path))
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def world(shared_instance, request):
    """No volumes yet, and the oracle's images of them (tests/volumes/world.py); compared in the end."""
    from world import World

    made = World(shared_instance, request.node.name.split("[")[0][5:])
    yield made
    made.check_all()
    made.remove_all()


@pytest.fixture
def host(request, home):
    """Starts a pipeline of chosen peers: host([(role, type, {option: value}), ...], processes=None).

    They share one process unless `processes` (lists of roles) says otherwise. Returns an Instance.
    """
    made = []

    def start(peers, processes=None, more=""):
        assert not made, "one pipeline a test"
        instance = Instance(home, config_of(peers, processes, more))
        made.append(instance)
        instance.start()
        return instance

    yield start
    for instance in made:
        finish(instance, request)


@pytest.fixture
def segment():
    """A small segment with no peers."""
    path = tempfile.mkdtemp(prefix="ar-", dir="/tmp")
    name = name_for(path)
    with Segment.create(name, path, **SMALL_SEGMENT) as made:
        yield made
    Segment.unlink(name)
    shutil.rmtree(path)
