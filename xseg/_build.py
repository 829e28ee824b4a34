# SPDX-License-Identifier: Apache-2.0
"""Describes the extension module xseg._native to cffi.

The declarations Python sees are read out of native/, where each structure and function is
declared once; nothing is repeated here. What cffi's parser cannot read is dropped: comments,
preprocessor lines other than `#define NAME value`, bodies of static inline functions (the few
that Python needs are exported by native/export.c) and variadic functions.

From the same text comes XSEG_LAYOUT, by which processes of another build know that the segment is not theirs.
"""
import glob
import hashlib
import os
import platform
import re

from cffi import FFI

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NATIVE = os.path.join(ROOT, "native")
LAYOUT = "segment/layout.h"
HEADERS = [LAYOUT, "map/layout.h", "segment/xseg.h", "segment/share.h", "loop/tune.h", "loop/peer.h", "map/map.h",
           "map/index.h", "map/leaves.h", "map/merge.h", "map/diff.h", "map/reach.h", "export.h", "nbd/keeper.h"]
PROGRAMS = ("fuzz", "load")         # folders of native/ that are programs of their own


def read(name: str) -> str:
    """The text of a header of native/."""
    with open(os.path.join(NATIVE, name), encoding="utf-8") as header:
        return header.read()


def declarations(text: str) -> str:
    """The part of a header that cffi's parser can read."""
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.S)
    text = re.sub(r"//[^\n]*", " ", text)
    text = text.replace("\\\n", " ")
    defines = re.findall(r"^#define[ \t]+(\w+)[ \t]+(\S.*?)[ \t]*$", text, flags=re.M)
    text = re.sub(r"^[ \t]*#[^\n]*$", "", text, flags=re.M)
    text = re.sub(r"^static inline[^;{]*\{[^{}\n]*\}", "", text, flags=re.M)
    text = re.sub(r"^static inline[^;{]*\{.*?^\}", "", text, flags=re.M | re.S)
    text = re.sub(r"__attribute__\s*\(\(.*?\)\)\)?(?=\s*;)", "", text, flags=re.S)
    text = re.sub(r"^[^;{}]*\([^;{}]*\.\.\.\)\s*;", "", text, flags=re.M)
    text = re.sub(r"^_Static_assert[^;]*;", "", text, flags=re.M)
    number = re.compile(r"\(?(0x[0-9a-fA-F]+|\d+)[uUlL]*\)?")
    lines = [f"#define {name} {m.group(1)}" if (m := number.fullmatch(value)) else f"#define {name} ..."
             for name, value in defines if "(" not in name and (number.fullmatch(value) or "UINT" in value)]
    return "\n".join(lines) + "\n" + text


def layout_number(text: str) -> int:
    """A number of 64 bits that changes with what a header declares, and not with its comments and spaces."""
    words = " ".join(declarations(text).split())
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8])


def write_layout_number() -> None:
    """Makes the header with XSEG_LAYOUT; touches it only if that has changed, as its includers are compiled then."""
    made = f"/* SPDX-License-Identifier: Apache-2.0\n *\n * Made by xseg/_build.py from {LAYOUT}. */\n" \
           f"#define XSEG_LAYOUT {layout_number(read(LAYOUT)):#x}ull\n"
    path = "segment/layout_hash.h"
    if not os.path.exists(os.path.join(NATIVE, path)) or read(path) != made:
        with open(os.path.join(NATIVE, path), "w", encoding="utf-8") as header:
            header.write(made)


def sources() -> list[str]:
    """Paths, from the root of the tree, of the C files that make up the extension."""
    paths = sorted(glob.glob("**/*.c", root_dir=NATIVE, recursive=True))
    return [os.path.join("native", path) for path in paths if path.split(os.sep)[0] not in PROGRAMS]


def compile_flags() -> tuple[list[str], list[str]]:
    """Flags of the compiler and of the linker."""
    flags = ["-O2", "-g", "-std=gnu11", "-D_GNU_SOURCE", "-UNDEBUG", "-Wall", "-Wextra",
             "-Wno-missing-field-initializers"]
    if platform.machine() in ("x86_64", "AMD64"):
        flags.append("-march=x86-64-v2")
    link = []
    if os.environ.get("ARCHIPELAGO_SANITIZE"):
        sanitize = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer"]
        flags += ["-O1", "-fno-sanitize-recover=undefined", *sanitize]
        link += sanitize
    return flags, link


def make() -> FFI:
    """The builder that setup.py hands to cffi."""
    write_layout_number()
    builder = FFI()
    for name in HEADERS:
        builder.cdef(declarations(read(name)))
    flags, link = compile_flags()
    includes = "".join(f'#include "{name}"\n' for name in HEADERS)
    builder.set_source("xseg._native", includes, sources=sources(), include_dirs=[NATIVE],
                       depends=sorted(glob.glob(os.path.join(NATIVE, "**", "*.h"), recursive=True)),
                       libraries=["uring", "crypto", "pthread"], extra_compile_args=flags, extra_link_args=link)
    return builder


ffibuilder = make()
