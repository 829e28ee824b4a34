# SPDX-License-Identifier: Apache-2.0
"""What comments, headers and the README say of the tree is so."""
import os
import re

import c_source
import py_source
import tree

FILE = re.compile(r"(?<![\w./-])(?:[\w-]+/)*[a-z0-9_-]+\.(?:c|h|py)\b")
FOLDER = re.compile(rf"(?<![\w./-])(?:{'|'.join(tree.PARTS)})/(?:[a-z_]+/)*")
FOREIGN = {"librados.h", "linux/prctl.h"}                       # files of others that comments speak of
LEFTOVER = re.compile(rf"\b(?:{'TO'}DO|{'FIX'}ME|{'XX'}X)\b")
ORDER = re.compile(r"__ATOMIC_\w+|memory_order_\w+|__sync_\w+")
BARRIER = "native/segment/barrier.h"


def prose(path, text):
    if path.endswith(".py"):
        return py_source.prose(text)
    return c_source.parse(text).comments if path.endswith((".c", ".h")) else [text]


def not_there(texts, files):
    """(who says so, file or folder) for each that comments name and that does not exist."""
    ends = {path[at:] for path in files for at in (0, *(found.end() for found in re.finditer("/", path)))} | FOREIGN
    folders = {path[:found.end()] for path in files for found in re.finditer("/", path)}
    return [(path, name) for path, text in texts.items() for part in prose(path, text)
            for name in FILE.findall(part) + FOLDER.findall(part) if name not in ends | folders]


def leftovers(texts):
    return [(path, found.group()) for path, text in texts.items() for found in LEFTOVER.finditer(text)]


def orders(texts):
    return [(path, found.group()) for path, text in texts.items() if path != BARRIER for found in ORDER.finditer(text)]


def not_in_the_tree(readme, folders):
    """The folders that the README's "The tree" does not name."""
    chapter = readme.partition("## The tree\n")[2].partition("\n## ")[0]
    return [folder for folder in folders if not re.search(rf"(?<!\w){re.escape(os.path.basename(folder))}/", chapter)]


def namesakes(paths):
    """Files of tests that pytest cannot tell apart: of one name, in folders that are no packages."""
    packages = {os.path.dirname(path) for path in paths if path.endswith("/__init__.py")}
    names = [os.path.basename(path) for path in paths if os.path.dirname(path) not in packages
             and os.path.basename(path) != "conftest.py"]
    return sorted({name for name in names if names.count(name) > 1})


def everything():
    more = {name: tree.read(name) for name in ("README.md", "Makefile", "setup.py")}
    return {**tree.texts(".py", ".c", ".h"), **more}


def test_files_and_folders_named_in_comments_exist():
    assert not not_there(everything(), [*tree.paths(), "setup.py"])


def test_nothing_is_left_to_be_done_later():
    assert not leftovers(everything())


def test_one_file_names_memory_orders():
    assert ORDER.search(tree.read(BARRIER))
    assert not orders(tree.texts(".c", ".h", parts=("native",)))


def test_the_readme_names_every_folder():
    folders = {os.path.dirname(path) for path in tree.paths(".c", ".h", ".py")}
    assert not not_in_the_tree(tree.read("README.md"), folders)


def test_every_file_of_tests_has_a_name_of_its_own():
    assert not namesakes(tree.paths(".py", parts=("tests",)))


def test_a_namesake_is_found():
    assert namesakes(["t/a/test_x.py", "t/b/test_x.py", "t/b/test_y.py", "t/c/test_y.py", "t/c/__init__.py",
                      "t/a/conftest.py", "t/b/conftest.py"]) == ["test_x.py"]


def test_what_is_not_there_is_found():
    said = {"native/a.c": "/* See b.c, x/a.c, native/b.c, native/gone/ and native/x/. */ int b_c;",
            "xseg/a.py": '"""As b.py says."""\n# not a.c\n', "README.md": "`native/x/c.h`, native/NAME.c"}
    assert not_there(said, ["native/a.c", "native/x/a.c"]) == [
        ("native/a.c", "b.c"), ("native/a.c", "native/b.c"), ("native/a.c", "native/gone/"),
        ("xseg/a.py", "b.py"), ("README.md", "native/x/c.h")]


def test_what_is_left_over_is_found():
    assert leftovers({"a.c": "/* FIX" "ME: later */"}) == [("a.c", "FIX" "ME")]
    assert orders({"native/a.c": "f(&x, __ATOMIC_" "RELAXED);", BARRIER: "__ATOMIC_" "RELAXED"}) == [
        ("native/a.c", "__ATOMIC_" "RELAXED")]
    assert not_in_the_tree("## The tree\n  native/ ab/\n## On\nb/", ["native", "native/b", "x/ab"]) == ["native/b"]
