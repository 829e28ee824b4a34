# SPDX-License-Identifier: Apache-2.0
"""python -m benchmarks: runs the questions and writes results/*.json, results/*.svg and RESULTS.md.

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

from benchmarks import machine, result

# in the order they run; each is a module with TITLE, METHOD and run(bench, result)
QUESTIONS = ("hop", "snapshot", "nbd", "tuning", "layouts", "first_write", "depth", "flush", "opening", "merging",
             "leaves", "restart", "rados", "rados_clones")
FREE_BYTES_MIN = 24 << 30


@dataclass
class Bench:
    """What a question needs to know of the run."""

    scratch: str
    folder: str                     # where results go
    quick: bool

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


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__)
    parser.add_argument("--only", metavar="NAME,...", help=f"of {', '.join(QUESTIONS)}")
    parser.add_argument("--quick", action="store_true", help="short samples, few rounds")
    parser.add_argument("--scratch", metavar="DIR", default="/tmp",
                        help="folder on the file system to measure; short, 24 GiB free (default /tmp)")
    parser.add_argument("--report", action="store_true", help="only make tables and plots again")
    args = parser.parse_args()
    args.names = args.only.split(",") if args.only else list(QUESTIONS)
    for name in args.names:
        if name not in QUESTIONS:
            parser.error(f"there is no question {name}; there are {', '.join(QUESTIONS)}")
    return args


def write_report(folder: str) -> str:
    """RESULTS.md from all results there are, in the order of QUESTIONS; its path."""
    order = {name: n for n, name in enumerate(QUESTIONS)}
    return result.write_markdown(sorted(result.load_all(folder), key=lambda each: order.get(each.name, len(order))),
                                 folder)


def main() -> int:
    args = arguments()
    folder = result.QUICK_FOLDER if args.quick else result.FOLDER
    if args.report:
        for each in result.load_all(folder):
            result.draw(each, folder)
        write_report(folder)
        return 0
    if shutil.disk_usage(args.scratch).free < FREE_BYTES_MIN:
        print(f"{args.scratch} has less than 24 GiB free: choose another with ARGS=--scratch=DIR", file=sys.stderr)
        return 1
    scratch = tempfile.mkdtemp(prefix="ab-", dir=args.scratch)
    failed = []
    try:
        for name in args.names:
            try:
                ask(name, Bench(scratch, folder, args.quick))
            except (RuntimeError, OSError, AssertionError) as failure:
                failed.append(name)
                traceback.print_exception(failure)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        path = write_report(folder)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    print(f"results are in {os.path.relpath(path)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
