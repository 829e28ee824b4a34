/* SPDX-License-Identifier: Apache-2.0
 *
 * filters/error.c - the peer type "error": a filter that fails chosen requests. Its manual is
 * peers/error.py.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "filters/filter.h"

#define ERRNO_MAX 133

struct error {
    struct filter filter;
    int error;
    uint64_t after, every, count;   /* the options */
    uint64_t seen;                  /* requests that matched */
    uint64_t failed;
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

static int read_options(struct peer *peer, struct error *state)
{
    const char *name = peer_option(peer, "errno", "EIO");
    int rc = filter_options(peer, &state->filter);

    if (rc == 0)
        rc = peer_option_u64(peer, "after", 0, &state->after);
    if (rc == 0)
        rc = peer_option_u64(peer, "every", 1, &state->every);
    if (rc == 0)
        rc = peer_option_u64(peer, "count", 0, &state->count);
    if (rc)
        return rc;
    state->error = -errno_by_name(name);
    if (state->error == 0)
        return peer_fail(peer, -EINVAL, "option errno: there is no error %.80s", name);
    return state->every ? 0 : peer_fail(peer, -EINVAL, "option every: 1 or more");
}

static int start(struct peer *peer)
{
    struct error *state = calloc(1, sizeof(*state));
    int rc;

    if (!state)
        return -ENOMEM;
    peer->state = state;
    rc = read_options(peer, state);
    if (rc)
        free(state);
    return rc;
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

static void stop(struct peer *peer) { free(peer->state); }

const struct peer_ops error_ops = {
    .type = "error",
    .start = start,
    .request = request,
    .reply = filter_reply,
    .again = filter_again,
    .can_serve = peer_has_slot,
    .stop = stop,
};
