# SPDX-License-Identifier: Apache-2.0
"""The filter that lets each volume have so much a second. Only bounds that hold on any machine are asked for: what was
let through in the time that passed is no more than the limit allows, and all is let through in the end."""
import time
from collections import Counter

import pytest
from loops import peers

from xseg import throttle
from xseg._native import lib
from xseg.request import Call

WAIT_S = 60.0
SLACK = 0.5                     # of a bound: a loop's clock may be that of the beginning of a turn that was held up
GIB = 1 << 30
UNIT = 4096


class Guests:
    """Volumes that are limited, before a peer that answers all at once, one way or another."""

    def __init__(self, f):
        self.f, self.sent = f, {}
        for place in range(3):
            volume = self.volume(place)
            volume.generation, volume.size, volume.state = 1, GIB, lib.XVOL_OPEN
            volume.burst_ms = 0

    def volume(self, place):
        return self.f.segment.c.volumes[place]

    def limit(self, place=0, burst_ms=0, **limits):
        for number, kind in enumerate(throttle.KINDS):
            self.volume(place).quota[number] = limits.get(kind, 0)
        self.volume(place).burst_ms = burst_ms

    def send(self, count, op=lib.XOP_WRITE, size=UNIT, place=0):
        """Sends so many at once."""
        requests = []
        for _ in range(count):
            call = Call(op, volume=place + 1, size=size, offset=0)
            request = self.f.port.get(call.buffer_size())
            call.put(self.f.port.c, request.c)
            self.sent[request.c.index] = place
            requests.append(request)
        self.f.port.send(self.f.number, requests)

    def answers(self, count):
        """The places of the next so many that are answered, in their order."""
        found, end = [], time.monotonic() + WAIT_S
        while len(found) < count:
            assert time.monotonic() < end, f"{count - len(found)} of {count} were not answered"
            for request in self.f.port.receive(1.0):
                found.append(self.sent.pop(request.c.index))
                self.f.port.put(request)
        return found

    def seconds(self, count, **more):
        """How long so many take, that are sent at once."""
        began = time.monotonic()
        self.send(count, **more)
        self.answers(count)
        return time.monotonic() - began

    def throttled(self, place=0):
        return int(self.volume(place).throttled)


@pytest.fixture
def guests(request):
    marker = request.node.get_closest_marker("parametrize")
    options = request.param if hasattr(request, "param") and marker else {}
    with peers(("f", "throttle", {"target": "m", **options}), ("m", "null", {})) as f:
        yield Guests(f)


def test_without_limits_nothing_waits(guests):
    guests.seconds(100)
    assert guests.throttled() == 0 and guests.volume(0).throttled_ns == 0


@pytest.mark.parametrize(("limits", "op"), [
    ({"iops": 100}, lib.XOP_WRITE), ({"iops": 100}, lib.XOP_READ), ({"iops": 100}, lib.XOP_DISCARD),
    ({"read_iops": 100}, lib.XOP_READ), ({"write_iops": 100}, lib.XOP_WRITE),
    ({"write_iops": 100}, lib.XOP_WRITE_ZEROES),
    ({"bps": 100 * UNIT}, lib.XOP_WRITE), ({"read_bps": 100 * UNIT}, lib.XOP_READ),
    ({"write_bps": 100 * UNIT}, lib.XOP_WRITE), ({"iops": 100_000, "bps": 100 * UNIT}, lib.XOP_WRITE)])
def test_no_more_than_the_limit_comes_through(guests, limits, op):
    guests.limit(**limits)
    assert guests.seconds(40, op=op) >= SLACK * 39 / 100
    assert 0 < guests.throttled() < 40 and guests.volume(0).throttled_ns > 0


@pytest.mark.parametrize(("limits", "op"), [
    ({"read_iops": 1, "read_bps": 1}, lib.XOP_WRITE), ({"read_iops": 1, "read_bps": 1}, lib.XOP_DISCARD),
    ({"write_iops": 1, "write_bps": 1}, lib.XOP_READ), ({"iops": 1, "bps": 1}, lib.XOP_FLUSH),
    ({"iops": 1, "bps": 1}, lib.XOP_OWN), ({"iops": 1, "bps": 1}, lib.XOP_BLOCK_STATUS)])
def test_what_is_not_meant_does_not_wait(guests, limits, op):
    guests.limit(**limits)
    guests.seconds(40, op=op)
    assert guests.throttled() == 0


def test_what_was_not_used_comes_at_once(guests):
    guests.limit(iops=100, burst_ms=1000)
    guests.seconds(100)
    assert guests.throttled() == 0


