# SPDX-License-Identifier: Apache-2.0
"""Surroundings that are not as usual: no standard files, few open files, no io_uring. It works, or says what to do."""
import ctypes
import os
import resource
import struct
import subprocess

import pytest
from support import BIN, Instance, processes_of

from tools.instance.host import FILES_LEAST
from tools.instance.process import FILES_WANTED

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
IO_URING_SETUP = 425                        # the system call's number, on all architectures


def archipelago(home, *words, **more):
    return subprocess.run([os.path.join(BIN, "archipelago"), "--home", home, *words], timeout=120, **more)


def close_standard_files():
    os.closerange(0, 3)


def test_start_and_stop_work_without_standard_files(home):
    instance = Instance(home)
    assert archipelago(home, "start", preexec_fn=close_standard_files).returncode == 0
    assert {peer["state"] for peer in instance.status().values()} == {"running"}
    assert archipelago(home, "stop", preexec_fn=close_standard_files).returncode == 0
    assert processes_of(home) == []


def limited_to(files):
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))


def test_a_start_with_too_few_files_is_refused_with_the_figure(home):
    done = archipelago(home, "start", preexec_fn=limited_to(64), capture_output=True, text=True)
    assert done.returncode == 1 and "64 files" in done.stderr and "LimitNOFILE" in done.stderr
    assert processes_of(home) == []


def test_a_limit_that_may_be_too_low_is_shown(home):
    instance = Instance(home)
    assert FILES_LEAST < FILES_WANTED - 1
    archipelago(home, "start", preexec_fn=limited_to(FILES_WANTED - 1), check=True)
    assert f"may have {FILES_WANTED - 1} files open" in instance.archipelago("status").stdout
    instance.finish()


def forbid_io_uring():
    """Has io_uring_setup() fail with EPERM from now on, as sandboxes do."""
    load, jump_if_equal, answer, fail, allow = 0x20, 0x15, 0x06, 0x00050001, 0x7fff0000
    code = b"".join(struct.pack("HBBI", *line) for line in (
        (load, 0, 0, 0), (jump_if_equal, 0, 1, IO_URING_SETUP), (answer, 0, 0, fail), (answer, 0, 0, allow)))
    kept = ctypes.create_string_buffer(code)
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 4, ctypes.addressof(kept)))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    assert libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0) == 0


def test_without_io_uring_the_start_says_what_to_allow(home):
    done = archipelago(home, "start", preexec_fn=forbid_io_uring, capture_output=True, text=True)
    assert done.returncode == 1 and processes_of(home) == []
    assert "io_uring_setup" in done.stderr and "kernel.io_uring_disabled" in done.stderr


@pytest.mark.parametrize("words", [("status",), ("stop",)])
def test_commands_of_what_never_ran_work_without_standard_files(home, words):
    assert archipelago(home, *words, preexec_fn=close_standard_files).returncode in (0, 3)
