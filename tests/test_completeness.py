# SPDX-License-Identifier: Apache-2.0
"""Every peer, command and option has help, a manual and a test."""
import glob
import importlib
import os
import re

import pytest

import tools.archipelago
import tools.vlmc
import tools.xsegtool
from tools.instance import config
from xseg._native import ffi, lib

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
COMMANDS = {"archipelago": tools.archipelago, "vlmc": tools.vlmc, "xseg": tools.xsegtool}
VERBS = [("vlmc", verb) for verb in tools.vlmc.verbs()] + [
    (command, verb) for command in ("archipelago", "xseg") for verb in COMMANDS[command].VERBS]


def read(*path):
    with open(os.path.join(ROOT, *path), encoding="utf-8") as file:
        return file.read()


def native_types():
    names, i = [], 0
    while (name := lib.export_peer_type(i)) != ffi.NULL:
        names.append(ffi.string(name).decode())
        i += 1
    return names


@pytest.fixture(scope="module")
def tests_text():
    paths = glob.glob(os.path.join(ROOT, "tests", "**", "*.py"), recursive=True)
    return "".join(read(path) for path in paths if os.path.basename(path) != os.path.basename(__file__))


def test_there_are_native_peers():
    assert {"nbd", "vlmc", "blocker-file", "memory", "null", "error", "delay"} <= set(native_types())


@pytest.mark.parametrize("peer_type", native_types())
def test_a_native_peer_has_its_python_file(peer_type):
    assert config.peer_modules().get(peer_type) == "peers." + peer_type.replace("-", "_")
    assert config.peer_class(peer_type).native == peer_type


@pytest.mark.parametrize("peer_type", native_types())
def test_a_native_peer_gets_each_option_it_has(peer_type):
    cls, number, taken = config.peer_class(peer_type), native_types().index(peer_type), set()
    while (name := lib.export_peer_option(number, len(taken))) != ffi.NULL:
        taken.add(ffi.string(name).decode())
    handed = {name + "_fd" for name in (*cls.listens, *cls.keeps)} | ({cls.told + "_all"} if cls.told else set())
    others = {"spin_us", "native", *cls.targets}         # the loop's, Python's, and roles
    assert taken == (set(cls.options) | handed) - others


@pytest.mark.parametrize("peer_type", config.peer_modules())
def test_a_peers_manual_names_each_of_its_options(peer_type):
    cls = config.peer_class(peer_type)
    manual = importlib.import_module(cls.__module__).__doc__
    missing = [name for name in cls.options if not re.search(rf"\b{name}\b", manual)]
    assert not missing, f"the docstring of {cls.__module__} says nothing of {missing}"


@pytest.mark.parametrize("peer_type", config.peer_modules())
def test_a_peers_options_have_help_and_a_default_that_is_allowed(peer_type):
    for name, option in config.peer_class(peer_type).options.items():
        assert option.help, name
        if option.default is not None:
            option.parse(option.default)


@pytest.mark.parametrize("peer_type", config.peer_modules())
def test_a_peer_has_a_test(peer_type, tests_text):
    assert re.search(rf"""["'`]{peer_type}\b|\btest_\w*{peer_type.replace('-', '_')}""", tests_text)


@pytest.mark.parametrize("peer_type", config.peer_modules())
def test_a_peer_is_in_the_readmes_table(peer_type):
    assert re.search(rf"^\| [^|]*`{peer_type}`[^|]* \|", read("README.md"), re.M)


@pytest.mark.parametrize(("command", "verb"), VERBS)
def test_a_verb_has_help_and_a_manual(command, verb):
    module = importlib.import_module(f"{COMMANDS[command].__name__}.{verb.replace('-', '_')}")
    assert module.HELP
    assert len(module.__doc__.strip()) > len(module.HELP)


@pytest.mark.parametrize(("command", "verb"), VERBS)
def test_a_verb_has_a_test(command, verb, tests_text):
    assert re.search(rf"""["']{verb}["']""", tests_text), f"no test uses {command} {verb}"


@pytest.mark.parametrize(("command", "verb"), VERBS)
def test_a_verb_is_in_the_readme(command, verb):
    assert re.search(rf"{command}[^\n]*\b{verb}\b", read("README.md")), f"{command} {verb}"


@pytest.mark.parametrize("name", sorted(glob.glob("**/*.[ch]", root_dir=os.path.join(ROOT, "native"), recursive=True)))
def test_a_native_file_says_what_it_is_and_its_licence(name):
    assert read("native", name).startswith("/* SPDX-License-Identifier: Apache-2.0\n"), name


def test_every_make_verb_has_its_line_of_help():
    makefile = read("Makefile")
    for verb in ("build", "test", "lint", "check-asan", "fuzz", "bench", "demo", "soak", "lock", "clean"):
        assert re.search(rf"^{verb}:.* ## \w", makefile, flags=re.M), verb
