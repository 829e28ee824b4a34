# SPDX-License-Identifier: Apache-2.0
"""Volumes made from lists of hashes, and hashed snapshots, with everything in RADOS."""
from borrow import borrowed

globals().update(borrowed("test_adopt"))
globals().update(borrowed("test_hash"))
