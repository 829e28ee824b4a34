# SPDX-License-Identifier: Apache-2.0
"""Opening, closing, locks, with everything in RADOS: the tests of test_mapper_open.py, run here."""
from borrow import borrowed

globals().update(borrowed("test_mapper_open"))
