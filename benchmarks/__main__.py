# SPDX-License-Identifier: Apache-2.0
"""python -m benchmarks: runs the questions and writes results/KIND/*.json and *.svg, and RESULTS.md.

Quick runs leave theirs in build/bench, so that they replace nothing that was measured with care.
"""
from __future__ import annotations

import argparse
import importlib
import os
import shutil
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass

from benchmarks import machine, result, rounds

# in the order they run; each is a module with TITLE, METHOD and run(bench, result)
QUESTIONS = ("hop", "snapshot", "nbd", "tuning", "layouts", "first_write", "depth", "flush", "opening", "merging",
             "leaves", "restart", "rados", "rados_clones")
ONLY_COMPARE = "compare"        # not among them, as it is about two revisions
SECONDS = {"hop": 50, "snapshot": 50, "nbd": 420, "tuning": 200, "layouts": 90, "first_write": 120, "depth": 60,
           "flush": 30, "opening": 30, "merging": 30, "leaves": 30, "restart": 30, "rados": 180, "rados_clones": 120,
           ONLY_COMPARE: 240}   # what a question may take, by those of the others
MINUTES = 15
FREE_BYTES_MIN = 24 << 30


@dataclass
class Bench:
    """What a question needs to know of the run."""

    scratch: str
    folder: str                     # where results go
    quick: bool
    revision: str = ""              # to compare with

    def choose(self, full: float, quick: float) -> float:
        """A duration or number for this kind of run."""
        return quick if self.quick else full

    def say(self, text: str) -> None:
        print(f"   {text}", flush=True)


def ask(name: str, bench: Bench) -> result.Result:
    """Runs one question and saves what it leaves."""
    module = importlib.import_module(f"benchmarks.{name}")
    print(f"== {name}: {module.TITLE}", flush=True)
    made = result.Result(name, module.TITLE, " ".join(module.METHOD.split()), quick=bench.quick,
                         machine=machine.describe(bench.scratch), made=time.strftime("%Y-%m-%d %H:%M"))
    began = time.monotonic()
    module.run(bench, made)
    made.seconds = time.monotonic() - began
    made.save(bench.folder)
    for claim in made.claims:
        print("   " + "  ".join(claim.row()), flush=True)
    print(f"   {made.seconds:.0f} s", flush=True)
    return made


def ask_all(names: list[str], bench: Bench, until: float) -> list[str]:
    """Asks each within its share of the time that is left. Names of those that failed, or were not asked."""
    failed, noise = [], []
    for n, name in enumerate(names):
        left = until - time.monotonic()
        if left <= 0:
            bench.say(f"no time is left for: {', '.join(names[n:])} (--minutes)")
            return failed + names[n:]
        rounds.Limit.until = time.monotonic() + left * SECONDS[name] / sum(SECONDS[other] for other in names[n:])
        try:
            noise += [f"{name}: {each.text}" for each in ask(name, bench).claims if each.noise or each.disturbed]
        except (RuntimeError, OSError, AssertionError) as failure:
            failed.append(name)
            traceback.print_exception(failure)
    for row in noise:
        bench.say(f"noise, for all repetition: {row}")
    return failed


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__)
    parser.add_argument("--only", metavar="NAME,...", help=f"of {', '.join(QUESTIONS)}")
    parser.add_argument("--quick", action="store_true", help="short samples, few rounds")
    parser.add_argument("--scratch", metavar="DIR", default="/tmp",
                        help="folder on the file system to measure; short, 24 GiB free (default /tmp)")
    parser.add_argument("--report", action="store_true", help="only make tables and plots again")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"time for all (default {MINUTES})")
    parser.add_argument("--compare", metavar="REVISION", default="", help="only put this tree beside another revision")
    args = parser.parse_args()
    args.names = args.only.split(",") if args.only else [ONLY_COMPARE] if args.compare else list(QUESTIONS)
    for name in args.names:
        if name not in QUESTIONS and not (args.compare and name == ONLY_COMPARE):
            parser.error(f"there is no question {name}; there are {', '.join(QUESTIONS)}")
    return args


def write_report(folder: str) -> str:
    """RESULTS.md from all results there are, in the order of QUESTIONS; its path."""
    order = {name: n for n, name in enumerate((ONLY_COMPARE, *QUESTIONS))}
    return result.write_markdown(sorted(result.load_all(folder), key=lambda each: order.get(each.name, len(order))),
                                 folder)


def main() -> int:
    args = arguments()
    folder = result.QUICK_FOLDER if args.quick or args.compare else result.FOLDER
    if args.report:
        for each in result.load_all(folder):
            result.draw(each, folder)
        write_report(folder)
        return 0
    if shutil.disk_usage(args.scratch).free < FREE_BYTES_MIN:
        print(f"{args.scratch} has less than 24 GiB free: choose another with ARGS=--scratch=DIR", file=sys.stderr)
        return 1
    print(f"== {machine.describe(args.scratch)['cpu']}", flush=True)
    until = time.monotonic() + args.minutes * 60
    scratch = tempfile.mkdtemp(prefix="ab-", dir=args.scratch)
    try:
        failed = ask_all(args.names, Bench(scratch, folder, args.quick, args.compare), until)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        path = write_report(folder)
    if failed:
        print(f"failed, or not asked: {', '.join(failed)}", file=sys.stderr)
    print(f"results are in {os.path.relpath(path)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
