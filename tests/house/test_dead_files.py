# SPDX-License-Identifier: Apache-2.0
"""No file is there for nothing: each is built and used, imported or started by somebody."""
import os
import re

import py_source
import tree

from tools.instance import config
from tools.vlmc import verbs
from xseg._build import HEADERS

STARTED_BY_PYTEST = re.compile(r"(^|/)(test_\w+|conftest|__main__|__init__)\.py$")
GLOBAL = re.compile(r"^(?!static\b|typedef\b)[a-z][\w *]*?[ *](\w+)(?:\[\w*\])?(?:\([^;]*?\)\s*\{| = )", re.M)
PROGRAM = re.compile(r"^int (?:main|LLVMFuzzerTestOneInput)\(", re.M)


def dead_c(texts, headers_of_cffi, python=""):
    """The C files of which nobody outside uses anything: a header that is not included, a file whose functions and
    tables no other C file names, nor what is written in `python`."""
    words = {path: set(re.findall(r"\w+", text)) for path, text in {**texts, ".py.c": python}.items()}
    included = set(re.findall(r'#include "([^"]+)"', "".join(texts.values()))) | set(headers_of_cffi)

    def used(path, text):
        if path.endswith(".h"):
            return path.removeprefix("native/") in included or os.path.basename(path) in included
        given = set(GLOBAL.findall(text))
        return PROGRAM.search(text) or any(given & found for other, found in words.items()
                                           if other != path and other.endswith(".c"))

    return [path for path, text in texts.items() if not used(path, text)]


def dead_python(texts, others, started):
    """The modules that no module imports and no command, file or string names. `started`: names that code finds."""
    modules = {py_source.module_of(path): path for path in texts}
    short = {name.rpartition(".")[2]: name for name in modules if name.startswith("tests.")}    # found by pythonpath
    imported = set().union(*(py_source.imports(path, text, {**modules, **short}) for path, text in texts.items()))
    alive = {*started, *imported, *(short[name] for name in imported if name in short)}
    said = {path: "\n".join(py_source.strings(text)) for path, text in texts.items()}

    def named(module, path):
        name = re.compile(rf"(?<![\w.]){re.escape(module)}(?!\w)|(?<!\w){re.escape(os.path.basename(path))}(?!\w)"
                          rf"|^{re.escape(module.rpartition('.')[2])}$", re.M)
        return any(name.search(text) for other, text in said.items() if other != path) or \
            any(name.search(text) for text in others)

    return [path for module, path in modules.items()
            if module not in alive and not STARTED_BY_PYTEST.search(path) and not named(module, path)]


def test_every_c_file_is_used():
    python = "".join(tree.texts(".py", parts=("xseg", "peers", "tools")).values())
    assert not dead_c(tree.texts(".c", ".h", parts=("native",)), HEADERS, python)


def test_every_module_is_used():
    started = {*config.peer_modules().values(), *(f"tools.vlmc.{verb}" for verb in verbs())}
    assert not dead_python(tree.texts(".py"), [tree.read("Makefile"), tree.read("setup.py")], started)


def test_a_dead_c_file_is_found():
    texts = {"native/a.h": "int used(void);", "native/b.h": "", "native/c.h": "",
             "native/a.c": '#include "a.h"\nint used(void)\n{\n    return 0;\n}\nint dead(void);\n',
             "native/m.c": "int main(void)\n{\n    return used();\n}\n",
             "native/t.c": "const struct peer_type t = { 0 };\n", "native/s.c": "static int main_part = 1;\n",
             "native/p.c": "extern const struct peer_type t;\nint also(void)\n{\n}\n"}
    assert dead_c(texts, ["c.h"]) == ["native/b.h", "native/s.c", "native/p.c"]
    assert dead_c(texts, ["c.h", "b.h"], "lib.also()") == ["native/s.c"]


def test_a_dead_module_is_found():
    texts = {"x/__init__.py": "", "x/a.py": "", "x/b.py": "def f():\n    from x import a\n", "x/c.py": "",
             "x/d.py": "RUN = ['-m', 'x.e']", "x/e.py": "# x.b", "x/test_x.py": "S = 'path/w.py'", "x/w.py": "",
             "tests/lib/h.py": "import g", "tests/lib/g.py": ""}
    assert dead_python(texts, ["all: x/d.py\n"], {"x.c"}) == ["x/b.py", "tests/lib/h.py"]
