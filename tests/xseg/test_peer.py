# SPDX-License-Identifier: Apache-2.0
"""Peers served by Python: the table of operations, errors, calls to others, options."""
import asyncio
import errno
import logging

import pytest

from xseg import errors
from xseg._native import lib
from xseg.aio import AsyncPort, Hub
from xseg.peer import Option, Peer, below_home, parse_size


class Sample(Peer):
    """A peer whose operations do what peers do, well and badly."""

    type = "sample"
    targets = ("store",)

    async def ping(self, request):
        """Leaves the answer to Peer."""

    async def read(self, request):
        request.data[:request.c.size] = b"r" * request.c.size
        request.reply(done=request.c.size)

    async def control(self, request):
        request.reply(errno.EBUSY, data=request.payload[::-1])

    async def sync(self, request):
        raise errors.ReadOnly("no")

    async def info(self, request):
        raise ValueError("a fault of the peer")

    async def write(self, request):
        reply = await self.call("store", lib.XOP_WRITE, data=request.payload, parent=request)
        request.reply(done=reply.done)

    async def flush(self, request):
        await asyncio.Event().wait()

    ops = {lib.XOP_PING: ping, lib.XOP_READ: read, lib.XOP_CONTROL: control, lib.XOP_SYNC: sync,
           lib.XOP_INFO: info, lib.XOP_WRITE: write, lib.XOP_FLUSH: flush}


def served(segment, script):
    """Runs script(client, number, peer) against a Sample: another port of the same event loop calls it."""

    async def main():
        number = segment.declare("sample", "sample", "test")
        segment.declare("store", "test", "test")
        hub, other = Hub(segment), Hub(segment)
        peer = Sample(AsyncPort(hub, number, "sample"), "/", "sample", {})
        peer.port.serve(peer.handle)
        client = AsyncPort(other)
        try:
            async with asyncio.timeout(20):
                return await script(client, number, peer)
        finally:
            for task in list(peer.port.tasks):
                task.cancel()
            await asyncio.gather(*peer.port.tasks, return_exceptions=True)
            other.close()
            hub.close()

    return asyncio.run(main())


def call(segment, op, **fields):
    async def script(client, number, peer):
        return await client.call(number, op, check=False, **fields)

    return served(segment, script)


def test_an_operation_left_unanswered_succeeds(segment):
    assert call(segment, lib.XOP_PING).error == 0


def test_an_unknown_operation_is_answered_as_unsupported(segment):
    assert call(segment, lib.XOP_HASH).error == errno.EOPNOTSUPP


def test_an_operation_that_is_no_operation_at_all_is_answered(segment):
    assert call(segment, 999).error == errno.EOPNOTSUPP


def test_data_come_back_with_the_answer(segment):
    reply = call(segment, lib.XOP_READ, size=5000, room=5000)
    assert (reply.done, reply.data) == (5000, b"r" * 5000)


def test_an_error_may_bring_data(segment):
    reply = call(segment, lib.XOP_CONTROL, data=b"abc", room=100)
    assert (reply.error, reply.data) == (errno.EBUSY, b"cba")


def test_an_exception_with_an_errno_becomes_the_answers_error(segment):
    assert call(segment, lib.XOP_SYNC).error == errno.EROFS


def test_a_fault_of_the_peer_is_an_io_error_and_in_the_log(segment, caplog):
    with caplog.at_level(logging.ERROR):
        assert call(segment, lib.XOP_INFO).error == errno.EIO
    assert "a fault of the peer" in caplog.text


def test_data_outside_the_segment_are_an_error_of_the_request(segment):
    async def script(client, number, peer):
        c = lib.xreq_get(client.c)
        c.op, c.size, c.data, c.data_size = lib.XOP_CONTROL, 4096, segment.c.size - 1, 4096
        client._calls[c.index] = future = asyncio.get_running_loop().create_future()
        lib.xreq_send(client.c, c, number)
        client.hub.flush_soon()
        await future
        return -c.error

    assert served(segment, script) == errno.EINVAL


def test_a_peer_calls_another_in_the_name_of_the_request_it_serves(segment):
    async def script(client, number, peer):
        seen = []

        async def store(request):
            seen.append((request.payload, request.c.parent, request.c.flow))
            request.reply(done=request.c.size)

        hub = Hub(segment)
        port = AsyncPort(hub, segment.port_of("store"), "store")
        port.serve(store)
        reply = await client.call(number, lib.XOP_WRITE, data=b"data")
        hub.close()
        return reply.done, seen

    done, seen = served(segment, script)
    assert done == 4
    assert [payload for payload, _, _ in seen] == [b"data"]
    assert seen[0][1] != 0 and seen[0][2] == seen[0][1], "parent and flow name the request served"


