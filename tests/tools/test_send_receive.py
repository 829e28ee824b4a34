# SPDX-License-Identifier: Apache-2.0
"""`vlmc send` and `vlmc receive`: between instances, cut, damaged, killed, in the wrong place."""
import io
import itertools
import json
import os
import random
import signal
import subprocess

import pytest
from support import BIN, unsynced, wait_until

from tools.vlmc import _stream
from tools.vlmc._stream import DATA_MAX, Head, Reader, Writer
from xseg.errors import Damaged, Invalid

MIB = 1 << 20
BLOCK = 65536
SIZE = 4 * MIB
NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def other():
    """Another instance, with a store of its own."""
    with unsynced() as made:
        yield made


@pytest.fixture
def name():
    """Of a volume of the test's own."""
    return f"v{next(NUMBERS)}"


def put(node, name, *writes):
    """Writes (offset, data) into a volume; None as data: 100,000 zeros."""
    with node.client.open(name) as volume:
        for offset, data in writes:
            if data is None:
                volume.zeroes(offset, 100_000)
            else:
                volume.write(offset, data)
        volume.flush()


def content(node, name):
    with node.client.open(name) as volume:
        return volume.read(0, volume.size)


def send(node, *words):
    """The stream."""
    return node.vlmc("send", *words, text=False).stdout


def receive(node, stream, *words, check=True):
    done = node.run("vlmc", "receive", *words, input=stream, text=False, check=check)
    return done.returncode, done.stderr.decode()


@pytest.fixture
def stream(node, name):
    """A volume, its snapshot NAME-1, and the stream of that."""
    node.vlmc("create", name, "--size", str(SIZE), "--block-size", "64K")
    put(node, name, (0, b"one" * 1000), (MIB, os.urandom(2 * BLOCK)), (SIZE - 512, b"end" * 100))
    node.vlmc("snapshot", name, f"{name}-1")
    return send(node, f"{name}-1")


def nothing_of(node, name):
    """True if there is nothing of that name, whole or half-made."""
    return name not in {row.get("name") for row in node.vlmc_json("list")}


# --- what comes is what was sent

@pytest.mark.parametrize("options", [[], ["--zstd"], ["--zstd", "9"]])
def test_a_snapshot_is_received_as_it_was(node, other, name, stream, options):
    if options:
        stream = send(node, f"{name}-1", *options)
    to = f"{name}-r"
    assert receive(other, stream, to)[0] == 0
    assert content(other, to) == content(node, f"{name}-1")
    info = other.vlmc_json("info", to)
    assert (info["kind"], info["readonly"], info["parent"], info["making"]) == ("snapshot", True, None, None)
    assert info["origin"] == node.vlmc_json("info", f"{name}-1")["id"]
    assert other.vlmc_json("diff", to) == node.vlmc_json("diff", f"{name}-1")
    assert len(stream) < SIZE / 8, "zeros are not in it"


def test_a_chain_over_an_open_clone_keeps_bytes_and_lineage(node, other, name, stream):
    dice = random.Random(1)
    node.vlmc("clone", f"{name}-1", f"{name}-c")
    chain = [f"{name}-1"]
    with node.client.open(f"{name}-c") as volume:
        for number in range(2, 6):
            for _ in range(5):
                volume.write(dice.randrange(SIZE - 9000), dice.randbytes(dice.randrange(1, 9000)))
            volume.zeroes(dice.randrange(SIZE - 100_000), 100_000)
            if number == 4:
                node.vlmc("resize", f"{name}-c", str(SIZE + MIB))
            chain.append(f"{name}-{number}")
            node.vlmc("snapshot", f"{name}-c", chain[-1])
    receive(other, stream, f"of-{chain[0]}")
    for before, after in zip(chain, chain[1:], strict=False):
        receive(other, send(node, "--from", before, after, "--zstd"), f"of-{after}")
        assert content(other, f"of-{after}") == content(node, after)
        assert other.vlmc_json("info", f"of-{after}")["parent"] == f"of-{before}"
        assert other.vlmc_json("diff", f"of-{before}", f"of-{after}") == node.vlmc_json("diff", before, after)
    back = send(other, "--from", f"of-{chain[1]}", f"of-{chain[4]}")
    receive(node, back, f"{name}-back")
    assert node.vlmc_json("info", f"{name}-back")["parent"] == chain[1], "it is known where it comes from"
    assert node.vlmc_json("diff", f"{name}-back", chain[4], "--summary")["size"] == SIZE + MIB
    assert content(node, f"{name}-back") == content(node, chain[4])
    for instance in (node, other):
        assert all(not found["problems"] for found in instance.vlmc_json("check"))


