/* SPDX-License-Identifier: Apache-2.0
 *
 * vlmc/own.c - making a block the volume's own: new layers, filling up chunks; and OWN, which fills up all of them.
 */
#include <errno.h>
#include <string.h>

#include "vlmc/parts.h"

/* --- a new layer ------------------------------------------------------------------- */

/* `old`: the stack it has until now, of `layers` layers, fewer than XMAP_LAYERS, or NULL. */
static void put_layer_on(struct vlmc *v, const struct vlmc_piece *piece, uint32_t number, struct xstack *old,
                         uint32_t layers)
{
    uint32_t slot = piece->req->volume - 1;
    const struct vlmc_volume *volume = &v->volumes[slot];
    const struct xentry entry = entry_read(piece->frame, piece->block);
    struct xstack *stack = vlmc_stack_at(v, stack_class(volume), number);

    if (old)
        vlmc_stack_on(v, slot, stack, old, layers);
    else
        vlmc_stack_on_one(v, slot, stack, piece->frame, &entry);
    vlmc_entry_dirty(v, slot, piece->frame, piece->block);
    vlmc_entry_publish(entry_of(piece->frame, piece->block), volume->id, stack->layer[0].epoch, number);
    vlmc_record_give(v, piece->frame, &entry);
    vlmc_ahead_want(v, slot, piece->block, stack);
    counter_add(&v->seg->volumes[slot].first_writes, 1);
}

bool vlmc_own_block(struct vlmc *v, const struct vlmc_piece *piece)
{
    struct xframe *frame = piece->frame;
    const struct xentry entry = entry_read(frame, piece->block);
    struct xstack *old = vlmc_stack_of(v, frame, &entry);
    uint32_t layers = old ? layers_of(old) : 0, number;

    if (vlmc_busy_wait(v, piece))        /* another request merges its stack */
        return false;
    vlmc_frame_pin(v, frame);            /* taking a stack may evict clean frames */
    number = vlmc_stack_take(v, frame);
    vlmc_frame_unpin(v, frame);
    if (!number) {
        peer_park(v->peer, piece->req);
        return false;
    }
    if (layers >= v->layers_max)
        return vlmc_merge_start(v, piece, number, old, layers);
    put_layer_on(v, piece, number, old, layers);
    return true;
}

/* --- filling up chunks ----------------------------------------------------------------- */

/* Begins to fill up `count` chunks, which lie in one layer: one, over which the bytes of the piece are laid, or those of
 * an OWN, which has none. */
static uint64_t fill_chunks(struct vlmc *v, const struct vlmc_piece *piece, uint64_t chunk, uint64_t count)
{
    struct xreq *req = piece->req;
    const struct xentry entry = entry_read(piece->frame, piece->block);
    struct xstack *stack = vlmc_stack_of(v, piece->frame, &entry);
    struct xobj object;
    struct xreq *child;

    if (!stack)
        return vlmc_io_damaged(v, req);
    if (!vlmc_busy_take(v, piece))
        return VLMC_STEP_WAIT;
    object = map_stack_object(stack, vlmc_layer_of(volume_of(v, req), stack, chunk), piece->block);
    child = vlmc_child(v, piece, VLMC_CHILD_FILL_READ, &object);
    if (child && xbuf_get(v->peer->port, child, (uint32_t)(count * XMAP_CHUNK))) {
        xreq_put(v->peer->port, child);
        peer_park(v->peer, req);
        child = NULL;
    }
    if (!child) {
        vlmc_busy_release(v, req->volume - 1, piece->block);
        return VLMC_STEP_WAIT;
    }
    child->op = XOP_READ;
    child->flags = 0;
    child->offset = chunk * XMAP_CHUNK;
    child->size = count * XMAP_CHUNK;
    note_of(child)->cursor = (uint32_t)io_of(req)->cursor;
    note_of(child)->fill.offset = req->op == XOP_OWN ? 0 : (uint32_t)(piece->offset % XMAP_CHUNK);
    note_of(child)->fill.length = (uint32_t)(req->op == XOP_OWN ? child->size : piece->length);
    vlmc_send(v, child);
    return piece->length;
}

uint64_t vlmc_fill_chunk(struct vlmc *v, const struct vlmc_piece *piece)
{
    return fill_chunks(v, piece, piece->offset / XMAP_CHUNK, 1);
}

static bool is_zeros(const uint8_t *chunk)
{
    return chunk[0] == 0 && memcmp(chunk, chunk + 1, XMAP_CHUNK - 1) == 0;
}

/* The next bytes of what an OWN has read go out: as many chunks as are all zeros, which take no space, or are not. */
static void fill_own(struct vlmc *v, struct xreq *child)
{
    const uint8_t *at = (const uint8_t *)xreq_data(v->seg, child);
    bool zeros = is_zeros(at);

    child->op = zeros ? XOP_WRITE_ZEROES : XOP_WRITE;
    child->size = XMAP_CHUNK;
    while (child->size < note_of(child)->fill.length && is_zeros(at + child->size) == zeros)
        child->size += XMAP_CHUNK;
}

