# SPDX-License-Identifier: Apache-2.0
"""Each fuzz target of Python, shortly; every decoder has a target, and every target is run by `make fuzz`."""
import glob
import os
import re

import pytest

from .__main__ import ROOT, native_targets
from .targets import TARGETS, run

SEED = 20
ROUNDS = {"control": 300, "journal": 150, "page": 150, "config": 200, "image": 150}
ROUNDS_USUAL = 1500

# What decodes something that another process, node, disk or person wrote: file, words of its text -> targets.
DECODERS = {
    ("native/map/map.c", "record_check journal_scan"): ["fuzz_map", "journal", "page"],
    ("native/map/merge.c", "map_merge"): ["fuzz_map", "journal", "page"],
    ("native/map/index.c", "journal_index"): ["fuzz_map", "journal"],
    ("xseg/hashes.py", "read"): ["hashes"],
    ("native/map/diff.c", "map_diff"): ["fuzz_map"],
    ("native/objects/name.c", "object_name_parse"): ["fuzz_object_name"],
    ("native/nbd/negotiate.c", "nbd_take32"): ["fuzz_nbd"],
    ("native/segment/inbox.c", "take_list"): ["fuzz_slots"],
    ("native/segment/port.c", "accept_request"): ["fuzz_slots"],
    ("native/vlmc/frames.c", "read_frame"): ["fuzz_slots"],
    ("native/vlmc/stacks.c", "vlmc_stack_of"): ["fuzz_slots"],
    ("native/nbd/request.c", "nbd_get32"): ["fuzz_nbd"],
    ("native/nbd/keeper.c", "pass_handshake carry_request take_reply"): ["fuzz_keeper"],
    ("native/vhost/messages.c", "set_memory set_addresses"): ["fuzz_vhost"],
    ("native/vhost/chain.c", "vhost_chain_walk"): ["fuzz_vhost"],
    ("native/vhost/ring.c", "vhost_ring_next"): ["fuzz_vhost"],
    ("native/blocker_file/lock.c", "lock_parse"): ["fuzz_file_lock"],
    ("native/blocker_file/fence.c", "read_fenced"): ["fuzz_file_fence"],
    ("native/nbd/allow.c", "nbd_allow_read matches"): ["fuzz_nbd_allow"],
    ("native/blocker_rados/text.c", "br_text_parse"): ["fuzz_rados_lock", "fuzz_rados_node"],
    ("native/blocker_rados/lock.c", "lock_parse"): ["fuzz_rados_lock"],
    ("native/blocker_rados/registry.c", "node_parse br_registry_parse"): ["fuzz_rados_node"],
    ("native/blocker_rados/past.c", "copy_past"): ["fuzz_rados_past"],
    ("peers/mapper/header.py", "unpack_header unpack_name"): ["header", "name"],
    ("peers/mapper/journal.py", "load_stretches"): ["journal"],
    ("peers/mapper/tree.py", "read_page items_of"): ["page", "journal"],
    ("peers/mapper/verbs/__init__.py", "unpack"): ["control"],
    ("peers/mapper/verbs/arguments.py", "parse"): ["control"],
    ("tools/instance/config.py", "read"): ["config"],
    ("tools/instance/messages.py", "parse_order parse_answer parse_deaths parse_changes parse_pid parse_sockets"): [
        "order", "answer", "notes"],
    ("tools/vlmc/_stream.py", "unpack_head unpack_piece"): ["stream"],
    ("tools/mapping/mapping.py", "parse_entry"): ["mapped"],
    ("tools/image_source.py", "parse_info detect refuse_references data_file_name"): ["image"],
    ("xseg/client.py", "control_answer"): ["mapper_answer"],
}

# Other files in which something is decoded, and why that needs no target.
NO_DECODERS = {
    "native/segment/process.c": "the kernel's /proc/PID/stat",
    "native/vhost/listen.c": "entries that tools/attaching/attaching.py has written and nobody else may",
    "native/vhost/vhost.c": "an id that our own command sends",
    "native/loop/peer.c": "options, which tools/instance/config.py has checked",
    "native/blocker_rados/fence.c": "one number in an answer of the cluster's monitors",
    "tools/instance/instance.py": "the kernel's", "xseg/ours.py": "the kernel's",
    "xseg/look.py": "the kernel's /proc/PID/stat",
    "tools/archipelago/status.py": "a note of our own mapper, shown to people, and no line where it is none",
    "tools/archipelago/route.py": "one word of a command line",
    "tools/vlmc/_common.py": "as tools/instance/config.py reads it",
    "tools/vlmc/_ranges.py": "the mapper's pairs of numbers",
    "tools/cluster.py": "clusters for tests and the demo", "tools/demo/__main__.py": "the demo's own commands",
}
DECODING = re.compile(r"json\.loads?\(|unpackb\(|tomllib\.loads?\(|unpack_from\(|iter_unpack\(|struct\.unpack\("
                      r"|\bv?f?sscanf\(|\bstrtou?l?l\(")


def text_of(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read()


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_finds_nothing_in_a_short_run(name):
    rounds = ROUNDS.get(name, ROUNDS_USUAL)
    assert run(name, SEED, lambda number: number < rounds) == rounds


def test_every_target_is_known_and_has_a_corpus_or_makes_its_inputs():
    targets = {target for listed in DECODERS.values() for target in listed}
    assert targets == {*native_targets(), *TARGETS}
    for name in native_targets():
        assert os.listdir(os.path.join(ROOT, "tests", "corpus", name)), name


@pytest.mark.parametrize("path, names", DECODERS)
def test_a_listed_decoder_is_there(path, names):
    for name in names.split():
        assert re.search(rf"\b{name}\(", text_of(path)), name


def test_whatever_decodes_has_a_target_or_a_reason():
    listed = {path for path, _names in DECODERS} | set(NO_DECODERS)
    sources = [path for pattern in ("native/**/*.c", "peers/**/*.py", "tools/**/*.py", "xseg/*.py")
               for path in glob.glob(pattern, root_dir=ROOT, recursive=True)]
    found = {path for path in sources if not path.startswith(("native/fuzz/", "native/load/"))
             and DECODING.search(text_of(path))}
    assert found <= listed, f"no fuzz target, and no reason for that: {sorted(found - listed)}"
