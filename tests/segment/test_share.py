# SPDX-License-Identifier: Apache-2.0
"""How an endpoint shares the buffers of its port between clients: native/segment/share.h."""
import errno

import pytest

from xseg._native import ffi, lib
from xseg.port import Port

LARGE = 2                           # the class of 1 MiB


class Client:
    """One that takes as many large buffers as it is given, and keeps them."""

    def __init__(self, port, group):
        self.port, self.held, self.group = port, [], group      # cffi frees what nobody names
        self.share = ffi.new("struct share *", {"group": group})

    def take(self):
        """One more. 0 or an errno."""
        request = lib.xreq_get(self.port.c)
        rc = lib.share_get(self.share, self.port.c, request, 1 << 20)
        if rc:
            lib.xreq_put(self.port.c, request)
        else:
            self.held.append(request)
        return -rc

    def put(self):
        request = self.held.pop()
        lib.share_put(self.share, request)
        lib.xreq_put(self.port.c, request)


def fill(clients):
    """Each takes one after another until none is given any more."""
    while any([client.take() == 0 for client in clients]):
        pass
    return [len(client.held) for client in clients]


@pytest.fixture
def port(segment):
    segment.declare("endpoint", "test", "test")
    with Port(segment, number=segment.port_of("endpoint")) as port:
        yield port
        assert port.c.shared.buffers_held[LARGE] == port.c.cached_count[LARGE]


@pytest.fixture
def client(port):
    """Makes clients, of a group of their own if none is named; all is put back at the end."""
    made = []

    def make(group=None):
        made.append(Client(port, group or ffi.new("struct share_group *")))
        return made[-1]

    yield make
    for each in made:
        while each.held:
            each.put()
        assert list(each.share.held) == [0] * lib.XSEG_CLASSES


def most(port):
    return port.c.buffers_max[LARGE]


def test_one_client_has_half(port, client):
    assert fill([client()]) == [(most(port) + 1) // 2]


def test_clients_of_different_volumes_have_equal_shares_and_leave_one(port, client):
    held = fill([client() for _ in range(3)])
    assert max(held) - min(held) <= 1 and min(held) >= 1
    assert most(port) - sum(held) >= min(held) - 1 and most(port) > sum(held)


def test_clients_of_one_volume_have_two_thirds_together(port, client):
    group = ffi.new("struct share_group *")
    assert sum(fill([client(group) for _ in range(3)])) <= most(port) * 2 // 3 + 1


def test_who_holds_none_gets_one_while_there_is_any(port, client):
    group = ffi.new("struct share_group *")
    fill([client(group) for _ in range(2)])
    assert client(group).take() == 0


def slow_clients(client, count):
    group = ffi.new("struct share_group *")
    made = [client() for _ in range(count)]
    for each in made:
        lib.share_set_slow(each.share, group)
    return made, group


def test_slow_clients_leave_a_quarter_to_others_however_many_they_are(port, client):
    many, slow = slow_clients(client, most(port) + 2)
    assert sum(fill(many)) == slow.held[LARGE] == most(port) - most(port) // 4
    assert many[-1].take() == errno.EDQUOT
    assert client().take() == 0


def test_a_slow_client_does_not_keep_the_next_from_its_first(port, client):
    (one, two), slow = slow_clients(client, 2)
    assert fill([one])[0] <= (most(port) + 1) // 2
    assert two.take() == 0


def test_a_client_that_turns_slow_brings_what_it_holds_and_takes_it_away_again(port, client):
    slow = ffi.new("struct share_group *")
    one = client()
    one.take()
    lib.share_set_slow(one.share, slow)
    assert slow.held[LARGE] == 1
    one.put()
    assert slow.held[LARGE] == 0
    one.take()
    lib.share_set_slow(one.share, ffi.NULL)
    assert slow.held[LARGE] == 0
