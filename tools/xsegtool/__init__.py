# SPDX-License-Identifier: Apache-2.0
"""The command `xseg`: what is in the segment, read without disturbing anyone. One file a verb."""
from tools import cli

VERBS = ("report", "ports", "requests", "clients", "sizes", "watch")


def main(argv: list[str] | None = None) -> int:
    return cli.run("xseg", "Shows what is in an instance's segment. It only reads.", "tools.xsegtool", VERBS, argv)
