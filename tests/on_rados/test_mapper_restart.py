# SPDX-License-Identifier: Apache-2.0
"""Kill -9 of the mapper's process, with everything in RADOS: the tests of test_mapper_restart.py, run here."""
from borrow import borrowed

NODES = ("test_two_nodes_never_have_the_same_volume_open", "test_the_lock_of_a_dead_node_is_free",
         "test_a_node_that_lost_its_volume_writes_no_more_map")     # about files; see test_nodes.py

globals().update(borrowed("test_mapper_restart", but=NODES))
