/* SPDX-License-Identifier: Apache-2.0
 *
 * vlmc/append.c - records to the journal, past the mapper: see "Appending" in map/map.h.
 */
#include <assert.h>

#include "vlmc/parts.h"

/* True if what was handed out is still good, and takes this record. */
static bool takes(const struct vlmc *v, uint32_t slot, const struct xreq *child)
{
    const struct xvolume *vol = &v->seg->volumes[slot];
    struct record_info info;

    return vol->append_lives == xseg_lives(v->seg)
        && vol->append_port == route_port(v->seg, v->peer->route[VLMC_JOURNAL])
        && vol->journal_offset <= vol->append_end && child->size <= vol->append_end - vol->journal_offset
        && record_check(xreq_data(v->seg, child), child->size, &info) == 0
        && info.volume == v->volumes[slot].id && info.seq == vol->commit_seq + 1 && !(info.flags & RECORD_MARK);
}

bool vlmc_append(struct vlmc *v, uint32_t slot, struct xreq *child)
{
    struct xvolume *vol = &v->seg->volumes[slot];

    vlmc_append_settle(v);
    if (!swap_if(&vol->append, (uint32_t)XAPPEND_HANDED, (uint32_t)XAPPEND_WRITING))
        return false;
    if (!takes(v, slot, child)) {
        store_release(&vol->append, (uint32_t)XAPPEND_MAPPER);
        return false;
    }
    child->op = XOP_WRITE;
    child->flags = XREQ_FUA;
    child->volume = 0;
    child->object = (struct xobj){ .kind = XOBJ_JOURNAL, .epoch = vol->append_epoch, .volume = v->volumes[slot].id,
                                   .index = vol->append_number };
    child->offset = vol->journal_offset;
    note_of(child)->kind = VLMC_CHILD_APPEND;
    peer_send(v->peer, child, VLMC_JOURNAL);
    return true;
}

void vlmc_append_done(struct vlmc *v, const struct xreq *child)
{
    struct xvolume *vol = &v->seg->volumes[note_of((struct xreq *)child)->slot];

    if (child->error) {
        store_release(&vol->append, (uint32_t)XAPPEND_DOUBT);
        return;
    }
    store_release(&vol->journal_offset, child->offset + child->size);
    store_release(&vol->commit_seq, vol->commit_seq + 1);
    store_release(&vol->append, (uint32_t)XAPPEND_HANDED);
    counter_add(&vol->appends, 1);
}

void vlmc_append_settle(struct vlmc *v)
{
    assert(!v->peer->port->recovering);
    if (v->settled)
        return;
    for (uint32_t slot = 0; slot < v->volume_end; slot++)
        swap_if(&v->seg->volumes[slot].append, (uint32_t)XAPPEND_WRITING, (uint32_t)XAPPEND_DOUBT);
    v->settled = true;
}
