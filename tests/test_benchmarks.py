# SPDX-License-Identifier: Apache-2.0
"""Benchmarks are run by hand; here is seen only that each of them can be."""
import importlib

import pytest

from benchmarks import compare, result, rounds
from benchmarks.__main__ import ONLY_COMPARE, QUESTIONS, SECONDS


@pytest.mark.parametrize("name", [*QUESTIONS, ONLY_COMPARE])
def test_a_question_can_be_asked(name):
    module = importlib.import_module(f"benchmarks.{name}")
    assert module.TITLE and module.METHOD and callable(module.run)
    assert SECONDS[name]


def samples(*values):
    """What takes these samples one after another."""
    left = list(values)
    return lambda: {"iops": left.pop(0), "foreign": 0.0}


def test_a_ratio_whose_pairs_are_alike_is_sure_and_needs_no_more():
    series = rounds.in_turns({"ours": samples(*[110, 111, 109] * 3), "theirs": samples(*[100] * 9)}, 3)
    assert len(series["ours"].samples) == 3
    told = rounds.ratio(series["ours"], series["theirs"], "iops")
    assert told.value == 1.1 and not told.noise


def test_a_ratio_that_is_noise_is_measured_further_and_marked():
    series = rounds.in_turns({"ours": samples(*[100, 200, 50] * 4), "theirs": samples(*[100] * 12)}, 3)
    assert len(series["ours"].samples) == 3 + rounds.EXTRA_MIN
    told = result.claim("", 1.0, rounds.ratio(series["ours"], series["theirs"], "iops"))
    assert told.noise and told.row()[2].endswith("~")


def test_a_run_without_time_takes_the_fewest_rounds(monkeypatch):
    monkeypatch.setattr(rounds.Limit, "until", 0.0)
    series = rounds.in_turns({"ours": samples(*[100, 200] * 9), "theirs": samples(*[100] * 18)}, 6)
    assert len(series["ours"].samples) == rounds.ROUNDS_MIN


def test_kinds_of_machines_keep_their_results_beside_each_other(tmp_path):
    for cpu in ("2 x AMD EPYC", "2 x Intel(R) Xeon(R) Processor"):
        result.Result("hop", "One hop", "", machine={"cpu": cpu}, made="now").save(str(tmp_path))
    found = result.load_all(str(tmp_path))
    assert [each.kind for each in found] == ["2 x AMD EPYC", "2 x Intel(R) Xeon(R) Processor"]
    with open(result.write_markdown(found, str(tmp_path)), encoding="utf-8") as file:
        text = file.read()
    assert "# On 2 x AMD EPYC" in text and "# On 2 x Intel(R) Xeon(R) Processor" in text


def test_what_is_no_revision_is_refused_by_name():
    with pytest.raises(RuntimeError, match="COMPARE=no-such (is no revision|needs git)"):
        compare.commit_of("no-such")
