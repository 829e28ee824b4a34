/* SPDX-License-Identifier: Apache-2.0
 *
 * vlmc/merge.c - merging stacks that are at their bound.
 *
 * A stack of XMAP_LAYERS layers takes no more. Before the volume puts its own on top, what
 * the partial layers hold is copied into the new object, VLMC_MERGE_CHUNKS at a time, and the new
 * stack is that object over the old bottom. This costs at most one block's partial data, once
 * in XMAP_LAYERS - 1 snapshots, and keeps every read within the bound.
 */
#include <errno.h>

#include "vlmc/parts.h"

/* A merge's child carries: sender[1] block, sender[2] next chunk to look at, client the
 * number of the new stack. While it reads, offset and size say which chunks. */

static bool merge_next(struct vlmc *v, struct xreq *child, struct xstack *old)
{
    const struct vlmc_volume *volume = volume_of(v, xreq_parent(v->peer->port, child));
    uint64_t chunks = block_size(volume) / XMAP_CHUNK;
    uint64_t first = child->sender[2], end;
    uint32_t layer, last = layers_of(old) - 1;

    while (first < chunks && vlmc_layer_of(volume, old, first) == last)
        first++;
    if (first == chunks)
        return false;
    layer = vlmc_layer_of(volume, old, first);
    for (end = first + 1; end < chunks && end - first < VLMC_MERGE_CHUNKS; end++)
        if (vlmc_layer_of(volume, old, end) != layer)
            break;
    child->op = XOP_READ;
    child->object = old->layer[layer];
    child->offset = first * XMAP_CHUNK;
    child->size = (end - first) * XMAP_CHUNK;
    child->sender[0] = VLMC_CHILD_MERGE_READ;
    child->sender[2] = end;
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
    counter_add(&vol->merges, 1);
    counter_add(&vol->first_writes, 1);
}

static void merge_end(struct vlmc *v, struct xreq *child, int error)
{
    struct xreq *req = xreq_parent(v->peer->port, child);
    uint32_t slot = req->volume - 1, number = child->client;
    uint64_t block = child->sender[1];

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
    uint64_t block = child->sender[1];
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
    struct xstack *stack = vlmc_stack_at(v, stack_class(volume), child->client);

    if (child->error) {
        merge_end(v, child, vlmc_object_error(child));
    } else if (child->sender[0] == VLMC_CHILD_MERGE_READ) {
        child->op = XOP_WRITE;
        child->object = stack->layer[0];
        child->sender[0] = VLMC_CHILD_MERGE_WRITE;
        peer_send(v->peer, child, VLMC_BLOCKER);
    } else {
        data_written(xvolume_of(v, req));
        for (uint64_t c = child->offset / XMAP_CHUNK; c < child->sender[2]; c++)
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
    child->sender[1] = piece->block;
    child->client = number;
    return child;
}

bool vlmc_merge_start(struct vlmc *v, const struct vlmc_piece *piece, uint32_t number, struct xstack *old)
{
    struct xreq *child = merge_child(v, piece, number);
    uint32_t slot = piece->req->volume - 1;

    if (!child || !vlmc_busy_take(v, piece)) {
        vlmc_stack_give(v, piece->frame, number);
        if (child)
            xreq_put(v->peer->port, child);
        else
            peer_park(v->peer, piece->req);
        return false;
    }
    vlmc_frame_dirty(v, slot, piece->frame);
    vlmc_stack_on(v, slot, piece->block, vlmc_stack_at(v, stack_class(&v->volumes[slot]), number),
                  &old->layer[XMAP_LAYERS - 1], 1, NULL);
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
