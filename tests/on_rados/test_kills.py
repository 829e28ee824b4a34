# SPDX-License-Identifier: Apache-2.0
"""Kill -9 of peers under load, with everything in RADOS: the tests of test_kills.py, run here."""
from borrow import borrowed

globals().update(borrowed("test_kills"))
