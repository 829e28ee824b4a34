/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_file/io.c - READ, WRITE, WRITE_ZEROES and DISCARD of an open object.
 *
 * Buffered: a read takes what is in the page cache at once and leaves a miss to io_uring; a
 * write is a plain pwrite(), which measured several times cheaper than io_uring's worker.
 * From POOL_BYTES on a worker makes it, so that the loop meanwhile takes in what comes next, or a worker reads
 * so much; each where that is found to gain something (TUNE_READS and TUNE_WRITES in loop/tune.h).
 *
 * Direct: io_uring, if offset, size and address are all multiples of BF_ALIGN; what is not goes
 * through the page cache of the same file. The kernel keeps the two coherent, but for a buffered
 * write during a direct one: that may mark the file as failed. So a buffered write to an object
 * waits until no direct one is under way, and what comes after it waits behind it.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "blocker_file/parts.h"

#define READ_TRIES 4                /* partial answers from the page cache before io_uring */
#define POOL_BYTES 262144
#define ZERO_STEP 65536

static uint8_t *data_at(struct bf *bf, struct xreq *req)
{
    return (uint8_t *)xreq_data(bf->peer->seg, req) + bf_held(req)->position;
}

static bool is_write(const struct xreq *req) { return req->op != XOP_READ; }

static void reply(struct bf *bf, struct xreq *req, int error)
{
    struct bf_object *object = bf_held(req)->object;

    if (error == 0)
        req->done = req->size;
    bf_object_put(bf, object);
    peer_reply(bf->peer, req, error);
}

/* The I/O is over. A write is remembered for the next SYNC, or synced now. */
static void finish(struct bf *bf, struct xreq *req, int error)
{
    struct bf_object *object = bf_held(req)->object;

    if (error || !is_write(req)) {
        reply(bf, req, error);
        return;
    }
    if (req->flags & XREQ_FUA) {
        req->done = req->size;
        bf_sync_one(bf, req, object);
    } else {
        bf_dirty(bf, object);
        reply(bf, req, 0);
    }
}

static bool goes_direct(struct bf *bf, const struct xreq *req)
{
    return bf->direct && ((req->offset | req->size | req->data) & (BF_ALIGN - 1)) == 0
        && req->size != 0;
}

static void in_worker(struct bf *bf, struct xreq *req, int (*run)(struct bf *, struct bf_work *),
                      void (*done)(struct bf *, struct bf_work *, int))
{
    bf_held(req)->work.run = run;
    bf_held(req)->work.done = done;
    bf_pool_add(bf, &bf_held(req)->work, POOL_SLOW);
}

/* --- READ -------------------------------------------------------------------------- */

static void read_done(struct bf *bf, struct bf_work *work, int result);

static void read_end_of_file(struct bf *bf, struct xreq *req)
{
    memset(data_at(bf, req), 0, req->size - bf_held(req)->position);
    finish(bf, req, 0);
}

static void read_rest(struct bf *bf, struct xreq *req)
{
    struct bf_held *h = bf_held(req);
    int fd = goes_direct(bf, req) ? h->object->direct_fd : h->object->fd;

    h->work.done = read_done;
    ring_read(&bf->ring, &h->work, fd, data_at(bf, req), (uint32_t)(req->size - h->position),
                 req->offset + h->position);
}

static void read_done(struct bf *bf, struct bf_work *work, int result)
{
    struct xreq *req = bf_work_request(work);
    struct bf_held *h = bf_held(req);

    if (result < 0 && result != -EINTR && result != -EAGAIN) {
        finish(bf, req, result);
        return;
    }
    h->position += result > 0 ? (uint64_t)result : 0;
    if (h->position == req->size)
        finish(bf, req, 0);
    else if (result == 0 || (goes_direct(bf, req) && h->position % BF_ALIGN))
        read_end_of_file(bf, req);
    else
        read_rest(bf, req);
}

