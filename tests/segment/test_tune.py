# SPDX-License-Identifier: Apache-2.0
"""What a loop finds out about its mechanisms (native/loop/tune.h), under loads that are made up: nothing is timed."""
import random

import pytest

from xseg._native import ffi, lib

ANSWERS = 400                   # of an epoch at the usual rate
EPOCH_NS = 5_000_000
NAPS, SPIN = lib.TUNE_NAPS, lib.TUNE_SPIN


class Load:
    """A load whose rate and cost are functions of the levels in force, by epoch."""

    def __init__(self, rate, cost=lambda level: 1.0, uses=(NAPS,), noise=0.0, seed=0):
        self.rate, self.cost, self.uses, self.noise = rate, cost, uses, noise
        self.random = random.Random(seed)
        self.tune = ffi.new("struct tune *")
        lib.tune_start(self.tune)
        self.work = ffi.new("struct tune_work *")
        self.now_ns = 1
        self.answers = self.best = 0.0

    def level(self, name):
        return self.tune.knobs[name].level

    def tried(self, name):
        return self.tune.knobs[name].now != self.tune.knobs[name].level

    def run(self, epochs, spread=(1.0, 1.0)):
        """The work that was done, by that of the best level, which has rate 1. It is asked for `spread` as much."""
        for _ in range(epochs):
            for name in self.uses:
                self.tune.knobs[name].used = True
            load = self.random.uniform(*spread)
            level = self.tune.knobs[self.uses[0]].now
            answers = ANSWERS * load * self.rate(level) * (1 + self.random.gauss(0, self.noise))
            self.answers += answers
            self.best += ANSWERS * load
            self.work.answers += round(answers)
            self.work.cpu_ns += round(answers * 5000 * self.cost(level))
            self.now_ns += EPOCH_NS
            lib.tune_turn(self.tune, self.now_ns, self.work, 1)
        return self.answers / self.best


def test_what_costs_is_left_at_once_and_hardly_tried():
    load = Load(lambda level: (1.0, 0.8, 0.6)[level])
    assert load.run(4000) > 0.98
    assert load.level(NAPS) == 0


def test_what_gains_is_found_within_a_few_epochs():
    load = Load(lambda level: (0.6, 0.8, 1.0)[level])
    load.run(30)
    assert load.level(NAPS) == 2
    assert load.run(4000) > 0.98


def test_of_two_that_are_as_quick_the_cheaper_is_taken():
    load = Load(lambda level: 1.0, cost=lambda level: (1.0, 0.7, 0.5)[level])
    load.run(60)
    assert load.level(NAPS) == 2


def test_what_makes_no_difference_is_left_as_it_is():
    load = Load(lambda level: 1.0)
    load.run(4000)
    assert load.level(NAPS) == 0


def test_a_gain_that_is_gone_is_given_up():
    rates = [0.6, 0.8, 1.0]
    load = Load(lambda level: rates[level])
    load.run(100)
    assert load.level(NAPS) == 2
    rates.reverse()
    load.run(200)
    assert load.level(NAPS) == 0


@pytest.mark.parametrize("rates", [(1.0, 0.8, 0.6), (0.6, 0.8, 1.0), (1.0, 0.97, 0.94), (0.9, 0.95, 1.0)])
def test_noise_costs_little(rates):
    for seed in range(10):
        load = Load(lambda level: rates[level], noise=0.06, seed=seed)
        assert load.run(3000) > 0.95, f"seed {seed}"


def test_a_load_that_is_never_the_same_costs_little():
    for seed in range(10):
        load = Load(lambda level: (1.0, 0.8, 0.6)[level], seed=seed)
        assert load.run(3000, spread=(0.3, 3.0)) > 0.95, f"seed {seed}"


def test_a_light_load_has_nothing_tried():
    load = Load(lambda level: 1.0)
    for _ in range(100):
        load.tune.knobs[NAPS].used = True
        load.now_ns += lib.TUNE_EPOCH_MAX_NS + 1
        load.work.answers += 1
        lib.tune_turn(load.tune, load.now_ns, load.work, 1)
        assert not load.tried(NAPS)


def test_what_is_not_in_use_is_not_tried():
    load = Load(lambda level: 1.0, uses=(NAPS,))
    for _ in range(500):
        load.run(1)
        assert not load.tried(SPIN)


@pytest.mark.parametrize(("on", "rates"), [(True, (1.0, 0.8, 0.6)), (False, (0.6, 0.8, 1.0))])
def test_what_is_forced_stays(on, rates):
    load = Load(rates.__getitem__)
    assert lib.tune_force(load.tune, b"naps", on) == 0
    load.run(200)
    assert load.level(NAPS) == (2 if on else 0)


def test_there_is_no_mechanism_of_another_name():
    assert lib.tune_force(Load(lambda level: 1.0).tune, b"hops", True) < 0
