/* SPDX-License-Identifier: Apache-2.0
 *
 * filters/throttle.c - the peer type "throttle": a filter that lets each volume have so much a second, and no more. Its
 * manual is peers/throttle.py.
 *
 * It stands before vlmc, so what vlmc and the mapper do in the background does not pass it. What a volume may have is in
 * its slot in the segment, where the mapper puts it, and is read anew for each request: a change counts at once.
 *
 * A volume has a bucket for each limit. It holds what the volume has had and not yet earned again, in requests or bytes,
 * and leaks at the limit's rate. A request goes on while each of its buckets holds no more than `burst_ms` earn, and then
 * adds to them; so one that is larger than a burst goes on, too, and is paid for afterwards. Requests of one volume that
 * must wait do so in the order in which they came. Each volume has its own buckets and its own queue, so it waits for
 * nobody but itself. A death forgets the buckets, and those that waited come again (segment/recover.c).
 */
#include <errno.h>
#include <stdlib.h>

#include "filters/filter.h"

#define SECOND 1e9
#define GIB (1024.0 * 1024 * 1024)
#define LET_GO_MOST 64              /* requests of one volume that go on in a turn */

struct bucket { double held; uint64_t at_ns; };

struct bounded {                    /* a volume */
    uint32_t generation;            /* of the xvolume that the buckets are of */
    uint32_t next;                  /* in the list of those with requests that wait: number + 1 */
    struct bucket bucket[XQUOTAS];
    struct queue waiting;
};

struct throttle {
    struct filter filter;
    uint64_t iops_per_gib, bps_per_gib;     /* options */
    struct bounded *volumes;        /* by their slots in the segment */
    uint32_t waiting;               /* the list's first: number + 1 */
    uint64_t next_ns;               /* when the first of those that wait may go on; UINT64_MAX: none waits */
};

static const struct peer_option options[] = {
    FILTER_OPTIONS(struct throttle),
    PEER_OPTION("iops_per_gib", struct throttle, iops_per_gib),
    PEER_OPTION("bps_per_gib", struct throttle, bps_per_gib),
    { 0 }
};

struct held { uint64_t since_ns; };
XREQ_HOLDER(held_of, struct held)

/* --- buckets ---------------------------------------------------------------------------------- */

/* Units a second of a limit; 0: there is none. The volume's own, or by its size. */
static double rate_of(const struct throttle *throttle, const struct xvolume *vol, uint32_t limit)
{
    uint64_t own = load_relaxed(&vol->quota[limit]);
    uint64_t by_size = limit == XQUOTA_IOPS ? throttle->iops_per_gib : limit == XQUOTA_BPS ? throttle->bps_per_gib : 0;
    double derived = (double)by_size * (double)load_relaxed(&vol->size) / GIB;

    return own ? (double)own : by_size && derived < 1 ? 1 : derived;
}

/* What a request takes out of a limit; 0: it is not of that kind. */
static double cost_of(const struct xreq *req, uint32_t limit)
{
    bool reads = req->op == XOP_READ, counts = limit < XQUOTA_BPS;
    uint32_t kind = limit % 3;      /* total, read, write */

    if (kind && (kind == 1) != reads)
        return 0;
    return counts ? 1 : (double)req->size;
}

static void leak(struct bucket *bucket, double rate, uint64_t now_ns)
{
    double leaked = rate * (double)(now_ns - bucket->at_ns) / SECOND;

    bucket->held = bucket->held > leaked ? bucket->held - leaked : 0;
    bucket->at_ns = now_ns;
}

/* In how many ns a request of a volume may go on; 0: now. */
static uint64_t wait_of(const struct throttle *throttle, struct bounded *bounded, const struct xvolume *vol,
                        const struct xreq *req, uint64_t now_ns)
{
    double burst_s = load_relaxed(&vol->burst_ms) / 1e3, most_s = 0;

    for (uint32_t limit = 0; limit < XQUOTAS; limit++) {
        double rate = rate_of(throttle, vol, limit), over_s;

        if (rate == 0 || cost_of(req, limit) == 0)
            continue;
        leak(&bounded->bucket[limit], rate, now_ns);
        over_s = bounded->bucket[limit].held / rate - burst_s;
        if (over_s > most_s)
            most_s = over_s;
    }
    return most_s > 0 ? (uint64_t)(most_s * SECOND) + 1 : 0;
}

static void take(const struct throttle *throttle, struct bounded *bounded, const struct xvolume *vol,
                 const struct xreq *req)
{
    for (uint32_t limit = 0; limit < XQUOTAS; limit++)
        if (rate_of(throttle, vol, limit) > 0)
            bounded->bucket[limit].held += cost_of(req, limit);
        else
            bounded->bucket[limit].held = 0;
}

