/* SPDX-License-Identifier: Apache-2.0
 *
 * loop/ring.c - io_uring for a peer. See loop/ring.h.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>

#include "loop/ring.h"

#define SUBMIT_TRIES 1000           /* while the kernel says it is short of something */
#define SHARE 8                     /* 1 / of what is under way, for each level of TUNE_HOLD: taken at once, held back */
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
        ring->first = (ring->first + 1) % RING_ENTRIES;
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

/* The share of `count` operations that is handled for itself; 0: all go together. */
static uint32_t share_of(struct ring *ring, uint32_t count)
{
    return count < HOLD_FROM ? 0 : count * loop_level(ring->loop, TUNE_HOLD) / SHARE;
}

/* The end of a turn. */
static void submit_some(struct ring *ring)
{
    uint64_t now_ns = loop_now(ring->loop);
    uint32_t away = ring->active - ring->queued, most, room;

    measure_depth(ring, now_ns);
    most = ring->depth - share_of(ring, ring->depth);
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
static struct io_uring_sqe *prepare(struct ring *ring, bool may_wait)
{
    if (ring->queued == RING_ENTRIES)
        submit(ring, ring->queued);
    assert(ring->queued < RING_ENTRIES);
    ring->active++;
    ring->urgent |= !may_wait;
    return &ring->prepared[(ring->first + ring->queued++) % RING_ENTRIES];
}

void ring_read(struct ring *ring, void *item, int fd, void *data, uint32_t size, uint64_t offset)
{
    struct io_uring_sqe *sqe = prepare(ring, true);

    io_uring_prep_read(sqe, fd, data, size, offset);
    io_uring_sqe_set_data(sqe, item);
}

void ring_write(struct ring *ring, void *item, int fd, const void *data, uint32_t size, uint64_t offset)
{
    struct io_uring_sqe *sqe = prepare(ring, false);

    io_uring_prep_write(sqe, fd, data, size, offset);
    io_uring_sqe_set_data(sqe, item);
}

void ring_fsync(struct ring *ring, void *item, int fd, bool data_only)
{
    struct io_uring_sqe *sqe = prepare(ring, false);

    io_uring_prep_fsync(sqe, fd, data_only ? IORING_FSYNC_DATASYNC : 0);
    io_uring_sqe_set_data(sqe, item);
}

void ring_fallocate(struct ring *ring, void *item, int fd, int mode, uint64_t offset, uint64_t size)
{
    struct io_uring_sqe *sqe = prepare(ring, false);

    io_uring_prep_fallocate(sqe, fd, mode, (off_t)offset, (off_t)size);
    io_uring_sqe_set_data(sqe, item);
}

static void ready(struct watch *watch, uint32_t events)
{
    struct ring *ring = watch->arg;
    struct io_uring_cqe *cqes[TAKE_MAX];
    uint32_t share = share_of(ring, ring->active), most = share ? share : TAKE_MAX, n;

    (void)events;
    most = most < TAKE_MIN ? TAKE_MIN : most < TAKE_MAX ? most : TAKE_MAX;
    n = io_uring_peek_batch_cqe(&ring->uring, cqes, most);
    for (uint32_t i = 0; i < n; i++) {
        assert(ring->active > 0);
        ring->active--;
        ring->done(ring->arg, io_uring_cqe_get_data(cqes[i]), cqes[i]->res);
    }
    io_uring_cq_advance(&ring->uring, n);
}

void ring_flush(struct ring *ring)
{
    if (ring->queued || io_uring_sq_ready(&ring->uring))
        submit_some(ring);
}

uint64_t ring_deadline(const struct ring *ring)
{
    return ring->held_ns ? ring->held_ns + HOLD_NS : UINT64_MAX;
}

int ring_start(struct ring *ring, struct peer *peer, const int *files, uint32_t file_count)
{
    struct io_uring_params params = { .flags = IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG
                                               | IORING_SETUP_CQSIZE, .cq_entries = 8 * RING_ENTRIES };
    int rc = io_uring_queue_init_params(RING_ENTRIES, &ring->uring, &params);

    if (rc == -EINVAL) {            /* kernels before 5.19 */
        params = (struct io_uring_params){ .flags = IORING_SETUP_CQSIZE, .cq_entries = 8 * RING_ENTRIES };
        rc = io_uring_queue_init_params(RING_ENTRIES, &ring->uring, &params);
    }
    if (rc)
        return peer_fail(peer, rc, "io_uring cannot be had (%s): allow io_uring_setup, io_uring_enter and "
                         "io_uring_register where a sandbox forbids them (SystemCallFilter=, a container's seccomp "
                         "profile), or set kernel.io_uring_disabled to 0", strerror(-rc));
    ring->loop = peer->loop;
    rc = file_count ? io_uring_register_files(&ring->uring, files, file_count) : 0;
    if (rc)
        return peer_fail(peer, rc, "io_uring does not register a file: %s", strerror(-rc));
    ring->watch = (struct watch){ .fd = ring->uring.ring_fd, .ready = ready, .arg = ring };
    return loop_watch(ring->loop, &ring->watch, EPOLLIN);
}

void ring_stop(struct ring *ring)
{
    if (!ring->loop)
        return;
    loop_unwatch(ring->loop, &ring->watch);
    io_uring_unregister_files(&ring->uring);        /* the kernel takes the ring down when it likes */
    io_uring_queue_exit(&ring->uring);
}
