/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_file/sync.c - what SYNC and FUA make durable. See blocker_file/parts.h for the rules.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "blocker_file/parts.h"
#include "segment/barrier.h"

/* --- rounds ------------------------------------------------------------------------------ */

static void round_start(struct bf *bf, struct bf_volume *volume);
static void sync_by_syncfs(struct bf *bf, struct bf_volume *volume);

static void reply_all(struct bf *bf, struct queue *queue, int error)
{
    struct xreq *req;

    while ((req = queue_pop(bf->peer, queue))) {
        if (error && req->object.kind == XOBJ_DATA && req->object.volume)
            xseg_volume_lost(bf->peer->seg, req->object.volume, error);
        if (req->object.kind == XOBJ_DATA && req->flags & XREQ_FORCE)
            bf_forget(bf, req, error);
        else
            peer_reply(bf->peer, req, error);
    }
}

/* An error is told to those, too, who came while the round was under way. */
static void round_end(struct bf *bf, struct bf_volume *volume)
{
    uint32_t failures = load_acquire(&bf->failures);
    int error = volume->round_error;

    if (error == 0 && volume->by_syncfs && volume->failures_seen != failures)
        error = -EIO;
    volume->failures_seen = error ? failures : volume->failures_begun;
    volume->running = false;
    bf->troubled |= error != 0;
    reply_all(bf, &volume->serving, error);
    if (error) {
        volume->lost = true;
        reply_all(bf, &volume->waiting, error);
    }
    if (!queue_empty(&volume->waiting))
        round_start(bf, volume);
}

static void round_left(struct bf *bf, struct bf_volume *volume, int result)
{
    if (result < 0)
        volume->round_error = result;
    assert(volume->left > 0);
    if (--volume->left)
        return;
    if (volume->round_error && !volume->by_syncfs) {
        volume->by_syncfs = true;   /* or a later round would be told what `root` has to tell of this error */
        sync_by_syncfs(bf, volume);
    } else {
        round_end(bf, volume);
    }
}

/* --- by one syncfs() that all who wait share ---------------------------------------------- */

static void syncfs_start(struct bf *bf);

/* The first of a life is about what earlier ones have left, too. */
static int syncfs_run(struct bf *bf, struct bf_work *work)
{
    int rc = bf_syncfs(bf), told = bf->unknown ? bf_ask_witness(bf) : 0;

    (void)work;
    return rc ? rc : told;
}

static void syncfs_done(struct bf *bf, struct bf_work *work, int result)
{
    struct bf_volume *volume = bf->syncfs_serving, *next;

    (void)work;
    bf->unknown &= result != 0;
    for (; volume; volume = next) {
        next = volume->syncfs_next;
        round_left(bf, volume, result);
    }
    bf->syncfs_running = false;
    syncfs_start(bf);
}

static void syncfs_start(struct bf *bf)
{
    if (bf->syncfs_running || !bf->syncfs_waiting)
        return;
    bf->syncfs_running = true;
    bf->syncfs_serving = bf->syncfs_waiting;
    bf->syncfs_waiting = NULL;
    bf->syncfs = (struct bf_work){ .run = syncfs_run, .done = syncfs_done };
    bf_pool_add(bf, &bf->syncfs, POOL_SLOW);
}

static void sync_by_syncfs(struct bf *bf, struct bf_volume *volume)
{
    while (volume->dirty)
        bf_undirty(volume->dirty);
    volume->lost = false;
    volume->left++;
    volume->syncfs_next = bf->syncfs_waiting;
    bf->syncfs_waiting = volume;
    syncfs_start(bf);
}

/* --- object by object ----------------------------------------------------------------------- */

static void sync_op_done(struct bf *bf, struct bf_work *work, int result)
{
    struct bf_sync_op *op = (struct bf_sync_op *)work;
    struct bf_volume *volume = op->volume;

    if (op->folder && result == 0)
        op->object->is_new = false;
    bf_object_put(bf, op->object);
    op->next = bf->free_ops;
    bf->free_ops = op;
    bf->free_op_count++;
    round_left(bf, volume, result);
}

static void sync_op(struct bf *bf, struct bf_volume *volume, struct bf_object *object, int fd, bool folder)
{
    struct bf_sync_op *op = bf->free_ops;

    bf->free_ops = op->next;
    bf->free_op_count--;
    *op = (struct bf_sync_op){ .work.done = sync_op_done, .volume = volume, .object = object,
                            .folder = folder };
    volume->left++;
    bf_object_hold(object);
    ring_fsync(&bf->ring, &op->work, fd, !folder);
}

/* Descriptor of the folder an open object lies in. */
static int folder_of(struct bf *bf, const struct bf_object *object)
{
    char path[BF_PATH];
    const char *name;
    uint32_t folder;
    int fd = bf_locate(bf, &object->name, false, path, &name, &folder);

    assert(fd >= 0);                /* open since the object was */
    return fd;
}

