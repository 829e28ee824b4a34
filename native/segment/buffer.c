/* SPDX-License-Identifier: Apache-2.0
 *
 * segment/buffer.c - data buffers of a port.
 */
#include <assert.h>
#include <errno.h>

#include "segment/parts.h"

static const uint32_t cache_max[XSEG_CLASSES] = { 64, 32, 8 };

static void release(struct port *port, uint32_t class, uint32_t index)
{
    store_release(&port->seg->owners[class][index], 0u);
    store_relaxed(&port->shared->buffers_held[class], --port->buffers_held[class]);
}

void buffer_release_orphan(struct port *port, struct xreq *req)
{
    uint32_t class = (req->buffer - 1) >> BUFFER_CLASS_SHIFT;
    uint32_t index = (req->buffer - 1) & ((1u << BUFFER_CLASS_SHIFT) - 1);

    if (req->buffer == XSEG_NONE || !swap_if(&port->seg->owners[class][index], port->number + 1, 0u))
        return;                     /* none, or another orphan's as well and free since that returned */
    store_relaxed(&port->shared->buffers_held[class], --port->buffers_held[class]);
    req->buffer = XSEG_NONE;
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
    uint32_t total = port->seg->buffer_count[class];
    uint32_t *owners = port->seg->owners[class];

    if (port->buffers_held[class] >= port->buffers_max[class])
        return false;
    for (uint32_t n = 0, i = port->hint[class]; n < total; n++, i = i + 1 < total ? i + 1 : 0)
        if (load_relaxed(&owners[i]) == 0 && swap_if(&owners[i], 0u, port->number + 1)) {
            port->hint[class] = i + 1 < total ? i + 1 : 0;
            store_relaxed(&port->shared->buffers_held[class], ++port->buffers_held[class]);
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
        req->data = (uint64_t)(port->seg->buffers[class] - port->seg->base) + index * xbuffer_size(class);
        req->data_size = (uint32_t)xbuffer_size(class);
        return 0;
    }
    counter_add(&port->shared->no_buffer, 1);
    return -ENOBUFS;
}

void xbuf_put(struct port *port, struct xreq *req)
{
    uint32_t class = (req->buffer - 1) >> BUFFER_CLASS_SHIFT;
    uint32_t index = (req->buffer - 1) & ((1u << BUFFER_CLASS_SHIFT) - 1);

    req->buffer = XSEG_NONE;
    req->data = 0;
    req->data_size = 0;
    assert(class < XSEG_CLASSES && index < port->seg->buffer_count[class]);
    if (port->cached_count[class] < cache_max[class])
        port->cached[class][port->cached_count[class]++] = index;
    else
        release(port, class, index);
}
