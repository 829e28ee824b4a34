# SPDX-License-Identifier: Apache-2.0
"""A memory blocker behind a filter, for the tests of filters."""
from loops import peers

from xseg._native import lib
from xseg.request import Object

DATA = Object(lib.XOBJ_DATA, 42, 1, 7)
HEADER = Object(lib.XOBJ_HEADER, 42)


def behind(filter_type, **options):
    """A memory blocker behind a filter."""
    return peers(("f", filter_type, {"target": "m", **options}), ("m", "memory", {}))


def errors(f, count, op=lib.XOP_WRITE, object=DATA):
    return [f.call(op, object, data=b"x", check=False).error for _ in range(count)]
