# SPDX-License-Identifier: Apache-2.0
"""What a question leaves: tables, plots and claims, as JSON, Markdown and SVG."""
from __future__ import annotations

import glob
import json
import os
import re
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.rounds import Ratio, Series, disturbed

FOLDER = os.path.dirname(os.path.abspath(__file__))                   # of RESULTS.md and results/
QUICK_FOLDER = os.path.join(os.path.dirname(FOLDER), "build", "bench")  # the same for quick runs
BAR_WIDTH_ALL = 0.8
COLOURS = ("#0b6e99", "#4fb0c6", "#d1495b", "#e8998d", "#8d6a9f", "#c5a3cf", "#6b705c", "#a5a58d", "#edae49",
           "#3d5a80")


@dataclass
class Table:
    """Rows under headers; cells are text already."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""


@dataclass
class Plot:
    """bars: a group of bars for each x; lines: one line a series over numeric x. Axes begin at 0 unless log."""

    title: str
    y_label: str
    x: list[Any]
    series: dict[str, list[float]]
    kind: str = "bars"
    x_label: str = ""
    log_x: bool = False
    log_y: bool = False
    ranges: dict[str, list[list[float]]] = field(default_factory=dict)     # series -> [low, high] for each x
    line_at: float | None = None                                            # the goal


@dataclass
class Claim:
    """Something that should hold: value (a ratio or number) against a goal."""

    text: str
    goal: float
    value: float
    low: float
    high: float
    at_least: bool = True
    disturbed: bool = False
    noise: bool = False

    @property
    def met(self) -> bool:
        return self.value >= self.goal if self.at_least else self.value <= self.goal

    def row(self) -> list[str]:
        sign = "≥" if self.at_least else "≤"
        dagger = ("†" if self.disturbed else "") + ("~" if self.noise else "")
        return [self.text, f"{sign} {self.goal:g}", f"{self.value:.2f}{dagger}",
                f"{self.low:.2f}–{self.high:.2f}", "yes" if self.met else "**no**"]


def claim(text: str, goal: float, ratio: Ratio, at_least: bool = True) -> Claim:
    return Claim(text, goal, ratio.value, ratio.low, ratio.high, at_least, ratio.disturbed,
                 ratio.noise)


@dataclass
class Result:
    """All that one question leaves."""

    name: str
    title: str
    method: str
    claims: list[Claim] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, str] = field(default_factory=dict)
    made: str = ""
    seconds: float = 0.0
    quick: bool = False

    @property
    def kind(self) -> str:
        """Of machine: number and model of its CPUs."""
        return self.machine.get("cpu", "an unknown machine")

    @property
    def command(self) -> str:
        return f"make bench ONLY={self.name}" + (" QUICK=1" if self.quick else "")

    def keep(self, key: str, series: dict[str, Series]) -> None:
        """Keeps the samples behind a table."""
        self.raw[key] = {name: {str(n): {k: round(v, 4) for k, v in sample.items()}
                                for n, sample in one.samples.items()} for name, one in series.items()}

    def save(self, folder: str) -> None:
        """Writes FOLDER/results/KIND/NAME.json and NAME.svg."""
        os.makedirs(os.path.dirname(path_of(folder, self, "json")), exist_ok=True)
        with open(path_of(folder, self, "json"), "w", encoding="utf-8") as file:
            json.dump(asdict(self), file, indent=1, ensure_ascii=False)
            file.write("\n")
        draw(self, folder)


def path_below(result: Result, suffix: str) -> str:
    """Of a result's file: results/KIND/NAME.SUFFIX, KIND like "2-x-amd-epyc"."""
    kind = re.sub(r"[^a-z0-9]+", "-", result.kind.lower()).strip("-")
    return os.path.join("results", kind, f"{result.name}.{suffix}")


def path_of(folder: str, result: Result, suffix: str) -> str:
    return os.path.join(folder, path_below(result, suffix))


def load_all(folder: str) -> list[Result]:
    """The latest result of every question on every kind of machine, in the order of these and of their names."""
    results = []
    for path in sorted(glob.glob(os.path.join(folder, "results", "*", "*.json"))):
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
        data["claims"] = [Claim(**each) for each in data["claims"]]
        data["tables"] = [Table(**each) for each in data["tables"]]
        data["plots"] = [Plot(**each) for each in data["plots"]]
        results.append(Result(**data))
    return results


# --- cells ------------------------------------------------------------------------------------------

