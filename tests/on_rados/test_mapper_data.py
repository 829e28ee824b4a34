# SPDX-License-Identifier: Apache-2.0
"""What volumes, snapshots and clones read, with everything in RADOS: the tests of test_mapper_data.py, run here."""
from borrow import borrowed

globals().update(borrowed("test_mapper_data"))
