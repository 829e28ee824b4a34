# SPDX-License-Identifier: Apache-2.0
"""Random walks over volumes, with everything in RADOS: the tests of test_state_machine.py, run here."""
from borrow import borrowed

globals().update(borrowed("test_state_machine"))
