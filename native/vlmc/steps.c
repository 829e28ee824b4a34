/* SPDX-License-Identifier: Apache-2.0
 *
 * vlmc/steps.c - a request advances through its range, a piece in one block at a time.
 */
#include "vlmc/parts.h"

static uint64_t step(struct vlmc *v, struct xreq *req)
{
    const struct volume *volume = volume_of(v, req);
    uint64_t at = req->offset + io_of(req)->cursor, left = req->size - io_of(req)->cursor;
    struct piece piece = { .req = req, .block = at >> volume->block_shift, .offset = at & (block_size(volume) - 1) };

    piece.frame = cache_get(v, req, piece.block);
    if (!piece.frame)
        return STEP_WAIT;
    piece.length = block_size(volume) - piece.offset;
    if (piece.length > left)
        piece.length = left;
    switch (req->op) {
    case XOP_READ:
        return read_step(v, &piece);
    case XOP_BLOCK_STATUS:
        return status_step(v, &piece);
    case XOP_CACHE:
        return piece.length;        /* its leaf pages are loaded now */
    default:
        return write_step(v, &piece);
    }
}

void io_run(struct vlmc *v, struct xreq *req)
{
    struct io *io = io_of(req);

    io->outstanding++;
    while (io->cursor < req->size && io->error == 0) {
        uint64_t done = step(v, req);
        if (done == STEP_WAIT) {
            io->outstanding--;
            return;                 /* it is on a queue, and cannot end before it runs again */
        }
        io->cursor += done;
    }
    io->cursor = req->size;
    if (--io->outstanding == 0)
        io_finish(v, req);
}
