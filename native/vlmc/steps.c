/* SPDX-License-Identifier: Apache-2.0
 *
 * vlmc/steps.c - a request advances through its range, a piece in one block at a time.
 */
#include "vlmc/parts.h"

static uint64_t step(struct vlmc *v, struct xreq *req)
{
    const struct volume *volume = volume_of(v, req);
    uint64_t at = req->offset + io_of(req)->cursor, block = at >> volume->block_shift;
    uint64_t in = at & (block_size(volume) - 1), length = block_size(volume) - in;
    struct xframe *frame = cache_get(v, req, block);

    if (!frame)
        return STEP_WAIT;
    if (length > req->size - io_of(req)->cursor)
        length = req->size - io_of(req)->cursor;
    switch (req->op) {
    case XOP_READ:
        return read_step(v, req, frame, block, in, length);
    case XOP_BLOCK_STATUS:
        return status_step(v, req, frame, block, in, length);
    case XOP_CACHE:
        return length;              /* its leaf pages are loaded now */
    default:
        return write_step(v, req, frame, block, in, length);
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
