# SPDX-License-Identifier: Apache-2.0
"""Builds the one extension module, xseg._native, and installs the three commands.

Every C file below native/ but the programs of their own (native/fuzz/, native/load/) is part of it. Only
what is older than its source or than any header is compiled again, on all cores.
ARCHIPELAGO_SANITIZE=1 in the environment builds with ASan and UBSan.
"""
import os
import sys
from concurrent.futures import ThreadPoolExecutor

from setuptools import find_namespace_packages, setup
from setuptools.command.build_ext import build_ext

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))


def outdated(target: str, sources: list[str]) -> bool:
    """True if target is missing or older than any of the sources."""
    if not os.path.exists(target):
        return True
    made = os.path.getmtime(target)
    return any(os.path.getmtime(source) > made for source in sources)


class IncrementalBuild(build_ext):
    """build_ext that compiles in parallel, and only what has changed."""

    def build_extensions(self) -> None:
        compile_all = self.compiler.compile
        depends = self.extensions[0].depends

        def compile_changed(sources, output_dir=None, **options):
            options.pop("depends", None)
            objects = self.compiler.object_filenames(sources, output_dir=output_dir)
            todo = [s for s, o in zip(sources, objects, strict=True) if outdated(o, [s, *depends])]
            with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
                list(pool.map(lambda s: compile_all([s], output_dir=output_dir, **options), todo))
            return objects

        self.compiler.compile = compile_changed
        super().build_extensions()

    def build_extension(self, ext) -> None:
        native = [source for source in ext.sources if source.startswith("native/")]
        ext.sources = [source for source in ext.sources if source not in native]
        ext.depends = [*ext.depends, *native]
        objects = self.compiler.compile(native, output_dir=self.build_temp, include_dirs=ext.include_dirs,
                                        extra_postargs=ext.extra_compile_args)
        ext.extra_objects = objects
        super().build_extension(ext)


setup(
    name="archipelago",
    version="0.1",
    description="Thin volumes for a node of a cloud: clones and snapshots of any size in constant time",
    python_requires=">=3.11",
    packages=find_namespace_packages(include=["xseg*", "peers*", "tools*"]),
    cffi_modules=["xseg/_build.py:ffibuilder"],
    cmdclass={"build_ext": IncrementalBuild},
    entry_points={"console_scripts": [
        "archipelago = tools.archipelago:main",
        "vlmc = tools.vlmc:main",
        "xseg = tools.xsegtool:main",
    ]},
)