def test_what_became_smaller_and_what_became_zeros_is_received(node, other, name, stream):
    put(node, name, (MIB - 10, None))
    node.vlmc("resize", name, str(2 * MIB - 512), "--allow-shrink")
    node.vlmc("snapshot", name, f"{name}-2")
    receive(other, stream, f"{name}-1")
    receive(other, send(node, f"{name}-2", "--from", f"{name}-1"), f"{name}-2")
    assert content(other, f"{name}-2") == content(node, f"{name}-2")
    assert content(other, f"{name}-1") == content(node, f"{name}-1"), "the base is as it was"


def test_what_was_received_is_cloned_and_removed_like_any_snapshot(node, other, name, stream):
    receive(other, stream, f"{name}-r")
    other.vlmc("clone", f"{name}-r", f"{name}-c")
    put(other, f"{name}-c", (0, b"mine"))
    assert content(other, f"{name}-r") == content(node, f"{name}-1")
    other.vlmc("remove", f"{name}-r")
    assert content(other, f"{name}-c") == b"mine" + content(node, f"{name}-1")[4:]


def test_a_base_is_found_by_its_id_whatever_it_is_called(node, other, name, stream):
    receive(other, stream, f"{name}-1")
    other.vlmc("rename", f"{name}-1", f"{name}-renamed")
    other.vlmc("create", f"{name}-1", "--size", str(SIZE))
    put(node, name, (5, b"more"))
    node.vlmc("snapshot", name, f"{name}-2")
    more = send(node, "--from", f"{name}-1", f"{name}-2")
    receive(other, more, f"{name}-2")
    assert other.vlmc_json("info", f"{name}-2")["parent"] == f"{name}-renamed"
    assert content(other, f"{name}-2") == content(node, f"{name}-2")
    code, said = receive(other, more, f"{name}-3", "--base", f"{name}-2", check=False)
    assert code == 1 and f"builds on snapshot '{name}-1'" in said and f"'{name}-2' is another" in said
    receive(other, more, f"{name}-3", "--base", f"{name}-renamed")
    assert content(other, f"{name}-3") == content(node, f"{name}-2")


# --- what is refused

def test_a_base_that_is_not_there_is_named(node, other, name, stream):
    put(node, name, (5, b"more"))
    node.vlmc("snapshot", name, f"{name}-2")
    code, said = receive(other, send(node, "--from", f"{name}-1", f"{name}-2"), f"{name}-2", check=False)
    assert code == 1 and f"'{name}-1' (id {node.vlmc_json('info', f'{name}-1')['id']})" in said
    assert nothing_of(other, f"{name}-2")


def test_a_name_that_is_taken_is_refused_and_what_has_it_stays(node, other, name, stream):
    other.vlmc("create", name, "--size", "1M")
    code, said = receive(other, stream, name, check=False)
    assert code == 1 and f"'{name}' exists already" in said
    assert other.vlmc_json("info", name)["kind"] == "volume"


def test_a_volume_is_not_sent(node, name, stream):
    for words in ((name,), ("--from", name, f"{name}-1")):
        failed = node.vlmc("send", *words, check=False)
        assert failed.returncode == 1 and "take a snapshot of it" in failed.stderr and not failed.stdout


@pytest.mark.parametrize(("data", "words"), [
    (b"", "cut short in its preamble"), (b"x" * 1000, "no stream of `vlmc send`"),
    (_stream.PREAMBLE.pack(b"ARCHSEND", 2, 0) + bytes(100), "it has version 2 of the format")])
def test_what_is_no_stream_or_a_newer_one_is_told(other, name, data, words):
    code, said = receive(other, data, name, check=False)
    assert code == 1 and words in said and said.startswith("vlmc: standard input: ")
    assert nothing_of(other, name)


# --- cut and damaged

def small():
    """A stream of every kind of record."""
    out = io.BytesIO()
    writer = Writer(out.write, level=3)
    writer.begin(Head("snap", 7, 5, "base", SIZE, BLOCK, 1))
    writer.piece(0, b"a" * 5000 + bytes(8192) + random.Random(1).randbytes(300), zeros_count=True)
    writer.piece(BLOCK, b"b" * 9000, zeros_count=True)
    writer.end()
    return out.getvalue()


