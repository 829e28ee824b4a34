# SPDX-License-Identifier: Apache-2.0
"""The command `archipelago`: starts, stops and shows an instance. One file a verb."""
from tools import cli

VERBS = ("start", "stop", "restart", "route", "status", "check", "collect", "df")


def main(argv: list[str] | None = None) -> int:
    return cli.run("archipelago", "Starts, stops and shows an instance of Archipelago.",
                   "tools.archipelago", VERBS, argv)