def test_a_burst_is_all_that_comes_at_once(guests):
    guests.limit(iops=100, burst_ms=200)
    assert guests.seconds(60) >= SLACK * (60 - 21) / 100


def test_what_is_larger_than_a_burst_goes_on_and_is_paid_for(guests):
    guests.limit(bps=1 << 20)
    began = time.monotonic()
    guests.seconds(1, size=1 << 19)
    guests.seconds(1)
    assert time.monotonic() - began >= SLACK * 0.5
    assert guests.throttled() <= 1


def test_a_limit_that_is_raised_counts_at_once_for_those_that_wait(guests):
    guests.limit(iops=1)
    began = time.monotonic()
    guests.send(120)
    guests.answers(1)
    guests.limit(iops=100_000)
    guests.answers(119)
    assert time.monotonic() - began < 100       # and not 119


def test_a_debt_of_bytes_is_paid_at_the_rate_that_there_is_now(guests):
    guests.limit(bps=1000)
    guests.seconds(1, size=1 << 20)             # 1000 s worth
    guests.send(1)
    guests.limit(bps=1 << 30)
    guests.answers(1)


def test_a_volume_waits_for_nobody_but_itself(guests):
    guests.limit(place=0, iops=1)
    guests.limit(place=1, iops=1_000_000)
    guests.send(70, place=0)
    guests.send(25, place=1)
    guests.send(25, place=2)
    order = guests.answers(60)
    assert Counter(order)[0] < 60               # those of the others were not behind all of these
    guests.limit(place=0)
    guests.answers(60)
    assert guests.throttled(1) < 25 and guests.throttled(2) == 0


def test_two_that_wait_have_as_much_each(guests):
    for place in (0, 1):
        guests.limit(place=place, iops=100)
        guests.send(50, place=place)
    order = Counter(guests.answers(60))
    guests.answers(40)
    assert order[0] >= 10 and order[1] >= 10


def test_what_waits_keeps_its_order(guests):
    guests.limit(iops=200)
    order = []
    guests.send(40)
    sent = list(guests.sent)
    while len(order) < 40:
        for request in guests.f.port.receive(1.0):
            order.append(request.c.index)
            guests.f.port.put(request)
    assert order == sent


@pytest.mark.parametrize("guests", [{"iops_per_gib": 100}, {"bps_per_gib": 100 * UNIT}], indirect=True)
def test_a_volume_without_limits_has_some_by_its_size(guests):
    assert guests.seconds(40) >= SLACK * 39 / 100
    guests.volume(1).size = 1000 * GIB
    guests.seconds(1, place=1)
    guests.limit(place=2, iops=100_000, bps=1 << 40)        # its own count
    before = time.monotonic()
    guests.seconds(100, place=2)
    assert guests.throttled(2) < 100 and time.monotonic() - before < WAIT_S


def test_another_volume_in_the_same_place_begins_anew(guests):
    guests.limit(bps=1)
    guests.seconds(1, size=1 << 20)             # a debt for days
    guests.volume(0).generation = 2
    guests.seconds(1)
    assert guests.throttled() == 0


def test_requests_about_no_volume_or_none_that_there_is_pass(guests):
    call = guests.f.port.call
    call(guests.f.number, lib.XOP_PING)
    call(guests.f.number, lib.XOP_WRITE, object=(lib.XOBJ_DATA, 1, 1, 1), data=b"x")
    call(guests.f.number, lib.XOP_READ, volume=9_999_999, size=4096, room=4096, check=False)


# --- what people say

@pytest.mark.parametrize(("words", "text"), [
    (["write_bps=20M", "iops=500"], "iops=500 write_bps=20971520"), (["burst_ms=0", "bps=1"], "bps=1 burst_ms=0"),
    ([], "")])
def test_limits_are_read_and_have_one_form(words, text):
    assert throttle.text_of(throttle.parse(words)) == text and throttle.good_text(text)


@pytest.mark.parametrize("words", [["iops"], ["iops=0"], ["iops=-1"], ["iops=1.5"], ["iops=1K"], ["ops=1"], ["bps=x"],
                                   ["burst_ms=5"], ["iops=1", "iops=2"], ["none", "iops=1"], ["iops=" + "9" * 30],
                                   ["iops=" + "9" * 5000], ["bps=9P", "iops=٣"], ["burst_ms=3600001", "iops=1"], [""]])
def test_what_are_no_limits_is_refused(words):
    with pytest.raises(ValueError):
        throttle.parse(words)
