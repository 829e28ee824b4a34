/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_file/copy.c - COPY: a worker goes through a whole object.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "blocker_file/parts.h"
#include "objects/object.h"

int bf_open_to_read(struct bf *bf, const struct xobj *object)
{
    char path[BF_PATH];
    const char *name;
    uint32_t index;
    int folder = bf_locate(bf, object, false, path, &name, &index), fd;

    if (folder < 0)
        return folder;
    fd = openat(folder, name, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

int bf_write_sparse(int fd, const uint8_t *data, uint64_t size, uint64_t offset)
{
    int rc = 0;

    for (uint64_t at = 0; rc == 0 && at < size; at += CONTENT_PIECE) {
        uint64_t n = size - at < CONTENT_PIECE ? size - at : CONTENT_PIECE;
        if (!content_is_zero(data + at, n))
            rc = bf_write_all(fd, data + at, n, offset + at);
    }
    return rc;
}

/* --- COPY ------------------------------------------------------------------------------ */

/* Where the kernel cannot copy by itself. */
static int copy_by_hand(int from, int to, uint64_t offset, uint64_t end)
{
    uint8_t *buffer = malloc(BF_COPY_BUFFER);
    int rc = buffer ? 0 : -ENOMEM;

    while (rc == 0 && offset < end) {
        ssize_t n = pread(from, buffer, end - offset < BF_COPY_BUFFER ? end - offset : BF_COPY_BUFFER,
                          (off_t)offset);
        if (n <= 0) {
            rc = n < 0 ? -errno : 0;
            break;
        }
        rc = bf_write_sparse(to, buffer, (uint64_t)n, offset);
        offset += (uint64_t)n;
    }
    free(buffer);
    return rc;
}

/* Shares the space where the file system can. */
static int copy_extent(int from, int to, uint64_t offset, uint64_t end)
{
    while (offset < end) {
        off_t in = (off_t)offset, out = (off_t)offset;
        ssize_t n = copy_file_range(from, &in, to, &out, end - offset, 0);
        if (n < 0 && (errno == EXDEV || errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL))
            return copy_by_hand(from, to, offset, end);
        if (n <= 0)
            return n < 0 ? -errno : 0;
        offset += (uint64_t)n;
    }
    return 0;
}

int bf_copy_extents(int from, int to, uint64_t size)
{
    uint64_t offset = 0;
    int rc = 0;

    while (rc == 0 && offset < size) {
        off_t data = lseek(from, (off_t)offset, SEEK_DATA), hole;
        if (data < 0)
            return errno == ENXIO ? 0 : -errno;
        hole = lseek(from, data, SEEK_HOLE);
        if (hole < 0)
            return -errno;
        offset = (uint64_t)hole;
        if ((uint64_t)data < size)
            rc = copy_extent(from, to, (uint64_t)data, offset < size ? offset : size);
    }
    return rc;
}

static int copy_into(struct bf *bf, struct xreq *req, int from)
{
    uint64_t number;
    int to = bf_temporary(bf, &req->object, &number), rc;

    if (to < 0)
        return to;
    rc = bf_copy_extents(from, to, req->size);
    if (rc == 0 && ftruncate(to, (off_t)req->size) < 0)
        rc = -errno;
    if (rc == 0)
        rc = bf_publish(bf, to, number, &req->object, false);
    bf_temporary_drop(bf, to, number);
    return rc;
}

static int copy_run(struct bf *bf, struct bf_work *work)
{
    struct xreq *req = bf_work_request(work);
    struct xobj source;
    int from, rc;

    memcpy(&source, xreq_data(bf->peer->seg, req), sizeof(source));
    from = bf_open_to_read(bf, &source);
    if (from < 0)
        return from;
    rc = copy_into(bf, req, from);
    close(from);
    return rc;
}

/* The copy is there, and open, or could not be opened. */
static void copy_opened(struct bf *bf, struct bf_work *work, int error)
{
    struct xreq *req = bf_work_request(work);

    if (error == 0) {
        bf_held(req)->object->is_new = true;
        bf_dirty(bf, bf_held(req)->object);
        bf_object_put(bf, bf_held(req)->object);
    }
    bf_volume_of(bf, &req->object)->lost = true;   /* it was opened after it was written */
    req->done = req->size;
    peer_reply(bf->peer, req, 0);
}

/* The copy is opened like an object that is written, so that the next SYNC finds it. */
static void copy_done(struct bf *bf, struct bf_work *work, int result)
{
    struct xreq *req = bf_work_request(work);

    if (result) {
        peer_reply(bf->peer, req, result);
        return;
    }
    bf_object_renew(bf, &req->object);
    bf_object_get(bf, req, copy_opened);
}

void bf_copy_request(struct bf *bf, struct xreq *req)
{
    if (req->object.kind == XOBJ_LOCK || !xreq_data_ok(bf->peer->seg, req, sizeof(struct xobj))) {
        peer_reply(bf->peer, req, -EINVAL);
        return;
    }
    if (req->size > BF_BYTES_MAX) {
        peer_reply(bf->peer, req, -EFBIG);
        return;
    }
    bf_held(req)->work = (struct bf_work){ .run = copy_run, .done = copy_done };
    bf_pool_add(bf, &bf_held(req)->work, POOL_SLOW);
}
