/* SPDX-License-Identifier: Apache-2.0
 *
 * nbd/order.c - nothing is begun on a volume before what a connection that ended left there is done. See
 * "Order" in nbd/parts.h.
 */
#include <assert.h>
#include <poll.h>
#include <sys/socket.h>

#include "nbd/parts.h"
#include "segment/barrier.h"

void nbd_serve(struct nbd_connection *conn, uint32_t volume)
{
    conn->volume = volume;
    conn->generation = load_acquire(&conn->nbd->peer->seg->volumes[volume - 1].generation);
    conn->phase = NBD_SERVE;
    conn->share.group = &nbd_export_of(conn)->share;
    conn->since_ns = loop_now(conn->nbd->peer->loop);
    nbd_export_of(conn)->connections++;
    conn->next = nbd_export_of(conn)->first;
    if (conn->next)
        conn->next->previous = conn;
    nbd_export_of(conn)->first = conn;
    nbd_look_at_others(conn);
}

bool nbd_others_ended(const struct nbd_connection *conn)
{
    for (const struct nbd_connection *other = nbd_export_of(conn)->first; other; other = other->next)
        if (other != conn && other->ended && (!conn->ended || other->ended < conn->ended))
            return true;
    return false;
}

void nbd_look_at_others(struct nbd_connection *conn)
{
    struct nbd_connection *others[NBD_VOLUME_CONNECTIONS_MAX];
    struct pollfd fds[NBD_VOLUME_CONNECTIONS_MAX];
    uint32_t n = 0;

    if (conn->phase != NBD_SERVE || nbd_export_of(conn)->connections == 1)
        return;
    for (struct nbd_connection *other = nbd_export_of(conn)->first; other; other = other->next) {
        if (other == conn || other->phase != NBD_SERVE || other->ended)
            continue;
        assert(n < NBD_VOLUME_CONNECTIONS_MAX);
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
