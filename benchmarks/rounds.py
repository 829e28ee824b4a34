# SPDX-License-Identifier: Apache-2.0
"""Taking samples in turns, and what follows from them: medians, ratios of neighbours, spreads."""
from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.machine import DISTURBED

Sample = dict[str, float]       # "foreign" is CPU that others used; all else as the question says
RETRIES = 1                     # of a disturbed sample
RETRIES_RUN = 60                # of all disturbed samples of a run, so that its time is bounded
FEW = 3                         # undisturbed pairs from which on disturbed ones are left out
NOISE = 0.03                    # how sure a ratio must be: a standard error of so much of it, from which on it is noise
MAD_TO_ERROR = 1.48 * 1.25      # from the median distance to the median, to the standard error of a median, by sqrt(n)
ROUNDS_MIN = 2                  # also when there is no time left
EXTRA_MIN = 4                   # rounds more while a ratio is noise; or as many as were asked for
DROP_AFTER = 2                  # rounds after which those far behind are measured no more
DROP_BELOW = 0.75               # of the best


@dataclass
class Series:
    """Samples of one contestant, by the number of their round."""

    samples: dict[int, Sample] = field(default_factory=dict)

    def values(self, key: str) -> list[float]:
        return [sample[key] for sample in self.samples.values() if key in sample]

    def median(self, key: str) -> float:
        """Of the undisturbed samples where there are any."""
        quiet = [s[key] for s in self.samples.values() if not disturbed(s) and key in s]
        return statistics.median(quiet or self.values(key))

    def disturbed(self) -> bool:
        """True if no sample was undisturbed."""
        return all(map(disturbed, self.samples.values()))


def disturbed(sample: Sample) -> bool:
    return sample.get("foreign", 0.0) > DISTURBED


@dataclass(frozen=True)
class Ratio:
    """The median of ratios of neighbours."""

    value: float
    low: float
    high: float
    pairs: int
    disturbed: bool
    error: float = 0.0              # standard error, by its value

    @property
    def noise(self) -> bool:
        return self.error > NOISE

    def __str__(self) -> str:
        marks = ("†" if self.disturbed else "") + ("~" if self.noise else "")
        return f"{self.value:.2f}{marks} [{self.low:.2f}–{self.high:.2f}]"

    def listed(self) -> dict[str, float | int | bool]:
        return {"value": round(self.value, 4), "low": round(self.low, 4), "high": round(self.high, 4),
                "pairs": self.pairs, "disturbed": self.disturbed}


def ratio(ours: Series, theirs: Series, key: str, other_key: str | None = None) -> Ratio:
    """ours / theirs in each round both took part in."""
    rounds = sorted(set(ours.samples) & set(theirs.samples))
    quiet = [n for n in rounds if not disturbed(ours.samples[n]) and not disturbed(theirs.samples[n])]
    used = quiet if len(quiet) >= min(FEW, len(rounds)) else rounds
    pairs = [ours.samples[n][key] / theirs.samples[n][other_key or key] for n in used
             if theirs.samples[n][other_key or key]]
    if not pairs:
        return Ratio(float("nan"), float("nan"), float("nan"), 0, True)
    return Ratio(statistics.median(pairs), min(pairs), max(pairs), len(pairs), used is not quiet, _error(pairs))


def _error(values: Sequence[float]) -> float:
    """The standard error of their median, by it; that of a single one is not known: 0."""
    middle = statistics.median(values)
    apart = statistics.median(abs(value - middle) for value in values)
    return MAD_TO_ERROR * apart / math.sqrt(len(values)) / middle if middle else 0.0


class Limit:
    """When samples should have been taken. Rounds beyond ROUNDS_MIN are left out then."""

    until = math.inf                # time.monotonic()

    @classmethod
    def passed(cls) -> bool:
        return time.monotonic() > cls.until


def in_turns(contestants: dict[str, Callable[[], Sample]], rounds: int, *,
             keep: Sequence[str] = (), best_of: str | None = None) -> dict[str, Series]:
    """Samples of all contestants, `rounds` of each, in turns whose order is reversed every time.

    While the first one's ratio to another is noise there are more, if there is time. With `best_of`, those whose
    median of that key (more is better) is far below the best of the others leave after DROP_AFTER rounds; those in
    `keep` stay.
    """
    series = {name: Series() for name in contestants}
    racing = list(contestants)
    for number in range(rounds + max(EXTRA_MIN, rounds)):
        if number >= min(rounds, ROUNDS_MIN) and Limit.passed():
            break
        if number >= rounds and not _noise(series, racing, best_of):
            break
        for name in racing if number % 2 == 0 else reversed(racing):
            series[name].samples[number] = _sample(contestants[name])
        if best_of and number + 1 >= DROP_AFTER:
            racing = _still_racing(series, racing, keep, best_of)
    return series


def _noise(series: dict[str, Series], racing: Sequence[str], key: str | None) -> bool:
    """True if the first one's ratio to another in the race is noise, of `key` or of what a sample names first."""
    first, *others = racing
    key = key or next(iter(series[first].samples[0]))
    return any(ratio(series[first], series[name], key).noise for name in others if key in series[name].samples[0])


_retries = itertools.count()    # so many were taken in this run


def _sample(take: Callable[[], Sample]) -> Sample:
    """The least disturbed of up to 1 + RETRIES samples."""
    best = take()
    for _ in range(RETRIES):
        if not disturbed(best) or next(_retries) >= RETRIES_RUN:
            break
        best = min(best, take(), key=lambda sample: sample["foreign"])
    return best


def _still_racing(series: dict[str, Series], racing: list[str], keep: Sequence[str], key: str) -> list[str]:
    others = [name for name in racing if name not in keep]
    best = max((series[name].median(key) for name in others), default=0.0)
    return [name for name in racing if name in keep or series[name].median(key) >= DROP_BELOW * best]


def best_of(series: dict[str, Series], names: Sequence[str], key: str) -> str:
    """The one of `names` with the largest median."""
    return max(names, key=lambda name: series[name].median(key))


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, p10, p90 and extremes."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return {"median": statistics.median(ordered), "p10": ordered[round(last * 0.1)],
            "p90": ordered[round(last * 0.9)], "min": ordered[0], "max": ordered[-1]}
