/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_rados/op.c - operations: from the loop to librados or a worker, and back.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "blocker_rados/parts.h"
#include "segment/barrier.h"

#define TOLD_AGAIN_NS 10000000000ull    /* between two words in the log about timeouts */

/* --- errors ------------------------------------------------------------------------- */

static void tell_timeout(struct br *br)
{
    uint64_t now = clock_ns();

    br->timeouts++;
    if (br->timeouts > 1 && now - br->timeouts_told_ns < TOLD_AGAIN_NS)
        return;
    br->timeouts_told_ns = now;
    br_log(br, "ERROR", "the cluster did not answer within %llu s: %llu operations failed with "
           "ETIMEDOUT until now", (unsigned long long)br->op_timeout_s, (unsigned long long)br->timeouts);
}

/* True when ENOENT means the pool, not the object. Looks at the osdmap this client has. */
static bool pool_is_gone(struct br *br)
{
    char name[256];

    if (rados.pool_reverse_lookup(br->cluster, br->pool_id, name, sizeof(name)) != -ENOENT)
        return false;
    if (!br->pool_gone)
        br_log(br, "ERROR", "the pool %s was deleted: every request fails with ENODEV", br->pool_name);
    br->pool_gone = true;
    return true;
}

void br_distrust(struct br *br, const char *why)
{
    struct xheader *header = br->peer->seg->header;

    if (!br->fenced)
        br_log(br, "ERROR", "this node was fenced: %s. Every request of %s at %s fails with ESTALE. `archipelago stop "
               "--force`, then `archipelago start`; locks of its volumes may have been taken by others", why,
               br->client, br->address);
    br->fenced = true;
    if (exchange(&header->trusted_until_ns, (uint64_t)XSEG_FENCED) != XSEG_FENCED)
        snprintf(header->fenced_why, sizeof(header->fenced_why), "%s", why);
}

int br_errno(struct br *br, int result)
{
    switch (result) {
    case -RADOS_EBLOCKLISTED:
        br_distrust(br, load_acquire(&br->told_state) == BR_TOLD ? br->told : "it is on the cluster's blocklist");
        return -ESTALE;
    case -ENOENT: return pool_is_gone(br) ? -ENODEV : -ENOENT;
    case -ETIMEDOUT:
        tell_timeout(br);
        return -ETIMEDOUT;
    default: return result;
    }
}

/* --- operations ------------------------------------------------------------------------ */

static struct br_op *op_of(struct task *task) { return (struct br_op *)task; }

struct br_op *br_op_get(struct br *br, struct xreq *req)
{
    struct br_op *op = op_of(br->free);

    if (!op)
        return NULL;
    br->free = op->task.next;
    br->under_way++;
    *op = (struct br_op){ .br = br, .req = req };
    return op;
}

void br_op_put(struct br *br, struct br_op *op)
{
    assert(br->under_way > 0);
    br->under_way--;
    op->task.next = br->free;
    br->free = &op->task;
}

void br_reply(struct br *br, struct br_op *op, int result)
{
    struct xreq *req = op->req;

    br_op_put(br, op);
    result = result < 0 ? br_errno(br, result) : 0;
    peer_reply(br->peer, req, br->fenced ? -ESTALE : result);
}

void br_finish(struct br_op *op, int result)
{
    op->result = result;
    finished_add(&op->br->finished, &op->task);
}

/* In a worker. */
static void work(struct task *task, void *arg)
{
    struct br *br = arg;
    struct br_op *op = op_of(task);

    br_call_begin(br);
    br_finish(op, op->run(br, op));
    br_call_end(br);
}

void br_to_worker(struct br *br, struct br_op *op, int (*run)(struct br *, struct br_op *), enum pool_class class)
{
    op->task.run = work;
    op->run = run;
    pool_add(&br->pool, &op->task, class);
}

/* Only one blocker of a segment has locks: its threads are made when the first is asked for. */
void br_to_locker(struct br *br, struct br_op *op, int (*run)(struct br *, struct br_op *))
{
    int rc = br->lock_pool.made ? 0 : pool_start(&br->lock_pool, BR_LOCK_WORKERS, br);

    op->task.run = work;
    op->run = run;
    if (br->lock_pool.thread_count)
        pool_add(&br->lock_pool, &op->task, POOL_QUICK);
    else
        br_finish(op, rc ? rc : -EAGAIN);
}

void br_fail_waiting(struct br *br, int error)
{
    struct xreq *req;

    while ((req = peer_unpark(br->peer)))
        peer_reply(br->peer, req, br->fenced ? -ESTALE : error);
}

void br_sleep_until(uint64_t ns)
{
    struct timespec when = { (time_t)(ns / 1000000000u), (long)(ns % 1000000000u) };

    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &when, NULL) == EINTR)
        continue;
}

/* On a thread of librados. */
static void completed(rados_completion_t completion, void *arg)
{
    br_finish(arg, rados.aio_get_return_value(completion));
}

void br_prepare(struct br *br, struct br_op *op, uint32_t kind)
{
    op->io = br->io[kind];
    rados.aio_create_completion2(op, completed, &op->completion);
    assert(op->completion);         /* librados aborts by itself when memory is out */
}

void br_submitted(struct br *br, struct br_op *op, int rc)
{
    br_deadline_add(br, op);
    if (rc < 0)
        br_finish(op, rc);
}

/* It has left librados. */
static void leave(struct br *br, struct br_op *op)
{
    if (op->aging)
        br->took_ns = loop_now(br->peer->loop) - op->began_ns;
    br_deadline_remove(br, op);
    if (op->completion)
        rados.aio_release(op->completion);
    if (op->late && op->result == -ECANCELED)
        op->result = -ETIMEDOUT;
}

static bool changes(const struct xreq *req)
{
    return req->op == XOP_WRITE || req->op == XOP_WRITE_ZEROES || req->op == XOP_DISCARD || req->op == XOP_DELETE
        || req->op == XOP_REPLACE;
}

/* See blocker_rados/order.c. */
static bool is_refused(const struct br_op *op) { return op->req && op->ordered && op->result == -RADOS_EOLDSNAPC; }

bool br_ops_reap(struct br *br, void (*doubt)(struct br *, const struct xobj *),
                 void (*refused)(struct br *, struct br_op *))
{
    struct task *task = finished_take(&br->finished), *next;
    bool found = task != NULL;

    for (; task; task = next) {
        struct br_op *op = op_of(task);
        next = task->next;
        leave(br, op);
        struct xobj doubted = op->late && op->req && changes(op->req) ? op->req->object : (struct xobj){ 0 };
        if (is_refused(op))
            refused(br, op);
        else if (op->done)
            op->done(br, op);
        else
            br_reply(br, op, op->result);
        if (doubted.kind)
            doubt(br, &doubted);
    }
    return found;
}

uint64_t br_ops_nap(struct br *br)
{
    uint64_t ns = br->under_way >= BR_NAP_DEPTH ? br->took_ns / BR_NAP_SHARE : 0;

    br->took_ns = 0;
    return ns < BR_NAP_NS ? ns : BR_NAP_NS;
}

int br_ops_start(struct br *br)
{
    for (int i = BR_OPS; i-- > 0;) {
        br->ops[i].task.next = br->free;
        br->free = &br->ops[i].task;
    }
    return finished_start(&br->finished, br->peer->loop);
}

void br_ops_stop(struct br *br)
{
    assert(br->under_way == 0);
    finished_stop(&br->finished);
}
