# SPDX-License-Identifier: Apache-2.0
"""The mapper's verbs, with everything in RADOS: the tests of test_mapper.py, run here."""
from borrow import borrowed

globals().update(borrowed("test_mapper"))
