# SPDX-License-Identifier: Apache-2.0
"""The first Archipelago had faults that its documents and sources tell of. Here is a test for each of them that
volumes can show: what it did stands in the docstring."""
import errno
import glob
import os
import signal
import stat
import subprocess
import sys

import pytest
from support import wait_until

from xseg._native import lib
from xseg.client import Client
from xseg.errors import Exists, Invalid, XsegError

pytestmark = pytest.mark.layout("colocated")
BLOCK, MIB, GIB = 65536, 1 << 20, 1 << 30


@pytest.fixture(autouse=True)
def tidy(node):
    """Removes what a test has made, once it has closed it."""
    yield
    ask = node.client.control
    for made in list(node.client.names()):
        wait_until(lambda made=made: ask("info", name=made)["open"] is None, f"{made} is closed")
        ask("remove", name=made)


@pytest.fixture
def volume(node, ask, name):
    """An open volume of 1 GiB whose first 16 blocks hold data."""
    ask("create", name=name, size=GIB, block_size=BLOCK)
    with node.client.open(name) as opened:
        opened.write(0, b"original" * (2 * BLOCK))
        opened.flush()
        yield opened


def files(node, ask, name, folder):
    identity = ask("info", name=name)["id"]
    return [path for path in glob.glob(f"{node.home}/{folder}/*/*/*") if identity in path]


def counters(node, role):
    """A port's counters as they are now."""
    port = node.client.segment.c.ports[node.client.segment.port_of(role)]
    return {key: getattr(port, key) for key in ("received", "bytes_read", "bytes_written")}


def spent(node, role, work):
    """What a piece of work adds to a port's counters."""
    before = counters(node, role)
    work()
    after = counters(node, role)
    return {key: after[key] - before[key] for key in after}


def test_removal_and_shrinking_leave_no_objects(node, ask, name):
    """There was no collector, and removed volumes and cut ends left their objects behind."""
    ask("create", name=name, size=GIB, block_size=BLOCK)
    with node.client.open(name) as volume:
        volume.write(0, b"x" * 10 * BLOCK)
    ask("resize", name=name, size=2 * BLOCK)
    assert len(files(node, ask, name, "data")) == 2
    identity = ask("info", name=name)["id"]
    ask("remove", name=name)
    assert not [path for path in glob.glob(f"{node.home}/*/*/*/*") if identity in path]


def test_a_lock_needs_no_operator_after_a_death(node, volume):
    """Locks of dead peers had to be broken by hand."""
    volume.write(5, b"before")
    for role in ("mapper", "blockerm"):
        node.kill(role) if node.status()[role]["state"] != "dead" else None
    for role in ("blockerm", "mapper"):
        node.restart(role)
    volume.write(20, b"after")
    volume.flush()
    assert volume.read(0, 28) == b"origibeforeginalorigafterrig"


def test_a_lock_cannot_be_broken_while_its_owner_lives(node, volume, name):
    """A broken lock was not noticed by the mapper that had held it: two writers at once."""
    done = node.vlmc("unlock", "-f", name, check=False)
    assert done.returncode == 1 and "open" in done.stderr
    volume.write(0, b"still the only writer")
    volume.flush()


