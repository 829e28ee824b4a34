/* SPDX-License-Identifier: Apache-2.0
 *
 * filters/error.c - the peer type "error": a filter that fails chosen requests. Its manual is
 * peers/error.py.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "filters/filter.h"

#define ERRNO_MAX 133

struct error {
    struct filter filter;
    const char *name;               /* option errno */
    uint64_t after, every, count;   /* options */
    int error;
    uint64_t seen;                  /* requests that matched */
    uint64_t failed;
};

static const struct peer_option options[] = {
    FILTER_OPTIONS(struct error),
    PEER_OPTION("errno", struct error, name),
    PEER_OPTION("after", struct error, after),
    PEER_OPTION("every", struct error, every),
    PEER_OPTION("count", struct error, count),
    { 0 }
};

static int errno_by_name(const char *name)
{
    for (int i = 1; i <= ERRNO_MAX; i++) {
        const char *known = strerrorname_np(i);
        if (known && strcmp(known, name) == 0)
            return i;
    }
    return 0;
}

static int start(struct peer *peer)
{
    struct error *state = peer->state;

    state->error = -errno_by_name(state->name);
    if (state->error == 0)
        return peer_fail(peer, -EINVAL, "option errno: there is no error %.80s", state->name);
    assert(state->every);
    return filter_start(peer);
}

static bool should_fail(struct error *state, const struct xreq *req)
{
    if (!filter_matches(&state->filter, req) || state->seen++ < state->after)
        return false;
    if ((state->seen - state->after) % state->every || (state->count && state->failed == state->count))
        return false;
    state->failed++;
    return true;
}

static void request(struct peer *peer, struct xreq *req)
{
    struct error *state = peer->state;

    if (should_fail(state, req))
        peer_reply(peer, req, state->error);
    else
        filter_pass(peer, req);
}

const struct peer_ops error_ops = {
    .type = "error",
    .state_size = sizeof(struct error),
    .options = options,
    .start = start,
    .request = request,
    .reply = filter_reply,
    .again = filter_again,
    .can_serve = peer_has_slot,
};
