/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_file/ring.c - what io_uring does for the loop. What a turn prepared is submitted at its
 * end, in one system call; but not quite all of it, and not all that completed is taken at once.
 *
 * A disk that serves one request after another, as most virtual ones do, and a loop that takes all
 * that has completed, serves it, and only then has more to submit, fall into step: the disk stands
 * still while the loop and its clients work, then they wait for the disk. So of all that is under way
 * the loop takes a quarter at a time, and looks at its sockets between, as clients work on those answers
 * meanwhile; and of many reads a quarter waits here, so that there is something for the disk at once
 * when something comes back, or HOLD_NS have gone by. Writes do not wait: a disk takes them into its
 * cache, and the CPU is behind. (4 KiB direct reads by an NBD client, 32 under way: from 0.6 to 0.88 of
 * what the disk gives without anything between.)
 */
#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>

#include "blocker_file/parts.h"

#define SUBMIT_TRIES 1000           /* while the kernel says it is short of something */
#define SHARE 4                     /* 1 / of what is under way is taken at once, and is held back */
#define TAKE_MIN 8
#define TAKE_MAX 64
#define HOLD_FROM 16                /* under way; before that it all goes to the disk */
#define HOLD_NS 1000000ull          /* at most, while nothing comes back */
#define DEPTH_NS 10000000ull        /* so long it counts how much was under way at most */

/* Moves operations to the kernel. */
static void submit(struct ring *ring, uint32_t count)
{
    struct io_uring_sqe *sqe;

    for (; count && (sqe = io_uring_get_sqe(&ring->uring)); count--) {
        *sqe = ring->prepared[ring->first];
        ring->first = (ring->first + 1) % BF_RING;
        ring->queued--;
    }
    for (int i = 0; io_uring_sq_ready(&ring->uring) && i < SUBMIT_TRIES; i++) {
        int n = io_uring_submit(&ring->uring);
        if (n < 0 && n != -EAGAIN && n != -EBUSY && n != -EINTR)
            break;
    }
}

static void measure_depth(struct ring *ring, uint64_t now_ns)
{
    if (ring->active < ring->depth && now_ns - ring->depth_ns < DEPTH_NS)
        return;
    ring->depth = ring->active;
    ring->depth_ns = now_ns;
}

/* The end of a turn. */
static void submit_some(struct bf *bf)
{
    struct ring *ring = &bf->ring;
    uint64_t now_ns = loop_now(bf->peer->loop);
    uint32_t away = ring->active - ring->queued, most, room;

    measure_depth(ring, now_ns);
    most = ring->depth < HOLD_FROM ? ring->depth : ring->depth - ring->depth / SHARE;
    room = most > away ? most - away : 0;
    if (room >= ring->queued || ring->urgent || (ring->held_ns && now_ns - ring->held_ns >= HOLD_NS)) {
        submit(ring, ring->queued);
        ring->held_ns = 0;
    } else if (room || !ring->held_ns) {
        submit(ring, room);
        ring->held_ns = now_ns;
    }
    ring->urgent = false;
}

/* For the next operation, which its caller fills in. */
static struct io_uring_sqe *prepare(struct bf *bf, bool may_wait)
{
    struct ring *ring = &bf->ring;

    if (ring->queued == BF_RING)
        submit(ring, ring->queued);
    assert(ring->queued < BF_RING);
    ring->active++;
    ring->urgent |= !may_wait;
    return &ring->prepared[(ring->first + ring->queued++) % BF_RING];
}

void bf_ring_read(struct bf *bf, struct work *work, int fd, void *data, uint32_t size, uint64_t offset)
{
    struct io_uring_sqe *sqe = prepare(bf, true);

    io_uring_prep_read(sqe, fd, data, size, offset);
    io_uring_sqe_set_data(sqe, work);
}

void bf_ring_write(struct bf *bf, struct work *work, int fd, const void *data, uint32_t size, uint64_t offset)
{
    struct io_uring_sqe *sqe = prepare(bf, false);

    io_uring_prep_write(sqe, fd, data, size, offset);
    io_uring_sqe_set_data(sqe, work);
}

void bf_ring_fsync(struct bf *bf, struct work *work, int fd, bool data_only)
{
    struct io_uring_sqe *sqe = prepare(bf, false);

    io_uring_prep_fsync(sqe, fd, data_only ? IORING_FSYNC_DATASYNC : 0);
    io_uring_sqe_set_data(sqe, work);
}

void bf_ring_fallocate(struct bf *bf, struct work *work, int fd, int mode, uint64_t offset, uint64_t size)
{
    struct io_uring_sqe *sqe = prepare(bf, false);

    io_uring_prep_fallocate(sqe, fd, mode, (off_t)offset, (off_t)size);
    io_uring_sqe_set_data(sqe, work);
}

static void ring_ready(struct watch *watch, uint32_t events)
{
    struct bf *bf = watch->arg;
    struct io_uring_cqe *cqes[TAKE_MAX];
    uint32_t share = bf->ring.active / SHARE, most = share < TAKE_MIN ? TAKE_MIN : share, n;

    (void)events;
    n = io_uring_peek_batch_cqe(&bf->ring.uring, cqes, most < TAKE_MAX ? most : TAKE_MAX);
    for (uint32_t i = 0; i < n; i++) {
        struct work *work = io_uring_cqe_get_data(cqes[i]);
        assert(bf->ring.active > 0);
        bf->ring.active--;
        work->done(bf, work, cqes[i]->res);
    }
    io_uring_cq_advance(&bf->ring.uring, n);
}

void bf_ring_flush(struct bf *bf)
{
    if (bf->ring.queued || io_uring_sq_ready(&bf->ring.uring))
        submit_some(bf);
}

uint64_t bf_ring_deadline(struct bf *bf)
{
    return bf->ring.held_ns ? bf->ring.held_ns + HOLD_NS : UINT64_MAX;
}

int bf_ring_start(struct bf *bf)
{
    struct ring *ring = &bf->ring;
    struct io_uring_params params = { .flags = IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG
                                               | IORING_SETUP_CQSIZE, .cq_entries = 8 * BF_RING };
    int rc = io_uring_queue_init_params(BF_RING, &ring->uring, &params);

    if (rc == -EINVAL) {            /* kernels before 5.19 */
        params = (struct io_uring_params){ .flags = IORING_SETUP_CQSIZE, .cq_entries = 8 * BF_RING };
        rc = io_uring_queue_init_params(BF_RING, &ring->uring, &params);
    }
    if (rc)
        return peer_fail(bf->peer, rc, "io_uring cannot be had (%s): allow io_uring_setup, io_uring_enter and "
                         "io_uring_register where a sandbox forbids them (SystemCallFilter=, a container's seccomp "
                         "profile), or set kernel.io_uring_disabled to 0", strerror(-rc));
    ring->made = true;
    /* Keeps their flocks: see blocker_file/parts.h. */
    rc = io_uring_register_files(&ring->uring, (int[]){ bf->life, bf->guard }, 2);
    if (rc)
        return peer_fail(bf->peer, rc, "io_uring does not register a file: %s", strerror(-rc));
    ring->watch = (struct watch){ .fd = ring->uring.ring_fd, .ready = ring_ready, .arg = bf };
    return loop_watch(bf->peer->loop, &ring->watch, EPOLLIN);
}

void bf_ring_stop(struct bf *bf)
{
    if (!bf->ring.made)
        return;
    loop_unwatch(bf->peer->loop, &bf->ring.watch);
    io_uring_unregister_files(&bf->ring.uring);     /* the kernel takes the ring down when it likes */
    io_uring_queue_exit(&bf->ring.uring);
}
