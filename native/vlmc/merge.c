/* SPDX-License-Identifier: Apache-2.0
 *
 * vlmc/merge.c - merging stacks that are at their bound.
 *
 * A stack of layers_max layers takes no more. Before the volume puts its own on top, some layers are merged: the
 * chunks that lie in them are copied into the new object, VLMC_MERGE_CHUNKS at a time. Each chunk lies in one layer, so
 * the order of layers does not matter, and those in which the fewest chunks lie are merged. As many go along as are
 * about equal: none has more than MERGE_EQUAL times the mean of those merged up to it. So what is copied comes to lie
 * in a layer several times as large, and is copied again only with others as large: with blocks of 4 MiB and one chunk
 * written between two snapshots each chunk is copied about twice, however many snapshots there are. A layer in which
 * no chunk lies any more is left out for nothing.
 */
#include <assert.h>
#include <errno.h>

#include "vlmc/parts.h"

#define MERGE_EQUAL 3

/* Numbers of layers by how many chunks lie in them, fewest first. */
static void sort_layers(const uint32_t *counts, uint32_t layers, uint32_t *order)
{
    for (uint32_t l = 0; l < layers; l++) {
        uint32_t at = l;

        for (; at > 0 && counts[order[at - 1]] > counts[l]; at--)
            order[at] = order[at - 1];
        order[at] = l;
    }
}

/* How many of the layers in this order are merged: see above. 2 at least. */
static uint32_t about_equal(const uint32_t *counts, uint32_t layers, const uint32_t *order)
{
    uint64_t sum = 0;
    uint32_t equal = 2;

    for (uint32_t i = 0; i < layers; i++) {
        sum += counts[order[i]];
        if (i >= 2 && (uint64_t)counts[order[i]] * (i + 1) <= MERGE_EQUAL * sum)
            equal = i + 1;
    }
    return equal;
}

/* A bit for each layer to be merged: those in which no chunk lies, or else about equal ones. */
static uint32_t choose_layers(const struct vlmc_volume *volume, struct xstack *old, uint32_t layers)
{
    uint32_t counts[XMAP_LAYERS], order[XMAP_LAYERS], merged = 0, equal;

    vlmc_stack_count(volume, old, counts);
    sort_layers(counts, layers, order);
    equal = counts[order[0]] == 0 ? 0 : about_equal(counts, layers, order);
    for (uint32_t i = 0; i < layers && (i < equal || counts[order[i]] == 0); i++)
        merged |= 1u << order[i];
    assert(merged);
    return merged;
}

/* Says which chunks are copied next. False: none. */
static bool merge_next(struct vlmc *v, struct xreq *child, struct xstack *old)
{
    const struct vlmc_volume *volume = volume_of(v, xreq_parent(v->peer->port, child));
    struct vlmc_note *note = note_of(child);
    uint64_t chunks = block_size(volume) / XMAP_CHUNK, first = note->merge.next, end;
    uint32_t layer;

    while (first < chunks && !(note->merge.layers >> vlmc_layer_of(volume, old, first) & 1))
        first++;
    if (first == chunks)
        return false;
    layer = vlmc_layer_of(volume, old, first);
    for (end = first + 1; end < chunks && end - first < VLMC_MERGE_CHUNKS; end++)
        if (vlmc_layer_of(volume, old, end) != layer)
            break;
    child->op = XOP_READ;
    child->object = map_stack_object(old, layer, note->block);
    child->offset = first * XMAP_CHUNK;
    child->size = (end - first) * XMAP_CHUNK;
    note->kind = VLMC_CHILD_MERGE_READ;
    note->merge.next = (uint32_t)end;
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
    merged = choose_layers(&v->volumes[slot], old, layers);
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
