# SPDX-License-Identifier: Apache-2.0
"""Random walks, with everything in RADOS: the tests of test_walks.py, run here."""
from borrow import borrowed

globals().update(borrowed("test_walks"))
