/* SPDX-License-Identifier: Apache-2.0
 *
 * vlmc/write.c - WRITE, WRITE_ZEROES and DISCARD.
 *
 * What a piece of a block needs depends on its entry:
 *
 *   zeros         zeroing: nothing. Else a child on a new object, published when it is done
 *   not our own   zeroing the whole block: the entry becomes zeros. Else own_block() puts a
 *                 new layer on top, and then as below
 *   own, one      a child, nothing more
 *   own, stack    zeroing the whole block: empties the object and drops the stack.
 *                 Whole chunks: a child that sets their bits. Part of a chunk whose bit
 *                 is not set: the chunk is filled up from below first
 *
 * A DISCARD leaves parts of chunks as they are; whole chunks read as zeros afterwards.
 */

#include "vlmc/parts.h"

/* Zeros that need not hold space. */
static bool is_zeroing(const struct xreq *req)
{
    return req->op == XOP_DISCARD
        || (req->op == XOP_WRITE_ZEROES && !(req->flags & XREQ_NO_HOLE));
}

static bool reaches_end(const struct vlmc *v, const struct xreq *req, uint64_t length)
{
    return req->offset + io_of((struct xreq *)req)->cursor + length == xvolume_of(v, req)->size;
}

/* A DISCARD's part of a chunk at either end is skipped: true, and *length says how much.
 * Else *length is made a whole number of chunks. */
static bool skip_part(const struct vlmc *v, const struct xreq *req, uint64_t in, uint64_t *length)
{
    uint64_t edge = in % XMAP_CHUNK, to_next = XMAP_CHUNK - edge;

    if (edge) {
        *length = *length < to_next ? *length : to_next;
        return true;
    }
    if (reaches_end(v, req, *length))
        return false;
    if (*length < XMAP_CHUNK)
        return true;
    *length -= *length % XMAP_CHUNK;
    return false;
}

static void forget_stack(struct vlmc *v, struct xreq *req, struct xframe *frame, uint64_t block,
                         uint64_t volume, uint32_t epoch)
{
    uint32_t stack = entry_read(frame, block).stack;

    entry_dirty(v, req->volume - 1, frame, block);
    entry_publish(entry_of(frame, block), volume, epoch, 0);
    stack_give(v, frame, stack);
}

/* Zeroing all of a block that is not our own: the entry becomes zeros. */
static uint64_t forget_block(struct vlmc *v, struct xreq *req, struct xframe *frame,
                             uint64_t block, uint64_t length)
{
    if (!busy_take(v, req, frame, block))   /* its stack is being merged */
        return STEP_WAIT;
    forget_stack(v, req, frame, block, 0, 0);
    busy_release(v, req->volume - 1, block);
    return length;
}

static uint64_t write_child(struct vlmc *v, struct xreq *req, enum child_kind kind,
                            uint64_t block, uint32_t epoch, uint64_t in, uint64_t length)
{
    struct xobj object = own_object(volume_of(v, req), epoch, block);
    struct xreq *child = object_child(v, req, kind, block, &object, in, length);

    if (!child)
        return STEP_WAIT;
    if (kind == CHILD_NEW || kind == CHILD_FIRST) {
        child->flags |= XREQ_CREATE;
        child->arg = block_size(volume_of(v, req));
    }
    if (kind == CHILD_FIRST && req->op == XOP_DISCARD)
        child->op = XOP_WRITE_ZEROES;   /* its bits will be set: the object must be there */
    send_child(v, child);
    return length;
}

static uint64_t write_new(struct vlmc *v, struct xreq *req, struct xframe *frame, uint64_t block,
                          uint64_t in, uint64_t length)
{
    uint64_t done = write_child(v, req, CHILD_NEW, block, xvolume_of(v, req)->epoch, in, length);

    if (done) {
        cache_pin(v, frame);
        frame_dirty(v, req->volume - 1, frame);
    }
    return done;
}

static uint64_t drop_stack(struct vlmc *v, struct xreq *req, struct xframe *frame,
                           uint64_t block, uint64_t length)
{
    const struct volume *volume = volume_of(v, req);
    uint32_t slot = req->volume - 1;
    struct xobj object = own_object(volume, entry_read(frame, block).epoch, block);
    struct xreq *child;

    if (!busy_take(v, req, frame, block))
        return STEP_WAIT;
    child = object_child(v, req, CHILD_DROP, block, &object, 0, block_size(volume));
    if (!child) {
        busy_release(v, slot, block);
        return STEP_WAIT;
    }
    child->op = XOP_WRITE_ZEROES;   /* not DISCARD: the object must be there afterwards */
    child->data = 0;
    send_child(v, child);
    return length;
}

static uint64_t write_chunks(struct vlmc *v, struct xreq *req, struct xframe *frame,
                             uint64_t block, uint64_t in, uint64_t length)
{
    const struct xentry entry = entry_read(frame, block);
    uint64_t done;

    if (!busy_share(v, req, frame, block))
        return STEP_WAIT;
    done = write_child(v, req, CHILD_FIRST, block, entry.epoch, in, length);
    if (!done)
        busy_release(v, req->volume - 1, block);
    return done;
}

