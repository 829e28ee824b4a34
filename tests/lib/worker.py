# SPDX-License-Identifier: Apache-2.0
"""A process that joins a segment, to be killed: python tests/lib/worker.py ACTION SEGMENT ROLE COUNT.

send: gets COUNT requests and buffers and sends them to ROLE from the static port "sender".
serve: takes in COUNT requests of ROLE and answers them.
recover: binds ROLE, whose last owner died, and takes in what it left, without answering.
It stops itself (SIGSTOP) right before and right after the native calls that matter, so that a
tracer can step through them.
"""
import ctypes
import os
import signal
import sys

from xseg._native import ffi, lib
from xseg.port import Port
from xseg.segment import Segment

PTRACE_TRACEME = 0


def pause() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def send(segment: Segment, role: str, count: int) -> None:
    port = Port(segment, number=segment.port_of("sender"))
    slots = ffi.new("uint32_t[]", count)
    target = segment.port_of(role)
    requests = port.c.reqs
    for warm in (True, False):          # the first round only makes cffi look everything up
        if not warm:
            pause()
        lib.export_get(port.c, slots, count)
        for i in range(count):
            lib.xbuf_get(port.c, requests + (slots[i] - 1), 4096)
        if not warm:
            lib.export_send(port.c, slots, count, target)
            pause()
        lib.export_send(port.c, slots, 0, target)
        lib.export_put(port.c, slots, count)


def serve(segment: Segment, role: str, count: int) -> None:
    port = Port(segment, number=segment.port_of(role))
    slots = ffi.new("uint32_t[]", count)
    requests = port.c.reqs
    for warm in (True, False):
        if not warm:
            pause()
        for i in range(lib.export_receive(port.c, slots, count)):
            lib.xreq_reply(port.c, requests + (slots[i] - 1), 0)
        lib.port_ring(port.c)
    pause()


def recover(segment: Segment, role: str, count: int) -> None:
    Port(segment).close()
    number = segment.port_of(role)
    slots, bell, port = ffi.new("uint32_t[]", count), ffi.new("struct bell **"), ffi.new("struct port **")
    lib.bell_open(segment.c, lib.XPORT_ANY, bell)
    pause()
    lib.port_bind(segment.c, number, b"", bell[0], port)
    lib.export_receive(port[0], slots, count)
    pause()


def main() -> None:
    action, name, role, count = sys.argv[1:]
    ctypes.CDLL(None).ptrace(PTRACE_TRACEME, 0, None, None)
    {"send": send, "serve": serve, "recover": recover}[action](Segment.open(name), role, int(count))


main()
