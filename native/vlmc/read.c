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

/* Adds to the last extent or starts one. False: no room. */
static bool add_extent(struct vlmc *v, struct xreq *req, uint64_t length, uint32_t flags)
{
    struct xextent *extents = xreq_data(v->seg, req);
    struct vlmc_io *io = io_of(req);
    struct xextent *last = io->extents ? &extents[io->extents - 1] : NULL;

    if (last && last->flags == flags && last->length + length <= EXTENT_MAX) {
        last->length += (uint32_t)length;
        return true;
    }
    if ((io->extents + 1) * sizeof(*extents) > req->data_size)
        return false;
    extents[io->extents++] = (struct xextent){ (uint32_t)length, flags };
    req->done = io->extents;
    return true;
}

uint64_t vlmc_status_step(struct vlmc *v, struct vlmc_piece *piece)
{
    struct xreq *req = piece->req;
    bool zero = entry_read(piece->frame, piece->block).volume == 0;

    if (!add_extent(v, req, piece->length, zero ? XEXTENT_HOLE | XEXTENT_ZERO : 0)
        || io_of(req)->cursor + piece->length >= STATUS_MAX)
        return req->size - io_of(req)->cursor;      /* a prefix is an answer */
    return piece->length;
}
