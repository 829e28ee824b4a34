/* SPDX-License-Identifier: Apache-2.0
 *
 * segment/lost.c - looks after requests that are away for long, as one may have fallen out of a list.
 */
#include "segment/parts.h"

#define LOOK_MAX 16                 /* requests looked after at a time */

/* True if some port is putting the slot into an inbox just now. */
static bool being_sent(const struct xseg *seg, uint32_t index)
{
    for (uint32_t i = 0; i < seg->port_count; i++)
        if (load_acquire(&seg->ports[i].sending) == index + 1u)
            return true;
    return false;
}

/* Where an own request that is away says it is: served (nothing to do), on its way there, on its way back, or
 * nowhere, which it cannot be: who moves a slot says so first in `sending`. */
enum whereabouts { IS_SERVED, IS_GOING, IS_COMING, IS_NOWHERE };

static enum whereabouts whereabouts(const struct port *port, const struct xreq *req)
{
    const struct xslot *slot = &port->seg->slots[req->index];
    uint32_t state = load_acquire(&slot->state), owner = load_acquire(&slot->owner);

    if (being_sent(port->seg, req->index) || load_acquire(&slot->state) != state
        || load_acquire(&slot->owner) != owner)
        return IS_SERVED;           /* it moves */
    if (owner == req->dst && (state == XREQ_HELD || state == XREQ_QUEUED))
        return state == XREQ_HELD ? IS_SERVED : IS_GOING;
    return owner == port->number && state == XREQ_REPLIED ? IS_COMING : IS_NOWHERE;
}

/* Sees to it that a request which is away is where it says. What an earlier incarnation sent is not known well
 * enough to be sent anew. */
static void look_after(struct port *port, struct xreq *req)
{
    enum whereabouts place = whereabouts(port, req);
    uint32_t to = place == IS_COMING ? port->number : req->dst;
    uint32_t state = place == IS_COMING ? XREQ_REPLIED : XREQ_QUEUED;

    if (place == IS_SERVED || to >= port->seg->port_count || (place == IS_NOWHERE && req->orphan))
        return;
    if (place != IS_NOWHERE && inbox_got(port->seg, req->index, to, state))
        return;
    slot_bad(port, req->index + 1, "it had fallen out of its list, and was put back");
    if (place == IS_NOWHERE)
        slot_write(port, req);
    inbox_deliver(port, req->index, to, state);
}

void port_look_after(struct port *port, uint64_t now)
{
    uint32_t away = port->count - port->free_count, looked = 0;

    port->looked_ns = now;
    for (uint32_t n = 0; n < port->count && away > 0 && looked < LOOK_MAX; n++) {
        struct xreq *req = &port->reqs[port->first + port->look];

        port->look = port->look + 1 < port->count ? port->look + 1 : 0;
        away -= req->place != XREQ_NOT_HERE;
        if (req->place != XREQ_AWAY || now - req->sent_ns < PORT_LOOK_NS || now < req->sent_ns)
            continue;
        look_after(port, req);
        looked++;
    }
    if (away == 0)
        port->look = 0;
}
