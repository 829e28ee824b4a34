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
]


def shared_names(files):
    """What files can call of each other: (the path by name of each function, what each inline function and macro of
    a header calls)."""
    home, inline = {}, {}
    for path, file in files.items():
        if path.startswith(PROGRAMS):
            continue
        if path.endswith(".h"):
            inline |= file.macros | {function.name: function.calls for function in file.functions}
        home |= {function.name: path for function in file.functions if not function.static}
    return home, inline


def uses_of(texts):
    """For each C file the files it includes or calls, and by which names. What an inline function calls, its callers
    call."""
    files = {path: c_source.parse(text) for path, text in texts.items()}
    home, inline = shared_names(files)
    uses = {path: {} for path in files}
    for path, file in files.items():
        for name in file.includes:
            for found in (os.path.join("native", name), os.path.join(os.path.dirname(path), name)):
                if found in files:
                    uses[path].setdefault(found, set()).add("#include")
        if path.endswith(".h"):
            continue
        own = {function.name for function in file.functions}
        called = set().union(*file.macros.values(), *(function.calls for function in file.functions)) - own
        called |= {deeper for name in called for deeper in tree.reached(name, inline)}
        for name in called - own:
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


def test_what_a_macro_or_an_inline_function_calls_is_called_by_those_who_use_it():
    deep = '#include "a/b.h"\nint deep(void)\n{\n    return down(0);\n}\n'
    circle = ("native/a/a.c", "native/a/b.c", "native/a/c.c")
    assert list(tree.circles(uses_of({**CIRCLE, "native/a/c.c": deep}))) == [circle]
    header = "static inline int DEEP(void)\n{\n    return deep();\n}\n"
    assert list(tree.circles(uses_of({**CIRCLE, "native/a/c.c": deep, "native/a/b.h": header}))) == [circle]
    assert list(tree.circles(uses_of({**CIRCLE, "native/a/b.h": header}))) == [circle[:2]]


def test_a_circle_of_includes_is_found():
    texts = {"native/a.h": '#include "b/b.h"\n', "native/b/b.h": '#include "c.h"\n', "native/b/c.h": '#include "a.h"'}
    assert list(tree.circles(uses_of(texts))) == [("native/a.h", "native/b/b.h", "native/b/c.h")]


def test_a_circle_of_imports_is_found_however_late_it_is():
    texts = {"x/__init__.py": "", "x/a.py": "from x import b\n", "x/b.py": "def f():\n    import x.c\n",
             "x/c.py": "from .a import g\n", "x/d.py": "if TYPE_CHECKING:\n    from x import e\n",
             "x/e.py": "import x.d"}
    assert list(tree.circles(imports_of(texts))) == [("x.a", "x.b", "x.c")]
