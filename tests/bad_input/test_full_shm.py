# SPDX-License-Identifier: Apache-2.0
"""Whoever fills shared memory harms nobody who serves already."""
import os
import shutil
import subprocess
import sys

import pytest

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "full_shm.py")


def may_mount():
    words = ["unshare", "--mount", "mount", "-t", "tmpfs", "archipelago-test", "/mnt"]
    return shutil.which("unshare") and subprocess.run(words, capture_output=True).returncode == 0


@pytest.mark.skipif(os.geteuid() != 0 or not may_mount(), reason="needs root and a mount namespace of its own")
def test_an_instance_and_its_successors_serve_on_when_shared_memory_is_full(home):
    done = subprocess.run(["unshare", "--mount", sys.executable, SCRIPT, home], capture_output=True, text=True,
                          timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
