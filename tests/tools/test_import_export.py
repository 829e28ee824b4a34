# SPDX-License-Identifier: Apache-2.0
"""vlmc import and export: disk images in and out, sparse, whole or not at all."""
import os

import pytest
from support import Instance, run

SIZE = 64 << 20
DATA_AT = 20 << 20
DATA = 9 << 20

@pytest.fixture
def folder(tmp_path):
    return str(tmp_path)


def image(folder, name="disk.raw", size=SIZE):
    """A raw image with DATA random bytes in the middle, the rest a hole; its path."""
    path = os.path.join(folder, name)
    with open(path, "wb") as file:
        file.truncate(size)
        file.seek(DATA_AT)
        file.write(os.urandom(DATA))
    return path


def same(instance, file, volume):
    """Whether an image and a volume hold the same."""
    return run("qemu-img", "compare", file, instance.nbd_uri(volume), check=False).returncode == 0


def stored(path):
    """Bytes a file takes."""
    return os.stat(path).st_blocks * 512


def nothing_there(instance):
    assert instance.vlmc_json("list") == []


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_round_trip(instance, folder, kind):
    source, target = image(folder), os.path.join(folder, "out")
    if kind == "qcow2":
        source = os.path.join(folder, "disk.qcow2")
        run("qemu-img", "convert", "-O", "qcow2", os.path.join(folder, "disk.raw"), source)
    instance.vlmc("import", source, "vm")
    assert same(instance, source, "vm")
    instance.vlmc("export", "vm", target, "--format", kind)
    assert run("qemu-img", "compare", source, target).returncode == 0
    assert run("qemu-img", "info", target).stdout.count(f"file format: {kind}") == 1


@pytest.mark.layout("colocated")
def test_only_data_is_stored_either_way(instance, folder):
    source, target = image(folder), os.path.join(folder, "out.raw")
    with open(source, "r+b") as file:
        file.seek(40 << 20)
        file.write(bytes(4 << 20))              # zeros that are no hole
    instance.vlmc("import", source, "vm")
    assert DATA <= instance.vlmc_json("du", "vm")[0]["exclusive"] <= DATA + (1 << 20)
    instance.vlmc("export", "vm", target)
    assert DATA <= stored(target) <= DATA + (1 << 20)
    assert os.path.getsize(target) == SIZE


@pytest.mark.layout("colocated")
def test_what_was_imported_survives_a_crash(instance, folder):
    source = image(folder)
    instance.vlmc("import", source, "vm")
    for role in ("nbd", "mapper"):
        instance.kill(role)
    instance.archipelago("start")
    instance.killed.clear()
    assert same(instance, source, "vm")


@pytest.mark.layout("colocated")
def test_the_volume_may_be_larger(instance, folder):
    source = image(folder)
    instance.vlmc("import", source, "vm", "--size", "100M", "--block-size", "64K")
    info = instance.vlmc_json("info", "vm")
    assert (info["size"], info["block_size"]) == (100 << 20, 64 << 10)
    with instance.client.open("vm") as volume:
        assert volume.read(SIZE, 1 << 20) == bytes(1 << 20)
    assert same(instance, source, "vm")


@pytest.mark.layout("colocated")
def test_a_backing_file_is_read_through(instance, folder):
    image(folder, "base.raw")
    middle, top = os.path.join(folder, "middle.qcow2"), os.path.join(folder, "top.qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", middle)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "middle.qcow2", "-F", "qcow2", top)
    run("qemu-io", "-c", "write -q -P 7 1M 1M", top)
    instance.vlmc("import", top, "vm", "--follow")
    assert same(instance, top, "vm")


@pytest.mark.layout("colocated")
def test_a_format_that_is_given_is_not_guessed(instance, folder):
    path = os.path.join(folder, "disk.qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", path, "64M")
    instance.vlmc("import", path, "vm", "--format", "raw")
    with instance.client.open("vm") as volume:
        assert volume.read(0, 4) == b"QFI\xfb"


@pytest.mark.layout("colocated")
def test_an_existing_name_is_refused_before_anything_is_copied(instance, folder):
    instance.vlmc("create", "vm", "--size", "1M")
    before = instance.vlmc_json("info", "vm")
    refused = instance.vlmc("import", image(folder), "vm", check=False)
    assert refused.returncode == 1
    assert "exists" in refused.stderr
    assert instance.vlmc_json("info", "vm") == before


