/* SPDX-License-Identifier: Apache-2.0
 *
 * segment/recover.c - what a dead owner of a port left: half a move, requests it sent, requests it served, buffers.
 */
#include "segment/parts.h"
#include "segment/process.h"

#define ORPHAN_WAITED 1             /* nothing is given out until it is home */
#define ORPHAN_ASIDE 2              /* freed when it comes */

/* The dead owner was taking a list out of the inbox. Unless it is still there, marks all of it
 * held; what was marked already is passed over. */
static void finish_draining(struct port *port)
{
    const struct xseg *seg = port->seg;
    uint32_t at = load_acquire(&port->shared->draining);
    struct xslot *slot;

    if (at && inbox_has(seg, load_acquire(&port->shared->head), at))
        at = 0;
    for (uint32_t n = 0; n < seg->slot_count && (slot = slot_at(seg, at)); n++) {
        if (load_relaxed(&slot->owner) != port->number)
            break;
        store_relaxed(&slot->state, XREQ_HELD);
        at = load_relaxed(&slot->next);
    }
    store_release(&port->shared->draining, 0u);
}

/* The dead owner was putting a request into an inbox. One of its own that did not get there
 * has not been sent; an answer, or what it put back into its own inbox, is delivered now. */
static void finish_sending(struct port *port)
{
    struct xseg *seg = port->seg;
    uint64_t link = load_acquire(&port->shared->sending);
    struct xslot *slot = slot_at(seg, link);
    uint32_t index = (uint32_t)link - 1, state = slot ? load_acquire(&slot->state) : XREQ_FREE;
    bool own = is_own_slot(port, index);
    uint32_t owner = slot ? load_relaxed(&slot->owner) : XSEG_PORTS;

    store_release(&port->shared->sending, 0u);
    if (state != XREQ_QUEUED && (state != XREQ_REPLIED || own || load_relaxed(&slot->dst) != port->number))
        return;
    if (owner >= seg->port_count || inbox_got(seg, index, owner, state))
        return;
    if (own) {
        store_relaxed(&slot->owner, (uint16_t)port->number);
        store_release(&slot->state, XREQ_HELD);
    } else {
        inbox_deliver(port, index, state == XREQ_REPLIED ? xseg_port_of(seg, index) : port->number, state);
    }
}

static void push_free(struct port *port, uint32_t slot) { port->free[port->free_count++] = slot; }

/* The name of a buffer, if this port owns it. */
static uint32_t own_buffer(const struct port *port, uint32_t name)
{
    uint32_t class = (name - 1) >> BUFFER_CLASS_SHIFT;
    uint32_t index = (name - 1) & ((1u << BUFFER_CLASS_SHIFT) - 1);
    bool there = name && class < XSEG_CLASSES && index < port->seg->buffer_count[class];

    return there && load_relaxed(&port->seg->owners[class][index]) == port->number + 1 ? name : XSEG_NONE;
}

/* A request that an earlier incarnation sent and that has not come back. */
static void adopt_orphan(struct port *port, uint32_t index)
{
    struct xslot *slot = &port->seg->slots[index];
    struct xreq *req = &port->reqs[index];

    req->index = index;
    req->src = (uint16_t)port->number;
    req->dst = load_relaxed(&slot->dst);
    req->volume = load_relaxed(&slot->volume);
    req->place = XREQ_AWAY;
    req->buffer = own_buffer(port, load_relaxed(&slot->buffer));
    req->orphan = load_relaxed(&slot->flags) & XREQ_ASIDE ? ORPHAN_ASIDE : ORPHAN_WAITED;
    slot->orphan = (uint16_t)req->orphan;
    port->orphans += req->orphan == ORPHAN_WAITED;
    port->asides += req->orphan == ORPHAN_ASIDE;
}

/* Sorts the port's own slots into free ones and orphans. Highest first, so that the lowest
 * are taken first and stay in the cache. One that says it waits to be served by the port that sent it, which
 * cannot be, is free. One whose state is none is left alone: it may be in somebody's hands. */
static void adopt_slots(struct port *port, bool first)
{
    for (uint32_t i = port->first + port->count; i-- > port->first;) {
        struct xslot *slot = &port->seg->slots[i];
        uint32_t state = first ? XREQ_FREE : load_acquire(&slot->state);    /* fresh memory is not even touched */
        bool here = !first && load_relaxed(&slot->owner) == port->number;

        if (state == XREQ_FREE || ((state == XREQ_HELD || state == XREQ_QUEUED) && here)) {
            if (!first)
                store_release(&slot->state, XREQ_FREE);
            push_free(port, i);
        } else if (state <= XREQ_REPLIED) {
            adopt_orphan(port, i);
        } else {
            slot_bad(port, i + 1, "its state is none; it is lost to its port until the next start of the segment");
        }
    }
}

