/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_rados/deadline.c - op_timeout_s.
 *
 * librados can end an operation by itself (rados_osd_op_timeout), but makes a timer for each and
 * cancels it again, in a tree and with a mutex that its threads share: at 32 operations under way
 * that took more CPU than all that is ours. So that option is only on while a synchronous call may
 * be under way, which nothing else could end: at start, at stop, and while a worker works.
 *
 * Asynchronous operations stand in a list by age. One too old is cancelled, which is what librados'
 * timer does, too: it comes back with ECANCELED, by its callback as ever.
 */
#include <assert.h>
#include <errno.h>

#include "blocker_rados/parts.h"

#define SECOND_NS 1000000000ull

/* --- on the loop ---------------------------------------------------------------------------- */

void br_deadline_add(struct br *br, struct br_op *op)
{
    op->began_ns = loop_now(br->peer->loop);
    op->older = br->newest;
    op->newer = NULL;
    *(br->newest ? &br->newest->newer : &br->oldest) = op;
    br->newest = op;
    op->aging = true;
}

void br_deadline_remove(struct br *br, struct br_op *op)
{
    if (!op->aging)
        return;
    *(op->older ? &op->older->newer : &br->oldest) = op->newer;
    *(op->newer ? &op->newer->older : &br->newest) = op->older;
    op->aging = false;
}

uint64_t br_deadline_next(const struct br *br)
{
    return br->oldest && br->op_timeout_s ? br->oldest->began_ns + br->op_timeout_s * SECOND_NS : UINT64_MAX;
}

/* ENOENT: it has just completed, and is on its way. */
static void cancel(struct br *br, struct br_op *op)
{
    int rc;

    br_deadline_remove(br, op);
    op->late = true;
    rc = rados.aio_cancel(op->io, op->completion);
    assert(rc == 0 || rc == -ENOENT);
}

void br_deadline_look(struct br *br)
{
    while (br_deadline_next(br) <= loop_now(br->peer->loop))
        cancel(br, br->oldest);
}

void br_deadline_cancel_own(struct br *br)
{
    struct br_op *op = br->oldest;

    while (op) {
        struct br_op *newer = op->newer;
        if (!op->req)
            cancel(br, op);
        op = newer;
    }
}

/* --- threads with synchronous calls ------------------------------------------------------------ */

static void set_timeout(struct br *br, uint64_t seconds)
{
    int rc = br_set_number(br, "rados_osd_op_timeout", seconds);

    assert(rc == 0);                /* it took a number at start, too */
}

void br_call_begin(struct br *br)
{
    pthread_mutex_lock(&br->callers_mutex);
    if (br->callers++ == 0)
        set_timeout(br, br->op_timeout_s);
    pthread_mutex_unlock(&br->callers_mutex);
}

void br_call_end(struct br *br)
{
    pthread_mutex_lock(&br->callers_mutex);
    assert(br->callers > 0);
    if (--br->callers == 0)
        set_timeout(br, 0);
    pthread_mutex_unlock(&br->callers_mutex);
}
