# SPDX-License-Identifier: Apache-2.0
"""Fixtures of tests that talk to one running pipeline by commands."""
import pytest

SIZE = "4M"


@pytest.fixture
def vlmc(node):
    return lambda *words: node.vlmc(*words).stdout


@pytest.fixture
def refused(node):
    """Runs vlmc; fails unless it is refused with one line, which is returned."""
    def run_it(*words):
        done = node.vlmc(*words, check=False)
        assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1, done.stderr
        return done.stderr

    return run_it


@pytest.fixture
def name(request, vlmc):
    """A fresh volume in blocks of 64 KiB."""
    name = request.node.name.removeprefix("test_")[:100]
    vlmc("create", name, "--size", SIZE, "--block-size", "64K")
    return name
