/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_file/copy.c - COPY and HASH: a worker goes through a whole object.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "blocker_file/parts.h"
#include "objects/object.h"

static int open_object(struct bf *bf, const struct xobj *object)
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

/* Stores what is not zeros of `size` bytes. */
static int write_sparse(int fd, const uint8_t *data, uint64_t size, uint64_t offset)
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
        rc = write_sparse(to, buffer, (uint64_t)n, offset);
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

/* Goes from data to data: holes stay holes. */
static int copy_extents(int from, int to, uint64_t size)
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
    rc = copy_extents(from, to, req->size);
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
    from = open_object(bf, &source);
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

/* --- HASH -------------------------------------------------------------------------------- */

/* What is hashed is what is stored, even if somebody writes into the object meanwhile. */
static int hash_file(struct content *content, uint8_t *buffer, int from, int to, uint64_t size)
{
    uint64_t offset = 0;
    int rc = 0;

    while (rc == 0 && offset < size) {
        uint64_t step = size - offset < BF_COPY_BUFFER ? size - offset : BF_COPY_BUFFER;
        ssize_t n = pread(from, buffer, step, (off_t)offset);
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        rc = content_feed(content, buffer, (uint64_t)n);
        if (rc == 0)
            rc = write_sparse(to, buffer, (uint64_t)n, offset);
        offset += (uint64_t)n;
    }
    return rc;
}

/* Names the content, once it is durable: who finds a content object may rely on it. */
static int store_content(struct bf *bf, uint64_t number, int fd, uint64_t length, const uint8_t *digest)
{
    struct xobj content = { .kind = XOBJ_CONTENT };
    int rc;

    memcpy(content.digest, digest, sizeof(content.digest));
    if (length == 0)
        return 0;
    if (ftruncate(fd, (off_t)length) < 0 || (bf->sync && fdatasync(fd) < 0))
        return -errno;
    rc = bf_publish(bf, fd, number, &content, true);
    return rc == -EEXIST ? 0 : rc;
}

static int hash_into(struct bf *bf, struct xreq *req, uint8_t *buffer, int from)
{
    struct content content;
    uint8_t digest[32];
    uint64_t number;
    int to = bf_temporary(bf, NULL, &number), rc, ended;

    if (to < 0)
        return to;
    rc = content_begin(&content);
    if (rc == 0)
        rc = hash_file(&content, buffer, from, to, req->size);
    ended = content_end(&content, rc ? NULL : digest);
    if (rc == 0)
        rc = ended ? ended : store_content(bf, number, to, content.length, digest);
    bf_temporary_drop(bf, to, number);
    if (rc)
        return rc;
    memcpy(xreq_data(bf->peer->seg, req), digest, sizeof(digest));
    req->done = sizeof(digest);
    return 0;
}

static int hash_run(struct bf *bf, struct bf_work *work)
{
    struct xreq *req = bf_work_request(work);
    uint8_t *buffer = malloc(BF_COPY_BUFFER);
    int from = buffer ? open_object(bf, &req->object) : -ENOMEM;
    int rc = from < 0 ? from : hash_into(bf, req, buffer, from);

    if (from >= 0)
        close(from);
    free(buffer);
    return rc;
}

static void hash_done(struct bf *bf, struct bf_work *work, int result)
{
    bf->rest.lost = true;
    peer_reply(bf->peer, bf_work_request(work), result);
}

void bf_hash_request(struct bf *bf, struct xreq *req)
{
    if (!xreq_data_ok(bf->peer->seg, req, 32)) {
        peer_reply(bf->peer, req, -EINVAL);
        return;
    }
    bf_held(req)->work = (struct bf_work){ .run = hash_run, .done = hash_done };
    bf_pool_add(bf, &bf_held(req)->work, POOL_SLOW);
}