def test_a_snapshot_or_clone_writes_no_map(node, ask, volume, name):
    """Snapshots, clones and renames wrote the whole map again: as much as the volume was large."""
    def written(work):
        before = {path: os.path.getmtime(path) for path in glob.glob(f"{node.home}/map/*/*/*")}
        work()
        return [path for path in glob.glob(f"{node.home}/map/*/*/*")
                if before.get(path) != os.path.getmtime(path)]

    for block in range(0, GIB // BLOCK, 50):
        volume.write(block * BLOCK, b"spread")
    volume.flush()
    kinds = (lambda: ask("snapshot", name=name, snapshot=name + "-s"),
             lambda: ask("clone", name=name + "-s", names=[name + "-c"]),
             lambda: ask("rename", name=name + "-c", to=name + "-d"))
    for work in kinds:
        changed = written(work)
        assert len(changed) <= 6 and sum(map(os.path.getsize, changed)) < 65536


def test_opening_a_huge_volume_loads_no_map(node, ask, name):
    """The whole map was loaded, at some 200 bytes a block."""
    ask("create", name=name, size=1 << 50, block_size=BLOCK)
    with node.client.open(name) as volume:
        for place in range(20):
            volume.write(place << 45, b"far")
    opened = []
    assert spent(node, "blockerm", lambda: opened.append(node.client.open(name)))["received"] < 20
    assert spent(node, "mapper", lambda: opened[0].read(7 << 45, 3))["received"] <= 2
    opened[0].close()


def test_resize_works_both_ways_and_shows_no_old_bytes(node, ask, volume, name):
    """There was no resize; the code for it left old bytes to be read after growing again."""
    ask("resize", name=name, size=3 * BLOCK + 512)
    ask("resize", name=name, size=GIB)
    assert volume.read(3 * BLOCK, BLOCK) == (b"original" * 64).ljust(BLOCK, b"\0")


def test_the_name_of_a_removed_snapshot_is_free(ask, volume, name):
    """It could never be used again."""
    for _ in range(3):
        ask("snapshot", name=name, snapshot=name + "-s")
        ask("remove", name=name + "-s")


def test_a_clone_keeps_the_block_size(ask, volume, name):
    """A clone of a volume with other blocks than 4 MiB was wrong."""
    ask("clone", name=name, names=[name + "-c"])
    assert ask("info", name=name + "-c")["block_size"] == BLOCK


def test_a_copy_of_what_is_not_there_fails(node):
    """The file blocker said it had copied it."""
    from xseg.request import Object
    reply = node.call("blockerb", lib.XOP_COPY, object=(lib.XOBJ_DATA, 99, 1, 1), size=BLOCK,
                      data=Object(lib.XOBJ_DATA, 98, 1, 1).pack(), check=False)
    assert reply.error == errno.ENOENT


@pytest.mark.parametrize("role", ["vlmc", "mapper", "blockerb", "blockerm"])
def test_an_unknown_operation_is_answered(node, role, volume):
    """It was not, and the request was lost."""
    assert node.call(role, 999, check=False, volume=volume.handle, timeout=10).error
    assert node.call(role, lib.XOP_COUNT, check=False, volume=0, timeout=10).error


def test_maps_and_headers_carry_checksums(node, ask, volume, name):
    """Nothing did, and there was no way to look for damage."""
    assert ask("check", name=name)["problems"] == []
    [journal] = [path for path in files(node, ask, name, "map") if "/journal/" in path]
    volume.close()
    with open(journal, "r+b") as file:
        file.seek(80)
        file.write(b"\xff\xee")
    node.disconnect()
    node.restart("mapper")
    assert "checksum" in str(node.client.control("check", name=name)["problems"])


def test_a_stranger_may_do_nothing(node):
    """Segment, doorbells and socket were open to more than owner and group."""
    segment = f"/dev/shm{node.client.segment.name}"
    for path in (segment, f"{node.home}/run/nbd.sock", *glob.glob(f"{node.home}/run/bell*")):
        assert not stat.S_IMODE(os.stat(path).st_mode) & 0o007, path


def test_errors_say_why(node, ask, volume, name):
    """A request could only fail."""
    with pytest.raises(Exists, match=name):
        ask("create", name=name, size=GIB)
    with pytest.raises(Invalid):
        volume.read(GIB, 1)
    ask("snapshot", name=name, snapshot=name + "-s")
    with node.client.open(name + "-s") as snapshot, pytest.raises(XsegError) as caught:
        snapshot.write(0, b"x")
    assert caught.value.errno == errno.EROFS


def test_a_flush_syncs_once_however_much_was_written(node, volume):
    """FLUSH only waited for writes; each of them had been synced by itself."""
    def work():
        for block in range(20):
            volume.write((100 + block) * BLOCK, b"new")
        volume.flush()

    assert spent(node, "blockerb", work)["received"] == 21
    assert spent(node, "blockerb", lambda: volume.write(0, b"own", fua=True))["received"] == 2


def test_discard_and_zeroes_give_space_back(ask, volume, name):
    """There were none."""
    before = ask("du", name=name)["exclusive"]
    volume.discard(0, 8 * BLOCK)
    volume.zeroes(8 * BLOCK, 8 * BLOCK)
    assert volume.read(0, 16 * BLOCK) == bytes(16 * BLOCK)
    assert ask("du", name=name)["exclusive"] <= before - 15 * BLOCK


@pytest.mark.parametrize("offset, size, read, written", [
    (BLOCK, 4096, 0, 4096), (BLOCK + 100, 50, 4096, 4096), (BLOCK, BLOCK, 0, BLOCK),
    (BLOCK + 512, 8192, 8192, 12288)])
def test_a_first_write_moves_what_it_must_and_no_more(node, ask, volume, name, offset, size, read, written):
    """It copied 4 MiB, even when all of it was overwritten."""
    number = f"{name}-{offset}-{size}"
    ask("snapshot", name=name, snapshot=number)
    used = spent(node, "blockerb", lambda: volume.write(offset, b"w" * size))
    assert (used["bytes_read"], used["bytes_written"]) == (read, written)


def test_maps_of_snapshots_are_cached(node, ask, volume, name):
    """They were read again for each request."""
    ask("snapshot", name=name, snapshot=name + "-s")
    with node.client.open(name + "-s") as snapshot:
        snapshot.read(0, 10)
        assert spent(node, "mapper", lambda: [snapshot.read(n * 1000, 5000) for n in range(50)])["received"] == 0
        assert spent(node, "blockerm", lambda: snapshot.read(4 * BLOCK, BLOCK))["received"] == 0


def test_a_client_that_dies_leaks_nothing(node, volume):
    """What a dead peer had taken from the segment was lost to all others."""
    program = ("import sys\nfrom xseg.client import Client\nclient = Client(sys.argv[1])\n"
               "held = [client.port.get(65536) for _ in range(20)]\nprint('holds', flush=True)\nsys.stdin.read()\n")
    for _ in range(3):
        client = subprocess.Popen([sys.executable, "-c", program, node.home], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, text=True)
        assert client.stdout.readline() == "holds\n"
        client.send_signal(signal.SIGKILL)
        client.wait()
    with Client(node.home) as one, Client(node.home) as two:
        for client in (one, two):
            assert client.port.get(65536)
    volume.read(0, MIB)


def test_a_list_looks_at_headers_only(node, ask, volume):
    """It walked all that was stored, data and all."""
    assert spent(node, "blockerb", lambda: node.vlmc("list"))["received"] == 0
    assert spent(node, "blockerm", lambda: ask("list"))["received"] < 200


def test_a_live_volume_can_be_cloned_and_its_parent_is_known(node, ask, volume, name):
    """Only what was read-only could be cloned, and a map did not say what it came from."""
    made = ask("clone", name=name, names=[name + "-c"])["snapshot"]
    assert ask("info", name=name + "-c")["parent"] == made
    assert ask("info", name=made)["parent"] == name


def test_reading_does_not_keep_a_volume(node, ask, name):
    """Reading a volume took its lock and kept it, so that writers elsewhere waited for ever."""
    ask("create", name=name, size=GIB, block_size=BLOCK)
    with node.client.open(name) as volume:
        volume.read(0, 100)
    wait_until(lambda: ask("info", name=name)["open"] is None, "the volume is closed")
    ask("remove", name=name)
