/* SPDX-License-Identifier: Apache-2.0
 *
 * port_private.h - what port.c and request.c share.
 */
#ifndef ARCHIPELAGO_PORT_PRIVATE_H
#define ARCHIPELAGO_PORT_PRIVATE_H

#include "barrier.h"
#include "xseg.h"

#define BUFFER_CLASS_SHIFT 28

/* How a buffer is named in xreq.buffer. */
static inline uint32_t buffer_name(uint32_t class, uint32_t index)
{
    return (class << BUFFER_CLASS_SHIFT | index) + 1;
}

/* Publishes a slot at the top of an inbox. Any thread of any process. */
static inline void inbox_push(struct xport *to, struct xreq *req)
{
    uint32_t top;

    do {
        top = load_relaxed(&to->head);
        store_relaxed(&req->next, top);
    } while (!swap_if(&to->head, top, req->index + 1));
}

/* Puts a request that this port holds into an inbox, as QUEUED or REPLIED. `sending` names it
 * meanwhile, and its owner changes after its state, so that a successor finds out how far a
 * dead sender came. */
void port_deliver(struct port *port, struct xreq *req, uint32_t to, uint32_t state);
bool port_recover(struct port *port);
void buffers_release_cached(struct port *port);

#endif
