/* SPDX-License-Identifier: Apache-2.0
 *
 * vlmc/io.c - a request on a volume: its children, its end, and what wakes it.
 */
#include <assert.h>
#include <errno.h>

#include "vlmc/parts.h"

void vlmc_wake(struct vlmc *v, struct queue *queue)
{
    struct queue waiting = *queue;
    struct xreq *req;

    *queue = (struct queue){ 0 };
    while ((req = queue_pop(v->peer, &waiting)))
        queue_push(v->peer, &v->ready, req);
}

struct xreq *vlmc_child(struct vlmc *v, const struct vlmc_piece *piece, enum vlmc_child_kind kind,
                        const struct xobj *object)
{
    struct xreq *req = piece->req;
    struct xreq *child = xreq_child(v->peer->port, req);

    if (!child) {
        peer_park(v->peer, req);
        return NULL;
    }
    child->op = req->op;
    child->flags = req->flags & XREQ_NO_HOLE;
    child->object = *object;
    child->offset = piece->offset;
    child->size = piece->length;
    note_of(child)->kind = kind;
    note_of(child)->block = piece->block;
    if (req->data) {
        child->data = req->data + io_of(req)->cursor;
        child->data_size = (uint32_t)piece->length;
    }
    return child;
}

void vlmc_send(struct vlmc *v, struct xreq *child)
{
    io_of(xreq_parent(v->peer->port, child))->outstanding++;
    peer_send(v->peer, child, VLMC_BLOCKER);
}

static void count_done(struct xvolume *vol, const struct xreq *req)
{
    if (req->op == XOP_READ) {
        counter_add(&vol->reads, 1);
        counter_add(&vol->bytes_read, req->size);
    } else if (io_of((struct xreq *)req)->is_write && req->op != XOP_OWN) {
        counter_add(&vol->writes, 1);
        counter_add(&vol->bytes_written, req->size);
    }
}

/* The request has left the volume: whoever waits for quiet may go on. */
static void leave(struct vlmc *v, struct xreq *req)
{
    struct vlmc_volume *volume = volume_of(v, req);

    assert(volume->in_flight > 0);
    volume->in_flight--;
    vlmc_order_done(v, req);
    if (io_of(req)->is_write) {
        volume->writes--;
        store_relaxed(&xvolume_of(v, req)->writes_in_flight, volume->writes);
    }
}

/* True: the request runs once more, from its beginning, as an object was missing. */
static bool begins_again(struct vlmc *v, struct xreq *req)
{
    struct vlmc_io *io = io_of(req);

    if (io->missed != VLMC_MISSED_NOW)
        return false;
    io->missed = VLMC_MISSED_BEFORE;
    io->error = 0;
    io->cursor = 0;
    queue_push(v->peer, &v->ready, req);
    return true;
}

void vlmc_io_finish(struct vlmc *v, struct xreq *req)
{
    struct vlmc_volume *volume = volume_of(v, req);
    struct vlmc_io *io = io_of(req);

    if (begins_again(v, req))
        return;
    leave(v, req);
    if (io->error == 0) {
        count_done(xvolume_of(v, req), req);
        if (req->op != XOP_BLOCK_STATUS)
            req->done = req->size;
    }
    if (io->error == 0 && io->is_write && (req->flags & XREQ_FUA))
        queue_push(v->peer, &volume->flushes, req);
    else
        peer_reply(v->peer, req, io->error);
    if (volume->hold_writes_ns || volume->hold_all || !queue_empty(&volume->flushes))
        vlmc_look(v, req->volume - 1);
}

void vlmc_io_fail(struct vlmc *v, struct xreq *req, int error)
{
    struct vlmc_io *io = io_of(req);

    if (io->error == 0)
        io->error = error;
    queue_push(v->peer, &v->ready, req);
}

uint64_t vlmc_io_damaged(struct vlmc *v, struct xreq *req)
{
    counter_add(&v->peer->port->shared->bad, 1);
    io_of(req)->error = -EIO;
    return req->size - io_of(req)->cursor;
}

void vlmc_io_child_done(struct vlmc *v, struct xreq *child, int error)
{
    struct xreq *req = xreq_parent(v->peer->port, child);
    struct vlmc_io *io = io_of(req);

    if (error && io->error == 0)
        io->error = error;
    xreq_put(v->peer->port, child);
    assert(io->outstanding > 0);
    if (--io->outstanding == 0 && io->cursor == req->size)
        vlmc_io_finish(v, req);
}

void vlmc_answer_all(struct vlmc *v, struct queue *queue, int error)
{
    struct xreq *req;

    while ((req = queue_pop(v->peer, queue))) {
        if (error == 0 && req->op != XOP_FLUSH)
            req->done = req->size;
        vlmc_order_done(v, req);
        peer_reply(v->peer, req, error);
    }
}
