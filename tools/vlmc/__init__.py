# SPDX-License-Identifier: Apache-2.0
"""The command `vlmc`: volumes and snapshots of a running instance. One file a verb.

Every module of this package whose name does not begin with an underscore is a verb: it has HELP,
arguments(parser) and run(args), and its docstring is its manual.
"""
import os
import sys

from tools import cli, interrupts

ALIASES = {"ls": "list", "rm": "remove"}


def verbs() -> tuple[str, ...]:
    """Names of all verbs."""
    files = os.listdir(os.path.dirname(os.path.abspath(__file__)))
    return tuple(sorted(name[:-3] for name in files if name.endswith(".py") and not name.startswith("_")))


def main(argv: list[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    interrupts.raised()
    known = verbs()
    for place, word in enumerate(argv):
        if word in known:
            break
        if word in ALIASES:
            argv[place] = ALIASES[word]
            break
    return cli.run("vlmc", "Makes, shows, changes and removes volumes and snapshots. "
                   "ls is short for list, rm for remove.", "tools.vlmc", known, argv)
