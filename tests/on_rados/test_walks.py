# SPDX-License-Identifier: Apache-2.0
"""Random walks, with everything in RADOS: the tests of test_walks.py, run here."""
from on_rados.borrow import borrowed

globals().update(borrowed("test_walks"))
