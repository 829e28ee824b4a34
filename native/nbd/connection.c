/* SPDX-License-Identifier: Apache-2.0
 *
 * nbd/connection.c - the life of a connection, and turns among those that wait for a slot
 * or a buffer. See nbd/parts.h.
 */
#include <assert.h>
#include <stdlib.h>
#include <unistd.h>

#include "nbd/parts.h"

static_assert(NBD_COMMANDS <= 256, "a command's number fits struct nbd_connection.free");
static_assert(NBD_PIECES <= 256, "a piece's number fits struct nbd_command");
/* Data of at most 2 * NBD_BYTES is under way, in two pieces more than full ones a command;
 * each has a head and data, and each command may add an error with its message. */
static_assert(NBD_OUT >= 2 * (2 * NBD_BYTES / XSEG_IO_MAX + 2 * NBD_COMMANDS) + 2 * NBD_COMMANDS,
              "all that may be under way fits the output");

/* --- requests of a connection ---------------------------------------------------- */

struct xreq *nbd_errand(struct nbd_connection *conn, enum nbd_errand errand, uint32_t op)
{
    struct xreq *req = xreq_get(conn->nbd->peer->port);

    if (!req)
        return NULL;
    req->op = (uint16_t)op;
    *nbd_note_of(req) = (struct nbd_note){ .errand = errand, .connection = conn->index, .serial = conn->serial };
    return req;
}

void nbd_errand_send(struct nbd_connection *conn, struct xreq *req, enum nbd_target target)
{
    conn->away++;
    peer_send(conn->nbd->peer, req, target);
}

/* --- life --------------------------------------------------------------------------- */

void nbd_unqueue(struct nbd_connection *conn)
{
    struct nbd *nbd = conn->nbd;

    if (!(conn->stop & NBD_STOP_QUEUE))
        return;
    conn->stop &= ~NBD_STOP_QUEUE;
    nbd_set_remove(&nbd->queued, conn->index);
    assert(nbd->queue_count > 0);
    nbd->queue_count--;
}

void nbd_end(struct nbd_connection *conn)
{
    if (conn->phase != NBD_SERVE || conn->ended)
        return;
    conn->ended = ++conn->nbd->ends;
    nbd_export_of(conn)->ending++;
}

/* It serves no longer. */
static void leave(struct nbd_connection *conn)
{
    assert(conn->phase == NBD_SERVE && nbd_export_of(conn)->connections > 0);
    nbd_end(conn);
    nbd_export_of(conn)->connections--;
}

/* Nothing of it is under way any more. */
static void over(struct nbd_connection *conn)
{
    if (!conn->ended)
        return;
    assert(nbd_export_of(conn)->ending > 0);
    conn->ended = 0;
    nbd_export_of(conn)->ending--;
    if (conn->next)
        conn->next->previous = conn->previous;
    if (conn->previous)
        conn->previous->next = conn->next;
    else
        nbd_export_of(conn)->first = conn->next;
    conn->nbd->waited = true;
}

void nbd_drop(struct nbd_connection *conn)
{
    struct peer *peer = conn->nbd->peer;

    if (conn->phase == NBD_GONE)
        return;
    if (conn->phase == NBD_SERVE)
        leave(conn);
    conn->phase = NBD_GONE;
    conn->nbd->live--;
    loop_unwatch(peer->loop, &conn->watch);
    close(conn->watch.fd);
    conn->watch.fd = -1;
    nbd_unqueue(conn);
    nbd_output_forget(conn);
    if (conn->fill)
        nbd_put(conn, conn->fill);
    if (conn->list)
        xreq_put(peer->port, conn->list);
    conn->fill = conn->list = NULL;
    conn->current = NULL;
    nbd_set_add(&conn->nbd->dirty, conn->index);
}

void nbd_retire(struct nbd_connection *conn)
{
    struct nbd *nbd = conn->nbd;
    struct xreq *req;

    assert(conn->phase == NBD_GONE);
    if (conn->away)
        return;
    over(conn);
    if (!conn->volume) {
        nbd->connections[conn->index] = NULL;
        nbd->connection_count--;
        nbd->next_free = conn->index < nbd->next_free ? conn->index : nbd->next_free;
        while (nbd->top > 0 && !nbd->connections[nbd->top - 1])
            nbd->top--;
        free(conn);
        return;
    }
    req = nbd_errand(conn, NBD_CLOSE, XOP_CLOSE);
    if (!req) {
        nbd_set_add(&nbd->dirty, conn->index);      /* again from the next flush() */
        return;
    }
    req->volume = conn->volume;
    req->generation = conn->generation;
    conn->volume = 0;
    nbd_errand_send(conn, req, NBD_TO_MAPPER);
}

/* --- who waits for a slot or a buffer ----------------------------------------------- */

void nbd_queue(struct nbd_connection *conn)
{
    struct nbd *nbd = conn->nbd;

    if (conn->stop & NBD_STOP_QUEUE)
        return;
    conn->stop |= NBD_STOP_QUEUE;
    nbd_set_add(&nbd->queued, conn->index);
    nbd->queue_count++;
}
