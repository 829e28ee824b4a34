# SPDX-License-Identifier: Apache-2.0
"""A second user of this machine, who has no rights: what he does, and what is his."""
from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable
from typing import Any

import pytest

STRANGER = 65534                # nobody, nogroup
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a test with a second user needs root")


def as_stranger(does: Callable[[], Any], uid: int = STRANGER, groups: tuple[int, ...] = ()) -> Any:
    """What a function returns when another user calls it, in a process of his own. What it raises is raised here."""
    here, there = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(here)
        with os.fdopen(there, "wb") as pipe:
            pickle.dump(_attempt(does, uid, groups), pipe)
        os._exit(0)
    os.close(there)
    with os.fdopen(here, "rb") as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    value, failure = pickle.loads(said)
    if failure:
        raise failure
    return value


def _attempt(does: Callable[[], Any], uid: int, groups: tuple[int, ...]) -> tuple[Any, BaseException | None]:
    try:
        os.chdir("/")
        os.setgroups(groups)
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        return does(), None
    except OSError as failure:
        return None, type(failure)(*failure.args)
    except BaseException:
        return None, AssertionError(traceback.format_exc())


def give(path: str, mode: int | None = None) -> str:
    """Makes a file or folder the stranger's; its path."""
    os.chown(path, STRANGER, STRANGER, follow_symlinks=False)
    if mode is not None:
        os.chmod(path, mode)
    return path