/* Lays the request's bytes over the chunk that was read. */
static void fill_over(struct vlmc *v, struct xreq *child)
{
    const struct xreq *req = xreq_parent(v->peer->port, child);
    const struct vlmc_note *note = note_of(child);
    uint8_t *at = (uint8_t *)xreq_data(v->seg, child) + note->fill.offset;

    if (req->op == XOP_WRITE)
        memcpy(at, (uint8_t *)xreq_data(v->seg, req) + note->cursor, note->fill.length);
    else
        memset(at, 0, note->fill.length);
    child->op = XOP_WRITE;
}

static void fill_write(struct vlmc *v, struct xreq *child)
{
    struct xreq *req = xreq_parent(v->peer->port, child);
    struct vlmc_note *note = note_of(child);
    struct xframe *frame = vlmc_frame_pinned(v, req->volume - 1, note->block);
    const struct xentry entry = entry_read(frame, note->block);

    if (req->op == XOP_OWN)
        fill_own(v, child);
    else
        fill_over(v, child);
    child->object = own_object(volume_of(v, req), entry.epoch, note->block);
    note->kind = VLMC_CHILD_FILL_WRITE;
    peer_send(v->peer, child, VLMC_BLOCKER);
}

/* True: an OWN has written some of what it had read, and goes on behind that. */
static bool fill_more(struct vlmc *v, struct xreq *child)
{
    struct vlmc_note *note = note_of(child);

    if (xreq_parent(v->peer->port, child)->op != XOP_OWN || child->size == note->fill.length)
        return false;
    note->fill.length -= (uint32_t)child->size;
    child->data += child->size;
    child->data_size -= (uint32_t)child->size;
    child->offset += child->size;
    fill_write(v, child);
    return true;
}

void vlmc_fill_done(struct vlmc *v, struct xreq *child)
{
    struct xreq *req = xreq_parent(v->peer->port, child);
    uint32_t slot = req->volume - 1;
    uint64_t block = note_of(child)->block;
    int error = child->error;

    if (note_of(child)->kind == VLMC_CHILD_FILL_READ) {
        if (error == 0) {
            fill_write(v, child);
            return;
        }
        error = vlmc_object_error(v, child);
    }
    if (error == 0) {
        data_written(xvolume_of(v, req));
        error = vlmc_set_chunks(v, slot, block, child->offset / XMAP_CHUNK, child->size / XMAP_CHUNK);
    }
    if (error == 0 && fill_more(v, child))
        return;
    vlmc_busy_release(v, slot, block);
    vlmc_io_child_done(v, child, error);
}

/* --- OWN ------------------------------------------------------------------------------- */

/* The chunk behind the last one of a piece: where the volume ends, the block's last is meant. */
static uint64_t end_chunk(const struct vlmc *v, const struct vlmc_piece *piece)
{
    const struct xreq *req = piece->req;
    uint64_t end = piece->offset + piece->length;

    if (req->offset + io_of(piece->req)->cursor + piece->length == xvolume_of(v, req)->size)
        end = block_size(volume_of(v, req));
    return (end + XMAP_CHUNK - 1) / XMAP_CHUNK;
}

/* Fills up the first run of a piece's chunks that lie in one layer below our own object. */
static uint64_t own_run(struct vlmc *v, struct vlmc_piece *piece)
{
    const struct vlmc_volume *volume = volume_of(v, piece->req);
    const struct xentry entry = entry_read(piece->frame, piece->block);
    struct xstack *stack = vlmc_stack_of(v, piece->frame, &entry);
    uint64_t first = piece->offset / XMAP_CHUNK, end = end_chunk(v, piece), last;
    uint32_t layer;

    if (!stack)
        return vlmc_io_damaged(v, piece->req);
    while (first < end && (layer = vlmc_layer_of(volume, stack, first)) == 0)
        first++;
    if (first == end)
        return piece->length;
    for (last = first + 1; last < end && last - first < VLMC_MERGE_CHUNKS; last++)
        if (vlmc_layer_of(volume, stack, last) != layer)
            break;
    if (last < end)
        piece->length = last * XMAP_CHUNK - piece->offset;
    return fill_chunks(v, piece, first, last - first);
}

uint64_t vlmc_own_step(struct vlmc *v, struct vlmc_piece *piece)
{
    struct xreq *req = piece->req;
    const struct xentry entry = entry_read(piece->frame, piece->block);
    bool own = is_own(v, req->volume - 1, &entry);

    if (entry.volume == 0 || (own && !entry.stack))
        return piece->length;
    if (!vlmc_entry_ok(v, piece->frame, &entry))
        return vlmc_io_damaged(v, req);
    if (vlmc_frame_too_dirty(v, req->volume - 1, piece->frame)) {
        vlmc_commit_want(v, req->volume - 1);
        peer_park(v->peer, req);
        return VLMC_STEP_WAIT;
    }
    if (!own && !vlmc_own_block(v, piece))
        return VLMC_STEP_WAIT;
    return own_run(v, piece);
}
