/* SPDX-License-Identifier: Apache-2.0
 *
 * vlmc/commit.c - making changes durable: FLUSH, snapshots, freezing.
 *
 * A volume has at most one commit under way:
 *
 *   IDLE --capture--> SYNC --data is durable--> APPEND --each record is--> IDLE
 *
 * Capture encodes all dirty entries as they are now into journal records, in memory, and
 * marks them `committing`. What becomes dirty afterwards belongs to the next commit. FLUSHes
 * that come while one is under way share the next. A commit that fails makes its entries
 * dirty again and its waiters fail.
 *
 * A snapshot is a commit whose last record carries the mark, captured while no write is under
 * way; the epoch is raised right after the capture and writers go on. It begins only when no
 * other commit is under way, so that writers never wait for a sync.
 */
#include <errno.h>
#include <stdlib.h>

#include "vlmc/parts.h"

/* --- data that may be gone ------------------------------------------------------------ */

/* 0, or the error with which all commits of the volume fail: see vlmc/parts.h. */
static int lost_error(const struct vlmc *v, uint32_t slot)
{
    return -(int)(load_acquire(&v->seg->volumes[slot].lost) & XLOST_ERRNO);
}

/* What was written since the last commit is given up, so that the volume can be closed. */
static void give_up_dirty(struct vlmc *v, uint32_t slot)
{
    struct vlmc_volume *volume = &v->volumes[slot];

    for (uint32_t at = volume->dirty_frames; at; at = v->frames[at - 1].dirty_next) {
        struct xframe *frame = &v->seg->frames[at - 1];
        v->frames[at - 1].listed = false;
        v->frames[at - 1].committing = true;
        for (uint32_t word = 0; word < XMAP_LEAF / 32; word++)
            store_release(&frame->dirty[word], 0u);
    }
    volume->dirty_frames = volume->dirty_entries = volume->dirty_frame_count = 0;
}

/* --- a commit ----------------------------------------------------------------------- */

static void answer_snapshot(struct vlmc *v, uint32_t slot, int error, const struct xreq *last)
{
    struct vlmc_volume *volume = &v->volumes[slot];
    struct xreq *req;

    if (!volume->snapshot)
        return;
    req = &v->peer->port->reqs[volume->snapshot - 1];
    volume->snapshot = 0;
    if (error == 0) {
        assert(last);               /* a snapshot's commit ends with a record */
        req->done = last->done;
        req->arg = v->seg->volumes[slot].commit_seq;
    }
    peer_reply(v->peer, req, error);
}

/* Requests of this volume that waited for memory a commit was to free. */
static void fail_parked(struct vlmc *v, uint32_t slot, int error)
{
    struct xreq *req;

    for (uint32_t n = v->peer->parked_count; n > 0 && (req = peer_unpark(v->peer)); n--) {
        if (req->volume == slot + 1)
            vlmc_io_fail(v, req, error);
        else
            peer_park(v->peer, req);
    }
}

/* True if the first of the volume's freezes is a close that does not wait for what cannot be committed. */
static bool closes_with_loss(const struct vlmc *v, uint32_t slot)
{
    const struct queue *freezes = &v->volumes[slot].freezes;
    const struct xreq *first = queue_empty(freezes) ? NULL : &v->peer->port->reqs[freezes->head - 1];

    return first && first->op == XOP_VOL_CLOSE && (first->flags & XREQ_FORCE) && lost_error(v, slot);
}

static void fail_freezes(struct vlmc *v, uint32_t slot, int error)
{
    struct vlmc_volume *volume = &v->volumes[slot];

    if (queue_empty(&volume->freezes) || closes_with_loss(v, slot))
        return;
    vlmc_answer_all(v, &volume->freezes, error);
    volume->hold_all = v->seg->volumes[slot].frozen != 0;
    vlmc_look(v, slot);
}

/* A volume whose users were told that data are lost may be closed without them. */
static void note_told(struct vlmc *v, uint32_t slot, const struct queue *flushes)
{
    struct xvolume *vol = &v->seg->volumes[slot];
    uint32_t lost = load_acquire(&vol->lost);

    if (lost && !queue_empty(flushes))
        store_release(&vol->lost, lost | XLOST_TOLD);
}

static void commit_end(struct vlmc *v, uint32_t slot, int error, const struct xreq *last)
{
    struct vlmc_volume *volume = &v->volumes[slot];

    if (error == 0 && volume->record_count)
        store_relaxed(&v->seg->volumes[slot].epoch_durable, volume->epoch_captured);
    vlmc_capture_end(v, slot, error != 0);
    vlmc_capture_free(v, volume, volume->record_sent);
    if (error) {
        fail_parked(v, slot, error);
        fail_freezes(v, slot, error);
    } else {
        counter_add(&v->seg->volumes[slot].commits, 1);
    }
    note_told(v, slot, &volume->flushing);
    vlmc_answer_all(v, &volume->flushing, error);
    answer_snapshot(v, slot, error, last);
    volume->commit = VLMC_COMMIT_IDLE;
    vlmc_look(v, slot);
}

