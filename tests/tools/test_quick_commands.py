# SPDX-License-Identifier: Apache-2.0
"""Commands that look do not load what takes long to load."""
import os
import sys

import pytest
from support import BIN, run

SLOW = {"numpy", "uvloop", "tqdm", "asyncio", "ssl", "importlib.metadata", "urllib.parse", "peers.mapper",
        "tools.instance.host", "tools.mapping.methods"}


def loaded_by(instance, command, verb):
    """Names of the modules that a verb has loaded by its end."""
    words = [sys.executable, "-X", "importtime", os.path.join(BIN, command), "--home", instance.home, verb]
    said = run(*words).stderr
    return {line.rpartition("|")[2].strip() for line in said.splitlines() if line.startswith("import time:")}


@pytest.mark.layout("colocated")
@pytest.mark.parametrize("command, verb, slow", [
    ("archipelago", "status", SLOW), ("xseg", "report", SLOW), ("xseg", "ports", SLOW), ("xseg", "requests", SLOW),
    ("vlmc", "list", SLOW), ("vlmc", "showmapped", SLOW - {"tools.mapping.methods", "urllib.parse"})])
def test_a_command_that_looks_loads_nothing_slow(instance, command, verb, slow):
    loaded = loaded_by(instance, command, verb)
    assert "xseg.segment" in loaded and not loaded & slow
