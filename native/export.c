/* SPDX-License-Identifier: Apache-2.0
 *
 * export.c - see export.h.
 */
#include "barrier.h"
#include "export.h"
#include "peer.h"

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
        xreq_send(port, &port->seg->reqs[slots[i] - 1], dst);
    port_ring(port);
}

void export_put(struct port *port, const uint32_t *slots, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        xreq_put(port, &port->seg->reqs[slots[i] - 1]);
}

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

void export_in_flight(const struct xseg *seg, uint32_t *held)
{
    for (uint32_t i = 0; i < XSEG_PORTS; i++)
        held[i] = 0;
    for (uint32_t i = 0; i < seg->header->slots; i++) {
        const struct xreq *req = &seg->reqs[i];
        uint32_t state = load_relaxed(&req->state);

        if (req->owner < XSEG_PORTS
            && (state == XREQ_QUEUED || (state == XREQ_HELD && req->owner != req->src)))
            held[req->owner]++;
    }
}

uint32_t export_busy(const struct xseg *seg, uint32_t from, uint32_t *slots, uint32_t room)
{
    uint32_t count = 0;

    for (uint32_t i = from; i < seg->header->slots && count < room; i++)
        if (load_relaxed(&seg->reqs[i].state) != XREQ_FREE)
            slots[count++] = i + 1;
    return count;
}

uint32_t export_buffers_used(const struct xseg *seg, uint32_t class)
{
    uint32_t used = 0;

    if (class >= XSEG_CLASSES)
        return 0;
    for (uint32_t i = 0; i < seg->header->buffers[class]; i++)
        used += load_relaxed(&seg->owners[class][i]) != 0;
    return used;
}

uint32_t export_frames_used(const struct xseg *seg)
{
    uint32_t used = 0;

    for (uint32_t i = 0; i < seg->header->frames; i++)
        used += seg->frames[i].volume_id != 0;
    return used;
}

void export_ready(struct port *port, uint32_t ready)
{
    store_release(&port->shared->ready, ready);
}