static bool orphan_has(const struct port *port, uint32_t buffer)
{
    for (uint32_t i = port->first; i < port->first + port->count; i++)
        if (port->reqs[i].place == XREQ_AWAY && port->reqs[i].buffer == buffer)
            return true;
    return false;
}

/* Frees the buffers of an earlier incarnation that no orphan still carries, and those of no port. */
static void adopt_buffers(struct port *port)
{
    for (uint32_t class = 0; class < XSEG_CLASSES; class++) {
        uint32_t *owners = port->seg->owners[class];

        port->buffers_held[class] = 0;
        port->buffers_max[class] = xseg_buffers_max(port->seg, port->number, class);
        for (uint32_t i = 0; i < port->seg->buffer_count[class]; i++) {
            uint32_t owner = load_relaxed(&owners[i]);
            if (owner <= port->seg->port_count && owner != port->number + 1)
                continue;
            if (owner == port->number + 1 && port->orphans + port->asides
                && orphan_has(port, buffer_name(class, i)))
                port->buffers_held[class]++;
            else
                swap_if(&owners[i], owner, 0u);
        }
        store_relaxed(&port->shared->buffers_held[class], port->buffers_held[class]);
    }
}

void port_adopt(struct port *port)
{
    bool first = !port_touched(port->seg, port->number);
    uint32_t incarnation = load_relaxed(&port->shared->incarnation) + 1;

    port->incarnation = first || incarnation > 1 ? incarnation : 2;
    store_release(&port->shared->incarnation, port->incarnation);
    finish_draining(port);
    finish_sending(port);
    adopt_slots(port, first);
    adopt_buffers(port);
    port->recovering = true;        /* until a first receive has seen that all is well */
}

/* --- until they are home ---------------------------------------------------------------------- */

/* Lets orphans come home. Requests for this port stay held, on no list; answers to this
 * incarnation's own requests are kept, to be given out at once. */
static void collect_orphans(struct port *port)
{
    uint32_t at = inbox_drain(port), *tail = &port->chain;

    while (*tail)
        tail = &port->reqs[*tail - 1].link;
    while (at) {
        struct xreq *req = &port->reqs[at - 1];
        uint32_t link = at;

        at = req->link;
        if (!is_own_slot(port, req->index)) {
            req->place = XREQ_NOT_HERE;
        } else if (req->orphan) {
            port->orphans -= req->orphan == ORPHAN_WAITED;
            counter_add(&port->shared->dropped, 1);
            xreq_put(port, req);
        } else {
            req->link = 0;
            *tail = link;
            tail = &req->link;
        }
    }
}

bool port_awaits(const struct port *port, uint32_t volume)
{
    bool found = false;

    for (uint32_t i = port->first; port->orphans && !found && i < port->first + port->count; i++)
        found = port->reqs[i].place == XREQ_AWAY && port->reqs[i].orphan == ORPHAN_WAITED
             && port->reqs[i].volume == volume;
    return found;
}

/* Links the requests of a sender's present life, or of its earlier ones, behind `tail`. The new tail. */
static uint32_t *take_held_of(struct port *port, uint32_t sender, bool present, uint32_t *tail)
{
    struct xseg *seg = port->seg;
    uint32_t life = process_alive(load_acquire(&seg->ports[sender].tag)) ? load_acquire(&seg->ports[sender].incarnation) : 0;
    uint32_t first = xseg_first_slot(seg, sender);

    for (uint32_t i = first; i < first + xseg_slots_of(seg, sender); i++) {
        struct xslot *slot = &seg->slots[i];
        struct xreq *req = &port->reqs[i];
        uint32_t op = load_relaxed(&slot->op);

        if (load_relaxed(&slot->state) != XREQ_HELD || load_relaxed(&slot->owner) != port->number
            || (load_relaxed(&slot->incarnation) == life) != present || req->place != XREQ_NOT_HERE)
            continue;
        if (op == XOP_LIST || op == XOP_NAMES)
            slot->arg = slot->asked;
        counter_add(&port->shared->recovered, 1);
        req->place = XREQ_SERVED;
        req->index = i;
        req->link = 0;
        *tail = i + 1;
        tail = &req->link;
    }
    return tail;
}

/* Requests this port holds and that came from others are given out next, before all that the inbox brings:
 * first those of senders that have died. */
static void take_held(struct port *port)
{
    uint32_t *tail = &port->chain, ports = port->seg->port_count;

    while (*tail)
        tail = &port->reqs[*tail - 1].link;
    for (uint32_t n = 0; n < 2 * ports && port->incarnation > 1; n++) {
        uint32_t i = n % ports;

        if (i != port->number && port_touched(port->seg, i))
            tail = take_held_of(port, i, n >= ports, tail);
    }
}

bool port_recover(struct port *port)
{
    if (port->orphans)
        collect_orphans(port);
    if (port->orphans)
        return false;
    take_held(port);
    port->recovering = false;
    return true;
}
