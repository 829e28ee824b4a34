# SPDX-License-Identifier: Apache-2.0
"""blocker-rados: stores objects in a pool of a Ceph cluster.

Both blockers of a pipeline can be of this type, with pools of their own or in one, in the same
namespace or not: `blockerb` keeps the data of volumes, `blockerm` their maps. What a blocker answers
to is told in native/objects/blocker.h, how it is done, what is stored where and how an old holder of a lock
is fenced in native/blocker_rados/parts.h. All of it is native. It needs librados2 of Ceph 16 or newer on
this machine, found at run time, and nothing of Ceph to be built.

    [peers.blockerb]
    type = "blocker-rados"
    conf = "/etc/ceph/ceph.conf"
    user = "archipelago"
    pool = "volumes"

    [peers.blockerm]
    type = "blocker-rados"
    conf = "/etc/ceph/ceph.conf"
    user = "archipelago"
    pool = "maps"

Several nodes share volumes by using the same pools and namespaces. Both pools must be of one
cluster. A pool of its own for the maps keeps listing volumes quick: RADOS lists a namespace by going
through its whole pool. The user needs the caps mon 'profile rbd' (it contains the command
`osd blocklist`, which fencing needs) and osd 'profile rbd pool=volumes, profile rbd pool=maps'.

A node at rest asks the cluster for nothing; the first request after two seconds without one waits for a look at
whether the node was fenced. Each I/O is one RADOS operation, and durable on all replicas when it is answered.
While the cluster cannot serve it, it waits, and goes on by itself; after `op_timeout_s` it fails with
ETIMEDOUT. A pool that is full or at its quota is ENOSPC or EDQUOT at once.

Without `lease_s` a lock is its holder's until it gives it back or is robbed by `vlmc unlock -f`. With
it, another node may take the locks of one that has not renewed its lease for so long; every node should
have the same. In both cases the old holder's node is fenced first: all its clients go to the
cluster's blocklist. Then everything fails there with ESTALE, `archipelago status` says why, and it serves
again after `archipelago stop --force` and `archipelago start`.

A fenced client stays on the blocklist for ten years, as a machine that sleeps may wake up after any time; who
knows that it never will may remove it by `ceph osd blocklist rm`. What a process left that is known to be dead
stays there for `blocklist_s`.

`keyring` names the file with the user's key, if ceph.conf does not. A start fails when the cluster
does not answer for `connect_timeout_s`; so does opening a volume while a blocker of this instance is not
ready for so long. With `object_size` new data objects tell the store how large they will be. What takes several
operations (copy, hash, list) is done by `workers` threads.

    rados -p maps --all ls                                  every object, with its namespace
    rados -p maps -N lock get 000000000000002a -            who has volume 42, and its number
"""
from __future__ import annotations

from xseg.peer import Option, Peer

SECONDS_MAX = (1 << 32) - 1

class BlockerRados(Peer):
    """Objects in RADOS."""

    type = "blocker-rados"
    native = "blocker-rados"
    options = {
        "conf": Option(None, "path", "the cluster's ceph.conf; where Ceph looks for it, if not set"),
        "user": Option("admin", "str", "the client's name, with or without \"client.\""),
        "keyring": Option(None, "path", "file with the user's key; the one ceph.conf names, if not set"),
        "pool": Option(None, "str", "the pool of the store"),
        "namespace": Option("", "str", "a RADOS namespace a kind of object is made below it"),
        "object_size": Option(0, "size", "the object size that writes tell the store to expect; 0: none",
                              maximum=128 << 20),
        "op_timeout_s": Option(120, "int", "seconds until an operation without an answer fails; 0: never",
                               minimum=0, maximum=SECONDS_MAX),
        "connect_timeout_s": Option(15, "int", "seconds until a start without an answer fails",
                                    minimum=1, maximum=3600),
        "lease_s": Option(0, "int", "seconds of silence after which a lock may be taken; 0: never",
                          minimum=0, maximum=SECONDS_MAX),
        "blocklist_s": Option(3600, "int", "seconds for which the client of a dead process stays on the blocklist",
                              minimum=60, maximum=SECONDS_MAX),
        "workers": Option(4, "int", "threads for what takes several operations", minimum=1, maximum=64),
    }
