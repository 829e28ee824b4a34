# SPDX-License-Identifier: Apache-2.0
"""Fixture of the kill tests: instances that a supervisor watches. A module asks for it by
pytest_plugins = ["kill_fixtures"].
"""
import os
import shutil
import tempfile

import pytest
from support import Instance

from xseg.segment import Segment, name_for

PATIENT = "[supervisor]\ndeaths = 100000\nback_off_ms = 1\n"         # goes on however often it is killed, at once


@pytest.fixture
def supervised(request):
    """supervised(config, patient=True): starts an instance with that archipelago.toml under a supervisor."""
    made = []

    def start(config="", patient=True):
        home = tempfile.mkdtemp(prefix="ar-", dir="/dev/shm" if os.path.isdir("/dev/shm") else "/tmp")
        instance = Instance(home, config + "\n" + (PATIENT if patient else ""), supervised=True)
        made.append(instance)
        instance.start()
        return instance

    yield start
    for instance in made:
        try:
            if getattr(request.node, "failed", False):
                print(instance.archipelago("status", check=False).stdout, instance.logs())
            instance.finish()
        finally:
            Segment.unlink(name_for(instance.home))
            shutil.rmtree(instance.home, ignore_errors=True)