static void append_next(struct vlmc *v, uint32_t slot)
{
    struct vlmc_volume *volume = &v->volumes[slot];
    struct xreq *child;

    if (volume->record_sent == volume->record_count) {
        commit_end(v, slot, 0, NULL);
        return;
    }
    volume->commit = VLMC_COMMIT_APPEND;
    child = &v->peer->port->reqs[volume->record[volume->record_sent++] - 1];
    if (!vlmc_append(v, slot, child))
        peer_send(v->peer, child, VLMC_MAPPER);
}

static int send_sync(struct vlmc *v, uint32_t slot, uint32_t flags)
{
    struct xreq *child = xreq_get(v->peer->port);

    if (!child)
        return -ENOBUFS;
    child->op = XOP_SYNC;
    child->flags = flags;
    child->object = (struct xobj){ .kind = XOBJ_DATA, .volume = v->volumes[slot].id };
    note_of(child)->kind = VLMC_CHILD_SYNC;
    note_of(child)->slot = slot;
    peer_send(v->peer, child, VLMC_BLOCKER);
    return 0;
}

/* Captures and goes on to SYNC or APPEND. ENOBUFS: nothing has changed, try again. */
static int commit_begin(struct vlmc *v, uint32_t slot, bool mark)
{
    struct xvolume *vol = &v->seg->volumes[slot];
    struct vlmc_volume *volume = &v->volumes[slot];
    bool data_dirty = vol->dirty != 0;
    int rc = vlmc_capture(v, slot, mark);

    if (rc)
        return rc;
    if (data_dirty) {
        rc = send_sync(v, slot, 0);
        if (rc) {
            vlmc_capture_end(v, slot, true);
            vlmc_capture_free(v, volume, 0);
            return rc;
        }
        store_relaxed(&vol->dirty, (uint32_t)XDIRTY_SYNCING);
    }
    volume->flushing = volume->flushes;
    volume->flushes = (struct queue){ 0 };
    volume->commit = data_dirty ? VLMC_COMMIT_SYNC : VLMC_COMMIT_APPEND;
    return 0;
}

/* After commit_begin(): if there is no data to sync, the records go at once. */
static void commit_go_on(struct vlmc *v, uint32_t slot)
{
    if (v->volumes[slot].commit == VLMC_COMMIT_APPEND)
        append_next(v, slot);
}

void vlmc_commit_synced(struct vlmc *v, struct xreq *child)
{
    uint32_t slot = note_of(child)->slot;
    struct xvolume *vol = &v->seg->volumes[slot];
    int error = child->error;

    xreq_put(v->peer->port, child);
    if (error == 0)
        error = lost_error(v, slot);
    if (error && !v->volumes[slot].draining)
        data_written(vol);          /* as it was */
    v->volumes[slot].draining = false;
    store_relaxed(&vol->dirty, vol->dirty & XDIRTY_WRITTEN);
    if (error)
        commit_end(v, slot, error, NULL);
    else
        append_next(v, slot);
}

void vlmc_commit_appended(struct vlmc *v, struct xreq *child)
{
    uint32_t slot = note_of(child)->slot;
    struct vlmc_volume *volume = &v->volumes[slot];

    if (note_of(child)->kind == VLMC_CHILD_APPEND)
        vlmc_append_done(v, child);
    if (child->error == 0 && volume->record_sent < volume->record_count)
        append_next(v, slot);
    else
        commit_end(v, slot, child->error, child);
    xreq_put(v->peer->port, child);
}

/* --- what the queues ask for ------------------------------------------------------------ */

static bool is_dirty(const struct vlmc *v, uint32_t slot)
{
    return v->volumes[slot].dirty_frames != 0 || v->seg->volumes[slot].dirty != 0;
}

/* Writers are held back from here until the capture, and no longer. */
static void begin_snapshot(struct vlmc *v, uint32_t slot)
{
    struct vlmc_volume *volume = &v->volumes[slot];
    struct xvolume *vol = &v->seg->volumes[slot];
    struct xreq *req;

    if (commit_begin(v, slot, true)) {
        vlmc_commit_want(v, slot);
        return;
    }
    req = queue_pop(v->peer, &volume->snapshots);
    volume->snapshot = req->index + 1;
    store_release(&vol->epoch, vol->epoch + 1);
    store_release(&vol->writable_since, vol->epoch);
    counter_add(&vol->snapshots, 1);
    counter_add(&vol->snapshots_held_ns, clock_ns() - volume->hold_writes_ns);
    volume->hold_writes_ns = 0;
    commit_go_on(v, slot);
    vlmc_look(v, slot);
}

