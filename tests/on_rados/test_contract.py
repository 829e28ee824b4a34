# SPDX-License-Identifier: Apache-2.0
"""What native/blocker.h promises, of blocker-rados: the tests of the other blockers, run here."""
import pytest
import test_blocker_contract as contract
from loops import peers

# INFO's `arg` is the object's size: RADOS does not tell how much space an object takes.
# What lies past an object's end is zeros for REPLACE's comparison, too.
DIFFERENT = ("test_a_hole_is_zeros_and_takes_no_space", "test_discard_gives_space_back",
             "test_copy_keeps_holes", "test_replace_of_something_too_short_to_compare_is_stale")

b = contract.b
globals().update({name: test for name, test in vars(contract).items()
                  if name.startswith("test_") and name not in DIFFERENT})


@pytest.fixture(scope="module")
def served(cluster):
    options = {"conf": cluster.conf, "pool": "volumes", "namespace": "contract"}
    with peers(("b", "blocker-rados", options)) as made:
        yield made
