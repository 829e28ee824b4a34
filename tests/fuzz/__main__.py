# SPDX-License-Identifier: Apache-2.0
"""Runs fuzz targets: python -m tests.fuzz [--seconds S] [--seed N] [TARGET...]

All of them, two at once, for so many seconds each: the native ones (native/fuzz/, built by `make fuzz` into
build-fuzz/, with their corpus in tests/corpus/TARGET) and those of targets.py. What a target found is shown, with
how to see it again, and makes the exit status 1. --rounds N --seed N runs one Python target for so many rounds in
this process.
"""
from __future__ import annotations

import argparse
import glob
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "lib"))
AT_ONCE = 2
GRACE_S = 120                   # that a target may take beyond its time, to begin and to end


def native_targets() -> list[str]:
    """Names of the targets in C."""
    return sorted("fuzz_" + path[:-2] for path in glob.glob("*.c", root_dir=os.path.join(ROOT, "native", "fuzz")))


def native_command(name: str, seconds: int, seed: int) -> list[str]:
    """Entropic scheduling costs more than short inputs do, so it is off."""
    found = os.path.join(ROOT, "build-fuzz", f"found-{name}")
    corpus = os.path.join(ROOT, "tests", "corpus", name)
    os.makedirs(found, exist_ok=True)
    return [os.path.join(ROOT, "build-fuzz", name), f"-max_total_time={seconds}", f"-seed={seed}",
            "-entropic=0", "-verbosity=0",
            "-print_final_stats=1", f"-artifact_prefix={ROOT}/build-fuzz/", found, corpus]


def run_one(name: str, seconds: int, seed: int) -> str:
    """Runs a target in a process of its own and shows how it went. What it said of a finding, or nothing."""
    command = native_command(name, seconds, seed) if name.startswith("fuzz_") else \
        [sys.executable, "-m", "tests.fuzz", "--seconds", str(seconds), "--seed", str(seed), "--here", name]
    try:
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              errors="replace", timeout=seconds + GRACE_S)
        said, good = done.stdout, done.returncode == 0
    except subprocess.TimeoutExpired as late:
        said, good = f"{late}", False
    lines = [line for line in said.splitlines() if "exec" in line]
    print(f"== {name}{'' if good else ': FOUND SOMETHING, see the end'}", *lines, sep="\n", flush=True)
    return "" if good else f"== {name}, seed {seed}: FOUND SOMETHING\n{said}"


def run_here(name: str, seconds: float, rounds: int, seed: int) -> None:
    """Runs a Python target in this process. What it finds is raised."""
    from tests.fuzz import targets
    began = time.monotonic()
    done = targets.run(name, seed, lambda number: number < rounds if rounds
                       else time.monotonic() - began < seconds)
    print(f"{done} executions, {done / max(time.monotonic() - began, 0.001):.0f} a second, seed {seed}")


def main() -> int:
    from tests.fuzz import targets
    parser = argparse.ArgumentParser(prog="tests.fuzz", description="Runs fuzz targets.")
    parser.add_argument("--seconds", type=int, default=10, help="for each target")
    parser.add_argument("--rounds", type=int, default=0, help="with --here: so many executions instead")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "little"))
    parser.add_argument("--here", action="store_true", help="one Python target, in this process")
    parser.add_argument("names", metavar="TARGET", nargs="*", help="all, if none is named")
    args = parser.parse_args()
    if args.here:
        for name in args.names:
            run_here(name, args.seconds, args.rounds, args.seed)
        return 0
    names = args.names or [*native_targets(), *targets.TARGETS]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(filter(None, pool.map(lambda name: run_one(name, args.seconds, args.seed), names)))
    print(*found, sep="\n", flush=True)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
