# SPDX-License-Identifier: Apache-2.0
"""Shows at the end of a session how many kills of peers under load there were."""
import load


def pytest_terminal_summary(terminalreporter):
    if load.kills:
        each = ", ".join(f"{process} {count}" for process, count in sorted(load.kills.items()))
        terminalreporter.write_line(f"kill -9 of peers under load: {load.kills.total()} ({each})")
