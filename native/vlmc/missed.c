/* SPDX-License-Identifier: Apache-2.0
 *
 * vlmc/missed.c - objects that the map names and that are not there.
 *
 * Another node may have given the blocks of a snapshot other names for the same bytes, and what they were before may be
 * gone. So the leaf is loaded once more, and the request begins again; only a second miss is damage.
 */
#include <errno.h>

#include "vlmc/parts.h"

int vlmc_object_error(struct vlmc *v, struct xreq *child)
{
    struct xreq *req = xreq_parent(v->peer->port, child);
    const struct xentry names = { .volume = child->object.kind == XOBJ_DATA ? child->object.volume : XENTRY_CONTENT,
                                  .epoch = child->object.epoch };

    if (child->error != -ENOENT)
        return child->error;
    if (!is_own(v, req->volume - 1, &names) && io_of(req)->missed == VLMC_MISSED_NONE)
        io_of(req)->missed = VLMC_MISSED_NOW;
    if (io_of(req)->missed == VLMC_MISSED_NOW)
        vlmc_frame_stale(v, req->volume - 1, note_of(child)->block);
    return -EIO;
}
