/* SPDX-License-Identifier: Apache-2.0
 *
 * vlmc/merge.c - merging stacks that are at their bound.
 *
 * A stack of layers_max layers takes no more. Before the volume puts its own on top, some layers are merged
 * (vlmc_chunks_choose()): the chunks that lie in them are copied into the new object, VLMC_MERGE_CHUNKS at a time. A
 * layer in which no chunk lies any more is left out for nothing; vlmc/ahead.c sees to it that there are such.
 */
#include <assert.h>
#include <errno.h>

#include "vlmc/parts.h"

/* Says which chunks are copied next. False: none. */
static bool merge_next(struct vlmc *v, struct xreq *child, struct xstack *old)
{
    const struct vlmc_volume *volume = volume_of(v, xreq_parent(v->peer->port, child));
    struct vlmc_note *note = note_of(child);
    struct vlmc_run run = { .end = note->merge.next };

    if (!vlmc_chunks_run(volume, old, note->merge.layers, &run))
        return false;
    child->op = XOP_READ;
    child->object = map_stack_object(old, run.layer, note->block);
    child->offset = run.first * XMAP_CHUNK;
    child->size = (run.end - run.first) * XMAP_CHUNK;
    note->kind = VLMC_CHILD_MERGE_READ;
    note->merge.next = (uint32_t)run.end;
    return true;
}

/* Puts the new stack in the old one's place; without the record when it covers all the block. */
static void put_merged(struct vlmc *v, uint32_t slot, uint64_t block, uint32_t number)
{
    struct xvolume *vol = &v->seg->volumes[slot];
    const struct vlmc_volume *volume = &v->volumes[slot];
    struct xframe *frame = vlmc_frame_pinned(v, slot, block);
    struct xstack *stack = vlmc_stack_at(v, stack_class(volume), number);
    bool full = vlmc_bits_all_set(stack_bits(volume, stack, 0), 0, block_size(volume) / XMAP_CHUNK);
    uint32_t old = entry_read(frame, block).stack;

    vlmc_entry_dirty(v, slot, frame, block);
    vlmc_entry_publish(entry_of(frame, block), volume->id, stack->layer[0].epoch, full ? 0 : number);
    vlmc_stack_give(v, frame, old);
    if (full)
        vlmc_stack_give(v, frame, number);
    else
        vlmc_ahead_want(v, slot, block, stack);
    counter_add(&vol->merges, 1);
    counter_add(&vol->first_writes, 1);
}

static void merge_end(struct vlmc *v, struct xreq *child, int error)
{
    struct xreq *req = xreq_parent(v->peer->port, child);
    uint32_t slot = req->volume - 1, number = note_of(child)->stack;
    uint64_t block = note_of(child)->block;

    if (error) {
        vlmc_stack_give(v, vlmc_frame_pinned(v, slot, block), number);
        vlmc_epoch_leave(v, slot);
    } else {
        put_merged(v, slot, block, number);
    }
    vlmc_io_child_done(v, child, error);
    vlmc_busy_release(v, slot, block);
}

static void merge_go_on(struct vlmc *v, struct xreq *child)
{
    struct xreq *req = xreq_parent(v->peer->port, child);
    uint64_t block = note_of(child)->block;
    struct xframe *frame = vlmc_frame_pinned(v, req->volume - 1, block);
    const struct xentry entry = entry_read(frame, block);
    struct xstack *old = vlmc_stack_of(v, frame, &entry);

    if (!old)
        merge_end(v, child, -EIO);
    else if (merge_next(v, child, old))
        peer_send(v->peer, child, VLMC_BLOCKER);
    else
        merge_end(v, child, 0);
}

void vlmc_merge_done(struct vlmc *v, struct xreq *child)
{
    struct xreq *req = xreq_parent(v->peer->port, child);
    const struct vlmc_volume *volume = volume_of(v, req);
    struct vlmc_note *note = note_of(child);
    struct xstack *stack = vlmc_stack_at(v, stack_class(volume), note->stack);

    if (child->error) {
        merge_end(v, child, vlmc_object_error(v, child));
    } else if (note->kind == VLMC_CHILD_MERGE_READ) {
        child->op = XOP_WRITE;
        child->object = map_stack_object(stack, 0, note->block);
        note->kind = VLMC_CHILD_MERGE_WRITE;
        peer_send(v->peer, child, VLMC_BLOCKER);
    } else {
        data_written(xvolume_of(v, req));
        for (uint64_t c = child->offset / XMAP_CHUNK; c < note->merge.next; c++)
            stack_bits(volume, stack, 0)[c / 8] |= (uint8_t)(1u << (c % 8));
        merge_go_on(v, child);
    }
}

static struct xreq *merge_child(struct vlmc *v, const struct vlmc_piece *piece, uint32_t number)
{
    struct xreq *child = xreq_child(v->peer->port, piece->req);

    if (!child)
        return NULL;
    if (xbuf_get(v->peer->port, child, VLMC_MERGE_CHUNKS * XMAP_CHUNK)) {
        xreq_put(v->peer->port, child);
        return NULL;
    }
    note_of(child)->block = piece->block;
    note_of(child)->stack = number;
    return child;
}

bool vlmc_merge_start(struct vlmc *v, const struct vlmc_piece *piece, uint32_t number, struct xstack *old,
                      uint32_t layers)
{
    struct xreq *child = merge_child(v, piece, number);
    uint32_t slot = piece->req->volume - 1, merged;

    if (!child || !vlmc_busy_take(v, piece)) {
        vlmc_stack_give(v, piece->frame, number);
        if (child)
            xreq_put(v->peer->port, child);
        else
            peer_park(v->peer, piece->req);
        return false;
    }
    vlmc_frame_dirty(v, slot, piece->frame);
    merged = vlmc_chunks_choose(&v->volumes[slot], old, 0, layers);
    note_of(child)->merge.layers = merged;
    vlmc_stack_without(v, slot, vlmc_stack_at(v, stack_class(&v->volumes[slot]), number), old, merged);
    if (!merge_next(v, child, old)) {
        xreq_put(v->peer->port, child);
        put_merged(v, slot, piece->block, number);
        vlmc_busy_release(v, slot, piece->block);
        return true;
    }
    vlmc_busy_wait(v, piece);
    io_of(piece->req)->outstanding++;
    peer_send(v->peer, child, VLMC_BLOCKER);
    return false;
}
