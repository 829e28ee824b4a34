# SPDX-License-Identifier: Apache-2.0
"""The whole suite: python -m tests [PYTEST'S OPTIONS]

It runs in parts, two at a time, as many tests wait for something most of their time. What a part says is in
build/tests/PART.log while it runs, and shown when it has ended, its skips with their reasons; the last line counts all.
Exit status 1 if something failed. Some tests by themselves: python -m pytest tests/...
"""
import glob
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LOGS = os.path.join(ROOT, "build", "tests")
AT_ONCE = 2
ALONE = ("on_rados", "kill", "powercut", "bad_input")       # folders that are a part each
SMALL = ("volumes", "consistency", "regressions", "fuzz")   # folders that are one together; the others are another
NONE_COLLECTED = 5              # pytest's exit status, where options leave out all of a part
COUNTS = ("passed", "failed", "errors", "skipped")


def parts() -> list[tuple[str, ...]]:
    """Paths of each part's tests, the longest parts first; together they are all there are."""
    files = glob.glob("**/test_*.py", root_dir=os.path.join(ROOT, "tests"), recursive=True)
    tops = {path.partition("/")[0] for path in files}
    first, *others = [(name,) for name in ALONE]
    chosen = [first, tuple(sorted(tops - {*ALONE, *SMALL})), *others, SMALL]
    return [tuple(f"tests/{name}" for name in part) for part in chosen]


def run_part(paths: tuple[str, ...]) -> tuple[bool, str]:
    """Runs a part. Whether it went well, and what it said at its end."""
    log = os.path.join(LOGS, os.path.basename(paths[0]) + ".log")
    print(f"== {' '.join(paths)}: begins, see {os.path.relpath(log, ROOT)}", flush=True)
    with open(log, "w+", encoding="utf-8", errors="replace") as output:
        status = subprocess.run([sys.executable, "-u", "-m", "pytest", "-rs", *sys.argv[1:], *paths], cwd=ROOT,
                                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT).returncode
        output.seek(0)
        said = output.read()
    print(said, end="", flush=True)
    return status in (0, NONE_COLLECTED), said.rstrip().rpartition("\n")[2]


def count(last_lines: list[str]) -> dict[str, int]:
    """The sums of what pytest's last lines count."""
    found = [(int(number), what) for line in last_lines for number, what in re.findall(r"(\d+) (\w+)", line)]
    return {what: sum(n for n, name in found if name in (what, what.removesuffix("s"))) for what in COUNTS}


def main() -> int:
    os.makedirs(LOGS, exist_ok=True)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        ended = list(pool.map(run_part, parts()))
    sums = count([line for _, line in ended])
    failed = sums["failed"] + sums["errors"] + sum(1 for good, line in ended if not good and "failed" not in line
                                                   and "error" not in line)
    print(f"{sums['passed']} passed, {failed} failed, {sums['skipped']} skipped")
    return 0 if all(good for good, _ in ended) else 1


if __name__ == "__main__":
    sys.exit(main())
