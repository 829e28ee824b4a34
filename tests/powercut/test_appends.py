# SPDX-License-Identifier: Apache-2.0
"""Records that vlmc appends past the mapper (native/map/map.h, "Appending"): whoever dies at whatever turn, what was
flushed is there after a power cut, and a fault in the order of things is found."""
import asyncio
import errno

import cut_node
import pytest
from cut_disk import DiskPeer
from cut_node import ROLES
from cut_work import BLOCK, CUTS, KILLS, History
from test_kills_in_turn import SIZE, Store, good, read, turns, write

from peers.mapper import handed
from xseg._native import lib

LARGE_JOURNAL = 1 << 20
VLMC = list(ROLES).index("vlmc")    # its port
RECORDS = 60
CATCH_MOST = 40                     # histories in which a fault that is put in must be found


@pytest.fixture
def roomy(monkeypatch):
    """Frames enough that nothing commits by itself."""
    monkeypatch.setitem(cut_node.SEGMENT, "frames", 128)


async def flush(node, handle):
    await node.call(lib.XOP_FLUSH, volume=handle)


def mapper_requests(node):
    """How many requests the mapper has got of vlmc."""
    return node.segment.c.ports[node.mapper_port].received


async def begin(node):
    """A volume of which vlmc has the turn to append."""
    await node.control("create", name="v", size=SIZE, block_size=BLOCK)
    handle = await node.open("v")
    await write(node, handle, 0, b"zero")
    await flush(node, handle)
    assert node.segment.c.volumes[handle - 1].append == lib.XAPPEND_HANDED
    return handle


def store(seed=1):
    return Store(seed, LARGE_JOURNAL)


@pytest.mark.usefixtures("roomy")
def test_a_flush_whose_map_changed_asks_the_mapper_nothing():
    async def work(node):
        handle = await begin(node)
        shared, before = node.segment.c.volumes[handle - 1], mapper_requests(node)
        for block in range(1, 11):
            await write(node, handle, block, b"new.")
            await flush(node, handle)
        assert mapper_requests(node) == before
        assert shared.appends == 10

    async def look(node):
        assert [await read(node, "v", block) for block in range(12)] == [b"zero"] + [b"new."] * 10 + [bytes(4)]
        await good(node, "v")

    one = store()
    one.live(work)
    one.live(look)


@pytest.mark.usefixtures("roomy")
@pytest.mark.parametrize("ender", ["close", "snapshot", "resize", "check", "kill both", "cut"])
def test_what_the_mapper_has_not_learned_is_there(ender):
    async def work(node):
        handle = await begin(node)
        for block in (1, 2, 3):
            await write(node, handle, block, b"new.")
            await flush(node, handle)
        if ender == "close":
            await node.close_volume(handle)
        elif ender == "snapshot":
            await node.control("snapshot", name="v", snapshot="s")
            assert [await read(node, "s", block) for block in (0, 1, 3)] == [b"zero", b"new.", b"new."]
        elif ender == "resize":
            await node.control("resize", name="v", size=2 * SIZE)
        elif ender == "check":
            assert (await node.control("info", name="v"))["open"]["journal_bytes"] == 4 * lib.RECORD_ALIGN
            await good(node, "v")
        elif ender == "kill both":
            await node.kill_mapper()
            node.kill_vlmc()
            await write(node, handle, 4, b"more")
            await flush(node, handle)

    async def look(node):
        assert [await read(node, "v", block) for block in (0, 1, 2, 3)] == [b"zero", b"new.", b"new.", b"new."]
        await good(node, "v")

    one = store()
    one.live(work)
    one.live(look)


@pytest.mark.usefixtures("roomy")
@pytest.mark.parametrize("victims", ["vlmc", "mapper", "mapper vlmc", "vlmc mapper"])
@pytest.mark.parametrize("after", range(1, 12))
def test_deaths_around_an_append(after, victims):
    one = store(after)

    async def work(node):
        handle = await begin(node)
        await write(node, handle, 1, b"one.")
        first = asyncio.ensure_future(flush(node, handle))
        await turns(node, after)
        await write(node, handle, 2, b"two.")
        for victim in victims.split():
            if victim == "vlmc":
                node.kill_vlmc()
            else:
                await node.kill_mapper()
            await turns(node, after % 3)
        await write(node, handle, 3, b"thre")
        await asyncio.gather(first, flush(node, handle), node.control("snapshot", name="v", snapshot="s"))
        assert await read(node, "s", 2) == b"two."

    async def look(node):
        assert [await read(node, "v", block) for block in range(4)] == [b"zero", b"one.", b"two.", b"thre"]
        await good(node, "v", "s")

    one.live(work)
    one.live(look)


