/* SPDX-License-Identifier: Apache-2.0
 *
 * export.c - see export.h.
 */
#include "export.h"
#include "loop/peer.h"
#include "segment/barrier.h"
#include "segment/parts.h"

#define EXPORT_BATCH 1024

uint32_t export_receive(struct port *port, uint32_t *slots, uint32_t room)
{
    uint32_t count = 0;

    while (count < room) {
        struct xreq *req = port_receive(port);
        if (!req)
            break;
        slots[count++] = (req->index + 1) | (xreq_is_reply(port, req) ? EXPORT_REPLY : 0);
    }
    return count;
}

uint32_t export_get(struct port *port, uint32_t *slots, uint32_t count)
{
    uint32_t got = 0;

    while (got < count) {
        struct xreq *req = xreq_get(port);
        if (!req)
            break;
        slots[got++] = req->index + 1;
    }
    return got;
}

void export_send(struct port *port, const uint32_t *slots, uint32_t count, uint32_t dst)
{
    for (uint32_t i = 0; i < count; i++)
        xreq_send(port, &port->reqs[slots[i] - 1], dst);
    port_ring(port);
}

void export_put(struct port *port, const uint32_t *slots, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        xreq_put(port, &port->reqs[slots[i] - 1]);
}

uint32_t export_recovered(struct port *port) { return !port->recovering || port_recover(port); }

uint32_t export_route(const struct xseg *seg, uint32_t route)
{
    return route < XSEG_ROUTES ? route_port(seg, route) : XPORT_ANY;
}

const char *export_peer_type(uint32_t i)
{
    uint32_t count = 0;

    while (native_peers[count])
        count++;
    return i < count ? native_peers[i]->type : NULL;
}

const char *export_peer_option(uint32_t type, uint32_t i)
{
    const struct peer_option *option = native_peers[type]->options;

    for (; option && option->name && i; i--)
        option++;
    return option ? option->name : NULL;
}

void export_in_flight(const struct xseg *seg, uint32_t *held)
{
    uint32_t slots[EXPORT_BATCH], at = 0, n;

    for (uint32_t i = 0; i < seg->port_count; i++)
        held[i] = 0;
    while ((n = export_busy(seg, at, slots, EXPORT_BATCH)) > 0) {
        for (uint32_t i = 0; i < n; i++) {
            const struct xslot *slot = &seg->slots[slots[i] - 1];
            bool waits = load_relaxed(&slot->state) == XREQ_QUEUED;
            uint32_t owner = load_relaxed(&slot->owner);

            if (owner < seg->port_count && (waits || owner != xseg_port_of(seg, slots[i] - 1)))
                held[owner]++;
        }
        at = slots[n - 1];
    }
}

uint32_t export_busy(const struct xseg *seg, uint32_t from, uint32_t *slots, uint32_t room)
{
    uint32_t count = 0;

    for (uint32_t p = 0; p < seg->port_count; p++) {
        uint32_t first = xseg_first_slot(seg, p), end = first + xseg_slots_of(seg, p);

        if (!port_touched(seg, p))      /* looking would make it grow */
            continue;
        for (uint32_t i = from > first ? from : first; i < end && count < room; i++)
            if (load_relaxed(&seg->slots[i].state) != XREQ_FREE)
                slots[count++] = i + 1;
    }
    return count;
}

uint32_t export_buffers_used(const struct xseg *seg, uint32_t class)
{
    uint32_t used = 0;

    if (class >= XSEG_CLASSES)
        return 0;
    for (uint32_t i = 0; i < seg->buffer_count[class]; i++)
        used += load_relaxed(&seg->owners[class][i]) != 0;
    return used;
}

uint32_t export_frames_used(const struct xseg *seg)
{
    uint32_t used = 0, volumes = 0;

    for (uint32_t i = 0; i < seg->volume_count; i++)
        volumes += seg->volumes[i].generation != 0;
    if (volumes == 0)               /* never touched: looking would make the segment grow */
        return 0;
    for (uint32_t i = 0; i < seg->frame_count; i++)
        used += seg->frames[i].volume_id != 0;
    return used;
}

uint32_t export_first_slot(const struct xseg *seg, uint32_t port) { return xseg_first_slot(seg, port); }
uint32_t export_slots_of(const struct xseg *seg, uint32_t port) { return xseg_slots_of(seg, port); }

void export_ready(struct port *port, uint32_t ready)
{
    store_release(&port->shared->ready, ready);
}

static bool has_changes(const struct xframe *frame)
{
    for (uint32_t word = 0; word < XMAP_LEAF / 32; word++)
        if (load_relaxed(&frame->dirty[word]) || load_relaxed(&frame->committing[word]))
            return true;
    return false;
}

uint32_t export_unsaved(const struct xseg *seg, uint32_t slot)
{
    const struct xvolume *vol = &seg->volumes[slot % seg->volume_count];

    if (load_acquire(&vol->state) == XVOL_FREE || vol->readonly)
        return 0;
    if (load_relaxed(&vol->dirty))
        return 1;
    for (uint32_t i = 0; i < seg->header->frames; i++)
        if (seg->frames[i].volume_id == vol->id && has_changes(&seg->frames[i]))
            return 1;
    return 0;
}

void export_closing(struct xseg *seg, uint32_t closing)
{
    store_release(&seg->header->closing, closing);
    for (uint32_t i = 0; i < seg->bell_count; i++)
        bell_ring(seg, i);
}

void export_append(struct xvolume *volume, uint32_t turn) { store_release(&volume->append, turn); }

uint32_t export_append_take_back(struct xvolume *volume)
{
    swap_if(&volume->append, (uint32_t)XAPPEND_HANDED, (uint32_t)XAPPEND_MAPPER);
    return load_acquire(&volume->append);
}

uint64_t export_append_seen(const struct xvolume *volume, uint64_t *offset)
{
    uint64_t seq = load_acquire(&volume->commit_seq);

    *offset = load_acquire(&volume->journal_offset);
    return seq;
}

void export_volume_state(struct xvolume *volume, uint32_t state)
{
    store_release(&volume->state, state);
}
