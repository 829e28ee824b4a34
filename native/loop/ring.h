/* SPDX-License-Identifier: Apache-2.0
 *
 * loop/ring.h - io_uring for a peer: what may block, the kernel does beside the loop.
 *
 * What a turn prepared is submitted at its end, in one system call; but not quite all of it, and not all that
 * completed is taken at once.
 *
 * A disk that serves one request after another, as most virtual ones do, and a loop that takes all
 * that has completed, serves it, and only then has more to submit, fall into step: the disk stands
 * still while the loop and its clients work, then they wait for the disk. So of all that is under way
 * the loop takes a quarter at a time, and looks at its sockets between, as clients work on those answers
 * meanwhile; and of many reads a quarter waits here, so that there is something for the disk at once
 * when something comes back, or 1 ms has gone by. Writes do not wait: a disk takes them into its
 * cache, and the CPU is behind. (4 KiB direct reads by an NBD client, 32 under way: from 0.6 to 0.88 of
 * what the disk gives without anything between.) Elsewhere it costs: TUNE_HOLD (loop/tune.h) finds out
 * whether it is a quarter, half of that, or nothing.
 *
 * All of it is the loop's thread's.
 */
#ifndef ARCHIPELAGO_RING_H
#define ARCHIPELAGO_RING_H

#include <liburing.h>

#include "loop/peer.h"

#define RING_ENTRIES 512            /* operations prepared at most, before the kernel must take some */

struct ring {
    /* Set by its owner: an operation is over; `result` is what its system call would return, or a negative errno. */
    void (*done)(void *arg, void *item, int result);
    void *arg;
    /* The ring's own. */
    struct io_uring uring;
    struct loop *loop;              /* NULL: there is no ring */
    struct io_uring_sqe prepared[RING_ENTRIES];     /* not yet submitted, from `first` on */
    uint32_t first, queued;
    bool urgent;                    /* none of them is held back */
    uint64_t held_ns;               /* since when they are held back; 0: none is */
    uint32_t active;                /* those, and what the kernel has: 0 when the owner may stop */
    uint32_t depth;                 /* the most that it was lately */
    uint64_t depth_ns;              /* when that was */
    struct watch watch;
};

/* For a zeroed one but for done and arg. `files` stay open until the kernel has taken the ring down, some time
 * after the process is gone: a flock on one of them tells when nothing is under way any more. A negative errno:
 * peer->error says why, and ring_stop() is still due. */
int ring_start(struct ring *ring, struct peer *peer, const int *files, uint32_t file_count);
/* Nothing to do for a zeroed one. */
void ring_stop(struct ring *ring);

/* Each prepares one operation; `item` goes to done(). Buffers and descriptors stay until then. */
void ring_read(struct ring *ring, void *item, int fd, void *data, uint32_t size, uint64_t offset);
void ring_write(struct ring *ring, void *item, int fd, const void *data, uint32_t size, uint64_t offset);
/* data_only: fdatasync(). */
void ring_fsync(struct ring *ring, void *item, int fd, bool data_only);
void ring_fallocate(struct ring *ring, void *item, int fd, int mode, uint64_t offset, uint64_t size);

/* The end of a turn: for flush(). */
void ring_flush(struct ring *ring);
/* When that must be called again, CLOCK_MONOTONIC ns: for deadline(). */
uint64_t ring_deadline(const struct ring *ring);

#endif
