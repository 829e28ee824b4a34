# SPDX-License-Identifier: Apache-2.0
"""vhost: disks for virtual machines by vhost-user-blk. All of it is native: native/vhost/parts.h tells how.

`vlmc attach NAME` makes a socket for a volume or snapshot, and prints its path: for QEMU's vhost-user-blk-pci, cloud-
hypervisor, libvirt's <disk type='vhostuser'>, user-mode Linux. No request crosses that socket: the guest's memory is
mapped, and its rings are served where they lie. An attached volume has an entry in the folder `attached`, so its
socket is there again after every start; it is bound to the volume's id, and stays on it whatever it is called.

Rings are split ones, with indirect descriptors and EVENT_IDX. Offered are FLUSH, CONFIG_WCE, DISCARD, WRITE_ZEROES,
up to `queues` queues of 1024 descriptors, live migration (dirty log), the inflight region, memory slots (32), changes
of the size while the guest runs. A guest that negotiates neither FLUSH nor CONFIG_WCE has every write made durable.

The volume is opened when the guest starts a ring, not when somebody connects: so the target of a migration connects
while the source still runs. If the volume is open on another node by then, it is waited for for `handover_s`. One
front-end runs a disk at a time, others wait, unless it was attached with --shared.

kill -9 of the process is a pause for the guest: the supervisor has copies of all descriptors of a session (`park`,
its socket), so its front-end does not even learn of it. Only one that was in the middle of a message (microseconds
while a guest starts or stops) is disconnected. A front-end that reconnects by itself (QEMU's reconnect=1) is served
on as well, by the inflight region. A planned restart of the process is the same pause. Without a supervisor, sockets
close with the process.

A guest can do to its memory what it likes, and hurts nobody but itself. It is mapped up to `memory_gib`. There are
`sessions` sessions at most. A front-end that stops a ring is answered when all is done, or after `stop_s`. Rings
without a kick are looked at every `poll_ms`. The sockets are open to the group `socket_group` (mode 0660): for
libvirt that is "libvirt-qemu" or "kvm". `spin_us` makes its process look for work that long before it sleeps.

It sends to `vlmc` (requests) and `mapper` (OPEN, CLOSE, INFO).
"""
from __future__ import annotations

from xseg.peer import Option, Peer


class Vhost(Peer):
    """The vhost-user-blk server."""

    type = "vhost"
    native = "vhost"
    targets = ("vlmc", "mapper")
    endpoint = True
    options = {
        "attached": Option("attached", "path", "folder of the attached volumes, a file each"),
        "park": Option("run/park.sock", "path", "the supervisor's socket for descriptors that outlive the process"),
        "sessions": Option(1024, "int", "front-ends at one time", minimum=1, maximum=1024),
        "queues": Option(4, "int", "queues of a disk at most", minimum=1, maximum=16),
        "memory_gib": Option(1024, "int", "GiB of memory of one guest that are mapped at most", minimum=1,
                             maximum=65536),
        "stop_s": Option(30, "int", "seconds until a front-end that stops a ring is answered although something is "
                                    "still under way", minimum=1, maximum=3600),
        "handover_s": Option(30, "int", "seconds that a volume is waited for which another node has open", minimum=0,
                             maximum=3600),
        "poll_ms": Option(1, "int", "milliseconds between looks at rings whose guest does not kick", minimum=1,
                          maximum=100),
        "socket_group": Option(None, "group", "group of the sockets (default: that of who runs the instance)"),
        "spin_us": Option(0, "int", "microseconds its process goes on looking for work before it sleeps. The largest "
                                    "of a process's peers counts", minimum=0, maximum=1000),
    }
