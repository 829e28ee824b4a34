/* SPDX-License-Identifier: Apache-2.0
 *
 * vlmc/vlmc.c - the volume composer: requests in, children back. The whole story: vlmc/parts.h.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vlmc/parts.h"

#define STARVED_TRIES_MAX 1024      /* starved requests tried again in one turn */

static_assert(sizeof(struct io) <= 7 * sizeof(uint64_t), "io fits the scratch before the link");

/* --- children ------------------------------------------------------------------ */

void starve(struct vlmc *v, struct xreq *req)
{
    v->starved_count++;
    queue_push(v->peer, &v->starved, req);
}

struct xreq *object_child(struct vlmc *v, struct xreq *req, enum child_kind kind, uint64_t block,
                          const struct xobj *object, uint64_t offset, uint64_t size)
{
    struct xreq *child = xreq_child(v->peer->port, req);

    if (!child) {
        starve(v, req);
        return NULL;
    }
    child->op = req->op;
    child->flags = req->flags & XREQ_NO_HOLE;
    child->object = *object;
    child->offset = offset;
    child->size = size;
    child->sender[0] = kind;
    child->sender[1] = block;
    if (req->data) {
        child->data = req->data + io_of(req)->cursor;
        child->data_size = (uint32_t)size;
    }
    return child;
}

void send_child(struct vlmc *v, struct xreq *child)
{
    io_of(xreq_parent(v->peer->port, child))->outstanding++;
    peer_send(v->peer, child, VLMC_BLOCKER);
}

/* --- a volume request ------------------------------------------------------------ */

static void count_done(struct xvolume *vol, const struct xreq *req)
{
    if (req->op == XOP_READ) {
        counter_add(&vol->reads, 1);
        counter_add(&vol->bytes_read, req->size);
    } else if (io_of((struct xreq *)req)->is_write) {
        counter_add(&vol->writes, 1);
        counter_add(&vol->bytes_written, req->size);
    }
}

/* The request has left the volume: whoever waits for quiet may go on. */
static void leave(struct vlmc *v, struct xreq *req)
{
    struct volume *volume = volume_of(v, req);

    assert(volume->in_flight > 0);
    volume->in_flight--;
    order_done(v, req);
    if (io_of(req)->is_write) {
        volume->writes--;
        store_relaxed(&xvolume_of(v, req)->writes_in_flight, volume->writes);
    }
}

static void finish(struct vlmc *v, struct xreq *req)
{
    struct volume *volume = volume_of(v, req);
    struct io *io = io_of(req);
    uint32_t slot = req->volume - 1;

    leave(v, req);
    if (io->error == 0) {
        count_done(xvolume_of(v, req), req);
        if (req->op != XOP_BLOCK_STATUS)
            req->done = req->size;
    }
    if (io->error == 0 && io->is_write && (req->flags & XREQ_FUA))
        queue_push(v->peer, &volume->flushes, req);
    else
        peer_reply(v->peer, req, io->error);
    if (volume->hold_writes_ns || volume->hold_all || !queue_empty(&volume->flushes))
        commit_kick(v, slot);
}

static uint64_t step(struct vlmc *v, struct xreq *req)
{
    const struct volume *volume = volume_of(v, req);
    uint64_t at = req->offset + io_of(req)->cursor, block = at >> volume->block_shift;
    uint64_t in = at & (block_size(volume) - 1), length = block_size(volume) - in;
    struct xframe *frame = cache_get(v, req, block);

    if (!frame)
        return STEP_WAIT;
    if (length > req->size - io_of(req)->cursor)
        length = req->size - io_of(req)->cursor;
    switch (req->op) {
    case XOP_READ:
        return read_step(v, req, frame, block, in, length);
    case XOP_BLOCK_STATUS:
        return status_step(v, req, frame, block, in, length);
    case XOP_CACHE:
        return length;              /* its leaf pages are loaded now */
    default:
        return write_step(v, req, frame, block, in, length);
    }
}

void io_run(struct vlmc *v, struct xreq *req)
{
    struct io *io = io_of(req);

    io->outstanding++;
    while (io->cursor < req->size && io->error == 0) {
        uint64_t done = step(v, req);
        if (done == STEP_WAIT) {
            io->outstanding--;
            return;                 /* it is on a queue, and cannot end before it runs again */
        }
        io->cursor += done;
    }
    io->cursor = req->size;
    if (--io->outstanding == 0)
        finish(v, req);
}

/* For a request that waits on no queue any more: it goes no further. */
void io_fail(struct vlmc *v, struct xreq *req, int error)
{
    struct io *io = io_of(req);

    if (io->error == 0)
        io->error = error;
    io_run(v, req);
}

uint64_t io_damaged(struct vlmc *v, struct xreq *req)
{
    counter_add(&v->peer->port->shared->bad, 1);
    io_of(req)->error = -EIO;
    return req->size - io_of(req)->cursor;
}

