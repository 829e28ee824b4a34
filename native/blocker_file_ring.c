/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_file_ring.c - what io_uring does for the loop. Queued operations are submitted at the
 * end of a turn, in one system call.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>

#include "blocker_file.h"

#define SUBMIT_TRIES 1000           /* while the kernel says it is short of something */

static void submit(struct ring *ring)
{
    for (int i = 0; ring->queued && i < SUBMIT_TRIES; i++) {
        int n = io_uring_submit(&ring->uring);
        if (n > 0)
            ring->queued -= (uint32_t)n;
        else if (n != -EAGAIN && n != -EBUSY && n != -EINTR)
            break;
    }
}

static struct io_uring_sqe *next_entry(struct bf *bf)
{
    struct ring *ring = &bf->ring;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->uring);

    if (!sqe) {
        submit(ring);
        sqe = io_uring_get_sqe(&ring->uring);
    }
    assert(sqe);
    ring->queued++;
    ring->active++;
    return sqe;
}

void bf_ring_read(struct bf *bf, struct work *work, int fd, void *data, uint32_t size, uint64_t offset)
{
    struct io_uring_sqe *sqe = next_entry(bf);

    io_uring_prep_read(sqe, fd, data, size, offset);
    io_uring_sqe_set_data(sqe, work);
}

void bf_ring_write(struct bf *bf, struct work *work, int fd, const void *data, uint32_t size, uint64_t offset)
{
    struct io_uring_sqe *sqe = next_entry(bf);

    io_uring_prep_write(sqe, fd, data, size, offset);
    io_uring_sqe_set_data(sqe, work);
}

void bf_ring_fsync(struct bf *bf, struct work *work, int fd, bool data_only)
{
    struct io_uring_sqe *sqe = next_entry(bf);

    io_uring_prep_fsync(sqe, fd, data_only ? IORING_FSYNC_DATASYNC : 0);
    io_uring_sqe_set_data(sqe, work);
}

void bf_ring_fallocate(struct bf *bf, struct work *work, int fd, int mode, uint64_t offset, uint64_t size)
{
    struct io_uring_sqe *sqe = next_entry(bf);

    io_uring_prep_fallocate(sqe, fd, mode, (off_t)offset, (off_t)size);
    io_uring_sqe_set_data(sqe, work);
}

static bool reap(struct bf *bf)
{
    struct io_uring_cqe *cqes[64];
    unsigned n = io_uring_peek_batch_cqe(&bf->ring.uring, cqes, 64);

    for (unsigned i = 0; i < n; i++) {
        struct work *work = io_uring_cqe_get_data(cqes[i]);
        assert(bf->ring.active > 0);
        bf->ring.active--;
        work->done(bf, work, cqes[i]->res);
    }
    io_uring_cq_advance(&bf->ring.uring, n);
    return n > 0;
}

bool bf_ring_flush(struct bf *bf)
{
    bool moved;

    if (!bf->ring.active)
        return false;
    moved = reap(bf);
    submit(&bf->ring);
    return reap(bf) || moved;
}

static void ring_ready(struct watch *watch, uint32_t events)
{
    (void)events;
    reap(watch->arg);
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
        return peer_fail(bf->peer, rc, "io_uring cannot be had (%s): the kernel, a sandbox or "
                         "kernel.io_uring_disabled forbids it", strerror(-rc));
    ring->made = true;
    rc = io_uring_register_files(&ring->uring, &bf->life, 1);   /* keeps its flock: see blocker_file.h */
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
