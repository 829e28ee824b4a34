/* SPDX-License-Identifier: Apache-2.0
 *
 * vlmc/write.c - WRITE, WRITE_ZEROES and DISCARD.
 *
 * What a piece of a block needs depends on its entry:
 *
 *   zeros         zeroing: nothing. Else a child on a new object, published when it is done
 *   not our own   zeroing the whole block: the entry becomes zeros. Else vlmc_own_block() puts a
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

static bool reaches_end(const struct vlmc *v, const struct vlmc_piece *piece)
{
    const struct xreq *req = piece->req;

    return req->offset + io_of(piece->req)->cursor + piece->length == xvolume_of(v, req)->size;
}

/* True: a DISCARD's piece is part of a chunk, at either end, and is skipped. Else it is cut to whole chunks. */
static bool skip_part(const struct vlmc *v, struct vlmc_piece *piece)
{
    uint64_t edge = piece->offset % XMAP_CHUNK, to_next = XMAP_CHUNK - edge;

    if (edge) {
        piece->length = piece->length < to_next ? piece->length : to_next;
        return true;
    }
    if (reaches_end(v, piece))
        return false;
    if (piece->length < XMAP_CHUNK)
        return true;
    piece->length -= piece->length % XMAP_CHUNK;
    return false;
}

static void forget_stack(struct vlmc *v, uint32_t slot, struct xframe *frame, uint64_t block,
                         uint64_t volume, uint32_t epoch)
{
    const struct xentry entry = entry_read(frame, block);

    vlmc_entry_dirty(v, slot, frame, block);
    vlmc_entry_publish(entry_of(frame, block), volume, epoch, 0);
    vlmc_record_give(v, frame, &entry);
}

/* Zeroing all of a block that is not our own: the entry becomes zeros. */
static uint64_t forget_block(struct vlmc *v, const struct vlmc_piece *piece)
{
    uint32_t slot = piece->req->volume - 1;

    if (!vlmc_busy_take(v, piece))       /* its stack is being merged */
        return VLMC_STEP_WAIT;
    forget_stack(v, slot, piece->frame, piece->block, 0, 0);
    vlmc_busy_release(v, slot, piece->block);
    return piece->length;
}

static uint64_t write_child(struct vlmc *v, const struct vlmc_piece *piece, enum vlmc_child_kind kind, uint32_t epoch)
{
    const struct vlmc_volume *volume = volume_of(v, piece->req);
    struct xobj object = own_object(volume, epoch, piece->block);
    struct xreq *child = vlmc_child(v, piece, kind, &object);

    if (!child)
        return VLMC_STEP_WAIT;
    if (kind == VLMC_CHILD_NEW || kind == VLMC_CHILD_FIRST) {
        child->flags |= XREQ_CREATE;
        child->arg = block_size(volume);
    }
    if (kind == VLMC_CHILD_FIRST && child->op == XOP_DISCARD)
        child->op = XOP_WRITE_ZEROES;   /* its bits will be set: the object must be there */
    vlmc_send(v, child);
    return piece->length;
}

static uint64_t write_new(struct vlmc *v, const struct vlmc_piece *piece)
{
    uint64_t done = write_child(v, piece, VLMC_CHILD_NEW, xvolume_of(v, piece->req)->epoch);

    if (done) {
        vlmc_frame_pin(v, piece->frame);
        vlmc_frame_dirty(v, piece->req->volume - 1, piece->frame);
    }
    return done;
}

static uint64_t drop_stack(struct vlmc *v, const struct vlmc_piece *piece)
{
    const struct vlmc_volume *volume = volume_of(v, piece->req);
    struct xobj object = own_object(volume, entry_read(piece->frame, piece->block).epoch, piece->block);
    struct xreq *child;

    if (!vlmc_busy_take(v, piece))
        return VLMC_STEP_WAIT;
    child = vlmc_child(v, piece, VLMC_CHILD_DROP, &object);
    if (!child) {
        vlmc_busy_release(v, piece->req->volume - 1, piece->block);
        return VLMC_STEP_WAIT;
    }
    child->op = XOP_WRITE_ZEROES;   /* not DISCARD: the object must be there afterwards */
    child->data = 0;
    child->size = block_size(volume);
    vlmc_send(v, child);
    return piece->length;
}

static uint64_t write_chunks(struct vlmc *v, const struct vlmc_piece *piece)
{
    uint32_t epoch = entry_read(piece->frame, piece->block).epoch;
    uint64_t done;

    if (!vlmc_busy_share(v, piece))
        return VLMC_STEP_WAIT;
    done = write_child(v, piece, VLMC_CHILD_FIRST, epoch);
    if (!done)
        vlmc_busy_release(v, piece->req->volume - 1, piece->block);
    return done;
}