@pytest.mark.usefixtures("roomy")
def test_a_checkpoint_waits_for_a_record_on_its_way():
    async def work(node):
        handle, disk = await begin(node), node.disks[1]
        await write(node, handle, 1, b"one.")
        disk.turn = lambda: None        # the record waits
        first = asyncio.ensure_future(flush(node, handle))
        while node.segment.c.volumes[handle - 1].append != lib.XAPPEND_WRITING:
            await turns(node, 1)
        second = asyncio.ensure_future(node.mapper.hand.handles[handle].checkpoint())
        await turns(node, 50)
        assert len(disk.waiting) == 1, "the mapper goes on while the record is on its way"
        del disk.turn
        await asyncio.gather(first, second)

    async def look(node):
        assert [await read(node, "v", block) for block in (0, 1)] == [b"zero", b"one."]
        await good(node, "v")

    one = store()
    one.live(work)
    one.live(look)


@pytest.mark.usefixtures("roomy")
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("part", ["nothing", "half", "all"])
def test_after_a_failed_append_nothing_is_written_behind_it(part, code):
    """Of a record of several sectors nothing, a half or all is there."""
    one = store()

    async def work(node):
        handle, disk = await begin(node), node.disks[1]
        serve, failed, shared = disk.serve, [], node.segment.c.volumes[handle - 1]
        journal = shared.append_number

        def fail(request, covered):
            if request.c.src != node.vlmc_port or failed:
                return serve(request, covered)
            failed.append(request.c.offset)
            whole = request.c.size
            request.c.size = {"nothing": 0, "half": 512, "all": whole}[part]
            change = serve(request, covered)[1] if part != "nothing" else None
            request.c.size = whole
            return code, change

        disk.serve = fail
        for block in range(1, 16):
            await write(node, handle, block, b"new.")
        with pytest.raises(OSError) as caught:
            await flush(node, handle)
        assert caught.value.errno == code
        assert shared.append == lib.XAPPEND_DOUBT
        await flush(node, handle)
        assert shared.append == lib.XAPPEND_HANDED and shared.append_number > journal

    async def look(node):
        assert [await read(node, "v", block) for block in range(16)] == [b"zero"] + [b"new."] * 15
        await good(node, "v")

    one.live(work)
    one.live(look)


@pytest.mark.usefixtures("roomy")
def test_a_death_between_the_two_words_of_an_append_counts_as_not_acknowledged():
    async def work(node):
        handle = await begin(node)
        shared = node.segment.c.volumes[handle - 1]
        await write(node, handle, 1, b"one.")
        before = shared.commit_seq
        await flush(node, handle)
        shared.commit_seq, shared.append = before, lib.XAPPEND_WRITING     # as if the second were not written
        node.kill_vlmc()
        await turns(node, 3)
        assert shared.append == lib.XAPPEND_DOUBT
        await write(node, handle, 2, b"two.")
        await flush(node, handle)
        await write(node, handle, 1, b"more")
        await flush(node, handle)
        await good(node, "v")

    store().live(work)


@pytest.mark.usefixtures("roomy")
def test_a_full_place_is_handed_out_anew_and_journals_are_folded():
    """With a limit of 4 KiB each eighth record goes by the mapper, at least."""
    async def work(node):
        await node.control("create", name="v", size=RECORDS * BLOCK, block_size=BLOCK)
        handle = await node.open("v")
        for number in range(RECORDS):
            await write(node, handle, number, b"%04d" % number)
            await flush(node, handle)
        assert RECORDS / 2 < node.segment.c.volumes[handle - 1].appends < RECORDS * 7 / 8

    async def look(node):
        handle = await node.open("v")
        for number in range(RECORDS):
            found = await node.call(lib.XOP_READ, volume=handle, offset=number * BLOCK, size=4, room=4)
            assert found.data == b"%04d" % number
        await node.close_volume(handle)
        await good(node, "v")

    one = Store()
    one.live(work)
    one.live(look)


