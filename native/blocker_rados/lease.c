/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_rados/lease.c - a node's lease: one for all its locks.
 *
 * It is a lock of Ceph's object class "lock" on the registry of the blocker that takes the locks, which ends
 * by itself after lease_s, by the OSD's clock. It is shared, so that each life of the blocker takes one of its
 * own: the lease is over when none is left. `rados lock info` shows it.
 *
 * One is taken before the first lock is, and renewed for as long as volumes are open for writing and for
 * LINGER leases after that, so that no lock is ever held without one by a node that lives.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "blocker_rados/parts.h"
#include "segment/barrier.h"

#define CLASS "lock"                /* Ceph's object class */
#define CLASS_LOCK "archipelago"    /* name of its lock on the object */
#define CLASS_COOKIE "lease"
#define CLASS_SHARED 2
#define CLASS_MAY_RENEW 1
#define CLASS_TEXT_MAX 128          /* bytes of an encoded call */
#define CLASS_INFO_MAX 4096         /* bytes of an encoded answer; more is cut off */
#define CLASS_HEAD 6                /* bytes before an encoded structure: two versions and its length */
#define LINGER 2
#define SECOND 1000000000ull

/* --- calls of the object class, encoded as Ceph does --------------------------------------------- */

struct encoding { uint8_t data[CLASS_TEXT_MAX]; uint32_t used; };

static void put(struct encoding *e, uint64_t value, uint32_t bytes)
{
    assert(e->used + bytes <= sizeof(e->data));
    for (uint32_t i = 0; i < bytes; i++, value >>= 8)
        e->data[e->used++] = (uint8_t)value;
}

static void put_text(struct encoding *e, const char *text)
{
    put(e, strlen(text), 4);
    while (*text)
        put(e, (uint8_t)*text++, 1);
}

/* Version 1, readable by version 1, and how many bytes follow. */
static void finish(struct encoding *e, const struct encoding *body)
{
    put(e, 1, 1);
    put(e, 1, 1);
    put(e, body->used, 4);
    for (uint32_t i = 0; i < body->used; i++)
        put(e, body->data[i], 1);
}

static void encode_lock(struct encoding *all, uint64_t lease_s)
{
    struct encoding body = { .used = 0 };

    put_text(&body, CLASS_LOCK);
    put(&body, CLASS_SHARED, 1);
    put_text(&body, CLASS_COOKIE);
    put_text(&body, "");            /* tag */
    put_text(&body, "");            /* description */
    put(&body, lease_s, 4);
    put(&body, 0, 4);               /* nanoseconds */
    put(&body, CLASS_MAY_RENEW, 1);
    finish(all, &body);
}

static void encode_info(struct encoding *all)
{
    struct encoding body = { .used = 0 };

    put_text(&body, CLASS_LOCK);
    finish(all, &body);
}

/* How many have the lock, by an answer of the class. EBADMSG. */
static int decode_lockers(const uint8_t *info, size_t size)
{
    uint32_t count = 0;

    if (size < CLASS_HEAD + sizeof(count))
        return -EBADMSG;
    for (uint32_t i = sizeof(count); i-- > 0;)
        count = count << 8 | info[CLASS_HEAD + i];
    return count > INT32_MAX ? -EBADMSG : (int)count;
}

/* --- another's ---------------------------------------------------------------------------------------- */

/* ENOENT: there is no such registry. */
static int is_over(rados_ioctx_t io, const char *name)
{
    struct encoding call = { .used = 0 };
    rados_read_op_t op = rados.create_read_op();
    char info[CLASS_INFO_MAX];
    size_t size = 0;
    int result = 0, rc;

    encode_info(&call);
    rados.read_op_exec_user_buf(op, CLASS, "get_info", (const char *)call.data, call.used, info, sizeof(info), &size,
                                &result);
    rc = rados.read_op_operate(op, io, name, 0);
    rados.release_read_op(op);
    if (rc == 0 && result == -ERANGE)
        return 0;                   /* the answer is long: there are many */
    if (rc < 0 || result < 0)
        return rc < 0 ? rc : result;
    rc = decode_lockers((const uint8_t *)info, size);
    return rc < 0 ? rc : rc == 0;
}

int br_lease_is_over(struct br *br, const struct br_registry *registry)
{
    char name[BR_NODE_NAME_MAX];
    rados_ioctx_t io;
    int rc = br_node_open(br, registry, &io, name);

    if (rc)
        return rc;                  /* 1: the pool is gone */
    rc = is_over(io, name);
    rados.ioctx_destroy(io);
    return rc == -ENOENT ? 1 : rc;
}

/* --- our own -------------------------------------------------------------------------------------------- */

static rados_write_op_t lease_op(const struct br *br)
{
    struct encoding call = { .used = 0 };
    rados_write_op_t op = rados.create_write_op();

    encode_lock(&call, br->lease_s);
    rados.write_op_assert_exists(op);
    rados.write_op_exec(op, CLASS, "lock", (const char *)call.data, call.used, NULL);
    return op;
}

static bool is_fresh(const struct br *br)
{
    uint64_t leased = load_relaxed(&br->leased_ns);

    return leased && clock_boot_ns() - leased < br->lease_s * SECOND / 3;
}

int br_lease_take(struct br *br)
{
    uint64_t began = clock_boot_ns();
    char name[BR_NODE_NAME_MAX];
    rados_write_op_t op;
    int rc;

    if (br->lease_s == 0 || is_fresh(br))
        return 0;
    br_node_name(br->node, name);
    op = lease_op(br);
    rc = rados.write_op_operate(op, br->io[0], name, NULL, RADOS_FULL_FORCE);
    rados.release_write_op(op);
    if (rc == 0)
        store_relaxed(&br->leased_ns, began);
    return rc;
}

static void renew_done(struct br *br, struct br_op *op)
{
    br->renewing = false;
    if (op->result < 0 && !br->draining)
        br_errno(br, op->result);   /* it is tried again */
    br_op_put(br, op);
}

/* A lock may be held: one was taken in this segment, and a volume is open or was a moment ago. */
static bool is_needed(struct br *br)
{
    uint64_t now = clock_boot_ns(), leased = load_relaxed(&br->leased_ns), linger = LINGER * br->lease_s * SECOND;

    if (leased && (br->acquiring || br_writers(br)))
        br->lease_end_ns = now + linger;
    return leased && (now < br->lease_end_ns || now < leased + linger);
}

void br_lease_renew(struct br *br)
{
    uint64_t now = loop_now(br->peer->loop);
    char name[BR_NODE_NAME_MAX];
    rados_write_op_t write;
    struct br_op *op;

    if (br->lease_s == 0 || br->draining || br->renewing || now < br->renew_ns)
        return;
    br->renew_ns = now + br->lease_s * SECOND / 3;
    op = is_needed(br) ? br_op_get(br, NULL) : NULL;
    if (!op)
        return;
    op->done = renew_done;
    br->renewing = true;
    br_node_name(br->node, name);
    write = lease_op(br);
    br_prepare(br, op, 0);
    br_submitted(br, op, rados.aio_write_op_operate(write, op->io, op->completion, name, NULL, RADOS_FULL_FORCE));
    rados.release_write_op(write);
}

uint64_t br_lease_deadline(const struct br *br)
{
    return br->lease_s && !br->renewing ? br->renew_ns : UINT64_MAX;
}