def test_the_role_of_a_target_is_looked_up_for_each_call(segment):
    async def script(client, number, peer):
        before = peer.target("store")
        segment.set_route("sample>store", number)
        return before, peer.target("store")

    before, after = served(segment, script)
    assert (before, after) == (segment.port_of("store"), segment.port_of("sample"))


def test_more_calls_than_the_port_has_slots_wait_for_their_turn(segment):
    async def script(client, number, peer):
        count = client.c.shared.count * 3
        replies = await asyncio.gather(*(client.call(number, lib.XOP_READ, size=10, room=10) for _ in range(count)))
        return count, [reply.done for reply in replies]

    count, done = served(segment, script)
    assert done == [10] * count


def test_a_batch_of_calls_rings_once(segment):
    async def script(client, number, peer):
        await asyncio.gather(*(client.call(number, lib.XOP_PING) for _ in range(50)))
        return client.c.shared.rings

    assert served(segment, script) <= 2


def test_a_call_that_times_out_gives_its_slot_back_when_the_answer_comes(segment):
    async def script(client, number, peer):
        free = client.c.free_count
        with pytest.raises(errors.TimedOut, match="sample did not answer flush"):
            await client.call(number, lib.XOP_FLUSH, timeout=0.05, room=64)
        under_way = free - client.c.free_count
        for task in list(peer.port.tasks):
            task.cancel()
        await asyncio.sleep(0)
        return under_way

    assert served(segment, script) == 1


def test_a_cancelled_call_gives_its_slot_back(segment):
    async def script(client, number, peer):
        free = client.c.free_count
        task = asyncio.create_task(client.call(number, lib.XOP_READ, size=1, room=1))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        while client.c.free_count != free:
            await asyncio.sleep(0.001)
        return True

    assert served(segment, script)


def test_requests_that_come_before_a_role_is_served_wait(segment):
    async def script(client, number, peer):
        peer.port.handler = None
        waiting = asyncio.ensure_future(client.call(number, lib.XOP_READ, size=3, room=4096))
        for _ in range(20):
            await asyncio.sleep(0.005)
        assert not waiting.done()
        peer.port.serve(peer.handle)
        return (await waiting).data

    assert served(segment, script) == b"rrr"


def test_requests_that_come_while_a_port_drains_wait_for_its_next_owner(segment):
    async def script(client, number, peer):
        peer.port.pause()
        pending = asyncio.create_task(client.call(number, lib.XOP_PING))
        while not peer.port._kept:
            await asyncio.sleep(0.001)
        peer.port.close()
        hub = Hub(segment)
        successor = AsyncPort(hub, number, "sample")
        successor.serve(peer.handle)
        peer.port = successor
        reply = await pending
        hub.close()
        return reply.error

    assert served(segment, script) == 0


# --- options


@pytest.mark.parametrize(("text", "size"), [
    (4096, 4096), ("512", 512), ("64K", 65536), ("4MiB", 4 << 20), ("1.5G", 3 << 29), ("2TiB", 2 << 40),
    ("1p", 1 << 50), (" 8k ", 8192), ("10GB", 10 ** 10), ("1.5kB", 1500), ("512B", 512),
])
def test_sizes_take_the_usual_suffixes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "K", "12Q", "1.3", "4 4", "ten", "1e3", "0x10", "--1", "8192P", "9" * 40,
                                  "\ud8001"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(errors.Invalid):
        parse_size(text)


@pytest.mark.parametrize(("option", "value", "words"), [
    (Option(1, "int", "", minimum=1), 0, "must be 1 or more"),
    (Option(1, "int", "", maximum=9), 10, "must be 9 or less"),
    (Option(1, "int", ""), "1", "must be a whole number"),
    (Option(1, "int", ""), True, "must be a whole number"),
    (Option(1.0, "float", ""), "x", "must be a number"),
    (Option(False, "bool", ""), 1, "must be true or false"),
    (Option("a", "str", "", choices=("a", "b")), "c", "must be one of a, b"),
    (Option("a", "path", ""), 5, "must be a text"),
    (Option(1, "size", ""), "1Q", "is no size"),
])
def test_an_option_says_what_it_allows(option, value, words):
    with pytest.raises(errors.Invalid, match=words):
        option.parse(value)


def test_relative_paths_lie_below_the_home():
    assert below_home("data", "/srv/a") == "/srv/a/data"
    assert below_home("/data/../other", "/srv/a") == "/other"


def test_options_reach_the_native_half_as_text():
    assert [Option(None, "bool", "").native(v) for v in (True, False, 5, "x")] == ["1", "0", "5", "x"]