/* What the page cache has. True if the request is answered. */
static bool read_inline(struct bf *bf, struct xreq *req)
{
    struct bf_held *h = bf_held(req);

    for (int i = 0; i < READ_TRIES && h->position < req->size; i++) {
        struct iovec iov = { data_at(bf, req), req->size - h->position };
        ssize_t n = preadv2(h->object->fd, &iov, 1, (off_t)(req->offset + h->position), RWF_NOWAIT);
        if (n == 0) {
            read_end_of_file(bf, req);
            return true;
        }
        if (n < 0) {
            bf->no_nowait |= errno == EOPNOTSUPP;
            return false;
        }
        h->position += (uint64_t)n;
    }
    if (h->position < req->size)
        return false;
    finish(bf, req, 0);
    return true;
}

/* In a worker. */
static int read_run(struct bf *bf, struct bf_work *work)
{
    struct xreq *req = bf_work_request(work);
    ssize_t n = pread(bf_held(req)->object->fd, data_at(bf, req), req->size, (off_t)req->offset);

    return n < 0 ? -errno : (int)n;
}

static bool goes_to_worker(struct bf *bf, const struct xreq *req, enum tune_name name)
{
    return req->size >= POOL_BYTES && !bf->direct && loop_level(bf->peer->loop, name);
}

static void read_start(struct bf *bf, struct xreq *req)
{
    if (req->size == 0)
        finish(bf, req, 0);
    else if (goes_to_worker(bf, req, TUNE_READS))
        in_worker(bf, req, read_run, read_done);
    else if (goes_direct(bf, req) || bf->no_nowait || !read_inline(bf, req))
        read_rest(bf, req);
}

/* --- WRITE -------------------------------------------------------------------------- */

static void write_direct(struct bf *bf, struct xreq *req);
static void write_waiting(struct bf *bf, struct bf_object *object);

/* The object must outlive the request, as others may wait for it. */
static void write_direct_end(struct bf *bf, struct xreq *req, int error)
{
    struct bf_object *object = bf_held(req)->object;

    bf_object_hold(object);
    object->direct_writes--;
    finish(bf, req, error);
    write_waiting(bf, object);
    bf_object_put(bf, object);
}

static void write_direct_done(struct bf *bf, struct bf_work *work, int result)
{
    struct xreq *req = bf_work_request(work);

    if (result == 0)
        result = -EIO;              /* the kernel never says so of a write that is not empty */
    if (result < 0 && result != -EINTR && result != -EAGAIN) {
        write_direct_end(bf, req, result);
        return;
    }
    bf_held(req)->position += result > 0 ? (uint64_t)result : 0;
    if (bf_held(req)->position == req->size)
        write_direct_end(bf, req, 0);
    else
        write_direct(bf, req);
}

static void write_direct(struct bf *bf, struct xreq *req)
{
    struct bf_held *h = bf_held(req);

    h->work.done = write_direct_done;
    ring_write(&bf->ring, &h->work, h->object->direct_fd, data_at(bf, req),
                  (uint32_t)(req->size - h->position), req->offset + h->position);
}

/* On the loop, or in a worker. */
static int write_run(struct bf *bf, struct bf_work *work)
{
    struct xreq *req = bf_work_request(work);

    return bf_write_all(bf_held(req)->object->fd, data_at(bf, req), req->size, req->offset);
}

static void write_run_done(struct bf *bf, struct bf_work *work, int result)
{
    finish(bf, bf_work_request(work), result);
}

/* In a worker: a record of a volume's map, for which there was no space. */
static int write_record_run(struct bf *bf, struct bf_work *work)
{
    int rc;

    do {
        rc = write_run(bf, work);
    } while (bf_reserve_give(bf, rc));
    return rc;
}

/* A store with direct I/O has no worker write: no direct write may begin meanwhile. */
static void write_buffered(struct bf *bf, struct xreq *req)
{
    bool worker = goes_to_worker(bf, req, TUNE_WRITES);
    int rc = worker ? 0 : write_run(bf, &bf_held(req)->work);

    if (worker)
        in_worker(bf, req, write_run, write_run_done);
    else if ((rc == -ENOSPC || rc == -EDQUOT) && req->object.kind == XOBJ_JOURNAL && !bf->direct)
        in_worker(bf, req, write_record_run, write_run_done);
    else
        finish(bf, req, rc);
}

