# SPDX-License-Identifier: Apache-2.0
"""Benchmarks are run by hand; here is seen only that each of them can be."""
import importlib

import pytest

from benchmarks.__main__ import QUESTIONS


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_can_be_asked(name):
    module = importlib.import_module(f"benchmarks.{name}")
    assert module.TITLE and module.METHOD and callable(module.run)
