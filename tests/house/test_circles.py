# SPDX-License-Identifier: Apache-2.0
"""Calls and imports go down: no file uses one that uses it."""
import os
import pprint

import c_source
import py_source
import tree

PROGRAMS = ("native/fuzz/", "native/load/")     # none of the pipeline's files knows them
# Circles that are still to be cut. A test fails where one is no longer as it is here, so the list only gets shorter.
KNOWN = [
    ("native/vlmc/commit.c", "native/vlmc/frames.c", "native/vlmc/order.c", "native/vlmc/own.c",
     "native/vlmc/read.c", "native/vlmc/vlmc.c", "native/vlmc/write.c"),
]


def homes(files):
    """Where each function lies that other files can call: its name, the path."""
    return {function.name: path for path, file in files.items() if not path.startswith(PROGRAMS)
            for function in file.functions if path.endswith(".h") or not function.static}


def uses_of(texts):
    """For each C file the files it includes or calls, and by which names. A header and the file that is called like
    it are one thing: inline functions there may call what is not inline."""
    files = {path: c_source.parse(text) for path, text in texts.items()}
    home = homes(files)
    uses = {}
    for path, file in files.items():
        uses[path] = {}
        for name in file.includes:
            for found in (os.path.join("native", name), os.path.join(os.path.dirname(path), name)):
                if found in files and found != path[:-1] + "h":
                    uses[path].setdefault(found, set()).add("#include")
        called = file.macro_calls.union(*(function.calls for function in file.functions))
        for name in called - {function.name for function in file.functions}:
            if name in home:
                uses[path].setdefault(home[name], set()).add(name)
    return uses


def imports_of(texts):
    """For each module the modules it imports, also within a function."""
    modules = {py_source.module_of(path): path for path in texts}
    return {name: py_source.imports(path, texts[path], modules) for name, path in modules.items()}


def compare(uses, known):
    """None, or what is to be changed: a circle that is new, or one that is known and no longer so."""
    found = list(tree.circles(uses))
    new, gone = [circle for circle in found if circle not in known], [circle for circle in known if circle not in found]
    if not new and not gone:
        return None
    inner = {(one, other): sorted(uses[one][other]) if isinstance(uses[one], dict) else "import"
             for circle in new for one in circle for other in circle if other in uses[one]}
    return f"new circles:\n{pprint.pformat(new)}\nno longer there:\n{pprint.pformat(gone)}\nby\n{pprint.pformat(inner)}"


def test_calls_in_c_go_down():
    uses = uses_of(tree.texts(".c", ".h", parts=("native",)))
    fault = compare(uses, [circle for circle in KNOWN if circle[0].startswith("native/")])
    assert not fault, fault


def test_imports_go_down():
    uses = imports_of(tree.texts(".py", parts=("xseg", "peers", "tools")))
    fault = compare(uses, [circle for circle in KNOWN if not circle[0].startswith("native/")])
    assert not fault, fault


def test_a_header_and_its_file_are_no_circle():
    assert not list(tree.circles(uses_of({
        "native/a/a.h": "int slow(void);\nstatic inline int fast(void)\n{\n    return slow();\n}\n",
        "native/a/a.c": '#include "a/a.h"\nint slow(void)\n{\n    return 0;\n}\n'})))


CIRCLE = {
    "native/a/a.c": '#include "a/b.h"\nint up(void)\n{\n    return down(1);\n}\n',
    "native/a/b.h": "int down(int);\nint up(void);\n#define DEEP() deep()\n",
    "native/a/b.c": '#include "a/b.h"\n/* up() */\nint down(int x)\n{\n    return x ? up() : DEEP();\n}\n',
    "native/a/c.c": "static int up(void)\n{\n    return 0;\n}\nint deep(void)\n{\n    return up();\n}\n",
}


def test_a_circle_of_calls_is_found():
    circle = ("native/a/a.c", "native/a/b.c")
    assert list(tree.circles(uses_of(CIRCLE))) == [circle]
    assert "'up'" in compare(uses_of(CIRCLE), [])
    assert compare(uses_of(CIRCLE), [circle]) is None


def test_a_circle_that_was_cut_must_leave_the_list():
    cut = {**CIRCLE, "native/a/b.c": '#include "a/b.h"\nint down(int x)\n{\n    return x->up() + DEEP();\n}\n'}
    assert compare(uses_of(cut), []) is None
    assert "no longer there" in compare(uses_of(cut), [("native/a/a.c", "native/a/b.c")])


def test_a_macro_calls_for_the_header_it_is_in():
    uses = uses_of({**CIRCLE, "native/a/c.c": '#include "a/b.h"\nint deep(void)\n{\n    return 0;\n}\n'})
    assert ("native/a/b.h", "native/a/c.c") in tree.circles(uses)


def test_a_circle_of_imports_is_found_however_late_it_is():
    texts = {"x/__init__.py": "", "x/a.py": "from x import b\n", "x/b.py": "def f():\n    import x.c\n",
             "x/c.py": "from .a import g\n", "x/d.py": "if TYPE_CHECKING:\n    from x import e\n",
             "x/e.py": "import x.d"}
    assert list(tree.circles(imports_of(texts))) == [("x.a", "x.b", "x.c")]
