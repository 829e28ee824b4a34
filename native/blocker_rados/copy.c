/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_rados/copy.c - COPY, HASH and PUT: a worker goes through a whole object.
 *
 * librados' C interface has no copy within the store, so a worker reads and writes.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blocker_rados/parts.h"

/* An object that is made or changed. */
struct target {
    rados_ioctx_t io;
    int flags;
    char name[OBJECT_NAME_MAX];
};

static int operate(const struct target *target, rados_write_op_t write)
{
    int rc = rados.write_op_operate(write, target->io, target->name, NULL, target->flags);

    rados.release_write_op(write);
    return rc;
}

/* --- COPY ----------------------------------------------------------------------------- */

/* The object exists, is `size` long and has no content. */
static int begin_copy(const struct target *target, uint64_t size)
{
    rados_write_op_t write = rados.create_write_op();

    rados.write_op_create(write, RADOS_CREATE_IDEMPOTENT, NULL);
    rados.write_op_truncate(write, 0);
    rados.write_op_truncate(write, size);
    return operate(target, write);
}

/* Writes what is not zeros of a piece, in one operation. */
static int write_sparse(const struct target *target, const char *data, uint64_t size, uint64_t offset)
{
    rados_write_op_t write = rados.create_write_op();
    bool any = false;

    for (uint64_t at = 0; at < size;) {
        uint64_t end = at, n;
        for (; end < size; end += n) {          /* a run of what is not zeros */
            n = size - end < CONTENT_PIECE ? size - end : CONTENT_PIECE;
            if (content_is_zero(data + end, n))
                break;
        }
        if (end > at) {
            rados.write_op_write(write, data + at, end - at, offset + at);
            any = true;
        }
        at = end < size ? end + CONTENT_PIECE : end;
    }
    if (any)
        return operate(target, write);
    rados.release_write_op(write);
    return 0;
}

/* The first read tells whether there is a source, before anything is done to the object. */
static int copy(struct br *br, const struct xreq *req, const struct xobj *source, const struct target *target,
                char *buffer)
{
    char name[OBJECT_NAME_MAX];
    uint64_t offset = 0;
    int n, rc = 0;

    object_name_print(source, name);
    do {
        uint64_t want = req->size - offset < BR_PIECE_MAX ? req->size - offset : BR_PIECE_MAX;
        n = rados.read(br->io[source->kind], name, buffer, want ? want : 1, offset);
        if (n < 0)
            return n;
        if (offset == 0)
            rc = begin_copy(target, req->size);
        if (rc == 0)
            rc = write_sparse(target, buffer, (uint64_t)n < want ? (uint64_t)n : want, offset);
        offset += BR_PIECE_MAX;
    } while (rc == 0 && n == (int)BR_PIECE_MAX && offset < req->size);
    return rc;
}

int br_copy_run(struct br *br, struct br_op *op)
{
    struct xreq *req = op->req;
    struct target target = { .flags = RADOS_FULL_TRY | (op->ordered ? RADOS_ORDERSNAP : 0) };
    struct xobj source;
    char *buffer;
    int rc;

    memcpy(&source, xreq_data(br->peer->seg, req), sizeof(source));
    if (!object_name_ok(&source))
        return -EINVAL;
    if (req->size > BR_OBJECT_MAX)
        return -EFBIG;
    buffer = malloc(BR_PIECE_MAX);
    if (!buffer)
        return -ENOMEM;
    object_name_print(&req->object, target.name);
    rc = br_order_open(br, op, req->object.kind, &target.io);
    if (rc == 0) {
        rc = copy(br, req, &source, &target, buffer);
        rados.ioctx_destroy(target.io);
    }
    free(buffer);
    if (rc == 0)
        req->done = req->size;
    return rc;
}

/* --- HASH -------------------------------------------------------------------------------- */

/* Up to `size` bytes of an object; how many there were. */
static int64_t read_whole(struct br *br, const struct xobj *object, char *buffer, uint64_t size)
{
    char name[OBJECT_NAME_MAX];
    uint64_t done = 0;
    int n;

    object_name_print(object, name);
    do {
        uint64_t want = size - done < BR_PIECE_MAX ? size - done : BR_PIECE_MAX;
        n = rados.read(br->io[object->kind], name, buffer + done, want, done);
        if (n < 0)
            return n;
        done += (uint64_t)n;
    } while (n == (int)BR_PIECE_MAX && done < size);
    return (int64_t)done;
}

/* All of it in one operation: who finds a content object may rely on it. */
static int store_content(struct br *br, const struct xobj *content, const char *data, uint64_t length)
{
    struct target target = { .io = br->io[XOBJ_CONTENT], .flags = RADOS_FULL_TRY };
    rados_write_op_t write;

    if (length == 0)
        return 0;
    object_name_print(content, target.name);
    write = rados.create_write_op();
    rados.write_op_create(write, RADOS_CREATE_IDEMPOTENT, NULL);
    rados.write_op_write_full(write, data, length);
    br_claim_write(write);
    return operate(&target, write);
}

/* ENOENT: there is no such content. */
static int claim_content(struct br *br, const struct xobj *content)
{
    struct target target = { .io = br->io[XOBJ_CONTENT], .flags = RADOS_FULL_TRY };
    rados_write_op_t write = rados.create_write_op();

    object_name_print(content, target.name);
    rados.write_op_assert_exists(write);
    br_claim_write(write);
    return operate(&target, write);
}

/* What is hashed is what is stored, even if somebody writes into the object meanwhile. */
static int hash(struct br *br, struct xreq *req, char *buffer)
{
    struct xobj content = { .kind = XOBJ_CONTENT };
    uint64_t length;
    int64_t size = read_whole(br, &req->object, buffer, req->size);
    int rc;

    if (size < 0)
        return (int)size;
    rc = content_digest(buffer, (uint64_t)size, &length, content.digest);
    if (rc == 0 && length)
        rc = claim_content(br, &content);
    if (rc == -ENOENT)
        rc = store_content(br, &content, buffer, length);
    if (rc)
        return rc;
    memcpy(xreq_data(br->peer->seg, req), content.digest, sizeof(content.digest));
    req->done = sizeof(content.digest);
    return 0;
}

int br_hash_run(struct br *br, struct br_op *op)
{
    char *buffer;
    int rc;

    if (op->req->size == 0 || op->req->size > BR_HASH_MAX)
        return op->req->size ? -EFBIG : -EINVAL;
    buffer = malloc(op->req->size);
    if (!buffer)
        return -ENOMEM;
    rc = hash(br, op->req, buffer);
    free(buffer);
    return rc;
}

/* --- PUT ----------------------------------------------------------------------------------- */

int br_put_run(struct br *br, struct br_op *op)
{
    struct xreq *req = op->req;
    const char *data = xreq_data(br->peer->seg, req);
    uint8_t digest[32];
    uint64_t length;
    int rc = content_digest(data, req->size, &length, digest);

    if (rc == 0 && memcmp(digest, req->object.digest, sizeof(digest)))
        rc = -EBADMSG;
    if (rc == 0)
        rc = store_content(br, &req->object, data, length);
    if (rc == 0)
        req->done = req->size;
    return rc;
}
