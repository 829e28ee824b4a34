# SPDX-License-Identifier: Apache-2.0
"""The command vlmc, with everything in RADOS: the tests of test_vlmc_cli.py, run here."""
from borrow import borrowed

globals().update(borrowed("test_vlmc_cli"))