static void finish_freezes(struct vlmc *v, uint32_t slot)
{
    struct vlmc_volume *volume = &v->volumes[slot];
    struct queue freezes = volume->freezes;
    struct xreq *req;

    volume->freezes = (struct queue){ 0 };
    while ((req = queue_pop(v->peer, &freezes))) {
        store_release(&v->seg->volumes[slot].frozen, 1u);
        if (req->op == XOP_VOL_CLOSE) {
            vlmc_frames_forget(v, slot);
            vlmc_answer_all(v, &volume->held, -ESTALE);
            vlmc_answer_all(v, &volume->behind, -ESTALE);
            volume->hold_all = false;
            volume->closed = true;
            store_release(&v->seg->volumes[slot].frozen, 0u);
        }
        peer_reply(v->peer, req, 0);
    }
}

static void commit_if_dirty(struct vlmc *v, uint32_t slot)
{
    if (!is_dirty(v, slot)) {
        vlmc_answer_all(v, &v->volumes[slot].flushes, 0);
    } else if (commit_begin(v, slot, false)) {
        vlmc_commit_want(v, slot);
    } else {
        commit_go_on(v, slot);
    }
}

/* Has the blocker say, to nobody, what else it knows of the data that are given up, and forget what of them is only in
 * memory: the volume's next life must neither hear of it nor read it. False: that is done. */
static bool drain(struct vlmc *v, uint32_t slot)
{
    struct xvolume *vol = &v->seg->volumes[slot];

    if (!vol->dirty)
        return false;
    if (send_sync(v, slot, XREQ_FORCE)) {
        vlmc_commit_want(v, slot);
        return true;
    }
    store_relaxed(&vol->dirty, (uint32_t)XDIRTY_SYNCING);
    v->volumes[slot].draining = true;
    v->volumes[slot].commit = VLMC_COMMIT_SYNC;
    return true;
}

/* No commit can be begun any more: everything that asks for one fails; so do requests that wait for memory that
 * one was to free. */
static void refuse_commits(struct vlmc *v, uint32_t slot, int error, bool memory_wanted)
{
    struct vlmc_volume *volume = &v->volumes[slot];

    note_told(v, slot, &volume->flushes);
    vlmc_answer_all(v, &volume->flushes, error);
    vlmc_answer_all(v, &volume->snapshots, error);
    if (memory_wanted)
        fail_parked(v, slot, error);
    if (volume->hold_writes_ns) {
        volume->hold_writes_ns = 0;
        vlmc_look(v, slot);
    }
    fail_freezes(v, slot, error);
    if (closes_with_loss(v, slot) && volume->in_flight == 0 && !drain(v, slot)) {
        give_up_dirty(v, slot);
        finish_freezes(v, slot);
    }
}

void vlmc_commit_kick(struct vlmc *v, uint32_t slot)
{
    struct vlmc_volume *volume = &v->volumes[slot];
    bool wanted = volume->commit_wanted;
    int lost;

    if (volume->commit != VLMC_COMMIT_IDLE)
        return;                     /* at its end the volume is looked at again */
    volume->commit_wanted = false;
    lost = lost_error(v, slot);
    if (lost) {
        refuse_commits(v, slot, lost, wanted);
        return;
    }
    if (!queue_empty(&volume->snapshots)) {
        if (!volume->hold_writes_ns)
            volume->hold_writes_ns = clock_ns();
        if (volume->writes == 0)
            begin_snapshot(v, slot);
        else if (wanted)
            commit_if_dirty(v, slot);       /* a write under way waits for memory */
    } else if (!queue_empty(&volume->freezes) && volume->in_flight == 0 && !is_dirty(v, slot)) {
        vlmc_answer_all(v, &volume->flushes, 0);
        finish_freezes(v, slot);
    } else if (wanted || !queue_empty(&volume->flushes) || !queue_empty(&volume->freezes)) {
        commit_if_dirty(v, slot);
    }
}

void vlmc_flush_request(struct vlmc *v, struct xreq *req)
{
    counter_add(&xvolume_of(v, req)->flushes, 1);
    queue_push(v->peer, &volume_of(v, req)->flushes, req);
    vlmc_look(v, req->volume - 1);
}

void vlmc_snapshot_request(struct vlmc *v, struct xreq *req)
{
    const struct xvolume *vol = xvolume_of(v, req);

    if (vol->readonly || !vlmc_epoch_may_rise(v, req->volume - 1)) {
        peer_reply(v->peer, req, vol->readonly ? -EROFS : -EOVERFLOW);
        return;
    }
    queue_push(v->peer, &volume_of(v, req)->snapshots, req);
    vlmc_look(v, req->volume - 1);
}

void vlmc_freeze_request(struct vlmc *v, struct xreq *req)
{
    volume_of(v, req)->hold_all = true;
    queue_push(v->peer, &volume_of(v, req)->freezes, req);
    vlmc_look(v, req->volume - 1);
}

void vlmc_thaw_request(struct vlmc *v, struct xreq *req)
{
    struct xvolume *vol = xvolume_of(v, req);
    uint32_t slot = req->volume - 1;

    if (!vol->frozen) {
        peer_reply(v->peer, req, 0);
        return;
    }
    vlmc_frames_forget(v, slot);
    v->volumes[slot].hold_all = false;
    store_release(&vol->frozen, 0u);
    peer_reply(v->peer, req, 0);
    vlmc_look(v, slot);
}
