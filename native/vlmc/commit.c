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
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "vlmc/parts.h"

#define STACK_BYTES_MAX 1728        /* of a record of the largest class */
#define SMALL_COMMIT 64             /* dirty entries that surely fit a 64 KiB buffer or two */

struct capture {
    struct vlmc *v;
    uint32_t slot;
    struct record record;           /* open while child is set */
    struct xreq *child;
    uint64_t buffer_size;
    int error;
    union { struct xstack stack; uint8_t bytes[STACK_BYTES_MAX]; } copy;    /* of the entry's */
};

void commit_want(struct vlmc *v, uint32_t slot)
{
    v->volumes[slot].commit_wanted = true;
    v->commits_wanted = true;
}

/* --- capturing -------------------------------------------------------------------- */

static struct xreq *record_child(struct capture *c)
{
    struct port *port = c->v->peer->port;
    struct xreq *child = xreq_get(port);

    if (!child)
        return NULL;
    if (xbuf_get(port, child, c->buffer_size) && xbuf_get(port, child, xbuffer_size(1))) {
        xreq_put(port, child);
        return NULL;
    }
    child->op = XOP_MAP_COMMIT;
    child->volume = c->slot + 1;
    child->client = c->slot;
    child->sender[0] = CHILD_COMMIT;
    return child;
}

static bool open_record(struct capture *c)
{
    struct volume *volume = &c->v->volumes[c->slot];
    const struct xvolume *vol = &c->v->seg->volumes[c->slot];
    struct record_info info = {
        .kind = RECORD_JOURNAL, .volume = volume->id, .epoch = vol->epoch,
        .seq = vol->commit_seq + 1 + volume->record_count, .block_shift = volume->block_shift,
    };

    if (volume->record_count == COMMIT_RECORDS || !(c->child = record_child(c))) {
        c->error = -ENOBUFS;
        return false;
    }
    record_begin(&c->record, xreq_data(c->v->seg, c->child),
                 c->child->data_size / RECORD_ALIGN * RECORD_ALIGN, &info);
    volume->record[volume->record_count++] = c->child->index + 1;
    return true;
}

static void close_record(struct capture *c, uint32_t flags)
{
    c->record.info.flags = flags;
    c->child->size = record_end(&c->record, RECORD_ALIGN);
    c->child->flags = flags & RECORD_MARK ? XREQ_SNAPSHOT_MARK : 0;
    c->child = NULL;
}

static void capture_entry(struct capture *c, struct xframe *frame, uint64_t block)
{
    const struct xentry entry = entry_read(frame, block);
    const struct xstack *stack = entry.stack ? &c->copy.stack : NULL;

    if (entry.stack && !stack_copy(c->v, frame, &entry, &c->copy.stack)) {
        c->error = -EIO;            /* it makes no sense: the volume has lost what it had there */
        return;
    }
    if (!c->child && !open_record(c))
        return;
    if (record_add(&c->record, block, &entry, stack) == 0)
        return;
    close_record(c, 0);
    if (open_record(c) && record_add(&c->record, block, &entry, stack))
        c->error = -EIO;            /* an entry that fits no empty record: cannot be */
}

/* Marks all dirty entries as committing, after an error too: settle() makes them dirty again. */
static void capture_frame(struct capture *c, struct xframe *frame)
{
    uint64_t leaf = c->v->frames[frame - c->v->seg->frames].leaf;

    for (uint32_t word = 0; word < XMAP_LEAF / 32; word++) {
        uint32_t bits = frame->dirty[word];
        for (uint32_t left = bits; left && c->error == 0; left &= left - 1)
            capture_entry(c, frame, leaf * XMAP_LEAF + word * 32
                                    + (uint32_t)__builtin_ctz(left));
        store_release(&frame->committing[word], frame->committing[word] | bits);
        store_release(&frame->dirty[word], 0u);
    }
}

static int by_leaf(const void *a, const void *b, void *arg)
{
    const struct frame *frames = arg;
    uint64_t x = frames[*(const uint32_t *)a].leaf, y = frames[*(const uint32_t *)b].leaf;

    return x < y ? -1 : x > y;
}

