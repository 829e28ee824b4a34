# SPDX-License-Identifier: Apache-2.0
"""numpy types of the segment's structures, taken from what the C compiler laid out."""
from functools import cache
from typing import Any

import numpy

from xseg._native import ffi


def _scalar(ctype: Any) -> numpy.dtype:
    if ctype.kind == "primitive" and ctype.cname == "char":
        return numpy.dtype("S1")
    signed = ctype.kind == "primitive" and int(ffi.cast(ctype, -1)) < 0
    return numpy.dtype(f"{'i' if signed else 'u'}{ffi.sizeof(ctype)}")


def _type_of(ctype: Any) -> Any:
    if ctype.kind == "array":
        if ctype.item.cname == "char":
            return numpy.dtype(f"S{ctype.length}")
        return (_type_of(ctype.item), (ctype.length,))
    if ctype.kind in ("struct", "union"):
        return _structure(ctype)
    return _scalar(ctype)


def _members(ctype: Any, base: int = 0) -> list[tuple[str, Any, int]]:
    """Name, type and offset of each member; those of unnamed members as if they were its own."""
    members = []
    for name, field in ctype.fields:
        if name:
            members.append((name, _type_of(field.type), base + field.offset))
        else:
            members += _members(field.type, base + field.offset)
    return members


def _structure(ctype: Any) -> numpy.dtype:
    names, formats, offsets = zip(*_members(ctype), strict=True)
    return numpy.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": ffi.sizeof(ctype)})


@cache
def dtype_of(struct: str) -> numpy.dtype:
    """The numpy type of a structure of segment/layout.h, such as "struct xreq"."""
    return _structure(ffi.typeof(struct))
