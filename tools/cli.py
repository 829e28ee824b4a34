# SPDX-License-Identifier: Apache-2.0
"""What the commands share: --home, errors as one line on stderr, exit status, tables, sizes.

Exit status: 0 done; 1 failed, and stderr says why; 2 wrong usage; others as a verb documents.
"""
from __future__ import annotations

import argparse
import importlib
import io
import json
import os
import sys
from collections.abc import Sequence
from itertools import chain
from typing import Any


def parser(program: str, description: str) -> argparse.ArgumentParser:
    """An argument parser that knows --home."""
    made = argparse.ArgumentParser(prog=program, description=description)
    add_home(made)
    return made


def add_home(to: argparse.ArgumentParser) -> None:
    to.add_argument("--home", default=argparse.SUPPRESS, metavar="DIR",
                    help="the instance's home (default: $ARCHIPELAGO_HOME, /var/lib/archipelago for root, "
                         "$XDG_STATE_HOME/archipelago for others)")


def open_standard_files() -> None:
    """Has descriptors 0 to 2 be something: the next file opened would be one of them else, and be taken for it."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            if os.open(os.devnull, os.O_RDWR) != fd:
                return


def show_all_names() -> None:
    """Has a name that the locale cannot show be escaped: else it would hide whatever comes after it."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def run(program: str, description: str, package: str, verbs: tuple[str, ...], argv: list[str] | None = None) -> int:
    """A command with verbs: each is a module of `package` with HELP, arguments(parser) and run(args).

    Of the modules only the one that is asked for is imported; all are for --help.
    """
    open_standard_files()
    show_all_names()
    from xseg import ours
    ours.close_umask()
    argv = sys.argv[1:] if argv is None else argv
    top = parser(program, description)
    subparsers = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    asked = next((word for word in argv if word in verbs), None)
    for verb in verbs:
        if asked not in (None, verb):
            subparsers.add_parser(verb)
            continue
        module = importlib.import_module(f"{package}.{verb.replace('-', '_')}")
        verb_parser = subparsers.add_parser(verb, help=module.HELP, description=module.__doc__ or module.HELP,
                                            formatter_class=argparse.RawDescriptionHelpFormatter)
        add_home(verb_parser)
        module.arguments(verb_parser)
        verb_parser.set_defaults(run=module.run)
    args = top.parse_args(argv)
    return guarded(args.run, program, with_home(args))


def with_home(args: argparse.Namespace) -> argparse.Namespace:
    """Fills in the default home and makes it absolute."""
    from xseg.client import default_home
    args.home = os.path.abspath(args.home) if getattr(args, "home", None) else default_home()
    return args


def guarded(function: Any, program: str, args: argparse.Namespace) -> int:
    """Runs a verb. A failure with an errno is one line on stderr and exit status 1."""
    from xseg import ours
    try:
        ours.check_home(args.home)
        return function(args) or 0
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as failure:
        print(f"{program}: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return 128 + getattr(interrupt, "number", 2)


def print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=2)
    sys.stdout.write("\n")


def print_table(rows: Sequence[Sequence[Any]], headers: Sequence[str]) -> None:
    """Columns under headers, those of numbers to the right; nothing but the headers when there are no rows.

    A row costs some 3 us: tables of libraries look at each cell many times, and `vlmc list` may have 100,000 rows."""
    columns = [[cell if isinstance(cell, str) else f"{cell:g}" if isinstance(cell, float) else str(cell)
                for cell in column] for column in zip(*rows, strict=True)] or [[] for _ in headers]
    form = "  ".join(f"{{:{'>' if column and all(map(is_number, column)) else '<'}"
                     f"{max(len(header), max(map(len, column), default=0))}}}"
                     for header, column in zip(headers, columns, strict=True))
    print("\n".join(form.format(*line).rstrip() for line in chain([headers], zip(*columns, strict=True))))


def is_number(cell: str) -> bool:
    """True for a cell that belongs to the right of its column, as 12 or 0.5."""
    return cell.replace(".", "", 1).isdigit()


def human(size: float) -> str:
    """Bytes with a suffix: 512, 4.0K, 1.5G."""
    for suffix in ("", "K", "M", "G", "T"):
        if size < 1024:
            return f"{size:.0f}" if not suffix else f"{size:.1f}{suffix}"
        size /= 1024
    return f"{size:.1f}P"
