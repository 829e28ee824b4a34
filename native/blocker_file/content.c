/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_file/content.c - PUT and HASH: a worker writes a content into a file and makes it durable, a group commit
 * gives it its name.
 *
 * A content that is there is put in place once more, as PUT takes the same time and space whether it was there or
 * not. HASH, which is asked for by no stranger, only claims it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "blocker_file/parts.h"
#include "objects/object.h"

/* The file is all there: makes it durable, with the time of its claim. Drops it if that fails. */
static int settle(struct bf *bf, struct bf_work *work, uint64_t length)
{
    int rc = ftruncate(work->fd, (off_t)length) < 0 ? -errno : bf_claim_file(work->fd);

    return rc == 0 && bf->sync && fsync(work->fd) < 0 ? -errno : rc;
}

static void drop(struct bf *bf, struct bf_work *work)
{
    if (work->fd >= 0)
        bf_temporary_drop(bf, work->fd, bf_held(bf_work_request(work))->temporary);
    work->fd = -1;
}

/* --- PUT ----------------------------------------------------------------------------------- */

static int write_put(struct bf *bf, struct bf_work *work, const uint8_t *data, uint64_t length)
{
    struct xreq *req = bf_work_request(work);
    int rc;

    work->fd = bf_temporary(bf, &req->object, &bf_held(req)->temporary);
    if (work->fd < 0)
        return work->fd;
    rc = bf_write_sparse(work->fd, data, length, 0);
    return rc ? rc : settle(bf, work, length);
}

/* 1: there is nothing to store. */
static int put_run(struct bf *bf, struct bf_work *work)
{
    struct xreq *req = bf_work_request(work);
    const uint8_t *data = xreq_data(bf->peer->seg, req);
    uint8_t digest[32];
    uint64_t length;
    int rc = content_digest(data, req->size, &length, digest);

    if (rc == 0 && memcmp(digest, req->object.digest, sizeof(digest)))
        rc = -EBADMSG;
    if (rc || length == 0)
        return rc ? rc : 1;
    rc = write_put(bf, work, data, length);
    if (rc)
        drop(bf, work);
    return rc;
}

/* --- HASH ---------------------------------------------------------------------------------- */

/* Hashes a file. With `to`, that becomes a copy on the way. */
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
        if (rc == 0 && to >= 0)
            rc = bf_write_sparse(to, buffer, (uint64_t)n, offset);
        offset += (uint64_t)n;
    }
    return rc;
}

static int digest_of(int from, int to, uint64_t size, uint64_t *length, uint8_t digest[32])
{
    uint8_t *buffer = malloc(BF_COPY_BUFFER);
    struct content content;
    int rc = buffer ? content_begin(&content) : -ENOMEM, ended;

    if (!buffer)
        return rc;
    if (rc == 0)
        rc = hash_file(&content, buffer, from, to, size);
    *length = content.length;
    ended = content_end(&content, rc ? NULL : digest);
    free(buffer);
    return rc ? rc : ended;
}

/* Claims it alone, so that a content that is there need not be written. ENOENT: it is not. */
static int claim_now(struct bf *bf, const struct xobj *content)
{
    int fd = -1, rc = bf_claim_set(bf, content, &fd);

    if (rc == 0 && bf->sync && fsync(fd) < 0)
        rc = -errno;
    if (fd >= 0)
        close(fd);
    return rc;
}

/* Makes the temporary file a copy, and hashes what is stored, even if somebody writes into the object meanwhile. Of what
 * is frozen the file system may share the space, so that is copied first. */
static int copy_and_hash(struct bf_work *work, int from, uint64_t *length, uint8_t digest[32])
{
    const struct xreq *req = bf_work_request(work);
    int rc;

    if (!(req->flags & XREQ_FROZEN))
        return digest_of(from, work->fd, req->size, length, digest);
    rc = bf_copy_extents(from, work->fd, req->size);
    return rc ? rc : digest_of(work->fd, -1, req->size, length, digest);
}

/* 1: the content is there. */
static int hash_from(struct bf *bf, struct bf_work *work, int from)
{
    struct xreq *req = bf_work_request(work);
    struct xobj content = { .kind = XOBJ_CONTENT };
    uint64_t length;
    int rc;

    work->fd = bf_temporary(bf, NULL, &bf_held(req)->temporary);
    if (work->fd < 0)
        return work->fd;
    rc = copy_and_hash(work, from, &length, content.digest);
    if (rc)
        return rc;
    memcpy(xreq_data(bf->peer->seg, req), content.digest, sizeof(content.digest));
    req->object = content;          /* it is the name that the group commit gives */
    rc = length ? claim_now(bf, &content) : 0;
    if (rc != -ENOENT)
        return rc ? rc : 1;
    return settle(bf, work, length);
}

static int hash_run(struct bf *bf, struct bf_work *work)
{
    int from = bf_open_to_read(bf, &bf_work_request(work)->object);
    int rc = from < 0 ? from : hash_from(bf, work, from);

    if (from >= 0)
        close(from);
    if (rc)
        drop(bf, work);
    return rc;
}

/* --- on the loop ----------------------------------------------------------------------------- */

static void reply(struct bf *bf, struct xreq *req, int result)
{
    req->done = result ? 0 : req->op == XOP_HASH ? sizeof(req->object.digest) : req->size;
    peer_reply(bf->peer, req, result);
}

static void named(struct bf *bf, struct bf_work *work, int result)
{
    struct xreq *req = bf_work_request(work);

    bf_object_renew(bf, &req->object);
    reply(bf, req, result);
}

static void written(struct bf *bf, struct bf_work *work, int result)
{
    if (result) {
        reply(bf, bf_work_request(work), result < 0 ? result : 0);
        return;
    }
    work->done = named;
    bf_commit_add(bf, work);
}

void bf_content_request(struct bf *bf, struct xreq *req)
{
    bool is_put = req->op == XOP_PUT;
    bool ok = is_put ? req->object.kind == XOBJ_CONTENT && xreq_data_ok(bf->peer->seg, req, req->size)
                     : xreq_data_ok(bf->peer->seg, req, sizeof(req->object.digest));

    if (!ok || !object_name_ok(&req->object)) {
        peer_reply(bf->peer, req, -EINVAL);
        return;
    }
    bf_held(req)->work = (struct bf_work){ .run = is_put ? put_run : hash_run, .done = written, .fd = -1 };
    bf_pool_add(bf, &bf_held(req)->work, POOL_SLOW);
}
