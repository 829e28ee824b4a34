/* SPDX-License-Identifier: Apache-2.0
 *
 * segment/request.c - request slots and data buffers of a port.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "segment/parts.h"

#define ERRNO_MAX 4095

static const uint32_t cache_max[XSEG_CLASSES] = { 64, 32, 8 };

/* --- what travels -------------------------------------------------------------- */

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
    port_bad(port, req->index + 1, "its data lie outside the buffers");
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

/* Word by word, as they have just been written: wider loads would wait until those stores are done. */
#define MOVE(slot, req, field) store_relaxed(&(slot)->field, (req)->field)

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

    MOVE(slot, req, index);
    store_relaxed(&slot->incarnation, port->incarnation);
    store_relaxed(&slot->src, (uint16_t)port->number);
    MOVE(slot, req, dst);
    store_relaxed(&slot->orphan, (uint16_t)0);
    MOVE(slot, req, flow);
    MOVE(slot, req, sent_ns);
    MOVE(slot, req, parent);
    store_relaxed(&slot->asked, req->arg);
    MOVE(slot, req, op);
    MOVE(slot, req, flags);
    store_relaxed(&slot->error, 0);
    MOVE(slot, req, volume);
    MOVE(slot, req, buffer);
    MOVE(slot, req, offset);
    MOVE(slot, req, size);
    MOVE(slot, req, data);
    MOVE(slot, req, data_size);
    MOVE(slot, req, generation);
    store_relaxed(&slot->done, 0ull);
    MOVE(slot, req, arg);
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

/* --- requests --------------------------------------------------------------- */

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

void port_deliver(struct port *port, uint32_t index, uint32_t to, uint32_t state)
{
    struct xport *shared = &port->seg->ports[to];
    struct xslot *slot = &port->seg->slots[index];
    uint32_t bell = load_relaxed(&shared->bell);

    store_release(&port->shared->sending, index + 1u);
    store_release(&slot->state, state);
    store_release(&slot->owner, (uint16_t)to);
    inbox_push(shared, slot, index);
    store_release(&port->shared->sending, 0u);
    if (bell < XSEG_BELLS && bell != port->bell->number)
        port->ring |= 1ull << bell;
}

/* An edge leads to no port, or back to this one: the request comes back at once, as one that failed. */
static void bounce(struct port *port, struct xreq *req)
{
    port_bad(port, req->index + 1, "its route leads nowhere");
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
    if (dst >= XSEG_PORTS || dst == port->number) {
        bounce(port, req);
        return;
    }
    slot_write(port, req);
    counter_add(&port->shared->sent, 1);
    port_deliver(port, req->index, dst, XREQ_QUEUED);
}

void xreq_reply(struct port *port, struct xreq *req, int error)
{
    struct xport *shared = port->shared;
    struct xslot *slot = &port->seg->slots[req->index];

    assert(req->place == XREQ_SERVED && req->src < XSEG_PORTS && error <= 0);
    req->place = XREQ_NOT_HERE;
    store_relaxed(&slot->error, error);
    MOVE(slot, req, flags);
    MOVE(slot, req, offset);
    MOVE(slot, req, done);
    MOVE(slot, req, arg);
    counter_add(&shared->served, 1);
    if (error)
        counter_add(&shared->errors, 1);
    else if (req->op == XOP_READ)
        counter_add(&shared->bytes_read, req->size);
    else if (req->op == XOP_WRITE)
        counter_add(&shared->bytes_written, req->size);
    port_deliver(port, req->index, req->src, XREQ_REPLIED);
}

bool xreq_data_ok(const struct xseg *seg, const struct xreq *req, uint64_t length)
{
    (void)seg;
    return req->data != 0 && length <= req->data_size;
}

/* --- buffers ------------------------------------------------------------------ */

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
