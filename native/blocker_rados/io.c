/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_rados/io.c - requests that are one RADOS operation each.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "blocker_rados/parts.h"

#define SAME 4096                   /* zeros that WRITE_ZEROES with NO_HOLE has the OSD repeat */

static const char zeros[SAME];

static uint8_t *data_of(struct br *br, struct xreq *req) { return xreq_data(br->peer->seg, req); }

static void refuse(struct br *br, struct br_op *op, int error)
{
    struct xreq *req = op->req;

    br_op_put(br, op);
    peer_reply(br->peer, req, error);
}

/* What leads out of a full pool is done though it is full: removing, opening and closing replace headers, a commit
 * appends a record of what was written before. */
static bool leads_out(const struct xreq *req)
{
    return req->op == XOP_DELETE || (req->op == XOP_REPLACE && !(req->flags & XREQ_CREATE))
        || (req->op == XOP_WRITE && req->object.kind == XOBJ_JOURNAL);
}

/* Submits and releases a write operation. */
static void operate(struct br *br, struct br_op *op, rados_write_op_t write)
{
    uint32_t kind = op->req->object.kind;
    int flags = (leads_out(op->req) ? RADOS_FULL_FORCE : RADOS_FULL_TRY) | br_order(br, op, kind);
    char name[OBJECT_NAME_MAX];

    object_name_print(&op->req->object, name);
    br_prepare(br, op, kind);
    br_submitted(br, op, rados.aio_write_op_operate(write, op->io, op->completion, name, NULL, flags));
    rados.release_write_op(write);
}

/* --- READ, INFO ------------------------------------------------------------------------ */

static void read_done(struct br *br, struct br_op *op)
{
    struct xreq *req = op->req;

    if (op->result >= 0) {
        assert((uint64_t)op->result <= req->size);
        memset(data_of(br, req) + op->result, 0, req->size - (uint64_t)op->result);
        req->done = req->size;
    }
    br_reply(br, op, op->result);
}

static void stat_object(struct br *br, struct br_op *op)
{
    char name[OBJECT_NAME_MAX];

    object_name_print(&op->req->object, name);
    br_prepare(br, op, op->req->object.kind);
    br_submitted(br, op, rados.aio_stat(op->io, name, op->completion, &op->size, &op->changed));
}

static void read_object(struct br *br, struct br_op *op)
{
    struct xreq *req = op->req;
    char name[OBJECT_NAME_MAX];

    if (req->size == 0) {           /* to RADOS that means all of it */
        stat_object(br, op);
        return;
    }
    op->done = read_done;
    object_name_print(&req->object, name);
    br_prepare(br, op, req->object.kind);
    br_submitted(br, op, rados.aio_read(op->io, name, op->completion, (char *)data_of(br, req), req->size,
                                        req->offset));
}

static void info_done(struct br *br, struct br_op *op)
{
    op->req->done = op->req->arg = op->size;    /* RADOS does not tell the space it takes */
    if (op->size)
        op->req->flags &= (uint16_t)~XREQ_ZEROS;
    br_reply(br, op, op->result);
}

/* --- WRITE, WRITE_ZEROES, DISCARD -------------------------------------------------------- */

static void write_done(struct br *br, struct br_op *op)
{
    if (op->result >= 0)
        op->req->done = op->req->size;
    br_reply(br, op, op->result);
}

/* One of nothing only makes the object. */
static void write_object(struct br *br, struct br_op *op)
{
    struct xreq *req = op->req;
    rados_write_op_t write = rados.create_write_op();

    op->done = write_done;
    if (br->object_size)
        rados.write_op_set_alloc_hint(write, br->object_size, req->size);
    if (req->size)
        rados.write_op_write(write, (const char *)data_of(br, req), req->size, req->offset);
    else
        rados.write_op_create(write, RADOS_CREATE_IDEMPOTENT, NULL);
    operate(br, op, write);
}

/* The byte written last makes the object long enough. An empty write would do, too, but an OSD of
 * Ceph 16 then keeps the digest that it had for the shorter object, and takes it for damaged. */
static void write_zeroes(struct br *br, struct br_op *op)
{
    struct xreq *req = op->req;
    uint64_t whole = req->size & ~(uint64_t)(SAME - 1), rest = req->size - whole;
    rados_write_op_t write = rados.create_write_op();

    op->done = write_done;
    rados.write_op_create(write, RADOS_CREATE_IDEMPOTENT, NULL);
    if (req->flags & XREQ_NO_HOLE) {
        if (whole)
            rados.write_op_writesame(write, zeros, SAME, whole, req->offset);
        if (rest)
            rados.write_op_write(write, zeros, rest, req->offset + whole);
    } else if (req->size) {
        if (req->size > 1)
            rados.write_op_zero(write, req->offset, req->size - 1);
        rados.write_op_write(write, zeros, 1, req->offset + req->size - 1);
    }
    operate(br, op, write);
}

