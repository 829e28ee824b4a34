/* SPDX-License-Identifier: Apache-2.0
 *
 * nbd/connection.c - the life of a connection, and turns among those that wait for a slot
 * or a buffer. See nbd/parts.h.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
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
    req->client = conn->index;
    req->sender[0] = errand;
    req->sender[1] = conn->serial;
    return req;
}

void nbd_errand_send(struct nbd_connection *conn, struct xreq *req, enum nbd_target target)
{
    conn->away++;
    peer_send(conn->nbd->peer, req, target);
}

/* --- life --------------------------------------------------------------------------- */

/* True if bytes that come now can be taken. */
static bool wants_input(const struct nbd_connection *conn)
{
    if (conn->eof || conn->stop & NBD_STOP_WAIT)
        return false;
    if (conn->phase != NBD_SERVE && nbd_has_output(conn))
        return false;
    return conn->current || conn->skip || !(conn->stop & NBD_STOP_END);
}

static void ready(struct watch *watch, uint32_t events)
{
    struct nbd_connection *conn = watch->arg;

    if (events & (EPOLLHUP | EPOLLERR)) {
        nbd_drop(conn);             /* nobody is there to answer: what is unread must not be done */
        return;
    }
    if (events & EPOLLOUT)
        nbd_send(conn);
    if (conn->phase == NBD_GONE)
        return;
    if (events & EPOLLIN && wants_input(conn))
        nbd_receive(conn);
    else if (events & EPOLLIN)
        nbd_update_events(conn);    /* held back meanwhile: it was not worth a system call */
}

static bool find_index(const struct nbd *nbd, uint32_t *index)
{
    for (*index = 0; *index < nbd->connections_max; ++*index)
        if (!nbd->connections[*index])
            return true;
    return false;
}

void nbd_connect(struct nbd *nbd, int fd)
{
    struct nbd_connection *conn;
    uint32_t index;

    if (!find_index(nbd, &index) || !(conn = calloc(1, sizeof(*conn)))) {
        close(fd);
        return;
    }
    conn->watch = (struct watch){ .fd = fd, .ready = ready, .arg = conn };
    conn->nbd = nbd;
    conn->index = index;
    conn->serial = ++nbd->serial;
    conn->phase = NBD_HELLO;
    conn->events = EPOLLIN;
    conn->since_ns = clock_ns();
    nbd_allow_meet(conn);
    for (uint32_t i = 0; i < NBD_COMMANDS; i++)
        conn->free[i] = (uint8_t)(NBD_COMMANDS - 1 - i);
    conn->free_count = NBD_COMMANDS;
    if (loop_watch(nbd->peer->loop, &conn->watch, conn->events) < 0) {
        close(fd);
        free(conn);
        return;
    }
    nbd->connections[index] = conn;
    nbd->connection_count++;
    nbd_greet(conn);
}

static void sate(struct nbd_connection *conn)
{
    struct nbd *nbd = conn->nbd;

    if (!(conn->stop & NBD_STOP_HUNGRY))
        return;
    conn->stop &= ~NBD_STOP_HUNGRY;
    nbd_set_remove(&nbd->hungry, conn->index);
    assert(nbd->hungry_count > 0);
    nbd->hungry_count--;
}

void nbd_drop(struct nbd_connection *conn)
{
    struct peer *peer = conn->nbd->peer;

    if (conn->phase == NBD_GONE)
        return;
    if (conn->phase == NBD_SERVE)
        nbd_leave(conn);
    conn->phase = NBD_GONE;
    loop_unwatch(peer->loop, &conn->watch);
    close(conn->watch.fd);
    conn->watch.fd = -1;
    sate(conn);
    nbd_reply_forget(conn);
    if (conn->fill)
        xreq_put(peer->port, conn->fill);
    if (conn->list)
        xreq_put(peer->port, conn->list);
    conn->fill = conn->list = NULL;
    conn->current = NULL;
    nbd_set_add(&conn->nbd->dirty, conn->index);
}

