/* SPDX-License-Identifier: Apache-2.0
 *
 * filters/delay.c - the peer type "delay": a filter that holds requests back for a time. Its manual is
 * peers/delay.py.
 *
 * All are held equally long, so the queue of those held is in the order in which they are due.
 */
#include "filters/filter.h"

struct delay {
    struct filter filter;
    uint64_t ms, us;                /* options */
    bool order;                     /* option: others do not overtake those held */
    struct queue held;
};

static const struct peer_option options[] = {
    FILTER_OPTIONS(struct delay),
    PEER_OPTION("ms", struct delay, ms),
    PEER_OPTION("us", struct delay, us),
    PEER_OPTION("order", struct delay, order),
    { 0 }
};

struct due { uint64_t ns; };        /* when a request goes on */
XREQ_HOLDER(due_of, struct due)

static uint64_t deadline(struct peer *peer)
{
    struct delay *state = peer->state;

    return queue_empty(&state->held) ? UINT64_MAX : due_of(&peer->port->reqs[state->held.head - 1])->ns;
}

static void request(struct peer *peer, struct xreq *req)
{
    struct delay *state = peer->state;
    bool matches = filter_matches(&state->filter, req);

    if (!matches && (!state->order || queue_empty(&state->held))) {
        filter_pass(peer, req);
        return;
    }
    due_of(req)->ns = loop_now(peer->loop) + (matches ? state->ms * 1000000 + state->us * 1000 : 0);
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

const struct peer_ops delay_ops = {
    .type = "delay",
    .state_size = sizeof(struct delay),
    .options = options,
    .start = filter_start,
    .request = request,
    .reply = filter_reply,
    .again = filter_again,
    .can_serve = peer_has_slot,
    .flush = flush,
    .deadline = deadline,
};
