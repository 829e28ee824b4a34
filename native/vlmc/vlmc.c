/* SPDX-License-Identifier: Apache-2.0
 *
 * vlmc/vlmc.c - the volume composer: requests in, children back. The whole story: vlmc/parts.h.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "vlmc/parts.h"

#define GO_ON_ROUNDS 64             /* of what requests and volumes leave each other to do, in one call */

static_assert(sizeof(struct vlmc_io) <= 7 * sizeof(uint64_t), "io fits the scratch before the link");

/* --- coming in -------------------------------------------------------------------- */

static bool changes(const struct xreq *req)
{
    return req->op == XOP_WRITE || req->op == XOP_WRITE_ZEROES || req->op == XOP_DISCARD
        || req->op == XOP_OWN;
}

/* 0, or why the request cannot be served. */
static int check_io(const struct vlmc *v, const struct xreq *req)
{
    const struct xvolume *vol = xvolume_of(v, req);
    uint64_t size = load_relaxed(&vol->size);
    bool has_data = req->op == XOP_READ || req->op == XOP_WRITE;

    if (changes(req) && vol->readonly)
        return -EROFS;
    if (req->offset > size || req->size > size - req->offset)
        return changes(req) ? -ENOSPC : -EINVAL;
    if (has_data && (req->size > XSEG_IO_MAX || !xreq_data_ok(v->seg, req, req->size)))
        return -EINVAL;
    if (req->op == XOP_BLOCK_STATUS && !xreq_data_ok(v->seg, req, sizeof(struct xextent)))
        return -EINVAL;
    if (!has_data && req->op != XOP_BLOCK_STATUS && req->size > VLMC_ZEROES_MAX)
        return -EINVAL;
    return 0;
}

static void begin_io(struct vlmc *v, struct xreq *req)
{
    struct vlmc_volume *volume = volume_of(v, req);

    volume->in_flight++;
    if (changes(req)) {
        io_of(req)->is_write = 1;
        volume->writes++;
        store_relaxed(&xvolume_of(v, req)->writes_in_flight, volume->writes);
    }
    vlmc_io_run(v, req);
}

/* --- is what we have in memory still true? See trusted_until_ns in segment/layout.h ------------- */

static bool fenced(const struct vlmc *v)
{
    return load_relaxed(&v->seg->header->trusted_until_ns) == XSEG_FENCED;
}

/* Looks at the clock, not at the turn's time: the process may have been stopped since. */
static bool doubtful(const struct vlmc *v)
{
    uint64_t until = load_relaxed(&v->seg->header->trusted_until_ns);

    return until && clock_boot_ns() > until;
}

static void io_request(struct vlmc *v, struct xreq *req)
{
    struct vlmc_volume *volume = volume_of(v, req);
    bool doubt = !xvolume_of(v, req)->readonly && doubtful(v);
    int rc = check_io(v, req);

    if (rc == 0 && changes(req))
        vlmc_order_note(v, req);
    if (rc || (doubt && fenced(v))) {
        vlmc_order_done(v, req);
        peer_reply(v->peer, req, rc ? rc : -ESTALE);
    } else if (doubt || volume->hold_all || (volume->hold_writes_ns && changes(req))) {
        queue_push(v->peer, &volume->held, req);
        if (doubt && !v->doubted)
            v->doubted_ns = loop_now(v->peer->loop);
        v->doubted |= doubt;
    } else {
        begin_io(v, req);
    }
}

/* Lets go what was held back, as far as the volume's holds allow. */
static void release_held(struct vlmc *v, uint32_t slot)
{
    struct vlmc_volume *volume = &v->volumes[slot];
    struct queue held = volume->held;
    struct xreq *req;

    volume->held = (struct queue){ 0 };
    while ((req = queue_pop(v->peer, &held)))
        io_request(v, req);
}

/* The blocker answers a PING when it would serve other requests, and so looks first where it does not know. A node
 * at rest looks for nothing, so the first request after a while depends on this. */
static void ask(struct vlmc *v)
{
    uint64_t now = loop_now(v->peer->loop);
    struct xreq *child;

    if (!v->doubted || v->asking || now - v->asked_ns < VLMC_DOUBT_ASK_NS || !doubtful(v) || fenced(v))
        return;
    child = xreq_get(v->peer->port);
    if (!child)
        return;
    child->op = XOP_PING;
    note_of(child)->kind = VLMC_CHILD_ASK;
    v->asking = true;
    v->asked_ns = now;
    peer_send(v->peer, child, VLMC_BLOCKER);
}

