# SPDX-License-Identifier: Apache-2.0
"""What a Python file is made of, read without running it: what it imports, functions, comments and strings."""
from __future__ import annotations

import ast
import functools
import io
import os
import tokenize
from collections.abc import Collection, Iterator


@functools.cache
def tree_of(text: str) -> ast.Module:
    return ast.parse(text)


def module_of(path: str) -> str:
    """The dotted name of the module in the file at `path`, from the root."""
    return path.removesuffix(".py").removesuffix("/__init__").replace(os.sep, ".")


def run_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only a checker of types looks at."""
    yield tree
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield from run_nodes(node)


def imports(path: str, text: str, modules: Collection[str]) -> set[str]:
    """Which of `modules` the file imports, anywhere in it."""
    package = module_of(path).split(".") if path.endswith("__init__.py") else module_of(path).split(".")[:-1]
    wanted = set()
    for node in run_nodes(tree_of(text)):
        if isinstance(node, ast.Import):
            wanted |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[:len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = {f"{base}.{alias.name}" for alias in node.names}
            wanted |= names & set(modules) or {base}
            if not names <= set(modules):
                wanted.add(base)
    return wanted & set(modules) - {module_of(path)}


def functions(text: str) -> Iterator[tuple[str, int]]:
    """Each function's name and how many lines it has."""
    for node in ast.walk(tree_of(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1


def strings(text: str) -> list[str]:
    """All strings, docstrings among them."""
    return [node.value for node in ast.walk(tree_of(text))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def prose(text: str) -> list[str]:
    """Comments and docstrings."""
    found = [token.string for token in tokenize.generate_tokens(io.StringIO(text).readline)
             if token.type == tokenize.COMMENT]
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    return found + [ast.get_docstring(node) or "" for node in ast.walk(tree_of(text)) if isinstance(node, kinds)]
