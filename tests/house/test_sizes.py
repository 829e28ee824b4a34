# SPDX-License-Identifier: Apache-2.0
"""A function fits on a screen, and a file is read in one go."""
import c_source
import py_source
import tree

FUNCTION_LINES = 70
FILE_LINES = 600


def long_functions(texts):
    """(path, name, lines) of each function of more than FUNCTION_LINES."""
    found = []
    for path, text in texts.items():
        sizes = py_source.functions(text) if path.endswith(".py") else [
            (function.name, function.lines) for function in c_source.parse(text).functions]
        found += [(path, name, lines) for name, lines in sizes if lines > FUNCTION_LINES]
    return found


def long_files(texts):
    return {path: lines for path, text in texts.items() if (lines := text.count("\n")) > FILE_LINES}


def test_no_function_is_long():
    assert not long_functions(tree.texts(".py", ".c", ".h"))


def test_no_file_is_long():
    assert not long_files(tree.texts(".py", ".c", ".h"))


def test_what_is_long_is_found():
    body = "    x;\n" * (FUNCTION_LINES - 3)
    texts = {"a.c": f"static int f(int (*g)(void))\n{{\n{body}}}\nint h(int a,\n      int b)\n{{\n{body}}}\n",
             "a.py": f"async def f():\n{body}    y\n    z\ndef g():\n{body}    y\n    z\n    z\n"}
    assert long_functions(texts) == [("a.c", "h", FUNCTION_LINES + 1), ("a.py", "g", FUNCTION_LINES + 1)]
    assert long_files({"a.c": "\n" * FILE_LINES, "b.c": "\n" * (FILE_LINES + 1)}) == {"b.c": FILE_LINES + 1}