static void discard_done(struct br *br, struct br_op *op)
{
    if (op->result == -ENOENT && br_errno(br, -ENOENT) == -ENOENT)
        op->result = 0;
    write_done(br, op);
}

static void discard(struct br *br, struct br_op *op)
{
    rados_write_op_t write = rados.create_write_op();

    op->done = discard_done;
    rados.write_op_assert_exists(write);
    if (op->req->size)
        rados.write_op_zero(write, op->req->offset, op->req->size);
    operate(br, op, write);
}

/* --- DELETE, CLAIM, REPLACE ----------------------------------------------------------------------- */

static void replace_done(struct br *br, struct br_op *op)
{
    br_reply(br, op, op->result <= -RADOS_COMPARE_BASE ? -ESTALE : op->result);
}

/* The object must be there, and begin with the 8 bytes that the request expects, if it expects any. */
static void expect_present(rados_write_op_t write, const struct xreq *req)
{
    rados.write_op_assert_exists(write);
    if (req->arg)
        rados.write_op_cmpext(write, (const char *)&req->arg, sizeof(req->arg), 0, NULL);
}

static void delete_content_done(struct br *br, struct br_op *op)
{
    br_reply(br, op, op->result == -ECANCELED ? -EBUSY : op->result);
}

static void delete(struct br *br, struct br_op *op)
{
    rados_write_op_t write = rados.create_write_op();

    if (op->req->arg && op->req->object.kind == XOBJ_CONTENT) {
        op->done = delete_content_done;
        rados.write_op_assert_exists(write);
        br_claim_expect_none(write, op->req->arg);
    } else if (op->req->arg) {
        op->done = replace_done;
        expect_present(write, op->req);
    }
    rados.write_op_remove(write);
    operate(br, op, write);
}

static void claim(struct br *br, struct br_op *op)
{
    rados_write_op_t write = rados.create_write_op();

    rados.write_op_assert_exists(write);
    br_claim_write(write);
    operate(br, op, write);
}

static void replace(struct br *br, struct br_op *op)
{
    struct xreq *req = op->req;
    rados_write_op_t write = rados.create_write_op();

    op->done = replace_done;
    if (req->flags & XREQ_CREATE)
        rados.write_op_create(write, RADOS_CREATE_EXCLUSIVE, NULL);
    else
        expect_present(write, req);
    rados.write_op_write_full(write, (const char *)data_of(br, req), req->size);
    operate(br, op, write);
}

/* --- which, and is it well-formed ------------------------------------------------------------ */

/* 0, or why the request is refused. */
static int check(struct br *br, const struct xreq *req)
{
    bool has_data = req->op == XOP_READ || req->op == XOP_WRITE || req->op == XOP_REPLACE;

    if (!object_name_ok(&req->object) || req->object.kind == XOBJ_LOCK)
        return req->op == XOP_INFO && object_name_ok(&req->object) ? 0 : -EINVAL;
    if (has_data && !xreq_data_ok(br->peer->seg, req, req->size))
        return -EINVAL;
    if (req->op == XOP_REPLACE)
        return req->size <= BLOCKER_REPLACE_MAX ? 0 : -EINVAL;
    if (req->op == XOP_DELETE || req->op == XOP_INFO || req->op == XOP_READ || req->op == XOP_CLAIM)
        return 0;
    return req->size > BR_OBJECT_MAX || req->offset > BR_OBJECT_MAX - req->size ? -EFBIG : 0;
}

/* Nothing is stored so far out, and librados adds offset and size without a look. */
static bool reads_beyond_everything(const struct xreq *req)
{
    return req->op == XOP_READ && req->offset >= BR_OBJECT_MAX;
}

void br_io_request(struct br *br, struct xreq *req, struct br_op *op)
{
    int rc = check(br, req);

    if (rc) {
        refuse(br, op, rc);
        return;
    }
    if (reads_beyond_everything(req)) {
        memset(data_of(br, req), 0, req->size);
        op->done = write_done;
        stat_object(br, op);
        return;
    }
    switch (req->op) {
    case XOP_READ: read_object(br, op); break;
    case XOP_WRITE: write_object(br, op); break;
    case XOP_WRITE_ZEROES: write_zeroes(br, op); break;
    case XOP_DISCARD: discard(br, op); break;
    case XOP_DELETE: delete(br, op); break;
    case XOP_REPLACE: replace(br, op); break;
    case XOP_CLAIM: claim(br, op); break;
    default:
        assert(req->op == XOP_INFO);
        op->done = info_done;
        stat_object(br, op);
        break;
    }
}
