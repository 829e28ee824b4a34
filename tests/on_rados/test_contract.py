# SPDX-License-Identifier: Apache-2.0
"""What native/objects/blocker.h promises, of blocker-rados: the tests of the other blockers, run here."""
import pytest
from borrow import borrowed
from loops import peers

# INFO's `arg` is the object's size: RADOS does not tell how much space an object takes.
# What lies past an object's end is zeros for REPLACE's comparison, too.
DIFFERENT = ("test_a_hole_is_zeros_and_takes_no_space", "test_discard_gives_space_back",
             "test_copy_keeps_holes", "test_replace_of_something_too_short_to_compare_is_stale")

globals().update(borrowed("test_blocker_contract", but=(*DIFFERENT, "served")))


@pytest.fixture(scope="module")
def served(cluster):
    options = {"conf": cluster.conf, "pool": "volumes", "namespace": "contract"}
    with peers(("b", "blocker-rados", options)) as made:
        yield made
