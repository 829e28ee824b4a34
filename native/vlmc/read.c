/* SPDX-License-Identifier: Apache-2.0
 *
 * vlmc/read.c - READ and BLOCK_STATUS: each piece lies in one layer.
 */
#include <string.h>

#include "vlmc/parts.h"

#define STATUS_MAX (1ull << 30)     /* bytes looked at for one BLOCK_STATUS, about */
#define EXTENT_MAX (1u << 31)       /* bytes: what fits a u32 and stays aligned */

/* Cuts the piece to what lies in the same layer as its first byte, which is returned. */
static uint32_t cut_to_layer(const struct vlmc_volume *volume, struct xstack *stack, struct vlmc_piece *piece)
{
    uint64_t end = (piece->offset / XMAP_CHUNK + 1) * XMAP_CHUNK, all = piece->offset + piece->length;
    uint32_t layer = vlmc_layer_of(volume, stack, piece->offset / XMAP_CHUNK);

    while (end < all && vlmc_layer_of(volume, stack, end / XMAP_CHUNK) == layer)
        end += XMAP_CHUNK;
    piece->length = (end < all ? end : all) - piece->offset;
    return layer;
}

uint64_t vlmc_read_step(struct vlmc *v, struct vlmc_piece *piece)
{
    struct xreq *req = piece->req;
    const struct xentry entry = entry_read(piece->frame, piece->block);
    struct xobj object = { .kind = XOBJ_DATA, .epoch = entry.epoch, .volume = entry.volume, .index = piece->block };
    struct xreq *child;

    if (entry.volume == 0) {
        memset((uint8_t *)xreq_data(v->seg, req) + io_of(req)->cursor, 0, piece->length);
        return piece->length;
    }
    if (!vlmc_entry_ok(v, piece->frame, &entry))
        return vlmc_io_damaged(v, req);
    if (is_content(&entry)) {
        object = (struct xobj){ .kind = XOBJ_CONTENT };
        vlmc_content_of(v, piece->frame, &entry, object.digest);
    } else if (entry.stack) {
        struct xstack *stack = vlmc_stack_of(v, piece->frame, &entry);

        object = map_stack_object(stack, cut_to_layer(volume_of(v, req), stack, piece), piece->block);
    }
    child = vlmc_child(v, piece, VLMC_CHILD_READ, &object);
    if (!child)
        return VLMC_STEP_WAIT;
    vlmc_send(v, child);
    return piece->length;
}

/* Adds to the last extent, unless that is another block's that is asked about, or starts one. False: no room. */
static bool add_extent(struct vlmc *v, struct xreq *req, uint64_t length, uint32_t flags, bool alone)
{
    struct xextent *extents = xreq_data(v->seg, req);
    struct vlmc_io *io = io_of(req);
    struct xextent *last = io->extents && !alone && !io->extent_alone ? &extents[io->extents - 1] : NULL;

    if (last && last->flags == flags && last->length + length <= EXTENT_MAX) {
        last->length += (uint32_t)length;
        return true;
    }
    if ((io->extents + 1) * sizeof(*extents) > req->data_size)
        return false;
    extents[io->extents++] = (struct xextent){ (uint32_t)length, flags };
    io->extent_alone = alone;
    req->done = io->extents;
    return true;
}

/* Asks the blocker whether an object of our own is zeros: its block may have been zeroed as a whole. The answer changes
 * the extent that was begun for it. */
static uint64_t ask_status(struct vlmc *v, const struct vlmc_piece *piece, const struct xentry *entry)
{
    const struct xobj object = own_object(volume_of(v, piece->req), entry->epoch, piece->block);
    struct xreq *child = vlmc_child(v, piece, VLMC_CHILD_STATUS, &object);

    if (!child)
        return VLMC_STEP_WAIT;
    if (!add_extent(v, piece->req, piece->length, 0, true)) {
        xreq_put(v->peer->port, child);
        return piece->req->size - io_of(piece->req)->cursor;
    }
    child->op = XOP_INFO;
    child->flags = XREQ_ZEROS;
    child->data = child->offset = child->size = 0;
    child->data_size = 0;
    note_of(child)->extent = io_of(piece->req)->extents - 1;
    vlmc_send(v, child);
    return piece->length;
}

void vlmc_status_done(struct vlmc *v, struct xreq *child)
{
    struct xreq *req = xreq_parent(v->peer->port, child);
    struct xextent *extents = xreq_data(v->seg, req);

    if (child->error == 0 && (child->flags & XREQ_ZEROS))
        extents[note_of(child)->extent].flags = XEXTENT_HOLE | XEXTENT_ZERO;
    vlmc_io_child_done(v, child, 0);    /* who asks in vain is told that there are data */
}

uint64_t vlmc_status_step(struct vlmc *v, struct vlmc_piece *piece)
{
    struct xreq *req = piece->req;
    const struct xentry entry = entry_read(piece->frame, piece->block);
    bool last = io_of(req)->cursor + piece->length >= STATUS_MAX;       /* a prefix is an answer */
    uint64_t left = req->size - io_of(req)->cursor, done = piece->length;

    if (entry.volume && !entry.stack && is_own(v, req->volume - 1, &entry))
        done = ask_status(v, piece, &entry);
    else if (!add_extent(v, req, piece->length, entry.volume ? 0 : XEXTENT_HOLE | XEXTENT_ZERO, false))
        return left;
    return done != VLMC_STEP_WAIT && last ? left : done;
}