def read_all(data):
    reader = Reader(io.BytesIO(data).read)
    return reader.head, list(reader.pieces())


def test_what_was_written_is_read():
    head, pieces = read_all(small() + b"what follows is another's")
    assert head == Head("snap", 7, 5, "base", SIZE, BLOCK, 1)
    image = bytearray(b"?" * (2 * BLOCK))
    for piece in pieces:
        image[piece.offset:piece.offset + piece.length] = piece.data or bytes(piece.length)
    assert image[:5000] == b"a" * 5000 and image[8192:12288] == bytes(4096)
    assert image[BLOCK:BLOCK + 9000] == b"b" * 9000 and {piece.data is None for piece in pieces} == {True, False}


def test_a_cut_at_any_byte_is_noticed():
    data = small()
    for size in range(len(data)):
        with pytest.raises(Damaged, match="cut short"):
            read_all(data[:size])


def test_any_bit_that_flips_is_noticed():
    data = small()
    for place in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            with pytest.raises((Damaged, Invalid)):
                read_all(bytes(flipped))


def test_a_record_that_is_left_out_doubled_or_of_another_order_is_noticed():
    data, at, ends = small(), _stream.PREAMBLE.size, []
    while at < len(data):
        at += 24 + int.from_bytes(data[at + 4:at + 8], "little")
        ends.append(at)
    parts = [data[start:end] for start, end in zip([16, *ends], ends, strict=False)]
    assert len(parts) > 4
    for place in range(len(parts)):
        for changed in (parts[:place] + parts[place + 1:], parts[:place + 1] + parts[place:],
                        parts[:place] + parts[place:][::-1]):
            if changed[:len(parts)] != parts:       # what follows the end mark is not looked at
                with pytest.raises(Damaged):
                    read_all(data[:16] + b"".join(changed))


@pytest.mark.parametrize("kind, payload", [
    (b"DATA", b"x"), (b"DATA", (SIZE - 1).to_bytes(8, "little") + b"xx"), (b"ZERO", bytes(16)), (b"NONE", b""),
    (b"ZERO", (SIZE).to_bytes(8, "little") + (1 << 63).to_bytes(8, "little")), (b"ZDAT", bytes(8) + b"\5\0\0\0x"),
    (b"DONE", bytes(8)), (b"HEAD", b""), (b"DATA", (1 << 63).to_bytes(8, "little") + b"x")])
def test_records_that_make_no_sense_are_refused(kind, payload):
    out = io.BytesIO()
    writer = Writer(out.write)
    writer.begin(Head("snap", 7, 0, "", SIZE, BLOCK, 1))
    writer.record(kind, payload)
    writer.end()
    with pytest.raises(Damaged):
        read_all(out.getvalue())


def test_a_compressed_record_is_no_bomb():
    import zstandard
    for size in (DATA_MAX + 1, 1 << 30):
        packed = zstandard.ZstdCompressor().compress(bytes(size))
        assert _stream.unpack_piece(b"ZDAT", _stream.PACKED.pack(0, 4096) + packed) is None
        assert _stream.unpack_piece(b"ZDAT", _stream.PACKED.pack(0, size % (1 << 32)) + packed) is None


@pytest.mark.parametrize("part", [0.01, 0.3, 0.9, 1])
def test_of_a_stream_that_is_cut_or_damaged_nothing_is_left(other, name, stream, part):
    cut = stream[:min(int(part * len(stream)), len(stream) - 1)]
    for data in (cut, cut[:-1] + bytes([cut[-1] ^ 1]) + stream[len(cut):]):
        code, said = receive(other, data, f"{name}-r", check=False)
        assert code == 1 and ("cut short" in said or "damaged" in said)
        assert nothing_of(other, f"{name}-r")


# --- ends of either side

def begun(node, name, data):
    """A receiver that has got a part of a stream, and made its volume."""
    child = subprocess.Popen([os.path.join(BIN, "vlmc"), "receive", name], stdin=subprocess.PIPE,
                             stderr=subprocess.PIPE, env={**os.environ, **node.env})
    child.stdin.write(data)
    child.stdin.flush()
    wait_until(lambda: not nothing_of(node, name), "the receiver has begun")
    return child


