# SPDX-License-Identifier: Apache-2.0
"""make demo: the story on small images, and what it leaves behind."""
import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
from support import run

from tools.demo import __main__ as demo
from tools.mapping import blockdev, mapping

needs_devices = pytest.mark.skipif(bool(mapping.why_not()), reason=mapping.why_not())


@pytest.fixture
def with_file_system(tmp_path):
    """A small image that is one ext4 file system."""
    path = str(tmp_path / "fs.raw")
    run("mke2fs", "-q", "-t", "ext4", path, "48M")
    return path


@pytest.fixture
def with_noise(tmp_path):
    """A small qcow2 image with no file system in it."""
    raw, path = str(tmp_path / "noise.raw"), str(tmp_path / "noise.qcow2")
    with open(raw, "wb") as file:
        file.write(os.urandom(5 << 20))
        file.truncate(16 << 20)
    run("qemu-img", "convert", "-O", "qcow2", raw, path)
    return path


@contextmanager
def telling(*words):
    """The demo as a process, with its output in a pipe."""
    command = [sys.executable, "-m", "tools.demo", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          cwd=demo.REPOSITORY) as process:
        try:
            yield process
        finally:
            process.terminate()


def scratch_of(output):
    """The scratch folder that a demo's output names."""
    return next(line.split()[-1] for line in output.splitlines() if "on files below" in line)


def ended_clean(output):
    home = scratch_of(output)
    assert not os.path.exists(home)
    assert not blockdev.mounts_below(home)


@needs_devices
def test_the_whole_story(with_file_system):
    with telling("--image", with_file_system, "--clones", "5") as process:
        output = process.communicate(timeout=200)[0]
    assert process.returncode == 0, output
    assert "WRONG" not in output and "FAILED" not in output
    for words in ("vlmc import", "--count 5", "vlmc map vm-1", "mount /dev/", "same checksum", "nbdinfo",
                  "differ only where", "Images are identical", "(logical)", "(unique)", "+- nbd+vlmc+blockerb"):
        assert words in output, words
    ended_clean(output)


def test_an_image_without_a_file_system(with_noise):
    with telling("--image", with_noise, "--clones", "2") as process:
        output = process.communicate(timeout=200)[0]
    assert process.returncode == 0, output
    assert "over NBD instead" in output or "left out" in output
    assert output.count("as it should be") >= 7
    ended_clean(output)


@needs_devices
def test_an_interrupted_demo_leaves_nothing(with_file_system):
    with telling("--image", with_file_system, "--clones", "2") as process:
        seen = ""
        while "$ mount" not in seen:
            assert (line := process.stdout.readline()), seen
            seen += line
        process.send_signal(signal.SIGTERM)
        output = seen + process.communicate(timeout=100)[0]
    assert process.returncode == 130, output
    ended_clean(output)


def test_a_missing_image_fails_it(tmp_path):
    with telling("--image", str(tmp_path / "nothing")) as process:
        output = process.communicate(timeout=100)[0]
    assert process.returncode == 1
    assert "No such file" in output
    ended_clean(output)


def test_a_comparison_that_goes_wrong_is_told(capsys, with_noise):
    told = demo.Demo("/nowhere", with_noise, 2)
    told.judge("two and two are five", False)
    assert told.wrong == ["two and two are five"]
    assert "WRONG" in capsys.readouterr().out


def test_a_command_that_fails_ends_it(with_noise):
    with pytest.raises(demo.Failed, match="false"):
        demo.Demo("/nowhere", with_noise, 2).run("false")
