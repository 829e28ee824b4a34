/* SPDX-License-Identifier: Apache-2.0
 *
 * segment/parts.h - what segment/port.c and segment/request.c share.
 */
#ifndef ARCHIPELAGO_PORT_PRIVATE_H
#define ARCHIPELAGO_PORT_PRIVATE_H

#include "segment/barrier.h"
#include "segment/xseg.h"

#define BUFFER_CLASS_SHIFT 28

/* How a buffer is named in xreq.buffer. */
static inline uint32_t buffer_name(uint32_t class, uint32_t index)
{
    return (class << BUFFER_CLASS_SHIFT | index) + 1;
}

/* Bits of a request that travel: from `op` to the object's end, at the same place in both structures. */
#define ASKED_AT offsetof(struct xslot, op)
#define ASKED_SIZE (offsetof(struct xslot, object) + sizeof(struct xobj) - ASKED_AT)
_Static_assert(offsetof(struct xreq, op) == ASKED_AT && offsetof(struct xreq, arg) == offsetof(struct xslot, arg)
               && offsetof(struct xreq, object) == offsetof(struct xslot, object),
               "what is asked lies alike in a slot and in a port's copy");

/* Publishes a slot at the top of an inbox. Any thread of any process. */
static inline void inbox_push(struct xport *to, struct xslot *slot, uint32_t index)
{
    uint32_t top;

    do {
        top = load_relaxed(&to->head);
        store_relaxed(&slot->next, top);
    } while (!swap_if(&to->head, top, index + 1));
}

/* True if the slot is one of the port's own. */
static inline bool is_own_slot(const struct port *port, uint32_t index)
{
    return index - port->first < port->count;
}

/* Puts a slot that this port holds into an inbox, as QUEUED or REPLIED. `sending` names it
 * meanwhile, and its owner changes after its state, so that a successor finds out how far a
 * dead sender came. */
void port_deliver(struct port *port, uint32_t index, uint32_t to, uint32_t state);
/* Copies what a slot asks for into the port's own request. Data that lie outside the buffers are none. */
void slot_read(struct port *port, struct xreq *req);
/* Copies the answer out of a slot of one's own that came back. */
void slot_answer(struct port *port, struct xreq *req);
/* Counts a slot or link that makes no sense, and tells the log now and then. */
void port_bad(struct port *port, uint32_t link, const char *why);
bool port_recover(struct port *port);
/* Writes a request of one's own into its slot. */
void slot_write(struct port *port, const struct xreq *req);
/* Gives back the buffer that an earlier incarnation's request brought home. */
void buffer_release_orphan(struct port *port, struct xreq *req);
void buffers_release_cached(struct port *port);
/* True if a port was ever bound: the slots of one that was not are not even touched. */
static inline bool port_touched(const struct xseg *seg, uint32_t number)
{
    return load_acquire(&seg->ports[number].incarnation) || load_acquire(&seg->ports[number].bound_ns);
}

#endif