/* Turns the list of dirty frames into the list of committing ones; returns them sorted. */
static uint32_t *take_dirty_frames(struct vlmc *v, struct volume *volume, uint32_t *count)
{
    uint32_t *numbers, n = 0;

    for (uint32_t at = volume->dirty_frames; at; at = v->frames[at - 1].dirty_next)
        n++;
    numbers = malloc((n + 1) * sizeof(*numbers));
    if (!numbers)
        return NULL;
    *count = 0;
    for (uint32_t at = volume->dirty_frames; at; at = v->frames[at - 1].dirty_next) {
        numbers[(*count)++] = at - 1;
        v->frames[at - 1].listed = false;
        v->frames[at - 1].committing = true;
        v->frames[at - 1].committing_next = volume->committing_frames;
        volume->committing_frames = at;
    }
    volume->dirty_frames = 0;
    qsort_r(numbers, n, sizeof(*numbers), by_leaf, v->frames);
    return numbers;
}

/* Entries of an ended commit: dirty again, or clean. */
static void settle(struct vlmc *v, uint32_t slot, bool again)
{
    struct volume *volume = &v->volumes[slot];

    for (uint32_t at = volume->committing_frames; at; at = v->frames[at - 1].committing_next) {
        struct xframe *frame = &v->seg->frames[at - 1];
        v->frames[at - 1].committing = false;
        volume->dirty_frame_count--;
        for (uint32_t i = 0; i < XMAP_LEAF; i++) {
            if (i % 32 == 0 && !frame->committing[i / 32])
                i += 31;
            else if (again && frame->committing[i / 32] >> (i % 32) & 1)
                entry_dirty(v, slot, frame, v->frames[at - 1].leaf * XMAP_LEAF + i);
        }
        for (uint32_t word = 0; word < XMAP_LEAF / 32; word++)
            store_release(&frame->committing[word], 0u);
    }
    volume->committing_frames = 0;
    volume->committing_entries = 0;
    if (again)
        volume->commit_wanted = false;      /* who needs it asks again, and gets the error */
}

static void free_records(struct vlmc *v, struct volume *volume, uint32_t from)
{
    for (uint32_t i = from; i < volume->record_count; i++)
        xreq_put(v->peer->port, &v->peer->port->reqs[volume->record[i] - 1]);
    volume->record_count = 0;
    volume->record_sent = 0;
}

/* Encodes all dirty entries. On failure everything is dirty as before. */
static int capture(struct vlmc *v, uint32_t slot, bool mark)
{
    struct volume *volume = &v->volumes[slot];
    struct capture c = { .v = v, .slot = slot };
    uint32_t count, *frames = take_dirty_frames(v, volume, &count);

    if (!frames)
        return -ENOMEM;
    c.buffer_size = volume->dirty_entries <= SMALL_COMMIT ? xbuffer_size(1) : XSEG_IO_MAX;
    volume->committing_entries = volume->dirty_entries;
    volume->dirty_entries = 0;
    for (uint32_t i = 0; i < count; i++)
        capture_frame(&c, &v->seg->frames[frames[i]]);
    free(frames);
    if (mark && !c.child && c.error == 0)
        open_record(&c);
    if (c.child)
        close_record(&c, mark && c.error == 0 ? RECORD_MARK : 0);
    if (c.error) {
        settle(v, slot, true);
        free_records(v, volume, 0);
    }
    volume->epoch_captured = v->seg->volumes[slot].epoch;
    return c.error;
}

/* --- epochs --------------------------------------------------------------------------- */

/* False: it is so far ahead of what is durable that the next life of the volume might use an
 * epoch again. */
static bool epoch_may_rise(const struct vlmc *v, uint32_t slot)
{
    uint32_t epoch = v->seg->volumes[slot].epoch;

    return epoch < UINT32_MAX - MAP_EPOCH_STRIDE
        && epoch - v->seg->volumes[slot].epoch_durable < MAP_EPOCH_STRIDE - 1;
}

void epoch_leave(struct vlmc *v, uint32_t slot)
{
    struct xvolume *vol = &v->seg->volumes[slot];

    if (epoch_may_rise(v, slot))
        store_release(&vol->epoch, vol->epoch + 1);
}

/* --- data that may be gone ------------------------------------------------------------ */

/* 0, or the error with which all commits of the volume fail: see vlmc/parts.h. */
static int lost_error(const struct vlmc *v, uint32_t slot)
{
    return -(int)(load_acquire(&v->seg->volumes[slot].lost) & XLOST_ERRNO);
}

