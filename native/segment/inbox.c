/* SPDX-License-Identifier: Apache-2.0
 *
 * segment/inbox.c - a port's inbox: putting a slot into it, taking out all there is. See "Inboxes" in segment/xseg.h.
 */
#include <assert.h>

#include "segment/parts.h"

bool inbox_has(const struct xseg *seg, uint32_t top, uint32_t link)
{
    const struct xslot *slot;

    for (uint32_t n = 0; n < seg->slot_count && (slot = slot_at(seg, top)); n++) {
        if (top == link)
            return true;
        top = load_relaxed(&slot->next);
    }
    return false;
}

/* The list being drained is looked at after the inbox, and the state last, so that a drain that goes on
 * meanwhile is noticed. */
bool inbox_got(const struct xseg *seg, uint32_t index, uint32_t owner, uint32_t state)
{
    const struct xport *to = &seg->ports[owner];

    return inbox_has(seg, load_acquire(&to->head), index + 1)
        || inbox_has(seg, load_acquire(&to->draining), index + 1)
        || load_acquire(&seg->slots[index].state) != state;
}

/* Publishes a slot at the top of an inbox. Any thread of any process. */
static void push(struct xport *to, struct xslot *slot, uint32_t index)
{
    uint32_t top;

    do {
        top = load_relaxed(&to->head);
        store_relaxed(&slot->next, top);
    } while (!swap_if(&to->head, top, index + 1));
}

void inbox_deliver(struct port *port, uint32_t index, uint32_t to, uint32_t state)
{
    struct xport *shared = &port->seg->ports[to];
    struct xslot *slot = &port->seg->slots[index];
    uint32_t bell = load_relaxed(&shared->bell);

    store_release(&port->shared->sending, index + 1u);
    store_release(&slot->state, state);
    store_release(&slot->owner, (uint16_t)to);
    push(shared, slot, index);
    store_release(&port->shared->sending, 0u);
    if (bell < XSEG_BELLS && bell != port->bell->number) {
        port->ring[bell / 64] |= 1ull << bell % 64;
        port->ring_words |= 1ull << bell / 64;
    }
}

/* True if a slot met on the port's list is to be taken in. A request may say of its state what it likes: it is
 * on the list, meant for this port, and not in its hands. */
static bool is_welcome(const struct port *port, uint32_t index, const struct xslot *slot)
{
    if (!is_own_slot(port, index))
        return port->reqs[index].place == XREQ_NOT_HERE;
    return port->reqs[index].place == XREQ_AWAY && load_relaxed(&slot->state) == XREQ_REPLIED;
}

/* Marks all of a list held and puts it, oldest first, into the port's own chain. A death meanwhile leaves the
 * list as it was under `draining`: see finish_draining(). Whose request is behind a link that makes no sense
 * puts it back: see port_look_after(). */
static uint32_t take_list(struct port *port, uint32_t top)
{
    uint32_t last = 0, at = top, n;
    struct xslot *slot;

    for (n = 0; n < port->seg->slot_count && (slot = slot_at(port->seg, at))
                && load_relaxed(&slot->owner) == port->number; n++) {
        struct xreq *req = &port->reqs[at - 1];
        uint32_t here = at;

        at = load_relaxed(&slot->next);
        if (!is_welcome(port, here - 1, slot))
            continue;
        req->place = is_own_slot(port, here - 1) ? XREQ_MINE : XREQ_SERVED;
        store_relaxed(&slot->state, XREQ_HELD);
        req->index = here - 1;
        req->link = last;
        last = here;
    }
    if (at)
        slot_bad(port, at, "a list breaks off there");
    return last;
}

uint32_t inbox_drain(struct port *port)
{
    struct xport *shared = port->shared;
    uint32_t top, oldest;

    do {
        top = load_acquire(&shared->head);
        if (top == 0)
            return 0;
        store_relaxed(&shared->draining, top);
    } while (!swap_if(&shared->head, top, 0u));
    port->now_ns = clock_ns();
    oldest = take_list(port, top);
    store_release(&shared->draining, 0u);
    return oldest;
}

void port_requeue(struct port *port, struct xreq *req)
{
    assert(req->place == XREQ_SERVED);
    req->place = XREQ_NOT_HERE;
    inbox_deliver(port, req->index, port->number, XREQ_QUEUED);
}

bool port_pending(struct port *port)
{
    return port->chain != 0 || port->bounced != 0 || load_acquire(&port->shared->head) != 0;
}
