# SPDX-License-Identifier: Apache-2.0
"""Lists the volumes that are mapped to block devices, by their present names, and where these are mounted.

State: mapped, or stale: what served the device is gone (a boot, a kill); `vlmc unmap` clears that away.
"""
from __future__ import annotations

import argparse

from tools.vlmc._common import add_json

HELP = "list mapped volumes"


def arguments(parser: argparse.ArgumentParser) -> None:
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from tools import cli
    from tools.mapping import mapping
    shown = [entry.shown() for entry in mapping.shown_entries(args.home)]
    if args.json:
        cli.print_json(shown)
        return 0
    cli.print_table([[row["name"], row["device"] or "-", row["method"], "ro" if row["readonly"] else "rw",
                      row["state"], row["since"], ", ".join(row["mounts"]) or "-"] for row in shown],
                    ["name", "device", "by", "mode", "state", "since", "mounted at"])
    return 0
