# SPDX-License-Identifier: Apache-2.0
"""Arguments of the mapper's verbs that are no such thing: refused with a sentence before anything is done, and
without a traceback in the log."""
import errno

import msgpack
import pytest

from peers.mapper.verbs import VERBS
from peers.mapper.verbs.arguments import ARGUMENTS, REQUIRED
from xseg._native import lib
from xseg.errors import XsegError
from xseg.peer import tell_failure

pytestmark = pytest.mark.layout("colocated")
SIZE = 1 << 30
WRONG = [-1, -(1 << 63), 1.5, True, "seven", b"seven", [], {}, [[7]], "x" * 300]


@pytest.fixture
def client(shared_instance):
    yield shared_instance.client
    for name in list(shared_instance.client.names()):
        shared_instance.client.control("remove", name=name)
    assert "Traceback" not in shared_instance.logs()


def test_every_verb_has_its_arguments():
    assert set(ARGUMENTS) == set(VERBS)


@pytest.mark.parametrize("token", WRONG)
@pytest.mark.parametrize("verb", ["create", "clone", "snapshot", "rename", "remove"])
def test_a_token_that_is_no_64_bit_number_makes_nothing_unreadable(client, verb, token):
    client.control("create", name="v", size=SIZE)
    arguments = {"create": {"name": "w", "size": SIZE}, "clone": {"name": "v", "names": ["w"]},
                 "snapshot": {"name": "v", "snapshot": "w"}, "rename": {"name": "v", "to": "w"},
                 "remove": {"name": "v"}}[verb]
    with pytest.raises(XsegError, match="token") as failure:
        client.control(verb, **arguments, token=token)
    assert failure.value.errno == errno.EINVAL
    assert list(client.names()) == ["v"]
    assert client.control("check", name="v")["problems"] == []
    client.control("remove", name="v")


@pytest.mark.parametrize("verb", ARGUMENTS)
def test_arguments_of_a_wrong_type_are_named(client, verb):
    client.control("create", name="v", size=SIZE)
    good = {"name": "v", "size": SIZE, "snapshot": "s", "to": "t", "names": ["c"]}
    arguments = {key: good[key] for key in ARGUMENTS[verb] if key in good}
    for key in ARGUMENTS[verb]:
        for value in ([], {}, 1.5, b"v", -1):
            with pytest.raises(XsegError) as failure:
                client.control(verb, **{**arguments, key: value})
            assert failure.value.errno == errno.EINVAL and failure.value.strerror, (verb, key, value)
    assert list(client.names()) == ["v"]


def test_arguments_that_are_missing_or_unknown_are_named(client):
    for verb, arguments in ARGUMENTS.items():
        for key in (key for key, argument in arguments.items() if argument.default is REQUIRED):
            with pytest.raises(XsegError, match=f"{verb}: the argument .* is missing"):
                client.control(verb, **{name: "v" for name in arguments if name != key and name == "name"})
        with pytest.raises(XsegError, match="there is no argument 'colour'"):
            client.control(verb, colour="red")


@pytest.mark.parametrize("arguments, words", [
    ({}, "either names or a pattern"), ({"names": []}, "names"), ({"pattern": "c-{}"}, "pattern and a count"),
    ({"pattern": "c", "count": 2}, "once"), ({"pattern": "c-{}", "count": 0}, "count"),
    ({"pattern": "c-{}", "count": 100001}, "count"), ({"names": ["c", 7]}, "empty"),
    ({"names": ["c", "c"]}, "twice"), ({"names": ["c"], "pattern": "d-{}", "count": 1}, "either")])
def test_what_a_clone_request_must_say(client, arguments, words):
    client.control("create", name="v", size=SIZE)
    with pytest.raises(XsegError, match=words):
        client.control("clone", name="v", **arguments)
    assert list(client.names()) == ["v"]


@pytest.mark.parametrize("data", [
    b"", b"\xc1", b"\x81\xa4verb", msgpack.packb([1]), msgpack.packb({"verb": 7}), msgpack.packb({"verb": ["list"]}),
    msgpack.packb({"verb": {"a": 1}}), msgpack.packb({b"verb": b"list"}), msgpack.packb({"name": "v"}),
    b"\x91" * 5000, b"\xdf\xff\xff\xff\xff", b"\xa5\xff\xfe\xfd\xfc\xfb"])
def test_a_control_request_that_is_none_is_refused(client, data):
    reply = client.call("mapper", lib.XOP_CONTROL, data=data, room=4096, check=False)
    assert reply.error == errno.EOPNOTSUPP and msgpack.unpackb(reply.data)["error"]


def test_a_failure_that_is_asked_for_again_has_one_traceback(caplog):
    import logging
    for number in range(5):
        try:
            raise ZeroDivisionError(number)
        except ZeroDivisionError as failure:
            tell_failure(logging.getLogger("x"), f"request {number}", failure)
    assert len(caplog.records) == 5 and sum(bool(record.exc_info) for record in caplog.records) == 1
