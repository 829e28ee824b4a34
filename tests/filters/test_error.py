# SPDX-License-Identifier: Apache-2.0
"""The filter that fails chosen requests."""
import errno

from filtered import DATA, HEADER, behind, errors

from xseg._native import lib


def test_error_fails_all_of_an_operation():
    with behind("error", ops="write,delete", errno="ENOSPC") as f:
        assert errors(f, 3) == [errno.ENOSPC] * 3
        f.fails(errno.ENOSPC, lib.XOP_DELETE, DATA)
        f.fails(errno.ENOENT, lib.XOP_READ, DATA, size=1, room=1)


def test_error_fails_every_third():
    with behind("error", ops="write", every=3) as f:
        assert errors(f, 7) == [0, 0, errno.EIO, 0, 0, errno.EIO, 0]


def test_error_lets_some_through_first_and_ends_after_some():
    with behind("error", ops="write", after=2, count=2) as f:
        assert errors(f, 6) == [0, 0, errno.EIO, errno.EIO, 0, 0]


def test_error_fails_one_kind_of_object():
    with behind("error", ops="write", kind="header") as f:
        assert errors(f, 1, object=DATA) == [0]
        assert errors(f, 1, object=HEADER) == [errno.EIO]


def test_what_error_fails_does_not_reach_the_target():
    with behind("error", ops="write", after=1) as f:
        f.write(DATA, b"first")
        f.fails(errno.EIO, lib.XOP_WRITE, DATA, data=b"other")
        assert f.read(DATA, 0, 5) == b"first"
