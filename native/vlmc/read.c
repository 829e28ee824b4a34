/* SPDX-License-Identifier: Apache-2.0
 *
 * vlmc/read.c - READ and BLOCK_STATUS: each piece lies in one layer.
 */
#include <string.h>

#include "vlmc/parts.h"

#define STATUS_MAX (1ull << 30)     /* bytes looked at for one BLOCK_STATUS, about */
#define EXTENT_MAX (1u << 31)       /* bytes: what fits a u32 and stays aligned */

/* How many of `length` bytes from `in` on lie in the same layer as the first. */
static uint64_t run_in_layer(const struct volume *volume, struct xstack *stack, uint64_t in, uint64_t length,
                             uint32_t *layer)
{
    uint64_t end = (in / XMAP_CHUNK + 1) * XMAP_CHUNK;

    *layer = layer_of(volume, stack, in / XMAP_CHUNK);
    while (end < in + length && layer_of(volume, stack, end / XMAP_CHUNK) == *layer)
        end += XMAP_CHUNK;
    return end < in + length ? end - in : length;
}

uint64_t read_step(struct vlmc *v, struct xreq *req, struct xframe *frame, uint64_t block,
                   uint64_t in, uint64_t length)
{
    const struct xentry entry = entry_read(frame, block);
    struct xobj object = { .kind = XOBJ_DATA, .epoch = entry.epoch, .volume = entry.volume, .index = block };
    struct xreq *child;

    if (entry.volume == 0) {
        memset((uint8_t *)xreq_data(v->seg, req) + io_of(req)->cursor, 0, length);
        return length;
    }
    if (entry.stack) {
        struct xstack *stack = stack_of(v, frame, &entry);
        uint32_t layer;

        if (!stack)
            return io_damaged(v, req);
        length = run_in_layer(volume_of(v, req), stack, in, length, &layer);
        object = stack->layer[layer];
    }
    child = object_child(v, req, CHILD_READ, block, &object, in, length);
    if (!child)
        return STEP_WAIT;
    send_child(v, child);
    return length;
}

/* Adds to the last extent or starts one. False: no room. */
static bool add_extent(struct vlmc *v, struct xreq *req, uint64_t length, uint32_t flags)
{
    struct xextent *extents = xreq_data(v->seg, req);
    struct io *io = io_of(req);
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

uint64_t status_step(struct vlmc *v, struct xreq *req, struct xframe *frame, uint64_t block,
                     uint64_t in, uint64_t length)
{
    bool zero = entry_read(frame, block).volume == 0;

    (void)in;
    if (!add_extent(v, req, length, zero ? XEXTENT_HOLE | XEXTENT_ZERO : 0)
        || io_of(req)->cursor + length >= STATUS_MAX)
        return req->size - io_of(req)->cursor;      /* a prefix is an answer */
    return length;
}