/* --- requests ---------------------------------------------------------------------------------- */

static bool is_bounded(const struct xreq *req)
{
    return req->op == XOP_READ || req->op == XOP_WRITE || req->op == XOP_WRITE_ZEROES || req->op == XOP_DISCARD;
}

/* The volume's side here. A slot that was given to another volume begins with empty buckets. */
static struct bounded *bounded_of(struct throttle *throttle, const struct xreq *req, const struct xvolume *vol)
{
    struct bounded *bounded = &throttle->volumes[req->volume - 1];
    uint32_t generation = load_relaxed(&vol->generation);

    if (bounded->generation != generation)
        for (uint32_t limit = 0; limit < XQUOTAS; limit++)
            bounded->bucket[limit] = (struct bucket){ 0 };
    bounded->generation = generation;
    return bounded;
}

static void hold(struct peer *peer, struct bounded *bounded, struct xreq *req, uint64_t until_ns)
{
    struct throttle *throttle = peer->state;

    if (queue_empty(&bounded->waiting)) {
        bounded->next = throttle->waiting;
        throttle->waiting = req->volume;
    }
    held_of(req)->since_ns = loop_now(peer->loop);
    queue_push(peer, &bounded->waiting, req);
    if (until_ns < throttle->next_ns)
        throttle->next_ns = until_ns;
}

static void request(struct peer *peer, struct xreq *req)
{
    struct throttle *throttle = peer->state;
    const struct xvolume *vol = xreq_volume(peer->seg, req);
    uint64_t now_ns = loop_now(peer->loop), wait_ns;
    struct bounded *bounded;

    if (!vol || !is_bounded(req) || !filter_matches(&throttle->filter, req)) {
        filter_pass(peer, req);
        return;
    }
    bounded = bounded_of(throttle, req, vol);
    wait_ns = wait_of(throttle, bounded, vol, req, now_ns);
    if (wait_ns || !queue_empty(&bounded->waiting)) {
        hold(peer, bounded, req, now_ns + wait_ns);
        return;
    }
    take(throttle, bounded, vol, req);
    filter_pass(peer, req);
}

/* Lets go those of one volume that may go on by now. When the next may: UINT64_MAX: none waits. */
static uint64_t let_go(struct peer *peer, uint32_t slot)
{
    struct throttle *throttle = peer->state;
    struct bounded *bounded = &throttle->volumes[slot];
    struct xvolume *vol = &peer->seg->volumes[slot];
    uint64_t now_ns = loop_now(peer->loop);

    for (uint32_t n = 0; !queue_empty(&bounded->waiting); n++) {
        struct xreq *req = &peer->port->reqs[bounded->waiting.head - 1];
        uint64_t wait_ns = wait_of(throttle, bounded, vol, req, now_ns);

        if (wait_ns || n == LET_GO_MOST)
            return now_ns + wait_ns;
        queue_pop(peer, &bounded->waiting);
        counter_add(&vol->throttled, 1);
        counter_add(&vol->throttled_ns, now_ns - held_of(req)->since_ns);
        take(throttle, bounded, vol, req);
        filter_pass(peer, req);
    }
    return UINT64_MAX;
}

static uint64_t deadline(struct peer *peer)
{
    const struct throttle *throttle = peer->state;

    return throttle->next_ns;
}

/* Looks at all that wait, whatever the deadline says: a limit may have been raised. */
static bool flush(struct peer *peer)
{
    struct throttle *throttle = peer->state;
    uint32_t *at = &throttle->waiting;

    throttle->next_ns = UINT64_MAX;
    while (*at) {
        struct bounded *bounded = &throttle->volumes[*at - 1];
        uint64_t next_ns = let_go(peer, *at - 1);

        if (next_ns < throttle->next_ns)
            throttle->next_ns = next_ns;
        if (next_ns == UINT64_MAX)
            *at = bounded->next;
        else
            at = &bounded->next;
    }
    return false;
}

static int start(struct peer *peer)
{
    struct throttle *throttle = peer->state;

    throttle->next_ns = UINT64_MAX;
    throttle->volumes = calloc(peer->seg->volume_count, sizeof(*throttle->volumes));
    return throttle->volumes ? filter_start(peer) : -ENOMEM;
}

static void stop(struct peer *peer)
{
    struct throttle *throttle = peer->state;

    free(throttle->volumes);
}

const struct peer_ops throttle_ops = {
    .type = "throttle",
    .state_size = sizeof(struct throttle),
    .options = options,
    .start = start,
    .request = request,
    .reply = filter_reply,
    .again = filter_again,
    .can_serve = peer_has_slot,
    .flush = flush,
    .deadline = deadline,
    .stop = stop,
};
