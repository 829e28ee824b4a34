/* SPDX-License-Identifier: Apache-2.0
 *
 * request.c - request slots and data buffers of a port.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "port_private.h"

static const uint32_t cache_max[XSEG_CLASSES] = { 64, 32, 8 };

/* --- requests --------------------------------------------------------------- */

struct xreq *xreq_get(struct port *port)
{
    struct xreq *req;
    uint32_t slot;

    if (port->free_count == 0) {
        count(&port->shared->no_request, 1);
        return NULL;
    }
    slot = port->free[--port->free_count];
    req = &port->seg->reqs[slot];
    assert(req->state == XREQ_FREE);
    req->index = slot;
    memset(&req->incarnation, 0, sizeof(*req) - offsetof(struct xreq, incarnation));
    req->incarnation = port->incarnation;
    req->src = req->owner = (uint16_t)port->number;
    req->flow = req->index + 1;
    store_release(&req->state, XREQ_HELD);
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
    assert(req->src == port->number && req->state == XREQ_HELD);
    if (req->buffer)
        xbuf_put(port, req);
    req->orphan = 0;
    store_release(&req->state, XREQ_FREE);
    assert(port->free_count < port->shared->count);
    port->free[port->free_count++] = req->index;
}

void port_deliver(struct port *port, struct xreq *req, uint32_t to, uint32_t state)
{
    struct xport *shared = &port->seg->ports[to];
    uint32_t bell = load_relaxed(&shared->bell);

    store_release(&port->shared->sending, req->index + 1u);
    store_release(&req->state, state);
    store_release(&req->owner, (uint16_t)to);
    inbox_push(shared, req);
    store_release(&port->shared->sending, 0u);
    if (bell < XSEG_BELLS && bell != port->bell->number)
        port->ring |= 1ull << bell;
}

void xreq_send(struct port *port, struct xreq *req, uint32_t dst)
{
    assert(req->src == port->number && req->state == XREQ_HELD && dst < XSEG_PORTS);
    req->dst = (uint16_t)dst;
    req->sent_ns = port->looped ? port->now_ns : clock_ns();
    req->asked = req->arg;
    req->error = 0;
    req->done = 0;
    count(&port->shared->sent, 1);
    port_deliver(port, req, dst, XREQ_QUEUED);
}

void xreq_reply(struct port *port, struct xreq *req, int error)
{
    struct xport *shared = port->shared;

    assert(req->owner == port->number && req->state == XREQ_HELD && req->src < XSEG_PORTS);
    assert(error <= 0);
    req->error = error;
    count(&shared->served, 1);
    if (error)
        count(&shared->errors, 1);
    else if (req->op == XOP_READ)
        count(&shared->bytes_read, req->size);
    else if (req->op == XOP_WRITE)
        count(&shared->bytes_written, req->size);
    port_deliver(port, req, req->src, XREQ_REPLIED);
}

bool xreq_data_ok(const struct xseg *seg, const struct xreq *req, uint64_t length)
{
    return req->data != 0 && length <= req->data_size
        && req->data <= seg->size && req->data_size <= seg->size - req->data;
}

/* --- buffers ------------------------------------------------------------------ */

static void release(struct port *port, uint32_t class, uint32_t index)
{
    store_release(&port->seg->owners[class][index], 0u);
    count(&port->shared->buffers_held[class], -1);
}

void buffers_release_cached(struct port *port)
{
    for (uint32_t class = 0; class < XSEG_CLASSES; class++)
        while (port->cached_count[class])
            release(port, class, port->cached[class][--port->cached_count[class]]);
}

/* Finds a free buffer of a class, beginning where the last search ended. */
static bool claim(struct port *port, uint32_t class, uint32_t *index)
{
    uint32_t total = port->seg->header->buffers[class];
    uint32_t *owners = port->seg->owners[class];

    if (port->shared->buffers_held[class] >= port->shared->buffers_max[class])
        return false;
    for (uint32_t n = 0, i = port->hint[class]; n < total; n++, i = i + 1 < total ? i + 1 : 0)
        if (load_relaxed(&owners[i]) == 0 && swap_if(&owners[i], 0u, port->number + 1)) {
            port->hint[class] = i + 1 < total ? i + 1 : 0;
            count(&port->shared->buffers_held[class], 1);
            *index = i;
            return true;
        }
    return false;
}

static bool take(struct port *port, uint32_t class, uint32_t *index)
{
    if (port->cached_count[class]) {
        *index = port->cached[class][--port->cached_count[class]];
        return true;
    }
    return claim(port, class, index);
}

int xbuf_get(struct port *port, struct xreq *req, uint64_t size)
{
    assert(req->buffer == XSEG_NONE && size <= XSEG_IO_MAX);
    for (uint32_t class = 0; class < XSEG_CLASSES; class++) {
        uint32_t index;

        if (size > xbuffer_size(class) || !take(port, class, &index))
            continue;
        req->buffer = buffer_name(class, index);
        req->data = port->seg->header->buffers_offset[class] + index * xbuffer_size(class);
        req->data_size = (uint32_t)xbuffer_size(class);
        return 0;
    }
    count(&port->shared->no_buffer, 1);
    return -ENOBUFS;
}

void xbuf_put(struct port *port, struct xreq *req)
{
    uint32_t class = (req->buffer - 1) >> BUFFER_CLASS_SHIFT;
    uint32_t index = (req->buffer - 1) & ((1u << BUFFER_CLASS_SHIFT) - 1);

    req->buffer = XSEG_NONE;
    req->data = 0;
    req->data_size = 0;
    assert(class < XSEG_CLASSES && index < port->seg->header->buffers[class]);
    assert(port->seg->owners[class][index] == port->number + 1);
    if (port->cached_count[class] < cache_max[class])
        port->cached[class][port->cached_count[class]++] = index;
    else
        release(port, class, index);
}
