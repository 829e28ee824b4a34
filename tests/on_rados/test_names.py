# SPDX-License-Identifier: Apache-2.0
"""One name wanted on two nodes at once, with everything in RADOS. See tests/mapper/test_names_race.py."""
import errno
import random

import pytest
from test_names_race import MIB, SEED, at_once, reachable, rival

ROUNDS = 12
VERBS = ["create", "rename", "rename snapshot", "snapshot", "clone"]


@pytest.mark.parametrize("verb", VERBS)
def test_of_a_rename_and_another_claim_of_the_name_one_wins(nodes, verb):
    here, there = nodes
    dice, wins = random.Random(f"{SEED} {verb}"), [0, 0]
    for number in range(first := ROUNDS * VERBS.index(verb), first + ROUNDS):
        old, new = f"old-{number}", f"new-{number}"
        here.client.control("create", name=old, size=MIB)
        if number % 2:
            here.client.control("snapshot", name=old, snapshot=old + "-s")
            old += "-s"
        there.client.control("create", name=f"r-{number}", size=MIB)
        there.client.control("snapshot", name=f"r-{number}", snapshot=f"s-{number}")
        raised = at_once((here, "rename", {"name": old, "to": new, "token": 7}), (there, *rival(verb, number, new)),
                         dice.uniform(-0.01, 0.01))
        assert [failure is None for failure in raised].count(True) == 1, raised
        assert next(failure for failure in raised if failure).errno in (errno.EEXIST, errno.ESTALE)
        wins[raised[0] is not None] += 1
        assert new in reachable(there)
    print("won:", wins)


def test_a_name_that_is_given_back_while_another_takes_it_stays_his(nodes):
    here, there = nodes
    dice = random.Random(SEED)
    for number in range(ROUNDS):
        name = f"back-{number}"
        here.client.control("create", name=name, size=MIB)
        first, second = at_once((here, "rename", {"name": name, "to": name + "-away", "token": 5}),
                                (there, "create", {"name": name, "size": MIB, "token": 6}), dice.uniform(-0.005, 0.01))
        assert first is None
        assert (name in reachable(here)) == (second is None)