static void sync_objects(struct bf *bf, struct bf_volume *volume)
{
    while (volume->dirty) {
        struct bf_object *object = volume->dirty;

        bf_undirty(object);
        sync_op(bf, volume, object, object->fd, false);
        if (object->is_new)
            sync_op(bf, volume, object, folder_of(bf, object), true);
    }
}

static void round_start(struct bf *bf, struct bf_volume *volume)
{
    volume->running = true;
    volume->serving = volume->waiting;
    volume->waiting = (struct queue){ 0, 0 };
    volume->round_error = volume->error;
    volume->error = 0;
    volume->left = 1;
    volume->failures_begun = load_acquire(&bf->failures);
    volume->by_syncfs = volume == &bf->rest || bf->unknown || volume->lost || volume->dirty_count > BF_FEW
                        || bf->free_op_count < 2 * BF_FEW;
    if (volume->by_syncfs)
        sync_by_syncfs(bf, volume);
    else
        sync_objects(bf, volume);
    round_left(bf, volume, 0);
}

void bf_sync_request(struct bf *bf, struct xreq *req)
{
    struct bf_volume *volume;

    if (!bf->sync) {
        peer_reply(bf->peer, req, 0);
        return;
    }
    bf->has_data |= req->object.kind == XOBJ_DATA;
    volume = bf_volume_by_id(bf, req->object.volume);
    queue_push(bf->peer, &volume->waiting, req);
    if (!volume->running)
        round_start(bf, volume);
}

/* --- FUA ------------------------------------------------------------------------------------ */

/* The volume's next SYNC must hear of a failure too: fsync tells it only once. */
static void fua_finish(struct bf *bf, struct xreq *req, int result)
{
    struct bf_object *object = bf_held(req)->object;

    if (result < 0)
        bf_volume_of(bf, &object->name)->error = result;
    bf_object_put(bf, object);
    peer_reply(bf->peer, req, result);
}

static void fua_folder_done(struct bf *bf, struct bf_work *work, int result)
{
    if (result == 0)
        bf_held(bf_work_request(work))->object->is_new = false;
    fua_finish(bf, bf_work_request(work), result);
}

static void fua_done(struct bf *bf, struct bf_work *work, int result)
{
    struct bf_object *object = bf_held(bf_work_request(work))->object;

    if (result < 0 || !object->is_new) {
        fua_finish(bf, bf_work_request(work), result);
        return;
    }
    work->done = fua_folder_done;
    ring_fsync(&bf->ring, work, folder_of(bf, object), false);
}

void bf_sync_one(struct bf *bf, struct xreq *req, struct bf_object *object)
{
    if (!bf->sync) {
        fua_finish(bf, req, 0);
        return;
    }
    bf_held(req)->work.done = fua_done;
    ring_fsync(&bf->ring, &bf_held(req)->work, object->fd, true);
}

/* --- start and stop ------------------------------------------------------------------------- */

void bf_sync_start(struct bf *bf)
{
    bf->unknown = true;
    bf->free_op_count = BF_SYNC_OPS;
    for (uint32_t i = 0; i < BF_SYNC_OPS; i++) {
        bf->sync_ops[i].next = bf->free_ops;
        bf->free_ops = &bf->sync_ops[i];
    }
}

/* Whether what was written to it is there, now that syncfs() has succeeded. */
static int settle(const struct bf *bf, const struct bf_volume *volume)
{
    int rc = volume->lost && volume->failures_seen != bf->failures ? -EIO : volume->error;

    for (const struct bf_object *object = volume->dirty; object && rc == 0; object = object->dirty_next)
        if (fsync(object->fd) < 0)
            rc = -errno;
    return rc;
}

void bf_sync_settle(struct bf *bf)
{
    int rc;

    if (!bf->troubled || bf->unknown || !bf->has_data)
        return;
    rc = bf_syncfs(bf);
    if (rc || bf->volume_count == BF_VOLUMES)
        xseg_volume_lost(bf->peer->seg, 0, rc ? rc : -EIO);
    for (uint32_t i = 0; i < BF_VOLUME_BUCKETS; i++)
        for (struct bf_volume *volume = bf->volumes[i]; volume; volume = volume->next) {
            int error = settle(bf, volume);
            if (error)
                xseg_volume_lost(bf->peer->seg, volume->id, error);
        }
    if (bf->witness >= 0)
        syncfs(bf->witness);        /* all that it can tell has been noted */
}

void bf_sync_stop(struct bf *bf)
{
    for (uint32_t i = 0; i < BF_VOLUME_BUCKETS; i++)
        while (bf->volumes[i]) {
            struct bf_volume *volume = bf->volumes[i];
            bf->volumes[i] = volume->next;
            free(volume);
        }
}
