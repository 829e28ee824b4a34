# SPDX-License-Identifier: Apache-2.0
"""Headers and journals whose checksums are right and whose values another node, or a person, made up: what needs
them is refused, and no place in the segment and no lock is left behind."""
import errno
import glob

import msgpack
import pytest

from peers.mapper.header import Header, pack_frame, unpack_frame, unpack_header
from xseg._native import lib
from xseg.errors import XsegError

pytestmark = pytest.mark.layout("colocated")
SIZE, BLOCK = 1 << 30, 65536


@pytest.fixture
def volume(shared_instance, request):
    """The name of a closed volume, and the path of its header."""
    client, name = shared_instance.client, request.node.name[:60]
    made = client.control("create", name=name, size=SIZE, block_size=BLOCK)["id"]
    path, = (found for found in glob.glob(f"{shared_instance.home}/map/header/*/*") if made in found)
    yield name, path
    client.control("remove", name=name, force=True)


def change(path, **values):
    """Writes other values into a header, with the checksum that goes with them."""
    with open(path, "rb") as file:
        data = file.read()
    generation, payload = unpack_frame(b"ARCH", data)
    header = payload | values
    with open(path, "r+b") as file:
        file.write(pack_frame(b"ARCH", generation, msgpack.packb(header)))


def places(client):
    return sum(client.segment.c.volumes[place].state != lib.XVOL_FREE for place in range(client.segment.c.volume_count))


@pytest.mark.parametrize("values", [
    {"epoch": 1 << 32}, {"epoch": (1 << 64) - 1}, {"writable_since": 1 << 33}, {"in_place_since": 1 << 32},
    {"name": "n" * 300}, {"name": "a/b"}, {"next_journal": (1 << 64) - 1}, {"next_page": 1 << 63},
    {"journals": [[1, 1 << 32, 1, 0]]},
    {"root": [1, 1, 1 << 63]}, {"size": 513}, {"auto": 7}, {"seq": True}],
    ids=lambda values: next(iter(values)))
def test_a_header_out_of_range_is_refused_and_nothing_is_left(shared_instance, volume, values):
    name, path = volume
    client, before = shared_instance.client, places(shared_instance.client)
    change(path, **values)
    for attempt in (lambda: client.control("open", name=name), lambda: client.open(name),
                    lambda: client.control("snapshot", name=name, snapshot=name + "-s")):
        with pytest.raises(XsegError) as failure:
            attempt()
        assert failure.value.errno in (errno.EBADMSG, errno.ENOENT), failure.value
    assert places(client) == before
    assert "Traceback" not in shared_instance.logs()


def test_a_volume_without_epochs_says_what_to_do_and_leaves_no_lock(shared_instance, volume):
    name, path = volume
    client, before = shared_instance.client, places(shared_instance.client)
    change(path, epoch=(1 << 32) - 1000)
    for _ in range(2):
        with pytest.raises(XsegError, match="vlmc clone"):
            client.control("open", name=name)
    assert places(client) == before
    client.control("clone", name=name, names=[name + "-c"])
    with client.open(name + "-c") as clone:
        clone.write(0, b"writable" * 64)
    snapshot = client.control("info", name=name + "-c")["parent"]
    for gone in (name + "-c", snapshot):
        client.control("remove", name=gone)


def test_a_header_within_the_bounds_comes_back():
    header = Header(id=1, name="v", kind="volume", size=SIZE, block_shift=16, epoch=(1 << 32) - 1,
                    writable_since=(1 << 32) - 1, next_journal=(1 << 63) - 1)
    assert unpack_header(header.pack(), 1) == header