/* A piece of a block of our own that has a stack. */
static uint64_t write_stacked(struct vlmc *v, struct xreq *req, struct xframe *frame,
                              uint64_t block, uint64_t in, uint64_t length)
{
    const struct xentry entry = entry_read(frame, block);
    struct xstack *stack = stack_of(v, frame, &entry);
    uint64_t chunk = in / XMAP_CHUNK, edge = in % XMAP_CHUNK;
    const uint8_t *top;

    if (!stack)
        return io_damaged(v, req);
    top = stack_bits(volume_of(v, req), stack, 0);
    if (edge || (length < XMAP_CHUNK && !reaches_end(v, req, length))) {
        if (length > XMAP_CHUNK - edge)
            length = XMAP_CHUNK - edge;
        if (!bit_is_set(top, chunk))
            return fill_chunk(v, req, frame, block, in, length);
    } else if (!reaches_end(v, req, length)) {
        length -= length % XMAP_CHUNK;
    }
    if (bits_all_set(top, chunk, (length + XMAP_CHUNK - 1) / XMAP_CHUNK))
        return write_child(v, req, CHILD_DIRECT, block, entry.epoch, in, length);
    return write_chunks(v, req, frame, block, in, length);
}

uint64_t write_step(struct vlmc *v, struct xreq *req, struct xframe *frame, uint64_t block,
                    uint64_t in, uint64_t length)
{
    const struct xentry entry = entry_read(frame, block);
    bool whole = in == 0 && (length == block_size(volume_of(v, req)) || reaches_end(v, req, length));
    bool own = is_own(v, req->volume - 1, &entry);

    if (req->op == XOP_DISCARD && skip_part(v, req, in, &length))
        return length;
    if (own && !entry.stack)
        return write_child(v, req, CHILD_DIRECT, block, entry.epoch, in, length);
    if (entry.volume == 0 && is_zeroing(req))
        return length;
    if (entry.volume && entry.stack && !stack_of(v, frame, &entry))
        return io_damaged(v, req);
    if (cache_too_dirty(v, req->volume - 1, frame)) {
        commit_want(v, req->volume - 1);
        starve(v, req);
        return STEP_WAIT;
    }
    if (entry.volume == 0)
        return write_new(v, req, frame, block, in, length);
    if (!own) {
        if (whole && is_zeroing(req))
            return forget_block(v, req, frame, block, length);
        if (!own_block(v, req, frame, block))
            return STEP_WAIT;
    }
    if (whole && is_zeroing(req))
        return drop_stack(v, req, frame, block, length);
    return write_stacked(v, req, frame, block, in, length);
}

/* --- coming back --------------------------------------------------------------- */

/* False: another write has published the block meanwhile, in another object than this one wrote
 * to, as the epoch grew between; so it is written there, too. */
static bool publish_new(struct vlmc *v, struct xreq *req, struct xreq *child)
{
    uint64_t block = child->sender[1];
    struct xframe *frame = cache_pinned(v, req->volume - 1, block);
    const struct xentry entry = entry_read(frame, block);

    if (child->error == 0 && entry.volume && entry.epoch != child->object.epoch) {
        child->object.epoch = entry.epoch;
        peer_send(v->peer, child, VLMC_BLOCKER);
        return false;
    }
    if (child->error == 0 && entry.volume == 0) {
        entry_dirty(v, req->volume - 1, frame, block);
        entry_publish(entry_of(frame, block), volume_of(v, req)->id, child->object.epoch, 0);
        counter_add(&xvolume_of(v, req)->first_writes, 1);
    }
    if (child->error)
        epoch_leave(v, req->volume - 1);
    cache_unpin(v, frame);
    return true;
}

void write_done(struct vlmc *v, struct xreq *child)
{
    struct xreq *req = xreq_parent(v->peer->port, child);
    uint32_t slot = req->volume - 1;
    uint64_t block = child->sender[1];
    bool busy = child->sender[0] == CHILD_FIRST || child->sender[0] == CHILD_DROP;

    if (child->error == 0)
        data_written(xvolume_of(v, req));
    if (child->sender[0] == CHILD_NEW && !publish_new(v, req, child))
        return;
    if (child->sender[0] == CHILD_FIRST && child->error == 0)
        child->error = set_chunks(v, slot, block, child->offset / XMAP_CHUNK,
                                  (child->size + XMAP_CHUNK - 1) / XMAP_CHUNK);
    if (child->sender[0] == CHILD_DROP && child->error == 0)
        forget_stack(v, req, cache_pinned(v, slot, block), block, volume_of(v, req)->id,
                     child->object.epoch);
    if (busy)
        busy_release(v, slot, block);
    io_child_done(v, child, child->error);
}
