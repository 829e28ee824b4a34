/* SPDX-License-Identifier: Apache-2.0
 *
 * filters/delay.c - the peer type "delay": a filter that holds requests back for a time. Its manual is
 * peers/delay.py.
 *
 * All are held equally long, so the queue of those held is in the order in which they are due.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "filters/filter.h"

struct delay {
    struct filter filter;
    uint64_t ns;
    bool in_order;                  /* others do not overtake those held */
    struct queue held;
};

struct due { uint64_t ns; };        /* when a request goes on */
XREQ_HOLDER(due_of, struct due)

static int read_options(struct peer *peer, struct delay *state)
{
    uint64_t ms, us, order;
    int rc = filter_options(peer, &state->filter);

    if (rc == 0)
        rc = peer_option_u64(peer, "ms", 0, &ms);
    if (rc == 0)
        rc = peer_option_u64(peer, "us", 0, &us);
    if (rc == 0)
        rc = peer_option_u64(peer, "order", 1, &order);
    if (rc)
        return rc;
    if (ms > 3600000 || us > 3600000000)
        return peer_fail(peer, -EINVAL, "options ms and us: an hour at most");
    state->ns = ms * 1000000 + us * 1000;
    state->in_order = order != 0;
    return 0;
}

static int start(struct peer *peer)
{
    struct delay *state = calloc(1, sizeof(*state));
    int rc;

    if (!state)
        return -ENOMEM;
    peer->state = state;
    rc = read_options(peer, state);
    if (rc)
        free(state);
    return rc;
}

static uint64_t deadline(struct peer *peer)
{
    struct delay *state = peer->state;

    return queue_empty(&state->held) ? UINT64_MAX : due_of(&peer->port->reqs[state->held.head - 1])->ns;
}

static void request(struct peer *peer, struct xreq *req)
{
    struct delay *state = peer->state;
    bool matches = filter_matches(&state->filter, req);

    if (!matches && (!state->in_order || queue_empty(&state->held))) {
        filter_pass(peer, req);
        return;
    }
    due_of(req)->ns = loop_now(peer->loop) + (matches ? state->ns : 0);
    queue_push(peer, &state->held, req);
}

static bool flush(struct peer *peer)
{
    struct delay *state = peer->state;
    bool moved = false;

    while (deadline(peer) <= loop_now(peer->loop)) {
        filter_pass(peer, queue_pop(peer, &state->held));
        moved = true;
    }
    return moved;
}

static void stop(struct peer *peer) { free(peer->state); }

const struct peer_ops delay_ops = {
    .type = "delay",
    .start = start,
    .request = request,
    .reply = filter_reply,
    .again = filter_again,
    .can_serve = peer_has_slot,
    .flush = flush,
    .deadline = deadline,
    .stop = stop,
};
