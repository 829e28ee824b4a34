# SPDX-License-Identifier: Apache-2.0
"""What a C file is made of, read without a compiler: functions and what they call, includes, comments.

It knows C as the project writes it: bodies of functions in braces, no function made by a macro.
"""
from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

TOKENS = re.compile(r"""/\*.*?\*/ | //[^\n]* | "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*'""", re.S | re.X)
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]+"([^"]+)"', re.M)
DIRECTIVE = re.compile(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", re.M)
MACRO = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(\w+)\([^)]*\)((?:[^\n]*\\\n)*[^\n]*)", re.M)
CALL = re.compile(r"(?<![\w.>])([A-Za-z_]\w*)[ \t]*\(")
NO_CALLS = {"if", "for", "while", "switch", "return", "sizeof", "__typeof__", "_Static_assert", "__attribute__"}


@dataclass
class Function:
    """A definition. `line` counts from 1, `lines` from that of the name to the closing brace."""
    name: str
    static: bool
    line: int
    lines: int
    calls: set[str]


@dataclass
class CFile:
    """`macros`: those with parameters, and what they call."""
    functions: list[Function]
    includes: list[str]
    comments: list[str]
    macros: dict[str, set[str]]


def blank(text: str) -> str:
    """As many newlines as there are in text, and nothing else."""
    return "\n" * text.count("\n")


def calls_in(text: str) -> set[str]:
    return set(CALL.findall(text)) - NO_CALLS


def name_in(head: str) -> re.Match | None:
    """The name of the function whose head this is: what stands before the last parameters. None: no function."""
    head = re.sub(r"__attribute__\s*\(\(.*?\)\)", lambda found: " " * len(found.group()), head, flags=re.S).rstrip()
    if not head.endswith(")") or "=" in head:
        return None
    depth = 0
    for opening in range(len(head) - 1, -1, -1):
        depth += {")": 1, "(": -1}.get(head[opening], 0)
        if depth == 0:
            return re.search(r"[A-Za-z_]\w*(?=\s*$)", head[:opening])
    return None


def definitions(code: str) -> Iterator[Function]:
    """The functions in `code`, which has no comments, strings and directives any more."""
    depth, since, named, body = 0, 0, None, 0
    for mark in re.finditer(r"[{};]", code):
        if mark.group() == "{":
            if depth == 0:
                named, body = name_in(code[since:mark.start()]), mark.end()
            depth += 1
            continue
        depth -= mark.group() == "}"
        if depth == 0:
            if named and mark.group() == "}":
                start = since + named.start()
                yield Function(named.group(), "static" in code[since:start].split(), code.count("\n", 0, start) + 1,
                               code.count("\n", start, mark.start()) + 1, calls_in(code[body:mark.start()]))
            since, named = mark.end(), None


def parse(text: str) -> CFile:
    """Takes a C file apart."""
    comments = [found.group() for found in TOKENS.finditer(text) if found.group().startswith("/")]
    includes = INCLUDE.findall(TOKENS.sub(lambda found: found.group() if found.group()[0] == '"' else "", text))
    code = TOKENS.sub(lambda found: ("0" if found.group()[0] in "\"'" else " ") + blank(found.group()), text)
    macros = {name: calls_in(body) for name, body in MACRO.findall(code)}
    code = DIRECTIVE.sub(lambda found: blank(found.group()), code)
    return CFile(list(definitions(code)), includes, comments, macros)