@pytest.mark.usefixtures("roomy")
def test_after_a_new_life_of_any_peer_a_record_goes_by_the_mapper_once():
    """The lock may have been lost with the life before: the mapper takes it again first."""
    async def work(node):
        handle = await begin(node)
        node.segment.c.ports[node.segment.port_of("blockerm")].incarnation += 1
        for block, asked in ((1, 1), (2, 0)):
            before = mapper_requests(node)
            await write(node, handle, block, b"new.")
            await flush(node, handle)
            assert mapper_requests(node) == before + asked

    store().live(work)


@pytest.mark.usefixtures("roomy")
def test_a_filter_that_only_the_mapper_has_keeps_vlmc_from_appending():
    async def work(node):
        handle = await begin(node)
        node.segment.set_route("vlmc>blockerm", node.segment.port_of("blockerb"))
        before = mapper_requests(node)
        for block in (1, 2):
            await write(node, handle, block, b"new.")
            await flush(node, handle)
        assert mapper_requests(node) == before + 2

    store().live(work)


@pytest.mark.usefixtures("roomy")
def test_what_follows_a_checkpoint_or_snapshot_goes_into_the_journal_that_it_began():
    one = store()

    async def work(node):
        handle = await begin(node)
        for block in (1, 2, 3):
            await write(node, handle, block, b"new.")
            await flush(node, handle)
            await node.mapper.hand.handles[handle].checkpoint()
            if block == 2:
                await node.control("snapshot", name="v", snapshot="s")

    async def look(node):
        assert [await read(node, "v", block) for block in range(4)] == [b"zero", b"new.", b"new.", b"new."]
        await good(node, "v")

    one.live(work)
    one.live(look)


# --- would they find a fault?

def no_fua(monkeypatch):
    """vlmc's records are acknowledged before they are durable."""
    serve = DiskPeer.serve

    def weak(self, request, covered):
        if request.c.src == VLMC and request.c.op == lib.XOP_WRITE and request.c.object.kind == lib.XOBJ_JOURNAL:
            request.c.flags &= ~lib.XREQ_FUA
        return serve(self, request, covered)

    monkeypatch.setattr(DiskPeer, "serve", weak)


def not_learned(monkeypatch):
    """The mapper shows a map without what vlmc has appended."""
    async def nothing(self):
        pass

    monkeypatch.setattr(handed.Handed, "learn", nothing)


def not_waited_for(monkeypatch):
    """The mapper changes the journal while a record of vlmc's is on its way there."""
    async def rob(self, shared):
        lib.export_append(shared, lib.XAPPEND_MAPPER)
        await self.learn()
        self.shared = self.stretch = None
        return False

    monkeypatch.setattr(handed.Handed, "back", rob)


def not_taken_back(monkeypatch):
    """The mapper and vlmc append to one place."""
    async def only_learn(self, shared):
        await self.learn()
        self.shared = self.stretch = None
        return False

    monkeypatch.setattr(handed.Handed, "back", only_learn)


@pytest.mark.parametrize("fault", [no_fua, not_learned])
def test_a_fault_in_the_order_of_appends_is_found(monkeypatch, fault):
    fault(monkeypatch)
    with pytest.raises((AssertionError, OSError)):
        for seed in range(CATCH_MOST):
            History(seed, KILLS if seed % 2 else (0,)).run(CUTS)


def doubt_forgotten(monkeypatch):
    """Records are written behind one that failed."""
    back = handed.Handed.back

    async def sure(self, shared):
        await back(self, shared)
        return False

    monkeypatch.setattr(handed.Handed, "back", sure)


@pytest.mark.usefixtures("roomy")
def test_a_record_behind_a_failed_one_is_found(monkeypatch):
    doubt_forgotten(monkeypatch)
    with pytest.raises(AssertionError):
        test_after_a_failed_append_nothing_is_written_behind_it("nothing", errno.EIO)


@pytest.mark.usefixtures("roomy")
def test_a_checkpoint_amid_an_append_is_found(monkeypatch):
    not_waited_for(monkeypatch)
    with pytest.raises(AssertionError):
        test_a_checkpoint_waits_for_a_record_on_its_way()


@pytest.mark.usefixtures("roomy")
def test_two_that_append_to_one_journal_are_found(monkeypatch):
    not_taken_back(monkeypatch)
    with pytest.raises((AssertionError, OSError)):
        test_what_follows_a_checkpoint_or_snapshot_goes_into_the_journal_that_it_began()