void nbd_bury(struct nbd_connection *conn)
{
    struct nbd *nbd = conn->nbd;
    struct xreq *req;

    assert(conn->phase == NBD_GONE);
    if (conn->away)
        return;
    nbd_over(conn);
    if (!conn->volume) {
        nbd->connections[conn->index] = NULL;
        nbd->connection_count--;
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

void nbd_settle(struct nbd_connection *conn)
{
    if (conn->phase == NBD_GONE || !(conn->stop & NBD_STOP_END))
        return;
    if (conn->phase == NBD_SERVE && (conn->current || conn->free_count < NBD_COMMANDS))
        return;
    if (!nbd_has_output(conn))
        nbd_drop(conn);
}

void nbd_update_events(struct nbd_connection *conn)
{
    uint32_t events = (wants_input(conn) ? EPOLLIN : 0u) | (conn->full ? EPOLLOUT : 0u);

    if (conn->phase == NBD_GONE || events == conn->events)
        return;
    conn->events = events;
    loop_rewatch(conn->nbd->peer->loop, &conn->watch, events);
}

/* --- who waits for a slot or a buffer ----------------------------------------------- */

bool nbd_must_queue(const struct nbd_connection *conn)
{
    return conn->nbd->hungry_count > 0 && !conn->nbd->feeding;
}

void nbd_starve(struct nbd_connection *conn)
{
    struct nbd *nbd = conn->nbd;

    if (conn->stop & NBD_STOP_HUNGRY)
        return;
    conn->stop |= NBD_STOP_HUNGRY;
    nbd_set_add(&nbd->hungry, conn->index);
    nbd->hungry_count++;
    if (conn->current && conn->current->type == NBD_CMD_READ && !conn->structured)
        nbd_read_stream(conn, conn->current);
}

bool nbd_feed(struct nbd *nbd)
{
    uint32_t first = nbd->hungry_next, before = nbd->hungry_count;

    if (before == 0)
        return false;
    nbd->feeding = true;
    for (uint32_t n = 0; n < nbd->connections_max; n++) {
        uint32_t i = (first + n) % nbd->connections_max;

        if (!nbd_set_has(&nbd->hungry, i))
            continue;
        if (nbd->hungry_next == first)
            nbd->hungry_next = i + 1;       /* another comes first next time */
        sate(nbd->connections[i]);
        nbd_parse(nbd->connections[i]);
        if (!(nbd->connections[i]->events & EPOLLIN))
            nbd_update_events(nbd->connections[i]);
    }
    nbd->feeding = false;
    return nbd->hungry_count < before;
}

/* --- who is too slow ---------------------------------------------------------------- */

static bool too_slow(const struct nbd_connection *conn, uint64_t now_ns)
{
    const struct nbd *nbd = conn->nbd;
    uint64_t age_ns = now_ns > conn->since_ns ? now_ns - conn->since_ns : 0;

    if (conn->phase == NBD_GONE || conn->stop & NBD_STOP_MAPPER)
        return false;
    if (conn->phase != NBD_SERVE)
        return age_ns > nbd->handshake_ns;
    if (!conn->fill && !conn->skip && !nbd_has_output(conn))
        return false;
    if (nbd->draining)
        return age_ns > NBD_LINGER_NS;
    return (nbd_holds_others(conn) || (nbd->hungry_count > 0 && !(conn->stop & NBD_STOP_HUNGRY)))
        && age_ns > NBD_STALL_NS;
}

void nbd_tick(struct nbd *nbd, uint64_t now_ns)
{
    if (now_ns < nbd->tick_ns)
        return;
    nbd->tick_ns = now_ns + NBD_TICK_NS;
    for (uint32_t i = 0; i < nbd->connections_max; i++)
        if (nbd->connections[i] && too_slow(nbd->connections[i], now_ns))
            nbd_drop(nbd->connections[i]);
}
