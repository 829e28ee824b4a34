# SPDX-License-Identifier: Apache-2.0
"""null: a blocker that holds nothing. Reads give zeros, writes are swallowed.

It measures what a hop through the segment costs, and it is where to begin when writing a peer.
By default the C peer of the same name serves it (native/null.c); with `native = false` the
functions below do, at some ten microseconds a request.

How to write a peer
-------------------
Copy this file to peers/NAME.py. Its docstring becomes the manual; then come

* the class, with the `type` that archipelago.toml names;
* `options`: what a user may set, each with its default, kind and help;
* `targets`: the roles it sends requests to (none here), see Peer.call();
* a coroutine for each operation, and last the table `ops` that names them.

A function gets a Request: what is asked is in `request.c` (struct xreq, native/segment/xseg.h), the
data in `request.data`, which is the shared memory itself. It answers by request.reply(), or by
raising an error of xseg.errors. Requests are taken from the port in batches, and answers ring
the other side once a batch; functions of many requests run at the same time, so nothing in one
may block: await instead.

If Python is too slow for it, write native/NAME.c (native/loop/peer.h tells how, native/null.c is the
shortest there is), list it in native/peers.c, and set `native = "NAME"`.
"""
from __future__ import annotations

from typing import Any

from xseg._native import lib
from xseg.errors import Invalid
from xseg.peer import Option, Peer
from xseg.request import Request


class Null(Peer):
    """Reads give zeros, writes are swallowed."""

    type = "null"
    native = "null"
    options = {
        "native": Option(True, "bool", "false: serve it in Python"),
    }

    @classmethod
    def native_type(cls, options: dict[str, Any]) -> str | None:
        return cls.native if options["native"] else None

    async def read(self, request: Request) -> None:
        size = request.c.size
        if size > len(request.data):
            raise Invalid("a read needs room for what it reads")
        request.data[:size] = bytes(size)
        request.reply(done=size)

    async def write(self, request: Request) -> None:
        if request.c.size > len(request.data):
            raise Invalid("a write needs the data it writes")
        request.reply(done=request.c.size)

    async def change(self, request: Request) -> None:
        request.reply(done=request.c.size)

    async def nothing(self, request: Request) -> None:
        request.reply()

    async def empty(self, request: Request) -> None:
        request.reply(done=0, arg=0)

    ops = {
        lib.XOP_PING: nothing,
        lib.XOP_READ: read,
        lib.XOP_WRITE: write,
        lib.XOP_WRITE_ZEROES: change,
        lib.XOP_DISCARD: change,
        lib.XOP_SYNC: nothing,
        lib.XOP_DELETE: nothing,
        lib.XOP_INFO: empty,
        lib.XOP_LIST: empty,
    }