static void asked(struct vlmc *v, struct xreq *child)
{
    v->asking = false;
    xreq_put(v->peer->port, child);
}

/* Lets go what was held back in doubt, or gives it up after VLMC_DOUBT_MAX_NS. */
static bool settle_doubt(struct vlmc *v)
{
    bool too_long;

    if (!v->doubted || (doubtful(v) && !fenced(v) && loop_now(v->peer->loop) - v->doubted_ns < VLMC_DOUBT_MAX_NS))
        return false;
    too_long = doubtful(v) && !fenced(v);
    v->doubted = false;
    for (uint32_t slot = 0; slot < v->volume_end; slot++)
        if (too_long && !v->volumes[slot].hold_all)
            vlmc_answer_all(v, &v->volumes[slot].held, -ETIMEDOUT);
        else
            release_held(v, slot);
    return true;
}

static void take_in(struct vlmc *v, struct xreq *req)
{
    struct peer *peer = v->peer;
    const struct xvolume *vol = xreq_volume(v->seg, req);

    if (req->op == XOP_PING) {
        peer_reply(peer, req, 0);
        return;
    }
    if (!vol || !vlmc_volume_is_open(vol)) {
        peer_reply(peer, req, -ESTALE);
        return;
    }
    if (!vlmc_volume_refresh(v, req->volume - 1) || volume_of(v, req)->closed
        || (req->generation && req->generation != volume_of(v, req)->generation)) {
        peer_reply(peer, req, -ESTALE);
        return;
    }
    switch (req->op) {
    case XOP_READ: case XOP_WRITE: case XOP_WRITE_ZEROES: case XOP_DISCARD:
    case XOP_BLOCK_STATUS: case XOP_CACHE: case XOP_OWN:
        if (!vlmc_order_wait(v, req))
            io_request(v, req);
        break;
    case XOP_FLUSH:
        if (fenced(v) && !vol->readonly)
            peer_reply(peer, req, -ESTALE);
        else
            vlmc_flush_request(v, req);
        break;
    case XOP_VOL_SNAPSHOT: vlmc_snapshot_request(v, req); break;
    case XOP_VOL_FREEZE: case XOP_VOL_CLOSE: vlmc_freeze_request(v, req); break;
    case XOP_VOL_THAW: vlmc_thaw_request(v, req); break;
    default: peer_reply(peer, req, -EOPNOTSUPP);
    }
}

/* --- going on ------------------------------------------------------------------------ */

/* Takes in again what waited for the requests of the dead. True if it did. */
static bool behind_go_on(struct vlmc *v)
{
    if (!v->order_moved)
        return false;
    v->order_moved = false;
    for (uint32_t slot = 0; slot < v->volume_end; slot++) {
        struct queue behind = v->volumes[slot].behind;
        struct xreq *req;

        v->volumes[slot].behind = (struct queue){ 0 };
        while ((req = queue_pop(v->peer, &behind)))
            take_in(v, req);
    }
    return true;
}

static void run_ready(struct vlmc *v)
{
    struct queue ready = v->ready;
    struct xreq *req;

    v->ready = (struct queue){ 0 };
    while ((req = queue_pop(v->peer, &ready)))
        vlmc_io_run(v, req);
}

static void look_at_volumes(struct vlmc *v)
{
    for (uint32_t word = 0; word * 64 < v->volume_end; word++) {
        uint64_t bits = v->look[word];

        v->look[word] = 0;
        for (; bits; bits &= bits - 1) {
            uint32_t slot = word * 64 + (uint32_t)__builtin_ctzll(bits);

            vlmc_commit_kick(v, slot);
            if (!v->volumes[slot].hold_all && !v->volumes[slot].hold_writes_ns)
                release_held(v, slot);
        }
    }
}

static bool is_left(const struct vlmc *v)
{
    return v->looks || !queue_empty(&v->ready);
}

/* Does what was left to be done meanwhile: requests that were woken go on, volumes are looked at. That may leave more
 * of it, so it is done GO_ON_ROUNDS times at most, and in the next turn again. */
