# SPDX-License-Identifier: Apache-2.0
"""What all filters do."""
import errno

import pytest
from filtered import DATA, HEADER, behind, errors
from loops import peers

from peers.delay import Delay
from xseg._native import lib
from xseg.errors import XsegError
from xseg.peer import Option
from xseg.request import Call, Object

LOCK = Object(lib.XOBJ_LOCK, 42)


@pytest.mark.parametrize("filter_type", ["error", "delay"])
def test_a_filter_passes_on_what_is_not_its_business(filter_type):
    with behind(filter_type, ops="open") as f:
        f.write(DATA, b"0123456789", 5)
        assert f.read(DATA, 0, 20) == bytes(5) + b"0123456789" + bytes(5)
        assert list(f.names(lib.XOBJ_DATA)) == [DATA]
        f.fails(errno.ENOENT, lib.XOP_INFO, HEADER)
        assert f.info(DATA).done == 15


def test_a_filter_passes_back_what_comes_with_an_error():
    with behind("error", ops="open") as f:
        f.call(lib.XOP_ACQUIRE, LOCK, arg=1, data=b"somebody")
        reply = f.fails(errno.EBUSY, lib.XOP_ACQUIRE, LOCK, arg=2, data=b"me", room=4096)
        assert reply.data[:reply.done] == b"somebody"


@pytest.mark.parametrize("filter_type", ["error", "delay"])
def test_a_filter_with_few_slots_serves_many_requests(filter_type):
    objects = [Object(lib.XOBJ_DATA, 1, 1, i) for i in range(500)]
    with peers(("f", filter_type, {"target": "m", "ops": "open"}), ("m", "memory", {}), static_slots=4) as f:
        assert {r.error for r in f.batch([Call(lib.XOP_WRITE, object=o, data=b"x") for o in objects])} == {0}


def test_filters_stack():
    with peers(("d", "delay", {"target": "e", "ms": 1}),
               ("e", "error", {"target": "m", "ops": "write", "every": 2}), ("m", "memory", {})) as f:
        assert errors(f, 4) == [0, errno.EIO, 0, errno.EIO]


@pytest.mark.parametrize("filter_type,options,words", [
    ("error", {"ops": "reed"}, "there is no operation reed"),
    ("error", {"errno": "EWRONG"}, "there is no error EWRONG"),
    ("delay", {"ops": "read,,write"}, "there is no operation"),
])
def test_a_wrong_option_is_named(filter_type, options, words):
    with pytest.raises(XsegError, match=words), behind(filter_type, **options):
        pass


def test_what_python_does_not_pass_stops_the_start(monkeypatch):
    monkeypatch.setattr(Delay, "options", {name: option for name, option in Delay.options.items() if name != "ms"})
    with pytest.raises(XsegError, match="option ms is missing"), behind("delay"):
        pass


@pytest.mark.parametrize(("option", "value", "words"), [
    ("ms", "-1", "-1 is not a whole number"), ("ms", "1e3", "1e3 is not a whole number"),
    ("ms", str(1 << 64), ".* is not a whole number of 18446744073709551615 at most"),
    ("order", "yes", "yes is neither 0 nor 1"), ("order", None, "nothing is neither 0 nor 1"),
])
def test_a_value_that_python_should_not_have_passed_is_named(monkeypatch, option, value, words):
    monkeypatch.setattr(Option, "native", lambda self, given: value if self is Delay.options[option] else "0")
    with pytest.raises(XsegError, match=f"option {option}: {words}"), behind("delay"):
        pass