def test_a_receiver_that_is_killed_leaves_what_nobody_uses_and_remove_removes(other, name, stream):
    child = begun(other, f"{name}-r", stream[:len(stream) // 2])
    child.kill()
    child.communicate()
    wait_until(lambda: other.vlmc_json("info", f"{name}-r")["making"] == "half-made", "it is known to be half-made")
    wait_until(lambda: other.vlmc_json("info", f"{name}-r")["open"] is None, "it is closed")
    for words in (("clone", f"{name}-r", f"{name}-c"), ("send", f"{name}-r"), ("diff", f"{name}-r")):
        assert other.vlmc(*words, check=False).returncode == 1
    code, said = receive(other, stream, f"{name}-r", check=False)
    assert code == 1 and "exists already" in said
    other.vlmc("remove", f"{name}-r")
    receive(other, stream, f"{name}-r")
    assert nothing_of(other, f"{name}-c")


def test_of_many_that_receive_under_one_name_at_once_one_does(other, name, stream, tmp_path):
    path = tmp_path / "stream"
    path.write_bytes(stream)
    waiting = []
    for _ in range(6):
        with open(path, "rb") as file:
            waiting.append(subprocess.Popen([os.path.join(BIN, "vlmc"), "receive", f"{name}-r"], stdin=file,
                                            env={**os.environ, **other.env}, stderr=subprocess.PIPE, text=True))
    said = [one.communicate(timeout=60)[1] for one in waiting]
    assert sorted(one.returncode for one in waiting) == [0, 1, 1, 1, 1, 1], said
    assert all(f"'{name}-r'" in words for one, words in zip(waiting, said, strict=True) if one.returncode), said
    assert content(other, f"{name}-r")[:3000] == b"one" * 1000
    assert [row["name"] for row in other.vlmc_json("list") if row["name"].startswith(name)] == [f"{name}-r"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_receiver_that_is_interrupted_leaves_nothing(other, name, stream, number):
    child = begun(other, f"{name}-r", stream[:len(stream) // 2])
    child.send_signal(number)
    child.communicate(timeout=60)
    assert child.returncode == 128 + number and nothing_of(other, f"{name}-r")


def test_a_sender_that_is_killed_is_a_stream_that_was_cut_short(node, other, name, stream):
    child = begun(other, f"{name}-r", stream[:len(stream) // 2])
    assert b"cut short" in child.communicate(timeout=60)[1] and child.returncode == 1
    assert nothing_of(other, f"{name}-r")


def test_a_sender_whose_reader_is_gone_says_so_by_its_status(node, name, stream):
    put(node, name, *[(at, os.urandom(MIB)) for at in range(0, SIZE, MIB)])
    node.vlmc("snapshot", name, f"{name}-2")
    child = subprocess.Popen([os.path.join(BIN, "vlmc"), "send", f"{name}-2"], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, env={**os.environ, **node.env})
    child.stdout.read(1000)
    child.stdout.close()
    said = child.stderr.read()
    assert child.wait(60) == 1 and b"Traceback" not in said
    wait_until(lambda: node.vlmc_json("info", f"{name}-2")["open"] is None, "what was sent is closed")


def test_a_snapshot_is_not_removed_while_it_is_sent(node, name, stream):
    with node.client.open(f"{name}-1", readonly=True):
        assert node.vlmc("remove", f"{name}-1", check=False).returncode == 1
    assert json.loads(node.vlmc("info", f"{name}-1", "--json").stdout)["name"] == f"{name}-1"


def test_a_volume_becomes_a_snapshot_only_by_who_makes_it(node, name):
    ask = node.client.control
    made = ask("create", name=name, size=MIB, token=9, making=True)["id"]
    ours = f"/id/{made}/9"
    for asked in (name, f"/id/{made}", f"/id/{made}/8"):
        with pytest.raises(OSError, match="by who makes it|being made|there is no volume"):
            ask("seal", name=asked, origin=3)
    with node.client.open(ours), pytest.raises(OSError, match="is open"):
        ask("seal", name=ours, origin=3)
    for _ in range(2):                  # as by a mapper that died before it answered
        ask("seal", name=ours, origin=3)
    info = ask("info", name=name)
    assert (info["kind"], info["origin"], info["making"]) == ("snapshot", f"{3:016x}", None)
    node.vlmc("create", f"{name}-v", "--size", "1M")
    with pytest.raises(OSError, match="by who makes it"):
        ask("seal", name=f"{name}-v", origin=3)
    node.vlmc("clone", name, f"{name}-c")
    put(node, f"{name}-c", (0, b"x"))
    with pytest.raises(OSError, match="one at a time, and needs a token"):
        ask("clone", name=name, names=[f"{name}-d"], making=True)