static void go_on(struct vlmc *v)
{
    for (uint32_t round = 0; round < GO_ON_ROUNDS && is_left(v); round++) {
        run_ready(v);
        if (v->looks) {
            v->looks = false;
            look_at_volumes(v);
        }
    }
}

static void vlmc_request(struct peer *peer, struct xreq *req)
{
    struct vlmc *v = peer->state;

    take_in(v, req);
    if (is_left(v))
        go_on(v);
}

/* --- coming back ------------------------------------------------------------------- */

static void read_back(struct vlmc *v, struct xreq *child)
{
    vlmc_io_child_done(v, child, vlmc_object_error(v, child));
}

static void vlmc_reply(struct peer *peer, struct xreq *child)
{
    struct vlmc *v = peer->state;

    switch ((enum vlmc_child_kind)note_of(child)->kind) {
    case VLMC_CHILD_READ: read_back(v, child); break;
    case VLMC_CHILD_STATUS: vlmc_status_done(v, child); break;
    case VLMC_CHILD_DIRECT: case VLMC_CHILD_NEW: case VLMC_CHILD_FIRST: case VLMC_CHILD_DROP:
        vlmc_write_done(v, child);
        break;
    case VLMC_CHILD_FILL_READ: case VLMC_CHILD_FILL_WRITE: vlmc_fill_done(v, child); break;
    case VLMC_CHILD_MERGE_READ: case VLMC_CHILD_MERGE_WRITE: vlmc_merge_done(v, child); break;
    case VLMC_CHILD_AHEAD_READ: case VLMC_CHILD_AHEAD_WRITE: vlmc_ahead_done(v, child); break;
    case VLMC_CHILD_LOAD: vlmc_frame_loaded(v, child); break;
    case VLMC_CHILD_SYNC: vlmc_commit_synced(v, child); break;
    case VLMC_CHILD_COMMIT: case VLMC_CHILD_APPEND: vlmc_commit_appended(v, child); break;
    case VLMC_CHILD_ASK: asked(v, child); break;
    }
    if (is_left(v))
        go_on(v);
}

static void again(struct peer *peer, struct xreq *req) { vlmc_io_run(peer->state, req); }

static bool vlmc_flush(struct peer *peer)
{
    struct vlmc *v = peer->state;
    bool moved;

    if (peer->port->recovering)
        return false;               /* a record of the last life may be on its way: see vlmc/parts.h */
    vlmc_append_settle(v);
    moved = settle_doubt(v);
    ask(v);
    moved |= behind_go_on(v);
    v->turn++;
    if (v->commits_wanted) {
        v->commits_wanted = false;
        for (uint32_t slot = 0; slot < v->volume_end; slot++)
            if (v->volumes[slot].commit_wanted)
                vlmc_look(v, slot);
    }
    go_on(v);
    if (v->ahead_count && !doubtful(v))
        vlmc_ahead_go_on(v);
    return moved || is_left(v);
}

/* --- life --------------------------------------------------------------------------- */

static void vlmc_stop(struct peer *peer)
{
    struct vlmc *v = peer->state;

    vlmc_frames_stop(v);
    free(v->volumes);
    free(v->busy);
    free(v->ahead);
}

static const struct peer_option options[] = {
    PEER_OPTION("layers", struct vlmc, layers_max),
    { 0 }
};

static int vlmc_start(struct peer *peer)
{
    struct vlmc *v = peer->state;
    int rc;

    v->peer = peer;
    v->seg = peer->seg;
    v->volumes = calloc(v->seg->volume_count, sizeof(*v->volumes));
    if (!v->volumes)
        return -ENOMEM;
    assert(v->layers_max > 1 && v->layers_max <= XMAP_LAYERS);
    vlmc_volumes_adopt(v);
    rc = vlmc_busy_start(v);
    if (rc == 0)
        rc = vlmc_ahead_start(v);
    return rc ? rc : vlmc_frames_start(v);
}

const struct peer_ops vlmc_ops = {
    .type = "vlmc",
    .state_size = sizeof(struct vlmc),
    .options = options,
    .start = vlmc_start,
    .request = vlmc_request,
    .reply = vlmc_reply,
    .again = again,
    .flush = vlmc_flush,
    .stop = vlmc_stop,
};
