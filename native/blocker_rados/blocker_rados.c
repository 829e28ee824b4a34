/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_rados/blocker_rados.c - the peer type "blocker-rados": objects in a pool of a Ceph cluster. The essay
 * is in blocker_rados/parts.h, the contract in objects/blocker.h, the manual in peers/blocker_rados.py.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "blocker_rados/parts.h"
#include "segment/barrier.h"

/* --- options -------------------------------------------------------------------------- */

static const struct peer_option options[] = {
    PEER_OPTION("conf", struct br, conf),
    PEER_OPTION("user", struct br, user),
    PEER_OPTION("keyring", struct br, keyring),
    PEER_OPTION("pool", struct br, pool_name),
    PEER_OPTION("namespace", struct br, namespace_name),
    PEER_OPTION("object_size", struct br, object_size),
    PEER_OPTION("op_timeout_s", struct br, op_timeout_s),
    PEER_OPTION("connect_timeout_s", struct br, connect_timeout_s),
    PEER_OPTION("lease_s", struct br, lease_s),
    PEER_OPTION("blocklist_s", struct br, blocklist_s),
    PEER_OPTION("workers", struct br, workers),
    { 0 }
};

static int check_options(struct br *br)
{
    if (!br->pool_name)
        return peer_fail(br->peer, -EINVAL, "option pool is missing: the pool of the store");
    if (strlen(br->namespace_name) > BR_NAMESPACE_MAX || strpbrk(br->namespace_name, "\n\037"))
        return peer_fail(br->peer, -EINVAL, "option namespace: up to %d characters", BR_NAMESPACE_MAX);
    strcpy(br->namespace, br->namespace_name);
    assert(br->object_size <= BR_OBJECT_MAX);
    return 0;
}

/* --- start and stop ------------------------------------------------------------------- */

/* The threads that call back must be gone before what they call is. */
static void stop(struct peer *peer)
{
    struct br *br = peer->state;

    store_relaxed(&br->draining, true);
    pool_stop(&br->lock_pool);
    pool_stop(&br->pool);
    if (br->connected)
        rados.conf_set(br->cluster, "rados_osd_op_timeout", BR_STOP_TIMEOUT_S);
    br_node_unregister(br);
    br_disconnect(br);
    br_ops_stop(br);
    pthread_mutex_destroy(&br->callers_mutex);
}

static int start_parts(struct br *br)
{
    int rc = check_options(br);

    if (rc == 0)
        rc = br_ops_start(br);
    if (rc == 0)
        rc = br_connect(br);
    if (rc == 0)
        rc = br_node_register(br);
    if (rc == 0)
        rc = pool_start(&br->pool, br->workers, br);
    return rc;
}

static int start(struct peer *peer)
{
    struct br *br = peer->state;
    int rc;

    br->peer = peer;
    br->node = br_past_node(peer->seg->created_ns);
    br->callers = 1;
    pthread_mutex_init(&br->callers_mutex, NULL);
    rc = start_parts(br);
    if (rc == 0)
        rc = br_set_number(br, "rados_mon_op_timeout", br->op_timeout_s);
    if (rc == 0)
        br_call_end(br);
    if (rc == 0)
        br_log(br, "INFO", "pool %s, namespace '%s', %s at %s", br->pool_name, br->namespace, br->client,
               br->address);
    else
        stop(peer);
    return rc;
}

/* --- on the loop ---------------------------------------------------------------------- */

static void acquired(struct br *br, struct br_op *op)
{
    br->acquiring--;
    br_reply(br, op, op->result);
}

static void lock_request(struct br *br, struct xreq *req, struct br_op *op)
{
    if (req->op == XOP_DELETE) {
        br_to_locker(br, op, br_lock_delete);
    } else if (req->op == XOP_ACQUIRE) {
        br->acquiring++;
        op->done = acquired;
        br_to_locker(br, op, br_lock_acquire);
    } else {
        br_to_locker(br, op, br_lock_release);
    }
}

