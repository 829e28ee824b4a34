# SPDX-License-Identifier: Apache-2.0
"""A rename, or a removal, on a map store that fails at each step: one that reports a failure has not happened, or its
sentence says that it has."""
import pytest

from xseg.errors import NotFound, XsegError

KINDS = ("closed", "open", "snapshot")
STORES = {                              # of what each fails
    "intent": 'ops = "replace"\nkind = "header"', "claim": 'ops = "replace"\nkind = "name"',
    **{f"commit_{kind}": 'ops = "replace"\nkind = "header"\nafter = 1\ncount = 1' for kind in KINDS},
    **{f"undo_{kind}": 'ops = "replace"\nkind = "header"\nafter = 1' for kind in KINDS},
    "release": 'ops = "delete"\nkind = "name"', "lock_file": 'ops = "delete"\nkind = "lock"'}
CONFIG = "".join(f'[peers.{name}]\ntype = "error"\ntarget = "blockerm"\n{which}\n' for name, which in STORES.items())
pytestmark = pytest.mark.layout("colocated")
MIB = 1 << 20


@pytest.fixture
def ask(shared_instance):
    return shared_instance.client.control


@pytest.fixture
def store(shared_instance):
    """store(role): from now on the mapper's map store is this one."""
    segment = shared_instance.client.segment
    yield lambda role: segment.set_route("mapper>blockerm", segment.port_of(role))
    segment.set_route("mapper>blockerm", segment.port_of("blockerm"))


@pytest.fixture(params=KINDS)
def volume(request, ask):
    """(kind, name) of a volume or snapshot that is closed or open."""
    name = f"{request.node.name[5:40]}-{request.node.name.split('-', 1)[1][:-1]}"
    ask("create", name=name, size=MIB)
    if request.param == "snapshot":
        ask("snapshot", name=name, snapshot=name + "-s")
        name += "-s"
    if request.param == "open":
        ask("open", name=name)
    return request.param, name


@pytest.mark.parametrize("step", ["intent", "claim", "commit"])
def test_a_rename_that_fails_has_not_happened(ask, store, volume, step):
    kind, name = volume[0], f"{volume[1]}-{step}"
    ask("rename", name=volume[1], to=name)
    store(f"commit_{kind}" if step == "commit" else step)
    with pytest.raises(XsegError, match="store says"):
        ask("rename", name=name, to=name + "-new", token=5)
    store("blockerm")
    assert ask("info", name=name)["name"] == name
    with pytest.raises(NotFound):
        ask("info", name=name + "-new")
    ask("create", name=name + "-new", size=MIB)
    ask("rename", name=name, to=name + "-newer")


def test_a_rename_that_cannot_be_undone_says_so(ask, store, volume):
    kind, name = volume
    store(f"undo_{kind}")
    with pytest.raises(XsegError, match="cannot be told"):
        ask("rename", name=name, to=name + "-new", token=5)
    store("blockerm")
    assert ask("info", name=name)["name"] == name
    ask("create", name=name + "-new", size=MIB)         # what was left of the rename is settled
    ask("rename", name=name, to=name + "-newer")


def test_a_rename_that_only_left_the_old_name_behind_has_happened(ask, store, volume):
    name = volume[1]
    store("release")
    ask("rename", name=name, to=name + "-new", token=5)
    store("blockerm")
    with pytest.raises(NotFound):
        ask("info", name=name)
    ask("create", name=name, size=MIB)
    assert ask("info", name=name + "-new")["id"] != ask("info", name=name)["id"]


def test_a_removal_that_fails_after_it_has_happened_says_so(ask, store):
    ask("create", name="gone", size=MIB)
    store("lock_file")
    with pytest.raises(XsegError, match="'gone' is removed"):
        ask("remove", name="gone")
    store("blockerm")
    with pytest.raises(NotFound):
        ask("info", name="gone")
    ask("create", name="gone", size=MIB)