/* True if it had its turn: begun, or done. */
static bool write_try(struct bf *bf, struct xreq *req)
{
    struct bf_object *object = bf_held(req)->object;

    if (goes_direct(bf, req)) {
        object->direct_writes++;
        write_direct(bf, req);
        return true;
    }
    if (object->direct_writes)
        return false;
    write_buffered(bf, req);
    return true;
}

static void write_waiting(struct bf *bf, struct bf_object *object)
{
    while (!queue_empty(&object->waiting)) {
        struct xreq *req = &bf->peer->port->reqs[object->waiting.head - 1];
        if (object->direct_writes && !goes_direct(bf, req))
            return;
        queue_pop(bf->peer, &object->waiting);
        write_try(bf, req);
    }
}

static void write_start(struct bf *bf, struct xreq *req)
{
    struct bf_object *object = bf_held(req)->object;

    if (!queue_empty(&object->waiting) || !write_try(bf, req))
        queue_push(bf->peer, &object->waiting, req);
}

/* --- WRITE_ZEROES, DISCARD ------------------------------------------------------------- */

/* In a worker, where the file system cannot do better. Only NO_HOLE writes past the end. */
static int zeroes_run(struct bf *bf, struct bf_work *work)
{
    static const uint8_t zeros[ZERO_STEP];
    struct xreq *req = bf_work_request(work);
    uint64_t end = req->offset + req->size, offset = req->offset;
    int fd = bf_held(req)->object->fd, rc = 0;
    struct stat st;

    (void)bf;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (!(req->flags & XREQ_NO_HOLE) && end > (uint64_t)st.st_size)
        end = (uint64_t)st.st_size;
    for (; rc == 0 && offset < end; offset += ZERO_STEP)
        rc = bf_write_all(fd, zeros, end - offset < ZERO_STEP ? end - offset : ZERO_STEP, offset);
    return rc;
}

static void zeroes_done(struct bf *bf, struct bf_work *work, int result)
{
    struct xreq *req = bf_work_request(work);

    if (result == -EOPNOTSUPP && !work->run) {
        work->run = zeroes_run;
        bf_pool_add(bf, work, POOL_SLOW);
    } else {
        finish(bf, req, result);
    }
}

static void zeroes_start(struct bf *bf, struct xreq *req)
{
    struct bf_held *h = bf_held(req);
    bool allocate = req->op == XOP_WRITE_ZEROES && (req->flags & XREQ_NO_HOLE);
    int mode = allocate ? FALLOC_FL_ZERO_RANGE : FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;

    if (req->size == 0) {
        finish(bf, req, 0);
        return;
    }
    h->work.run = NULL;
    h->work.done = zeroes_done;
    ring_fallocate(&bf->ring, &h->work, h->object->fd, mode, req->offset, req->size);
}

/* --- from and to the table of open objects ----------------------------------------------- */

static void start(struct bf *bf, struct xreq *req)
{
    bf_held(req)->position = 0;
    if (req->op == XOP_READ)
        read_start(bf, req);
    else if (req->op == XOP_WRITE)
        write_start(bf, req);
    else
        zeroes_start(bf, req);
}

static void opened(struct bf *bf, struct bf_work *work, int error)
{
    struct xreq *req = bf_work_request(work);

    if (error == 0) {
        start(bf, req);
        return;
    }
    if (error == -ENOENT && req->op == XOP_DISCARD) {
        req->done = req->size;
        error = 0;
    }
    peer_reply(bf->peer, req, error);
}

void bf_io_request(struct bf *bf, struct xreq *req)
{
    bool has_data = req->op == XOP_READ || req->op == XOP_WRITE;

    if (req->object.kind == XOBJ_LOCK || (has_data && !xreq_data_ok(bf->peer->seg, req, req->size)))
        peer_reply(bf->peer, req, -EINVAL);
    else if (req->offset > BF_BYTES_MAX || req->size > BF_BYTES_MAX - req->offset)
        peer_reply(bf->peer, req, -EFBIG);
    else
        bf_object_get(bf, req, opened);
}
