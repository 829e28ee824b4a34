/* SPDX-License-Identifier: Apache-2.0
 *
 * segment/parts.h - what the files behind segment/xseg.h share.
 *
 * Calls go down this list, and never up:
 *
 *     route.c         edges of the pipeline
 *     port.c          declaring, binding, taking in, waiting
 *     recover.c       what a dead owner left       lost.c    what fell out of a list
 *     request.c       taken, sent, answered, given back
 *     inbox.c         lists of slots               buffer.c  data buffers
 *     slot.c          what travels
 *     bell.c          doorbells
 *     segment.c       the whole of it: made, joined, left
 *     process.c       who lives                    ours.c    whose is it
 */
#ifndef ARCHIPELAGO_SEGMENT_PARTS_H
#define ARCHIPELAGO_SEGMENT_PARTS_H

#include "segment/xseg.h"

#define BUFFER_CLASS_SHIFT 28

/* How a buffer is named in xreq.buffer. */
static inline uint32_t buffer_name(uint32_t class, uint32_t index)
{
    return (class << BUFFER_CLASS_SHIFT | index) + 1;
}
static inline uint32_t buffer_class(const struct xreq *req) { return (req->buffer - 1) >> BUFFER_CLASS_SHIFT; }

/* Bits of a request that travel: from `op` to the object's end, at the same place in both structures. */
#define ASKED_AT offsetof(struct xslot, op)
#define ASKED_SIZE (offsetof(struct xslot, object) + sizeof(struct xobj) - ASKED_AT)
_Static_assert(offsetof(struct xreq, op) == ASKED_AT && offsetof(struct xreq, arg) == offsetof(struct xslot, arg)
               && offsetof(struct xreq, object) == offsetof(struct xslot, object),
               "what is asked lies alike in a slot and in a port's copy");

/* True if the slot is one of the port's own. */
static inline bool is_own_slot(const struct port *port, uint32_t index)
{
    return index - port->first < port->count;
}

/* True if a port was ever bound: the slots of one that was not are not even touched. */
static inline bool port_touched(const struct xseg *seg, uint32_t number)
{
    return load_acquire(&seg->ports[number].incarnation) || load_acquire(&seg->ports[number].bound_ns);
}

/* --- slot.c ------------------------------------------------------------------- */

/* Word by word, as they have just been written: wider loads would wait until those stores are done. */
#define SLOT_MOVE(slot, req, field) store_relaxed(&(slot)->field, (req)->field)

/* A link that may be followed; NULL: it may not. */
static inline struct xslot *slot_at(const struct xseg *seg, uint64_t link)
{
    return link && link <= seg->slot_count ? &seg->slots[link - 1] : NULL;
}

/* Counts a slot or link that makes no sense, and tells the log now and then. */
void slot_bad(struct port *port, uint32_t link, const char *why);
/* Copies what a slot asks for into the port's own request. Data that lie outside the buffers are none. */
void slot_read(struct port *port, struct xreq *req);
/* Copies the answer out of a slot of one's own that came back. */
void slot_answer(struct port *port, struct xreq *req);
/* Writes a request of one's own into its slot. */
void slot_write(struct port *port, const struct xreq *req);

/* --- inbox.c ------------------------------------------------------------------ */

/* True if a slot is on the list that begins at `top`. */
bool inbox_has(const struct xseg *seg, uint32_t top, uint32_t link);
/* True if a request that was to be put into an inbox is there, or was taken out of it. */
bool inbox_got(const struct xseg *seg, uint32_t index, uint32_t owner, uint32_t state);
/* Puts a slot that this port holds into an inbox, as QUEUED or REPLIED. `sending` names it
 * meanwhile, and its owner changes after its state, so that a successor finds out how far a
 * dead sender came. */
void inbox_deliver(struct port *port, uint32_t index, uint32_t to, uint32_t state);
/* Takes the whole inbox. The oldest (slot number + 1; 0: it was empty), the rest linked behind it. */
uint32_t inbox_drain(struct port *port);

/* --- buffer.c ----------------------------------------------------------------- */

/* Gives back the buffer that an earlier incarnation's request brought home. */
void buffer_release_orphan(struct port *port, struct xreq *req);
void buffers_release_cached(struct port *port);

/* --- recover.c, lost.c -------------------------------------------------------- */

/* Takes what an earlier incarnation left, as segment/xseg.h says. */
void port_adopt(struct port *port);
/* True when everything an earlier incarnation left is in order. */
bool port_recover(struct port *port);

/* A request that is away for so long is looked after, once in as long. */
#define PORT_LOOK_NS 1000000000ull
/* Looks after some of them: their own port knows best where they should be. */
void port_look_after(struct port *port, uint64_t now);

#endif