/* What was written since the last commit is given up, so that the volume can be closed. */
static void give_up_dirty(struct vlmc *v, uint32_t slot)
{
    struct volume *volume = &v->volumes[slot];

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

void answer_all(struct vlmc *v, struct queue *queue, int error)
{
    struct xreq *req;

    while ((req = queue_pop(v->peer, queue))) {
        if (error == 0 && req->op != XOP_FLUSH)
            req->done = req->size;
        order_done(v, req);
        peer_reply(v->peer, req, error);
    }
}

static void answer_snapshot(struct vlmc *v, uint32_t slot, int error, const struct xreq *last)
{
    struct volume *volume = &v->volumes[slot];
    struct xreq *req;

    if (!volume->snapshot)
        return;
    req = &v->peer->port->reqs[volume->snapshot - 1];
    volume->snapshot = 0;
    if (error == 0) {
        req->done = last->done;
        req->arg = v->seg->volumes[slot].commit_seq;
    }
    peer_reply(v->peer, req, error);
}

/* Requests of this volume that waited for memory a commit was to free. */
static void fail_starved(struct vlmc *v, uint32_t slot, int error)
{
    struct queue waiting = v->starved;
    struct xreq *req;

    v->starved = (struct queue){ 0 };
    v->starved_count = 0;
    while ((req = queue_pop(v->peer, &waiting))) {
        if (req->volume == slot + 1)
            io_fail(v, req, error);
        else
            starve(v, req);
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
    struct volume *volume = &v->volumes[slot];

    if (queue_empty(&volume->freezes) || closes_with_loss(v, slot))
        return;
    answer_all(v, &volume->freezes, error);
    volume->hold_all = v->seg->volumes[slot].frozen != 0;
    if (!volume->hold_all)
        release_held(v, slot);
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
    struct volume *volume = &v->volumes[slot];

    if (error == 0 && volume->record_count)
        store_relaxed(&v->seg->volumes[slot].epoch_durable, volume->epoch_captured);
    settle(v, slot, error != 0);
    free_records(v, volume, volume->record_sent);
    if (error) {
        fail_starved(v, slot, error);
        fail_freezes(v, slot, error);
    } else {
        counter_add(&v->seg->volumes[slot].commits, 1);
    }
    note_told(v, slot, &volume->flushing);
    answer_all(v, &volume->flushing, error);
    answer_snapshot(v, slot, error, last);
    volume->commit = COMMIT_IDLE;   /* only now: what ended above must not begin the next */
    commit_kick(v, slot);
}

static void append_next(struct vlmc *v, uint32_t slot)
{
    struct volume *volume = &v->volumes[slot];

    if (volume->record_sent == volume->record_count) {
        commit_end(v, slot, 0, NULL);
        return;
    }
    volume->commit = COMMIT_APPEND;
    peer_send(v->peer, &v->peer->port->reqs[volume->record[volume->record_sent++] - 1], VLMC_MAPPER);
}

static int send_sync(struct vlmc *v, uint32_t slot, uint32_t flags)
{
    struct xreq *child = xreq_get(v->peer->port);

    if (!child)
        return -ENOBUFS;
    child->op = XOP_SYNC;
    child->flags = flags;
    child->object = (struct xobj){ .kind = XOBJ_DATA, .volume = v->volumes[slot].id };
    child->sender[0] = CHILD_SYNC;
    child->client = slot;
    peer_send(v->peer, child, VLMC_BLOCKER);
    return 0;
}

/* Captures and goes on to SYNC or APPEND. ENOBUFS: nothing has changed, try again. */
static int commit_begin(struct vlmc *v, uint32_t slot, bool mark)
{
    struct xvolume *vol = &v->seg->volumes[slot];
    struct volume *volume = &v->volumes[slot];
    bool data_dirty = vol->dirty != 0;
    int rc = capture(v, slot, mark);

    if (rc)
        return rc;
    if (data_dirty) {
        rc = send_sync(v, slot, 0);
        if (rc) {
            settle(v, slot, true);
            free_records(v, volume, 0);
            return rc;
        }
        store_relaxed(&vol->dirty, (uint32_t)XDIRTY_SYNCING);
    }
    volume->flushing = volume->flushes;
    volume->flushes = (struct queue){ 0 };
    volume->commit = data_dirty ? COMMIT_SYNC : COMMIT_APPEND;
    return 0;
}

/* After commit_begin(): if there is no data to sync, the records go at once. */
static void commit_go_on(struct vlmc *v, uint32_t slot)
{
    if (v->volumes[slot].commit == COMMIT_APPEND)
        append_next(v, slot);
}

void commit_synced(struct vlmc *v, struct xreq *child)
{
    uint32_t slot = child->client;
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

void commit_appended(struct vlmc *v, struct xreq *child)
{
    struct volume *volume = &v->volumes[child->client];
    uint32_t slot = child->client;

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
    struct volume *volume = &v->volumes[slot];
    struct xvolume *vol = &v->seg->volumes[slot];
    struct xreq *req;

    if (commit_begin(v, slot, true)) {
        commit_want(v, slot);
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
    if (!volume->hold_all)
        release_held(v, slot);
}

static void finish_freezes(struct vlmc *v, uint32_t slot)
{
    struct volume *volume = &v->volumes[slot];
    struct queue freezes = volume->freezes;
    struct xreq *req;

    volume->freezes = (struct queue){ 0 };
    while ((req = queue_pop(v->peer, &freezes))) {
        store_release(&v->seg->volumes[slot].frozen, 1u);
        if (req->op == XOP_VOL_CLOSE) {
            cache_forget(v, slot);
            answer_all(v, &volume->held, -ESTALE);
            answer_all(v, &volume->behind, -ESTALE);
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
        answer_all(v, &v->volumes[slot].flushes, 0);
    } else if (commit_begin(v, slot, false)) {
        commit_want(v, slot);
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
        commit_want(v, slot);
        return true;
    }
    store_relaxed(&vol->dirty, (uint32_t)XDIRTY_SYNCING);
    v->volumes[slot].draining = true;
    v->volumes[slot].commit = COMMIT_SYNC;
    return true;
}

/* No commit can be begun any more: everything that asks for one fails; so do requests that wait for memory that
 * one was to free. */
static void refuse_commits(struct vlmc *v, uint32_t slot, int error, bool memory_wanted)
{
    struct volume *volume = &v->volumes[slot];

    note_told(v, slot, &volume->flushes);
    answer_all(v, &volume->flushes, error);
    answer_all(v, &volume->snapshots, error);
    if (memory_wanted)
        fail_starved(v, slot, error);
    if (volume->hold_writes_ns) {
        volume->hold_writes_ns = 0;
        if (!volume->hold_all)
            release_held(v, slot);
    }
    fail_freezes(v, slot, error);
    if (closes_with_loss(v, slot) && volume->in_flight == 0 && !drain(v, slot)) {
        give_up_dirty(v, slot);
        finish_freezes(v, slot);
    }
}

void commit_kick(struct vlmc *v, uint32_t slot)
{
    struct volume *volume = &v->volumes[slot];
    bool wanted = volume->commit_wanted;
    int lost;

    if (volume->commit != COMMIT_IDLE)
        return;                     /* its end kicks again */
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
        answer_all(v, &volume->flushes, 0);
        finish_freezes(v, slot);
    } else if (wanted || !queue_empty(&volume->flushes) || !queue_empty(&volume->freezes)) {
        commit_if_dirty(v, slot);
    }
}

void flush_request(struct vlmc *v, struct xreq *req)
{
    counter_add(&xvolume_of(v, req)->flushes, 1);
    queue_push(v->peer, &volume_of(v, req)->flushes, req);
    commit_kick(v, req->volume - 1);
}

void snapshot_request(struct vlmc *v, struct xreq *req)
{
    const struct xvolume *vol = xvolume_of(v, req);

    if (vol->readonly || !epoch_may_rise(v, req->volume - 1)) {
        peer_reply(v->peer, req, vol->readonly ? -EROFS : -EOVERFLOW);
        return;
    }
    queue_push(v->peer, &volume_of(v, req)->snapshots, req);
    commit_kick(v, req->volume - 1);
}

void freeze_request(struct vlmc *v, struct xreq *req)
{
    volume_of(v, req)->hold_all = true;
    queue_push(v->peer, &volume_of(v, req)->freezes, req);
    commit_kick(v, req->volume - 1);
}

void thaw_request(struct vlmc *v, struct xreq *req)
{
    struct xvolume *vol = xvolume_of(v, req);
    uint32_t slot = req->volume - 1;

    if (!vol->frozen) {
        peer_reply(v->peer, req, 0);
        return;
    }
    cache_forget(v, slot);
    v->volumes[slot].hold_all = false;
    store_release(&vol->frozen, 0u);
    peer_reply(v->peer, req, 0);
    release_held(v, slot);
}
