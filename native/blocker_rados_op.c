/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_rados_op.c - operations: from the loop to librados or a worker, and back.
 */
#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "barrier.h"
#include "blocker_rados.h"

#define TOLD_AGAIN_NS 10000000000ull    /* between two words in the log about timeouts */
#define LINE_MAX_BYTES 512

/* --- the log ---------------------------------------------------------------------- */

void br_log(struct br *br, const char *level, const char *format, ...)
{
    char text[LINE_MAX_BYTES], when[32];
    struct timespec now;
    struct tm local;
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    clock_gettime(CLOCK_REALTIME, &now);
    localtime_r(&now.tv_sec, &local);
    strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", &local);
    fprintf(stderr, "%s.%03ld %s %s %s\n", when, now.tv_nsec / 1000000, br->peer->role, level, text);
}

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

/* --- errors ------------------------------------------------------------------------- */

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

int br_errno(struct br *br, int result)
{
    switch (result) {
    case -RADOS_EBLOCKLISTED:
        br_distrust(br, "it is on the cluster's blocklist");
        return -ESTALE;
    case -ENOENT: return pool_is_gone(br) ? -ENODEV : -ENOENT;
    case -ETIMEDOUT:
        tell_timeout(br);
        return -ETIMEDOUT;
    default: return result;
    }
}

/* --- operations ------------------------------------------------------------------------ */

struct br_op *br_op_get(struct br *br, struct xreq *req)
{
    struct br_op *op = br->free;

    if (!op)
        return NULL;
    br->free = op->next;
    br->under_way++;
    *op = (struct br_op){ .br = br, .req = req };
    return op;
}

void br_op_put(struct br *br, struct br_op *op)
{
    assert(br->under_way > 0);
    br->under_way--;
    op->next = br->free;
    br->free = op;
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
    struct br *br = op->br;
    struct br_op *head;
    uint64_t one = 1;

    op->result = result;
    do {
        head = load_relaxed(&br->finished);
        op->next = head;
    } while (!swap_if(&br->finished, head, op));
    if (!head && write(br->watch.fd, &one, sizeof(one)) < 0)
        assert(errno == EAGAIN);    /* the counter is full: it wakes all the same */
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

/* Oldest first, as it would be unfair to answer in the reverse. */
static struct br_op *take_finished(struct br *br)
{
    struct br_op *op = load_relaxed(&br->finished) ? exchange(&br->finished, NULL) : NULL;
    struct br_op *first = NULL;

    while (op) {
        struct br_op *next = op->next;
        op->next = first;
        first = op;
        op = next;
    }
    return first;
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

bool br_ops_reap(struct br *br)
{
    struct br_op *op = take_finished(br), *next;
    bool found = op != NULL;

    for (; op; op = next) {
        next = op->next;
        leave(br, op);
        if (op->done)
            op->done(br, op);
        else
            br_reply(br, op, op->result);
    }
    return found;
}

uint64_t br_ops_nap(struct br *br)
{
    uint64_t ns = br->under_way >= BR_NAP_DEPTH ? br->took_ns / BR_NAP_SHARE : 0;

    br->took_ns = 0;
    return ns < BR_NAP_NS ? ns : BR_NAP_NS;
}

/* The loop looks at the list in every turn: it only had to be woken. Edge-triggered, so that
 * the counter need not be read. */
static void ready(struct watch *watch, uint32_t events)
{
    (void)watch;
    (void)events;
}

int br_ops_start(struct br *br)
{
    for (int i = BR_OPS; i-- > 0;) {
        br->ops[i].next = br->free;
        br->free = &br->ops[i];
    }
    br->watch = (struct watch){ .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .ready = ready, .arg = br };
    if (br->watch.fd < 0)
        return -errno;
    return loop_watch(br->peer->loop, &br->watch, EPOLLIN | EPOLLET);
}

void br_ops_stop(struct br *br)
{
    assert(br->under_way == 0);
    if (br->watch.fd < 0)
        return;
    loop_unwatch(br->peer->loop, &br->watch);
    close(br->watch.fd);
}
