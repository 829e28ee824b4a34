# SPDX-License-Identifier: Apache-2.0
"""Schedules: which snapshots are taken and thinned at which moment, whatever the clock does, and whose they are."""
import asyncio
import errno
import random
from datetime import UTC, datetime

import pytest

from tools.schedules import Keeper
from tools.vlmc import _walks
from xseg import schedule
from xseg.errors import Damaged, Invalid, NotFound, ReadOnly, error
from xseg.volume_name import by_id, id_in

HOUR, DAY = 3600, 86400
RULE = "hourly=24 daily=7 weekly=4 monthly=12"


def at(text):
    """A moment in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


# --- rules and marks

@pytest.mark.parametrize(("words", "text"), [
    (["daily=7", "hourly=24"], "hourly=24 daily=7"), (["monthly=1000"], "monthly=1000"), ([], "")])
def test_a_rule_is_read_and_has_one_form(words, text):
    assert schedule.text_of(schedule.parse(words)) == text
    assert schedule.good_text(text)


@pytest.mark.parametrize("words", [["hourly"], ["hourly="], ["hourly=0"], ["hourly=1001"], ["yearly=1"], ["none=1"],
                                   ["hourly=-1"], ["hourly=1.5"], ["hourly=٣"], ["daily=1", "daily=2"], [""],
                                   ["none", "daily=1"], ["hourly=9999999999999"], ["Hourly=2"]])
def test_what_is_no_rule_is_refused(words):
    with pytest.raises(ValueError):
        schedule.parse(words)


@pytest.mark.parametrize("text", ["daily=7 hourly=24", "hourly=024", " ", "hourly=1 ", 7, None])
def test_a_text_in_another_form_is_none_of_a_header(text):
    assert not schedule.good_text(text)


def test_marks_sort_by_time_within_their_kind():
    dice = random.Random(1)
    for kind in schedule.PERIODS:
        moments = sorted(dice.uniform(at("2019-01-01"), at("2035-01-01")) for _ in range(3000))
        marks = [schedule.mark_of(kind, moment) for moment in moments]
        assert marks == sorted(marks)
        assert all(map(schedule.good_mark, marks))


def test_marks_are_of_the_period_a_moment_lies_in():
    now = at("2026-12-31T23:59:59")
    assert [schedule.mark_of(kind, now) for kind in schedule.PERIODS] == [
        "hourly-2026-12-31T23", "daily-2026-12-31", "weekly-2026-W53", "monthly-2026-12"]


def test_a_long_name_still_gives_a_name_that_a_volume_may_have():
    for name in ("ü" * 127, "x" * 255, "x" * 219 + " " + "y" * 30):
        made = schedule.name_of(name, "0123456789abcdef", "hourly-2026-12-31T23")
        assert len(made.encode()) <= 255 and made.endswith("-0123456789abcdef@hourly-2026-12-31T23")
    assert schedule.name_of("disk", "0", "daily-2026-12-31") == "disk@daily-2026-12-31"


# --- what is taken and thinned, by a clock of our own

class Store:
    """A mapper as far as a Keeper needs one, and its clock."""

    def __init__(self, rule=RULE, now="2026-11-26T12:34:00"):
        self.now, self.failing, self.said, self.asked = at(now), {}, [], []
        self.rows = {"disk": self.row("disk", "volume", rule)}
        self.begin()

    def begin(self):
        """Another supervisor, which remembers nothing."""
        self.keeper = Keeper(self.ask, lambda: self.now, self.said.append)

    def row(self, name, kind, schedule, parent=None):
        number = len(getattr(self, "rows", {})) + len(self.asked) + 1
        return {"name": name, "id": f"{number:016x}", "kind": kind, "schedule": schedule, "parent_id": parent,
                "protected": False, "making": None}

    async def ask(self, verb, **a):
        self.asked.append(verb)
        if self.failing.get(verb):
            raise error(self.failing[verb])
        if verb == "list":
            return {"volumes": list(self.rows.values()), "cursor": 0}
        row = next(row for row in self.rows.values() if row["id"] == f"{id_in(a['name']):016x}")
        if verb == "remove":
            del self.rows[row["name"]]
        else:
            if a["snapshot"] in self.rows:
                raise error(errno.EEXIST)
            self.rows[a["snapshot"]] = self.row(a["snapshot"], "snapshot", a["schedule"], row["id"])
        return {}

    def round(self, hours=0.0):
        self.now += hours * HOUR
        return asyncio.run(self.keeper.round())

    def of(self, kind):
        """Periods of the snapshots of a kind, in order."""
        return sorted(name.partition(f"@{kind}-")[2] for name in self.rows if f"@{kind}-" in name)


def test_a_year_of_hours_keeps_what_the_rule_says():
    store = Store(now="2026-01-01T00:00:00")
    for _ in range(366 * 24):
        assert store.round(1)
    assert {kind: len(store.of(kind)) for kind in schedule.PERIODS} == {
        "hourly": 24, "daily": 7, "weekly": 4, "monthly": 12}
    assert store.of("hourly")[-1] == "2027-01-02T00" and store.of("hourly")[0] == "2027-01-01T01"
    assert store.of("monthly")[0] == "2026-02"


def test_nothing_more_happens_within_a_period():
    store = Store()
    store.round()
    for _ in range(20):
        store.round(0.02)
    assert store.asked.count("snapshot") == 4 and "remove" not in store.asked


def test_a_time_that_was_missed_is_made_up_once():
    store = Store()
    store.round()
    store.begin()
    for _ in range(3):
        store.round(50 / 3)
    assert store.of("hourly") == ["2026-11-26T12", "2026-11-27T05", "2026-11-27T21", "2026-11-28T14"]
    assert store.of("daily") == ["2026-11-26", "2026-11-27", "2026-11-28"]


def test_a_clock_that_jumps_a_year_ahead_and_back_costs_at_most_one_of_each_kind():
    store = Store()
    for _ in range(24 * 8):
        store.round(1)
    before = {kind: store.of(kind) for kind in schedule.PERIODS}
    store.round(365 * 24)
    store.round(-365 * 24)
    for kind in schedule.PERIODS:
        assert len(set(before[kind]) - set(store.of(kind))) <= 1, kind
    for _ in range(24):
        store.round(1)
    assert len([period for period in store.of("hourly") if period.startswith("2026")]) == 24


def test_a_clock_that_jumps_back_takes_none_twice_and_thins_none_of_those_ahead():
    store = Store()
    for _ in range(40):
        store.round(1)
    before, asked = store.of("hourly"), store.asked.count("snapshot")
    store.round(-10)
    assert store.of("hourly") == before and store.asked.count("snapshot") == asked
    store.round(-30 + 10)               # to an hour whose snapshot was thinned
    assert set(before) <= set(store.of("hourly"))
    for _ in range(5):
        store.round()
    assert store.asked.count("snapshot") <= asked + 3       # of the hour and day that it is now again


def test_a_clock_that_jumps_at_random_neither_fails_nor_takes_more_than_twice_what_is_kept():
    for seed in range(20):
        dice, store = random.Random(seed), Store()
        for _ in range(300):
            if dice.random() < 0.05:
                store.begin()
            assert store.round(dice.choice((0.1, 1, 1, 1, 7, 30, 200, -1, -5, -30, -200, 9000, -9000))), seed
            if store.now < 0:
                break
            for kind, kept in schedule.parse(RULE.split()).items():
                assert len(store.of(kind)) <= 2 * kept, (seed, kind)
                assert schedule.mark_of(kind, store.now).partition("-")[2] in store.of(kind), (seed, kind)


def test_what_somebody_removes_is_not_taken_again_in_its_period():
    store = Store()
    store.round()
    del store.rows["disk@hourly-2026-11-26T12"]
    store.round(0.1)
    assert store.of("hourly") == []
    store.round(1)
    assert store.of("hourly") == ["2026-11-26T13"]


def test_neither_what_is_protected_nor_what_was_renamed_nor_what_was_taken_by_hand_is_thinned():
    store = Store("hourly=2")
    store.round()
    store.rows["disk@hourly-2026-11-26T12"]["protected"] = True
    store.round(1)
    kept = store.rows["mine"] = store.rows.pop("disk@hourly-2026-11-26T13")
    kept["name"] = "mine"
    store.rows["disk@hourly-2020-01-01T00"] = store.row("disk@hourly-2020-01-01T00", "snapshot", "", kept["parent_id"])
    for _ in range(10):
        store.round(1)
    assert store.of("hourly") == ["2020-01-01T00", "2026-11-26T12", "2026-11-26T22", "2026-11-26T23"]
    assert "mine" in store.rows


def test_kinds_that_a_rule_names_no_more_stay():
    store = Store("hourly=2")
    store.round()
    store.rows["disk"]["schedule"] = "daily=1"
    for _ in range(50):
        store.round(1)
    assert store.of("hourly") == ["2026-11-26T12"] and len(store.of("daily")) == 1
    store.rows["disk"]["schedule"] = ""
    store.round(100)
    assert store.of("hourly") == ["2026-11-26T12"] and len(store.of("daily")) == 1


def test_a_failure_is_said_and_tried_again_and_nothing_is_thinned_meanwhile():
    store = Store("hourly=1")
    store.round()
    store.failing["snapshot"] = errno.ENOSPC
    assert not store.round(1)
    assert store.of("hourly") == ["2026-11-26T12"] and "cannot take disk@hourly-2026-11-26T13" in store.said[0]
    store.failing.clear()
    assert store.round(0.1)
    assert store.of("hourly") == ["2026-11-26T13"]


def test_a_volume_that_another_node_has_open_is_that_nodes():
    store = Store("hourly=1")
    store.failing["snapshot"] = errno.EBUSY
    assert store.round() and store.said == []


def test_a_name_that_somebody_else_has_is_said_and_left():
    store = Store("hourly=1")
    store.rows["disk@hourly-2026-11-26T12"] = store.row("disk@hourly-2026-11-26T12", "volume", "")
    assert store.round() and "cannot take" in store.said[0]
    assert store.rows["disk@hourly-2026-11-26T12"]["kind"] == "volume"


def test_what_fails_to_be_thinned_is_thinned_later():
    store = Store("hourly=1")
    store.round()
    store.failing["remove"] = errno.EIO
    assert not store.round(1)
    store.failing["remove"] = errno.EBUSY
    assert store.round()
    store.failing.clear()
    store.round()
    assert store.of("hourly") == ["2026-11-26T13"]


def test_a_store_that_cannot_be_listed_fails_a_round_and_no_more():
    store = Store("hourly=1")
    store.failing["list"] = errno.EBADMSG
    with pytest.raises(Damaged):
        store.round()
    store.failing.clear()
    assert store.round() and store.of("hourly") == ["2026-11-26T12"]


# --- with a mapper

@pytest.fixture
def name(request, node):
    name = request.node.name.removeprefix("test_")[:100]
    node.vlmc("create", name, "--size", "1M", "--block-size", "64K")
    return name


def snapshots(node, name):
    return [row["name"] for row in node.vlmc_json("list") if row["name"].startswith(name + "@")]


def test_a_schedule_takes_its_first_snapshots_at_once_and_is_listed(node, name):
    assert node.vlmc("schedule", name, "daily=7", "hourly=24").stdout == ""
    found = snapshots(node, name)
    assert [one.partition("@")[2].partition("-")[0] for one in found] == ["daily", "hourly"]
    listed = next(row for row in node.vlmc_json("schedule") if row["name"] == name)
    assert (listed["schedule"], listed["snapshots"]) == ("hourly=24 daily=7", found)
    assert node.vlmc_json("schedule", name) == [listed]
    assert name in node.vlmc("schedule").stdout
    assert node.vlmc_json("info", name)["schedule"] == "hourly=24 daily=7"
    node.vlmc("schedule", name, "none")
    assert snapshots(node, name) == found
    assert node.vlmc_json("schedule", name)[0]["schedule"] == "none"
    assert name not in [row["name"] for row in node.vlmc_json("schedule")]


@pytest.mark.parametrize("words", [["hourly=0"], ["yearly=1"], ["none", "daily=1"], ["daily=1", "daily=1"], ["x"]])
def test_a_bad_schedule_is_refused_in_one_line_and_changes_nothing(node, name, words):
    done = node.vlmc("schedule", name, *words, check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and done.stderr.startswith("vlmc: ")
    assert node.vlmc_json("info", name)["schedule"] == "" and snapshots(node, name) == []


def test_snapshots_and_what_there_is_not_have_no_schedule(node, name):
    node.vlmc("snapshot", name, f"{name}-s")
    with pytest.raises(ReadOnly, match="only volumes"):
        node.client.control("schedule", name=f"{name}-s", rule="daily=1")
    with pytest.raises(NotFound):
        node.client.control("schedule", name="nothing", rule="daily=1")
    with pytest.raises(Invalid):
        node.client.control("schedule", name=name, rule="daily=0")
    assert node.vlmc("schedule", "nothing", check=False).returncode == 1


class Args:
    def __init__(self, home):
        self.home = home


def round_at(node, volume, moment):
    """A round of the real thing, by a clock of our own."""
    said = []
    assert _walks.with_mapper(Args(node.home), lambda ask: Keeper(ask, lambda: moment, said.append).round(volume))
    return said


def test_days_pass_and_the_mapper_keeps_what_the_rule_says(node, name):
    node.client.control("schedule", name=name, rule="hourly=3 daily=2")
    volume = node.vlmc_json("info", name)["id"]
    with node.client.open(name) as opened:          # snapshots of a live volume, and each holds what it held then
        for hour in range(50):
            opened.write(0, b"%03d" % hour)
            if hour == 10:
                node.vlmc("protect", f"{name}@daily-2026-11-26")
            if hour == 30:
                node.vlmc("rename", f"{name}@hourly-2026-11-27T05", f"{name}@mine")
            assert round_at(node, volume, at("2026-11-26T00:10:00") + hour * HOUR) == []
    assert snapshots(node, name) == [
        f"{name}@{mark}" for mark in ("daily-2026-11-26", "daily-2026-11-27", "daily-2026-11-28",
                                      "hourly-2026-11-27T23", "hourly-2026-11-28T00", "hourly-2026-11-28T01", "mine")]
    for mark, hour in (("hourly-2026-11-28T01", 49), ("mine", 29), ("daily-2026-11-26", 0)):
        with node.client.open(f"{name}@{mark}") as snapshot:
            assert snapshot.read(0, 3) == b"%03d" % hour


def test_only_what_has_the_mark_and_its_name_is_removed_for_a_schedule(node, name):
    control = node.client.control
    control("snapshot", name=name, snapshot=f"{name}-s")
    control("snapshot", name=name, snapshot=f"{name}@daily-2026-11-26", schedule="daily-2026-11-26")
    for wrong, mark in ((name, "daily-2026-11-26"), (f"{name}-s", "daily-2026-11-26"),
                        (f"{name}@daily-2026-11-26", "daily-2026-11-27")):
        with pytest.raises(NotFound):
            control("remove", name=by_id(node.vlmc_json("info", wrong)["id"]), schedule=mark)
    control("remove", name=by_id(node.vlmc_json("info", f"{name}@daily-2026-11-26")["id"]), schedule="daily-2026-11-26")
    assert snapshots(node, name) == []