void io_child_done(struct vlmc *v, struct xreq *child, int error)
{
    struct xreq *req = xreq_parent(v->peer->port, child);
    struct io *io = io_of(req);

    if (error && io->error == 0)
        io->error = error;
    xreq_put(v->peer->port, child);
    assert(io->outstanding > 0);
    if (--io->outstanding == 0 && io->cursor == req->size)
        finish(v, req);
}

void run_queue(struct vlmc *v, struct queue *queue)
{
    struct queue waiting = *queue;
    struct xreq *req;

    *queue = (struct queue){ 0 };
    while ((req = queue_pop(v->peer, &waiting)))
        io_run(v, req);
}

/* --- coming in -------------------------------------------------------------------- */

static bool changes(const struct xreq *req)
{
    return req->op == XOP_WRITE || req->op == XOP_WRITE_ZEROES || req->op == XOP_DISCARD;
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
    if (!has_data && req->op != XOP_BLOCK_STATUS && req->size > ZEROES_MAX)
        return -EINVAL;
    return 0;
}

static void begin_io(struct vlmc *v, struct xreq *req)
{
    struct volume *volume = volume_of(v, req);

    volume->in_flight++;
    if (changes(req)) {
        io_of(req)->is_write = 1;
        volume->writes++;
        store_relaxed(&xvolume_of(v, req)->writes_in_flight, volume->writes);
    }
    io_run(v, req);
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
    struct volume *volume = volume_of(v, req);
    bool doubt = !xvolume_of(v, req)->readonly && doubtful(v);
    int rc = check_io(v, req);

    if (rc == 0 && changes(req))
        order_note(v, req);
    if (rc || (doubt && fenced(v))) {
        order_done(v, req);
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
void release_held(struct vlmc *v, uint32_t slot)
{
    struct volume *volume = &v->volumes[slot];
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

    if (!v->doubted || v->asking || now - v->asked_ns < DOUBT_ASK_NS || !doubtful(v) || fenced(v))
        return;
    child = xreq_get(v->peer->port);
    if (!child)
        return;
    child->op = XOP_PING;
    child->sender[0] = CHILD_ASK;
    v->asking = true;
    v->asked_ns = now;
    peer_send(v->peer, child, VLMC_BLOCKER);
}

static void asked(struct vlmc *v, struct xreq *child)
{
    v->asking = false;
    xreq_put(v->peer->port, child);
}

/* Lets go what was held back in doubt, or gives it up after DOUBT_MAX_NS. */
static bool settle_doubt(struct vlmc *v)
{
    bool too_long;

    if (!v->doubted || (doubtful(v) && !fenced(v) && loop_now(v->peer->loop) - v->doubted_ns < DOUBT_MAX_NS))
        return false;
    too_long = doubtful(v) && !fenced(v);
    v->doubted = false;
    for (uint32_t slot = 0; slot < XSEG_VOLUMES; slot++)
        if (too_long && !v->volumes[slot].hold_all)
            answer_all(v, &v->volumes[slot].held, -ETIMEDOUT);
        else
            release_held(v, slot);
    return true;
}

/* Takes in what a volume is, once in its life: from then on its words for that are not looked at. */
static void begin_volume(struct vlmc *v, uint32_t slot, uint32_t generation)
{
    const struct xvolume *vol = &v->seg->volumes[slot];
    uint32_t shift = load_relaxed(&vol->block_shift);
    bool ok = shift >= XMAP_BLOCK_MIN_SHIFT && shift <= XMAP_BLOCK_MAX_SHIFT;

    v->volumes[slot] = (struct volume){ .generation = generation, .epoch_captured = load_relaxed(&vol->epoch),
                                        .id = load_relaxed(&vol->id), .hold_all = load_relaxed(&vol->frozen) != 0 };
    v->volumes[slot].block_shift = ok && v->volumes[slot].id ? shift : 0;
}

/* Nothing of it is under way or waits. */
static bool is_quiet(const struct volume *volume)
{
    return volume->in_flight == 0 && volume->changing == 0 && volume->dirty_frames == 0
        && volume->committing_frames == 0 && volume->commit == COMMIT_IDLE && queue_empty(&volume->behind)
        && queue_empty(&volume->held) && queue_empty(&volume->flushes) && queue_empty(&volume->snapshots)
        && queue_empty(&volume->freezes);
}

/* A slot that was given to another volume starts anew. False: it says so while requests on it are under way,
 * or what it says of the volume makes no sense. */
static bool refresh(struct vlmc *v, uint32_t slot)
{
    uint32_t generation = load_acquire(&v->seg->volumes[slot].generation);

    if (v->volumes[slot].generation != generation) {
        if (!is_quiet(&v->volumes[slot]))
            return false;
        begin_volume(v, slot, generation);
    }
    return v->volumes[slot].block_shift != 0;
}

static bool is_open(const struct xvolume *vol)
{
    uint32_t state = load_acquire(&vol->state);

    return state == XVOL_OPEN || state == XVOL_CLOSING;
}

void vlmc_request(struct peer *peer, struct xreq *req)
{
    struct vlmc *v = peer->state;
    const struct xvolume *vol = xreq_volume(v->seg, req);

    if (req->op == XOP_PING) {
        peer_reply(peer, req, 0);
        return;
    }
    if (!vol || !is_open(vol)) {
        peer_reply(peer, req, -ESTALE);
        return;
    }
    if (!refresh(v, req->volume - 1) || volume_of(v, req)->closed
        || (req->generation && req->generation != volume_of(v, req)->generation)) {
        peer_reply(peer, req, -ESTALE);
        return;
    }
    switch (req->op) {
    case XOP_READ: case XOP_WRITE: case XOP_WRITE_ZEROES: case XOP_DISCARD:
    case XOP_BLOCK_STATUS: case XOP_CACHE:
        if (!order_wait(v, req))
            io_request(v, req);
        break;
    case XOP_FLUSH:
        if (fenced(v) && !vol->readonly)
            peer_reply(peer, req, -ESTALE);
        else
            flush_request(v, req);
        break;
    case XOP_VOL_SNAPSHOT: snapshot_request(v, req); break;
    case XOP_VOL_FREEZE: case XOP_VOL_CLOSE: freeze_request(v, req); break;
    case XOP_VOL_THAW: thaw_request(v, req); break;
    default: peer_reply(peer, req, -EOPNOTSUPP);
    }
}

/* --- coming back ------------------------------------------------------------------- */

static void read_back(struct vlmc *v, struct xreq *child)
{
    /* The map says that this object is there: that it is not is damage, not a hole. */
    io_child_done(v, child, child->error == -ENOENT ? -EIO : child->error);
}

static void vlmc_reply(struct peer *peer, struct xreq *child)
{
    struct vlmc *v = peer->state;

    switch ((enum child_kind)child->sender[0]) {
    case CHILD_READ: read_back(v, child); break;
    case CHILD_DIRECT: case CHILD_NEW: case CHILD_FIRST: case CHILD_DROP:
        write_done(v, child);
        break;
    case CHILD_FILL_READ: case CHILD_FILL_WRITE: fill_done(v, child); break;
    case CHILD_MERGE_READ: case CHILD_MERGE_WRITE: merge_done(v, child); break;
    case CHILD_LOAD: cache_loaded(v, child); break;
    case CHILD_SYNC: commit_synced(v, child); break;
    case CHILD_COMMIT: commit_appended(v, child); break;
    case CHILD_ASK: asked(v, child); break;
    }
}

static bool retry_starved(struct vlmc *v)
{
    uint32_t tries = v->starved_count, before = v->starved_count;
    struct queue waiting = v->starved;
    struct xreq *req;

    if (tries == 0)
        return false;
    v->starved = (struct queue){ 0 };
    v->starved_count = 0;
    for (uint32_t n = 0; n < STARVED_TRIES_MAX && (req = queue_pop(v->peer, &waiting)); n++)
        io_run(v, req);
    while ((req = queue_pop(v->peer, &waiting)))
        starve(v, req);
    return v->starved_count < before;
}

static bool vlmc_flush(struct peer *peer)
{
    struct vlmc *v = peer->state;
    bool moved;

    if (peer->port->recovering)
        return false;               /* a record of the last life may be on its way: see vlmc/parts.h */
    moved = retry_starved(v);
    moved |= settle_doubt(v);
    ask(v);
    moved |= order_go_on(v);
    v->turn++;
    if (v->commits_wanted) {
        v->commits_wanted = false;
        for (uint32_t slot = 0; slot < XSEG_VOLUMES; slot++)
            if (v->volumes[slot].commit_wanted)
                commit_kick(v, slot);
    }
    return moved;
}

/* --- life --------------------------------------------------------------------------- */

static void vlmc_stop(struct peer *peer)
{
    struct vlmc *v = peer->state;

    cache_stop(v);
    free(v->volumes);
    free(v->busy);
    free(v);
}

/* Each volume that is open already goes on as the last life left it. What came of a SYNC that was under way
 * is not known, so it counts for nothing. */
static void adopt_volumes(struct vlmc *v)
{
    for (uint32_t slot = 0; slot < XSEG_VOLUMES; slot++) {
        struct xvolume *vol = &v->seg->volumes[slot];

        if (load_relaxed(&vol->dirty))
            store_relaxed(&vol->dirty, (uint32_t)XDIRTY_WRITTEN);
        if (is_open(vol))
            begin_volume(v, slot, load_relaxed(&vol->generation));
    }
}

static int vlmc_start(struct peer *peer)
{
    struct vlmc *v = calloc(1, sizeof(*v));
    int rc;

    if (!v)
        return -ENOMEM;
    peer->state = v;
    v->peer = peer;
    v->seg = peer->seg;
    v->volumes = calloc(XSEG_VOLUMES, sizeof(*v->volumes));
    if (!v->volumes)
        return -ENOMEM;
    adopt_volumes(v);
    rc = busy_start(v);
    return rc ? rc : cache_start(v);
}

const struct peer_ops vlmc_ops = {
    .type = "vlmc",
    .start = vlmc_start,
    .request = vlmc_request,
    .reply = vlmc_reply,
    .flush = vlmc_flush,
    .stop = vlmc_stop,
};
