# SPDX-License-Identifier: Apache-2.0
"""nbd: serves volumes and snapshots to NBD clients. All of it is native: native/nbd/parts.h tells how.

Every volume and every snapshot is an export by its name, and by its id as "/id/0123456789abcdef": a client that
connects again by this name finds the same volume, whatever it is called by then. There is no default export; the
list shows names. The description of an export tells its id. Snapshots are read-only. A connection opens its volume
with the mapper when it has chosen it (GO, EXPORT_NAME) and closes it when it ends; INFO opens nothing. A volume that
is resized meanwhile is served at its new size at once; clients see it when they connect again.

Protocol: fixed newstyle with EXPORT_NAME, GO, INFO (name, description, block sizes: 1 byte at
least, 4 KiB preferred, 32 MiB at most), LIST, ABORT, structured replies, the metadata contexts told
below, and the commands READ, WRITE, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS and
DISC with the flags FUA, NO_HOLE, FAST_ZERO, DF and REQ_ONE. Any alignment is served. Several
connections to one volume see one another's writes and flushes at once (multi-conn). There is no
TLS: use the unix socket, or a tunnel.

Contexts: base:allocation tells where there are zeros. "archipelago:diff:NAME" and "qemu:dirty-bitmap:NAME" are two
names of one answer: where the export may differ from the volume or snapshot NAME (state 1), as `vlmc diff` tells it,
so that backup programs which know qemu's dirty bitmaps read only what has changed. There are as many as there are
names, so a list shows one only to who asks for it; a client may choose eight at once, of what `allow` lets him have.
What was chosen is that volume whatever it is called later, and once it is removed BLOCK_STATUS fails.

Simple replies cost a client less: with `structured_replies = false` a fio that reads 4 KiB at depth 32 takes a
seventh less CPU. Then there is no base:allocation, so that who copies a volume reads its holes, too; and when a
read fails in part, the client gets nothing of it.

Long commands are cut into requests of at most 1 MiB (1 GiB where no data is carried). DF is
honoured up to 1 MiB, and answered with EOVERFLOW beyond. A write longer than 32 MiB is refused
with EINVAL, one of more than 64 MiB ends its connection, as does anything that is no NBD.

It listens at the unix socket `socket`, and at the TCP address `listen` if there is one, for up
to `connections` clients. The supervisor keeps these sockets while the peer is restarted: who
connects meanwhile waits, and is not refused. One user (by TCP: one address) has three quarters of these places if he
is alone, else a share that leaves others theirs, and one volume has at most `connections_volume`. Who is refused is
said in the log, and counted: `xseg ports --all`, `archipelago status`. Before anybody is refused, the handshake that
has stood still for longest loses its place. `spin_us` makes its process look for work that long before it sleeps; if
that is not set, it finds out while it runs whether and for how long that gains something (native/loop/poll.h).

The socket belongs to who runs the instance, and is open to his group (`socket_mode` "0660"); `socket_owner` and
`socket_group` give it to another user or group (for the latter its mode must say so), and nothing else with it: the
segment, the supervisor's socket and the stores stay closed. Who may not pass through the folders above it
cannot connect: give the home go+x, or let `socket` lie elsewhere, in a folder that nobody else may write to.

Whoever is allowed to connect has all exports, unless there is an `allow`, a list of rules "WHO: PATTERN":

    allow = ["libvirt-qemu: vm-*", "1001: shared", "@backup: *-nightly", "tcp: public-?"]

WHO is a user or "@" and a group, by name or number, "tcp" who comes over TCP, or "*" everybody. PATTERN is a name in
which * stands for any bytes and ? for one; it is compared with the name a volume has when it is opened, also when it
is asked for by its id. For others the export does not exist: it is neither listed nor opened. The instance's own
user and root have all exports. Who a client is the kernel says (SO_PEERCRED, SO_PEERGROUPS); `xseg clients` shows
it.

A connection may have 128 commands and about 32 MiB of data under way; then nothing more is read
from it until some are answered. One that takes longer than `handshake_s` for a step of the handshake is
dropped, as is one that neither takes its replies nor sends the rest of a write for 10 s while
others wait for the buffers that it holds. When the peer is stopped, commands under way are
finished and answered before their connections are closed; a client that stands still for 1 s
meanwhile is not waited for.

It sends to `vlmc` (commands) and `mapper` (OPEN, CLOSE, INFO, NAMES).
"""
from __future__ import annotations

from xseg.peer import Option, Peer


class Nbd(Peer):
    """The NBD server."""

    type = "nbd"
    native = "nbd"
    targets = ("vlmc", "mapper")
    listens = {"socket": "unix", "listen": "tcp"}
    options = {
        "socket": Option("run/nbd.sock", "path", "unix socket to listen at, 107 bytes at most; that of a dead server "
                                                 "is replaced"),
        "socket_mode": Option(0o660, "mode", "permissions of that socket: who may write to it may connect"),
        "socket_owner": Option(None, "user", "owner of that socket (default: who runs the instance)"),
        "socket_group": Option(None, "group", "group of that socket (default: that of who runs the instance)"),
        "allow": Option(None, "rules", "for whom there are which exports, as texts \"WHO: PATTERN\" (default: all, for "
                                       "all who may connect)"),
        "listen": Option(None, "str", "TCP address to listen at as well, as host:port, [v6]:port or :port; "
                                      "no one is asked who they are"),
        "connections": Option(4096, "int", "connections at one time; further ones are closed at once",
                              minimum=1, maximum=16384),
        "connections_volume": Option(64, "int", "of these to one volume or snapshot", minimum=1, maximum=1024),
        "handshake_s": Option(10, "int", "seconds a client may take for each step of the handshake",
                              minimum=1, maximum=3600),
        "structured_replies": Option(True, "bool", "false: none are offered. A read then takes its client two system "
                                                   "calls less, and there is no block status"),
        "spin_us": Option(None, "int", "microseconds its process goes on looking for work before it sleeps, 0: "
                                       "none (default: found out, at most a twentieth of a CPU in vain). The "
                                       "largest of a process's peers counts", minimum=0, maximum=1000),
    }
