/* SPDX-License-Identifier: Apache-2.0
 *
 * nbd/order.c - nothing is begun on a volume before what a dead connection left there is done. See "Order"
 * in nbd/parts.h.
 */
#include <assert.h>
#include <poll.h>
#include <sys/socket.h>

#include "nbd/parts.h"
#include "segment/barrier.h"

static struct nbd_export *export_of(const struct nbd_connection *conn)
{
    return &conn->nbd->exports[conn->volume - 1];
}

void nbd_serve(struct nbd_connection *conn, uint32_t volume)
{
    conn->volume = volume;
    conn->generation = load_acquire(&conn->nbd->peer->seg->volumes[volume - 1].generation);
    conn->phase = NBD_SERVE;
    conn->since_ns = loop_now(conn->nbd->peer->loop);
    export_of(conn)->connections++;
    nbd_look_at_others(conn);
}

void nbd_end(struct nbd_connection *conn)
{
    if (conn->phase != NBD_SERVE || conn->ended)
        return;
    conn->ended = ++conn->nbd->ends;
    export_of(conn)->ending++;
}

void nbd_leave(struct nbd_connection *conn)
{
    assert(conn->phase == NBD_SERVE && export_of(conn)->connections > 0);
    nbd_end(conn);
    export_of(conn)->connections--;
}

void nbd_over(struct nbd_connection *conn)
{
    if (!conn->ended)
        return;
    assert(export_of(conn)->ending > 0);
    conn->ended = 0;
    export_of(conn)->ending--;
    conn->nbd->waited = true;
}

/* True if another connection of its volume ended before this one and is not over. */
static bool others_ended(const struct nbd_connection *conn)
{
    const struct nbd *nbd = conn->nbd;

    if (export_of(conn)->ending == (conn->ended ? 1u : 0u))
        return false;
    for (uint32_t i = 0; i < nbd->connections_max; i++) {
        const struct nbd_connection *other = nbd->connections[i];

        if (other && other != conn && other->ended && other->volume == conn->volume
            && (!conn->ended || other->ended < conn->ended))
            return true;
    }
    return false;
}

bool nbd_must_wait(struct nbd_connection *conn)
{
    if (!conn->nbd->peer->port->recovering && !others_ended(conn))
        return false;
    conn->stop |= NBD_STOP_ORDER;
    return true;
}

void nbd_look_at_others(struct nbd_connection *conn)
{
    struct nbd *nbd = conn->nbd;
    struct nbd_connection *others[NBD_CONNECTIONS_MAX];
    struct pollfd fds[NBD_CONNECTIONS_MAX];
    uint32_t n = 0;

    if (conn->phase != NBD_SERVE || export_of(conn)->connections == 1)
        return;
    for (uint32_t i = 0; i < nbd->connections_max; i++) {
        struct nbd_connection *other = nbd->connections[i];

        if (!other || other == conn || other->volume != conn->volume || other->phase != NBD_SERVE || other->ended)
            continue;
        others[n] = other;
        fds[n++] = (struct pollfd){ .fd = other->watch.fd, .events = POLLRDHUP };
    }
    if (poll(fds, n, 0) <= 0)
        return;
    for (uint32_t i = 0; i < n; i++) {
        if (fds[i].revents & (POLLHUP | POLLERR))
            nbd_drop(others[i]);
        else if (fds[i].revents & POLLRDHUP)
            nbd_end(others[i]);
    }
}

bool nbd_go_on(struct nbd *nbd)
{
    bool moved = false;

    if (nbd->recovering && !nbd->peer->port->recovering)
        nbd->waited = true;
    nbd->recovering = nbd->peer->port->recovering;
    if (!nbd->waited)
        return false;
    nbd->waited = false;
    for (uint32_t i = 0; i < nbd->connections_max; i++) {
        struct nbd_connection *conn = nbd->connections[i];

        if (!conn || conn->phase == NBD_GONE || !(conn->stop & NBD_STOP_ORDER))
            continue;
        conn->stop &= ~NBD_STOP_ORDER;
        nbd_parse(conn);
        nbd_update_events(conn);
        moved = true;
    }
    return moved;
}
