/* SPDX-License-Identifier: Apache-2.0
 *
 * vlmc/steps.c - a request advances through its range, a piece in one block at a time.
 */
#include "vlmc/parts.h"

static uint64_t step(struct vlmc *v, struct xreq *req)
{
    const struct vlmc_volume *volume = volume_of(v, req);
    uint64_t at = req->offset + io_of(req)->cursor, left = req->size - io_of(req)->cursor;
    struct vlmc_piece piece = { .req = req, .block = at >> volume->block_shift,
                                .offset = at & (block_size(volume) - 1) };

    piece.frame = vlmc_frame_get(v, req, piece.block);
    if (!piece.frame)
        return VLMC_STEP_WAIT;
    piece.length = block_size(volume) - piece.offset;
    if (piece.length > left)
        piece.length = left;
    switch (req->op) {
    case XOP_READ:
        return vlmc_read_step(v, &piece);
    case XOP_BLOCK_STATUS:
        return vlmc_status_step(v, &piece);
    case XOP_OWN:
        return vlmc_own_step(v, &piece);
    case XOP_CACHE:
        return piece.length;        /* its leaf pages are loaded now */
    default:
        return vlmc_write_step(v, &piece);
    }
}

void vlmc_io_run(struct vlmc *v, struct xreq *req)
{
    struct vlmc_io *io = io_of(req);

    io->outstanding++;
    while (io->cursor < req->size && io->error == 0) {
        uint64_t done = step(v, req);
        if (done == VLMC_STEP_WAIT) {
            io->outstanding--;
            return;                 /* it is on a queue, and cannot end before it runs again */
        }
        io->cursor += done;
    }
    io->cursor = req->size;
    if (--io->outstanding == 0)
        vlmc_io_finish(v, req);
}