/* What needs no operation of the cluster, and what is not well-formed. */
static bool answer_at_once(struct br *br, struct xreq *req)
{
    const struct xseg *seg = br->peer->seg;
    bool is_lock = req->object.kind == XOBJ_LOCK && object_name_ok(&req->object);
    bool ok;

    switch (req->op) {
    case XOP_PING:
        if (!br_trusts(br))
            return false;           /* it waits for a look, as all do */
        /* fall through */
    case XOP_SYNC:                  /* what RADOS acknowledges is durable */
        peer_reply(br->peer, req, req->volume ? -EINVAL : 0);
        return true;
    case XOP_ACQUIRE:
        ok = is_lock && req->arg && req->size <= BR_OWNER_MAX && xreq_data_ok(seg, req, req->size);
        break;
    case XOP_RELEASE: ok = is_lock; break;
    case XOP_LIST:
        ok = req->object.kind != XOBJ_NONE && req->object.kind < XOBJ_KINDS && xreq_data_ok(seg, req, 4096)
            && xreq_data_ok(seg, req, req->data_size);
        break;
    case XOP_COPY:
        ok = object_name_ok(&req->object) && !is_lock && xreq_data_ok(seg, req, sizeof(struct xobj));
        break;
    case XOP_HASH:
        ok = object_name_ok(&req->object) && !is_lock && xreq_data_ok(seg, req, 32);
        break;
    case XOP_PUT: ok = req->object.kind == XOBJ_CONTENT && xreq_data_ok(seg, req, req->size); break;
    case XOP_CLAIM: ok = req->object.kind == XOBJ_CONTENT; break;
    default: ok = true; break;
    }
    if (!ok || req->volume)
        peer_reply(br->peer, req, -EINVAL);
    return !ok || req->volume;
}

static void serve(struct br *br, struct xreq *req, struct br_op *op)
{
    switch (req->op) {
    case XOP_PING:
        br_op_put(br, op);
        peer_reply(br->peer, req, 0);
        break;
    case XOP_LIST: br_to_worker(br, op, br_list_run, POOL_SLOW); break;
    case XOP_COPY:
        br_order_worker(br, op, req->object.kind);
        br_to_worker(br, op, br_copy_run, POOL_SLOW);
        break;
    case XOP_HASH: br_to_worker(br, op, br_hash_run, POOL_SLOW); break;
    case XOP_PUT: br_to_worker(br, op, br_put_run, POOL_SLOW); break;
    case XOP_ACQUIRE:
    case XOP_RELEASE: lock_request(br, req, op); break;
    case XOP_DELETE:
        if (req->object.kind == XOBJ_LOCK && object_name_ok(&req->object)) {
            lock_request(br, req, op);
            break;
        }
        br_io_request(br, req, op);
        break;
    case XOP_READ:
    case XOP_WRITE:
    case XOP_WRITE_ZEROES:
    case XOP_DISCARD:
    case XOP_INFO:
    case XOP_CLAIM:
    case XOP_REPLACE: br_io_request(br, req, op); break;
    default:
        br_op_put(br, op);
        peer_reply(br->peer, req, -EOPNOTSUPP);
        break;
    }
}

static void request(struct peer *peer, struct xreq *req)
{
    struct br *br = peer->state;
    struct br_op *op;

    if (br->fenced) {               /* the OSDs would still list objects for us */
        peer_reply(peer, req, -ESTALE);
        return;
    }
    if (answer_at_once(br, req))
        return;
    op = !peer_has_parked(peer) && br_trusts(br) ? br_op_get(br, req) : NULL;
    if (op)
        serve(br, req, op);
    else
        peer_park(peer, req);
}

static bool can_serve(struct peer *peer)
{
    struct br *br = peer->state;

    return br->free && br_trusts(br);
}

static void again(struct peer *peer, struct xreq *req) { serve(peer->state, req, br_op_get(peer->state, req)); }

/* It sends nothing on, so nothing comes back but what an earlier life of the port sent. */
static void reply(struct peer *peer, struct xreq *child) { xreq_put(peer->port, child); }

static bool flush(struct peer *peer)
{
    struct br *br = peer->state;
    bool moved = br_ops_reap(br, br_doubt, br_order_refused);

    br_deadline_look(br);
    br_lease_renew(br);
    br_look(br);
    br_fence_learn(br);
    br_past_watch_on(br);
    return moved;
}

static uint64_t deadline(struct peer *peer)
{
    const struct br *br = peer->state;
    uint64_t look = br_look_deadline(br), renewal = br_lease_deadline(br);
    uint64_t next = look < renewal ? look : renewal, late = br_deadline_next(br);

    return next < late ? next : late;
}

static uint64_t nap(struct peer *peer) { return br_ops_nap(peer->state); }

static void drain(struct peer *peer)
{
    struct br *br = peer->state;

    store_relaxed(&br->draining, true);
    br_deadline_cancel_own(br);     /* a cluster that does not answer is not waited for */
}

static bool idle(struct peer *peer) { return ((struct br *)peer->state)->under_way == 0; }

const struct peer_ops blocker_rados_ops = {
    .type = "blocker-rados",
    .state_size = sizeof(struct br),
    .options = options,
    .start = start,
    .request = request,
    .reply = reply,
    .again = again,
    .can_serve = can_serve,
    .flush = flush,
    .deadline = deadline,
    .nap = nap,
    .drain = drain,
    .idle = idle,
    .stop = stop,
};
