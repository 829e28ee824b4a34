/* SPDX-License-Identifier: Apache-2.0
 *
 * segment/request.c - requests of a port: taken, sent, answered, given back.
 */
#include <assert.h>
#include <errno.h>

#include "segment/parts.h"

struct xreq *xreq_get(struct port *port)
{
    struct xreq *req;
    uint32_t index;

    if (port->free_count == 0) {
        counter_add(&port->shared->no_request, 1);
        return NULL;
    }
    index = port->free[--port->free_count];
    req = &port->reqs[index];
    assert(req->place == XREQ_NOT_HERE);
    zero_words(req, offsetof(struct xreq, holder) / sizeof(uint64_t));
    req->index = index;
    req->place = XREQ_MINE;
    req->incarnation = port->incarnation;
    req->src = (uint16_t)port->number;
    req->flow = index + 1;
    store_relaxed(&port->seg->slots[index].owner, (uint16_t)port->number);
    store_release(&port->seg->slots[index].state, XREQ_HELD);
    return req;
}

struct xreq *xreq_child(struct port *port, struct xreq *parent)
{
    struct xreq *req = xreq_get(port);

    if (req) {
        req->parent = parent->index + 1;
        req->flow = parent->flow;
    }
    return req;
}

void xreq_put(struct port *port, struct xreq *req)
{
    assert(req->src == port->number && req->place == XREQ_MINE);
    if (req->orphan)
        buffer_release_orphan(port, req);
    else if (req->buffer)
        xbuf_put(port, req);
    req->place = XREQ_NOT_HERE;
    store_release(&port->seg->slots[req->index].state, XREQ_FREE);
    assert(port->free_count < port->count);
    port->free[port->free_count++] = req->index;
}

/* An edge leads to no port, or back to this one: the request comes back at once, as one that failed. */
static void bounce(struct port *port, struct xreq *req)
{
    slot_bad(port, req->index + 1, "its route leads nowhere");
    req->error = -EHOSTUNREACH;
    req->link = port->bounced;
    port->bounced = req->index + 1;
}

void xreq_send(struct port *port, struct xreq *req, uint32_t dst)
{
    assert(req->src == port->number && req->place == XREQ_MINE);
    req->dst = (uint16_t)dst;
    req->sent_ns = port->looped ? port->now_ns : clock_ns();
    req->error = 0;
    req->done = 0;
    req->place = XREQ_AWAY;
    if (dst >= port->seg->port_count || dst == port->number) {
        bounce(port, req);
        return;
    }
    slot_write(port, req);
    counter_add(&port->shared->sent, 1);
    inbox_deliver(port, req->index, dst, XREQ_QUEUED);
}

void xreq_reply(struct port *port, struct xreq *req, int error)
{
    struct xport *shared = port->shared;
    struct xslot *slot = &port->seg->slots[req->index];

    assert(req->place == XREQ_SERVED && req->src < port->seg->port_count && error <= 0);
    req->place = XREQ_NOT_HERE;
    store_relaxed(&slot->error, error);
    SLOT_MOVE(slot, req, flags);
    SLOT_MOVE(slot, req, offset);
    SLOT_MOVE(slot, req, done);
    SLOT_MOVE(slot, req, arg);
    counter_add(&shared->served, 1);
    if (error)
        counter_add(&shared->errors, 1);
    else if (req->op == XOP_READ)
        counter_add(&shared->bytes_read, req->size);
    else if (req->op == XOP_WRITE)
        counter_add(&shared->bytes_written, req->size);
    inbox_deliver(port, req->index, req->src, XREQ_REPLIED);
}

bool xreq_data_ok(const struct xseg *seg, const struct xreq *req, uint64_t length)
{
    (void)seg;
    return req->data != 0 && length <= req->data_size;
}
