# SPDX-License-Identifier: Apache-2.0
"""The filter that holds requests back."""
import time

from filtered import DATA, behind

from xseg._native import lib
from xseg.request import Call


def answers(f, calls):
    """Sends all at once; the positions of the calls in the order in which they were answered."""
    requests = [f.port.get(call.buffer_size()) for call in calls]
    for call, request in zip(calls, requests, strict=True):
        call.put(f.port.c, request.c)
    position = {request.c.index: i for i, request in enumerate(requests)}
    f.port.send(f.number, requests)
    order = []
    while len(order) < len(calls):
        for request in f.port.receive(5.0):
            order.append(position[request.c.index])
            f.port.put(request)
    return order


READ = Call(lib.XOP_READ, object=DATA, size=1, room=1)
WRITE = Call(lib.XOP_WRITE, object=DATA, data=b"x")


def test_delay_holds_at_least_as_long_as_it_says():
    with behind("delay", ops="write", ms=50) as f:
        began = time.monotonic()
        f.write(DATA, b"x")
        assert time.monotonic() - began >= 0.05


def test_delay_keeps_the_order():
    with behind("delay", ops="write", ms=20) as f:
        assert answers(f, [WRITE, READ, WRITE, READ]) == [0, 1, 2, 3]


def test_without_order_others_overtake():
    with behind("delay", ops="write", ms=20, order=False) as f:
        assert answers(f, [WRITE, READ, WRITE, READ]) == [1, 3, 0, 2]
