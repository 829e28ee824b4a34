/* SPDX-License-Identifier: Apache-2.0
 *
 * segment/slot.c - what travels: between a port's copy of a request and its slot in the segment.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>

#include "segment/log.h"
#include "segment/parts.h"

#define ERRNO_MAX 4095
#define TOLD_AGAIN_NS 60000000000ull    /* between two lines in the log about bad slots */

void slot_bad(struct port *port, uint32_t link, const char *why)
{
    uint64_t now = clock_ns();
    char role[XSEG_ROLE_MAX];

    counter_add(&port->shared->bad, 1);
    if (port->told_ns && now - port->told_ns < TOLD_AGAIN_NS)
        return;
    port->told_ns = now;
    snprintf(role, sizeof(role), "%.*s", XSEG_ROLE_MAX - 1, port->shared->role);
    log_line(role, "WARNING", "slot %u of the segment makes no sense: %s (%llu such until now)", link - 1, why,
             (unsigned long long)load_relaxed(&port->shared->bad));
}

/* True if its data lie among the buffers: what is said to lie elsewhere would be the segment's own words. */
static bool data_in_buffers(const struct xseg *seg, const struct xreq *req)
{
    return req->data == 0 || (req->data >= seg->data_start && req->data <= seg->size
                              && req->data_size <= seg->size - req->data);
}

void slot_read(struct port *port, struct xreq *req)
{
    const struct xslot *slot = &port->seg->slots[req->index];

    read_once((uint8_t *)req + ASKED_AT, (const uint8_t *)slot + ASKED_AT, ASKED_SIZE);
    req->incarnation = load_relaxed(&slot->incarnation);
    req->dst = (uint16_t)port->number;
    req->flow = load_relaxed(&slot->flow);
    req->parent = load_relaxed(&slot->parent);
    req->buffer = XSEG_NONE;            /* its src's */
    if (data_in_buffers(port->seg, req))
        return;
    req->data = 0;                      /* to be refused by those operations that need some */
    slot_bad(port, req->index + 1, "its data lie outside the buffers");
}

void slot_answer(struct port *port, struct xreq *req)
{
    const struct xslot *slot = &port->seg->slots[req->index];
    int32_t error = load_relaxed(&slot->error);

    req->error = error <= 0 && error >= -ERRNO_MAX ? error : -EIO;
    req->flags = load_relaxed(&slot->flags);
    req->offset = load_relaxed(&slot->offset);
    req->done = load_relaxed(&slot->done);
    req->arg = load_relaxed(&slot->arg);
}

static void move_object(struct xobj *to, const struct xobj *from)
{
    typedef uint64_t word __attribute__((may_alias));
    word *words = (word *)to;
    const word *source = (const word *)from;

    static_assert(sizeof(*to) == 5 * sizeof(*words), "an object's name is five words");
    for (int i = 0; i < 5; i++)
        store_relaxed(&words[i], source[i]);
}

void slot_write(struct port *port, const struct xreq *req)
{
    struct xslot *slot = &port->seg->slots[req->index];

    SLOT_MOVE(slot, req, index);
    store_relaxed(&slot->incarnation, port->incarnation);
    store_relaxed(&slot->src, (uint16_t)port->number);
    SLOT_MOVE(slot, req, dst);
    store_relaxed(&slot->orphan, (uint16_t)0);
    SLOT_MOVE(slot, req, flow);
    SLOT_MOVE(slot, req, sent_ns);
    SLOT_MOVE(slot, req, parent);
    store_relaxed(&slot->asked, req->arg);
    SLOT_MOVE(slot, req, op);
    SLOT_MOVE(slot, req, flags);
    store_relaxed(&slot->error, 0);
    SLOT_MOVE(slot, req, volume);
    SLOT_MOVE(slot, req, buffer);
    SLOT_MOVE(slot, req, offset);
    SLOT_MOVE(slot, req, size);
    SLOT_MOVE(slot, req, data);
    SLOT_MOVE(slot, req, data_size);
    SLOT_MOVE(slot, req, generation);
    store_relaxed(&slot->done, 0ull);
    SLOT_MOVE(slot, req, arg);
    move_object(&slot->object, &req->object);
}

void xreq_note(struct port *port, const struct xreq *req)
{
    struct xslot *slot = &port->seg->slots[req->index];

    assert(req->place == XREQ_SERVED);
    store_release(&slot->volume, req->volume);
    store_release(&slot->arg, req->arg);
}

void xreq_again(struct port *port, struct xreq *req)
{
    assert(req->place == XREQ_SERVED);
    slot_read(port, req);
}