def short(value: float) -> str:
    """Three significant digits or so: 0.123, 12.3, 1,230, 45.6k."""
    if abs(value) >= 100_000:
        return f"{value / 1000:,.0f}k"
    if abs(value) >= 10_000:
        return f"{value / 1000:.1f}k"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def cell(series: Series | None, key: str, form: str = "{}") -> str:
    """The median of a series for a table, with a dagger when every sample was disturbed."""
    if series is None or not series.samples:
        return "–"
    return form.format(short(series.median(key))) + ("†" if series.disturbed() else "")


def range_of(series: Series, key: str) -> list[float]:
    values = [s[key] for s in series.samples.values() if not disturbed(s)] or series.values(key)
    return [min(values), max(values)]


# --- Markdown ---------------------------------------------------------------------------------------

def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(header) + " |", "| " + " | ".join("---" for _ in header) + " |"]
    return lines + ["| " + " | ".join(row) + " |" for row in rows] + [""]


def section(result: Result) -> list[str]:
    """The part of RESULTS.md that one question fills."""
    lines = [f"## {result.title}", "", result.method, ""]
    if result.claims:
        lines += _table(["what", "goal", "measured", "range", "met"], [each.row() for each in result.claims])
    if result.plots:
        lines += [f"![{result.title}]({path_below(result, 'svg')})", ""]
    for table in result.tables:
        lines += [f"**{table.title}**", "", *_table(table.header, table.rows)]
        lines += [table.note, ""] if table.note else []
    machine = "; ".join(f"{key} {value}" for key, value in result.machine.items())
    quick = "A quick run: short samples, few rounds. " if result.quick else ""
    lines += [f"*{quick}`{result.command}`, {result.made}, {result.seconds:.0f} s. {machine}.*", ""]
    return lines


def write_markdown(results: list[Result], folder: str) -> str:
    """FOLDER/RESULTS.md from the results there are; its path."""
    lines = ["# What it costs", "",
             "Made by `make bench` (`benchmarks/__init__.py` tells how figures come about); do not edit.",
             "Ratios are medians of neighbours in one run, with their range. † others used the CPU meanwhile. "
             "~ noise: their median is not sure to 3 %.",
             "A table says on which machine it was made; there is one for each kind of processor that was measured.",
             ""]
    kinds = list(dict.fromkeys(result.kind for result in results))
    for kind in kinds:
        lines += [f"# On {kind}", ""] if len(kinds) > 1 else []
        for result in results:
            lines += section(result) if result.kind == kind else []
    path = os.path.join(folder, "RESULTS.md")
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(lines).rstrip() + "\n")
    return path


# --- plots ------------------------------------------------------------------------------------------

def _bars(axes: Any, plot: Plot) -> None:
    width = BAR_WIDTH_ALL / max(1, len(plot.series))
    for n, (name, values) in enumerate(plot.series.items()):
        places = [i + (n + 0.5) * width - BAR_WIDTH_ALL / 2 for i in range(len(plot.x))]
        axes.bar(places, values, width * 0.95, label=name, color=COLOURS[n % len(COLOURS)])
        for place, value, ends in zip(places, values, plot.ranges.get(name, []), strict=False):
            axes.errorbar(place, value, yerr=[[max(0, value - ends[0])], [max(0, ends[1] - value)]], color="#333333",
                          linewidth=0.8, capsize=2)
    axes.set_xticks(range(len(plot.x)), plot.x, fontsize=8)


def _lines(axes: Any, plot: Plot) -> None:
    for n, (name, values) in enumerate(plot.series.items()):
        axes.plot(plot.x, values, marker="o", markersize=3, label=name, color=COLOURS[n % len(COLOURS)])
    if plot.log_x:
        axes.set_xscale("log")


def draw(result: Result, folder: str) -> None:
    """FOLDER/results/KIND/NAME.svg: its plots below one another."""
    if not result.plots:
        return
    import matplotlib
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "archipelago"
    from matplotlib import pyplot
    figure, all_axes = pyplot.subplots(len(result.plots), 1, figsize=(9, 3.4 * len(result.plots)), squeeze=False)
    for axes, plot in zip(all_axes[:, 0], result.plots, strict=True):
        (_bars if plot.kind == "bars" else _lines)(axes, plot)
        if plot.log_y:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        if plot.line_at is not None:
            axes.axhline(plot.line_at, color="#333333", linewidth=0.8, linestyle="--")
        axes.set_title(plot.title, fontsize=10, loc="left")
        axes.set_ylabel(plot.y_label, fontsize=9)
        axes.set_xlabel(plot.x_label, fontsize=9)
        axes.grid(axis="y", linewidth=0.3)
        axes.set_axisbelow(True)
        axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.tight_layout()
    figure.savefig(path_of(folder, result, "svg"), metadata={"Date": None})
    pyplot.close(figure)