def broken_images(folder):
    """{what is wrong: (path, words the error must have)}"""
    whole = os.path.join(folder, "whole.qcow2")
    run("qemu-img", "convert", "-O", "qcow2", image(folder), whole)
    paths = {what: os.path.join(folder, what) for what in ("empty", "garbled", "cut", "orphan", "missing")}
    with open(whole, "rb") as file, open(paths["cut"], "wb") as cut, open(paths["garbled"], "wb") as garbled:
        data = file.read()
        cut.write(data[:len(data) // 2])
        garbled.write(data[:7] + b"\x63" + data[8:])
    open(paths["empty"], "wb").close()
    run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", "gone.raw", "-F", "raw", paths["orphan"], "1M")
    words = {"empty": "empty", "garbled": "version", "cut": "cut short", "orphan": "gone.raw",
             "missing": "No such file"}
    return {what: (paths[what], words[what]) for what in paths} | {"folder": (folder, "directory")}


@pytest.mark.layout("colocated")
def test_a_failed_import_says_why_and_leaves_nothing(instance, folder):
    for what, (path, words) in broken_images(folder).items():
        failed = instance.vlmc("import", path, "vm", check=False)
        assert failed.returncode == 1, what
        assert words in failed.stderr, what
        assert path in failed.stderr, what
    nothing_there(instance)


@pytest.mark.layout("colocated")
def test_bad_names_and_sizes_are_refused(instance, folder):
    source = image(folder)
    for words in (("a/b",), ("",), ("x" * 300,), ("vm", "--size", "1M"), ("vm", "--block-size", "3M"),
                  ("vm", "--size", "lots")):
        assert instance.vlmc("import", source, *words, check=False).returncode in (1, 2), words
    nothing_there(instance)


@pytest.fixture
def small_store(home, folder):
    """An instance whose data store has 24 MiB."""
    data = os.path.join(home, "data")
    os.mkdir(data)
    run("mount", "-t", "tmpfs", "-o", "size=24M", "none", data)
    try:
        instance = Instance(home)
        instance.start()
        yield instance
        instance.finish()
    finally:
        run("umount", "--lazy", data)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a tmpfs needs root")
def test_a_full_store_fails_the_import_and_is_empty_again(small_store, folder):
    big = os.path.join(folder, "big.raw")
    with open(big, "wb") as file:
        file.write(os.urandom(40 << 20))
    failed = small_store.vlmc("import", big, "vm", check=False)
    assert failed.returncode == 1
    assert "No space left on device" in failed.stderr
    nothing_there(small_store)
    source = image(folder)
    small_store.vlmc("import", source, "vm")
    assert same(small_store, source, "vm")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a tmpfs needs root")
def test_a_full_store_fails_the_import_of_a_pipe_and_is_empty_again(small_store):
    failed = small_store.vlmc("import", "-", "vm", input=os.urandom(40 << 20), text=False, check=False)
    assert failed.returncode == 1
    assert b"No space left on device" in failed.stderr
    nothing_there(small_store)
    small_store.vlmc("import", "-", "vm", input=os.urandom(8 << 20), text=False)


@pytest.mark.layout("colocated")
def test_progress_goes_to_stderr_when_asked_for(instance, folder):
    source = image(folder)
    assert "%" not in instance.vlmc("import", source, "one").stderr
    assert "100%" in instance.vlmc("import", source, "two", "--progress").stderr
    assert "100%" in instance.vlmc("export", "two", source, "--force", "--progress").stderr


@pytest.mark.layout("colocated")
def test_json_of_import_and_export(instance, folder):
    source, target = image(folder), os.path.join(folder, "out.qcow2")
    made = instance.vlmc_json("import", source, "vm")
    assert (made["name"], made["size"], made["format"]) == ("vm", SIZE, "raw")
    assert made["id"] == instance.vlmc_json("info", "vm")["id"]
    written = instance.vlmc_json("export", "vm", target, "--format", "qcow2")
    assert (written["file"], written["size"], written["stored"]) == (target, SIZE, stored(target))


@pytest.mark.layout("colocated")
def test_export_replaces_nothing_unless_forced(instance, folder):
    target = os.path.join(folder, "out")
    with open(target, "w", encoding="ascii") as file:
        file.write("precious")
    instance.vlmc("import", image(folder), "vm")
    refused = instance.vlmc("export", "vm", target, check=False)
    assert refused.returncode == 1
    assert "--force" in refused.stderr
    with open(target, encoding="ascii") as file:
        assert file.read() == "precious"
    instance.vlmc("export", "vm", target, "--force")
    assert os.path.getsize(target) == SIZE


@pytest.mark.layout("colocated")
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a tmpfs needs root")
def test_export_to_a_full_disk_leaves_nothing(instance, folder):
    instance.vlmc("import", image(folder), "vm")
    run("mount", "-t", "tmpfs", "-o", "size=4M", "none", folder)
    try:
        for kind in ("raw", "qcow2"):
            failed = instance.vlmc("export", "vm", os.path.join(folder, "out"), "--format", kind, check=False)
            assert failed.returncode == 1
            assert "No space left on device" in failed.stderr
            assert os.listdir(folder) == []
    finally:
        run("umount", folder)


@pytest.mark.layout("colocated")
def test_bad_targets_of_export_are_refused(instance, folder):
    instance.vlmc("create", "vm", "--size", "1M")
    for name, target, words in (("nobody", "x", "nobody"), ("vm", "no/such/x", "No such file"),
                                ("vm", "/dev/null", "plain file"), ("vm", folder, "plain file")):
        failed = instance.vlmc("export", name, os.path.join(folder, target), "--force", check=False)
        assert failed.returncode == 1
        assert words in failed.stderr
    assert os.listdir(folder) == []


@pytest.mark.layout("colocated")
def test_a_snapshot_is_exported_though_its_volume_went_on(instance, folder):
    source, target = image(folder), os.path.join(folder, "out")
    instance.vlmc("import", source, "ü & x")
    instance.vlmc("snapshot", "ü & x", "snap %")
    with instance.client.open("ü & x") as volume:
        volume.write(DATA_AT, b"later")
        volume.flush()
    instance.vlmc("export", "snap %", target)
    assert run("qemu-img", "compare", source, target).returncode == 0