/* A piece of a block of our own that has a stack. */
static uint64_t write_stacked(struct vlmc *v, struct vlmc_piece *piece)
{
    const struct xentry entry = entry_read(piece->frame, piece->block);
    struct xstack *stack = vlmc_stack_of(v, piece->frame, &entry);
    uint64_t chunk = piece->offset / XMAP_CHUNK, edge = piece->offset % XMAP_CHUNK;
    const uint8_t *top;

    if (!stack)
        return vlmc_io_damaged(v, piece->req);
    top = stack_bits(volume_of(v, piece->req), stack, 0);
    if (edge || (piece->length < XMAP_CHUNK && !reaches_end(v, piece))) {
        if (piece->length > XMAP_CHUNK - edge)
            piece->length = XMAP_CHUNK - edge;
        if (!bit_is_set(top, chunk))
            return vlmc_fill_chunk(v, piece);
    } else if (!reaches_end(v, piece)) {
        piece->length -= piece->length % XMAP_CHUNK;
    }
    if (vlmc_bits_all_set(top, chunk, (piece->length + XMAP_CHUNK - 1) / XMAP_CHUNK))
        return write_child(v, piece, VLMC_CHILD_DIRECT, entry.epoch);
    return write_chunks(v, piece);
}

uint64_t vlmc_write_step(struct vlmc *v, struct vlmc_piece *piece)
{
    struct xreq *req = piece->req;
    const struct xentry entry = entry_read(piece->frame, piece->block);
    bool own = is_own(v, req->volume - 1, &entry), whole;

    whole = piece->offset == 0 && (piece->length == block_size(volume_of(v, req)) || reaches_end(v, piece));
    if (req->op == XOP_DISCARD && skip_part(v, piece))
        return piece->length;
    if (own && !entry.stack)
        return write_child(v, piece, VLMC_CHILD_DIRECT, entry.epoch);
    if (entry.volume == 0 && is_zeroing(req))
        return piece->length;
    if (!vlmc_entry_ok(v, piece->frame, &entry))
        return vlmc_io_damaged(v, req);
    if (vlmc_frame_too_dirty(v, req->volume - 1, piece->frame)) {
        vlmc_commit_want(v, req->volume - 1);
        peer_park(v->peer, req);
        return VLMC_STEP_WAIT;
    }
    if (entry.volume == 0)
        return write_new(v, piece);
    if (!own) {
        if (whole && is_zeroing(req))
            return forget_block(v, piece);
        if (!vlmc_own_block(v, piece))
            return VLMC_STEP_WAIT;
    }
    if (whole && is_zeroing(req))
        return drop_stack(v, piece);
    return write_stacked(v, piece);
}

/* --- coming back --------------------------------------------------------------- */

/* False: another write has published the block meanwhile, in another object than this one wrote
 * to, as the epoch grew between; so it is written there, too. */
static bool publish_new(struct vlmc *v, struct xreq *req, struct xreq *child)
{
    uint64_t block = note_of(child)->block;
    struct xframe *frame = vlmc_frame_pinned(v, req->volume - 1, block);
    const struct xentry entry = entry_read(frame, block);

    if (child->error == 0 && entry.volume && entry.epoch != child->object.epoch) {
        child->object.epoch = entry.epoch;
        peer_send(v->peer, child, VLMC_BLOCKER);
        return false;
    }
    if (child->error == 0 && entry.volume == 0) {
        vlmc_entry_dirty(v, req->volume - 1, frame, block);
        vlmc_entry_publish(entry_of(frame, block), volume_of(v, req)->id, child->object.epoch, 0);
        counter_add(&xvolume_of(v, req)->first_writes, 1);
    }
    if (child->error)
        vlmc_epoch_leave(v, req->volume - 1);
    vlmc_frame_unpin(v, frame);
    return true;
}

void vlmc_write_done(struct vlmc *v, struct xreq *child)
{
    struct xreq *req = xreq_parent(v->peer->port, child);
    uint32_t slot = req->volume - 1;
    uint64_t block = note_of(child)->block;
    bool busy = note_of(child)->kind == VLMC_CHILD_FIRST || note_of(child)->kind == VLMC_CHILD_DROP;

    if (child->error != -ESTALE)        /* a fenced node has nothing to keep; after other errors some may be there */
        data_written(xvolume_of(v, req));
    if (note_of(child)->kind == VLMC_CHILD_NEW && !publish_new(v, req, child))
        return;
    if (note_of(child)->kind == VLMC_CHILD_FIRST && child->error == 0)
        child->error = vlmc_set_chunks(v, slot, block, child->offset / XMAP_CHUNK,
                                       (child->size + XMAP_CHUNK - 1) / XMAP_CHUNK);
    if (note_of(child)->kind == VLMC_CHILD_DROP && child->error == 0)
        forget_stack(v, slot, vlmc_frame_pinned(v, slot, block), block, volume_of(v, req)->id, child->object.epoch);
    if (busy)
        vlmc_busy_release(v, slot, block);
    vlmc_io_child_done(v, child, child->error);
}
