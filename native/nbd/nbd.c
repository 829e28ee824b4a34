/* SPDX-License-Identifier: Apache-2.0
 *
 * nbd/nbd.c - the NBD server as a peer. See nbd/parts.h for how it works, peers/nbd.py for its manual.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "nbd/parts.h"
#include "segment/barrier.h"

/* --- start and stop ----------------------------------------------------------- */

static const struct peer_option options[] = {
    PEER_OPTION("socket", struct nbd, socket),
    PEER_OPTION("socket_fd", struct nbd, socket_fd),
    PEER_OPTION("socket_mode", struct nbd, socket_mode),
    PEER_OPTION("socket_owner", struct nbd, socket_uid),
    PEER_OPTION("socket_group", struct nbd, socket_gid),
    PEER_OPTION("listen", struct nbd, listen),
    PEER_OPTION("listen_fd", struct nbd, listen_fd),
    PEER_OPTION("allow", struct nbd, allow),
    PEER_OPTION("connections", struct nbd, connections_max),
    PEER_OPTION("connections_volume", struct nbd, volume_max),
    PEER_OPTION("handshake_s", struct nbd, handshake_s),
    PEER_OPTION("structured_replies", struct nbd, structured_replies),
    { 0 }
};

/* True: the supervisor's descriptor, which listens already, is of use. */
static bool inherited(struct nbd *nbd, int fd) { return fd >= 0 && nbd_listen_inherited(nbd, fd) == 0; }

static int listen_at(struct nbd *nbd)
{
    int rc = inherited(nbd, nbd->socket_fd) ? 0 : nbd_listen_unix(nbd, nbd->socket);

    if (rc == 0 && nbd->listen && !inherited(nbd, nbd->listen_fd))
        rc = nbd_listen_tcp(nbd, nbd->listen);
    return rc ? rc : nbd_listen_watch(nbd);
}

static int start(struct peer *peer)
{
    struct nbd *nbd = peer->state;
    int rc;

    if (peer->target_count != 2)
        return peer_fail(peer, -EINVAL, "an nbd peer has two targets: vlmc and mapper");
    assert(nbd->connections_max >= 1 && nbd->connections_max <= NBD_CONNECTIONS_MAX);
    assert(nbd->volume_max >= 1 && nbd->volume_max <= NBD_VOLUME_CONNECTIONS_MAX);
    nbd->peer = peer;
    nbd_admit_limit(nbd);
    nbd->exports = calloc(peer->seg->volume_count, sizeof(*nbd->exports));
    rc = nbd->exports ? nbd_allow_read(nbd, nbd->allow) : -ENOMEM;
    if (rc == 0)
        rc = listen_at(nbd);
    if (rc) {
        nbd_listen_close(nbd);
        free(nbd->exports);
    }
    return rc;
}

static void stop(struct peer *peer)
{
    struct nbd *nbd = peer->state;

    nbd_listen_close(nbd);
    for (uint32_t i = 0; i < nbd->top; i++) {
        if (!nbd->connections[i])
            continue;
        nbd_drop(nbd->connections[i]);
        free(nbd->connections[i]);
    }
    free(nbd->exports);
}

/* --- turns ---------------------------------------------------------------------------- */

static void request(struct peer *peer, struct xreq *req)
{
    if (req->op == XOP_INFO && !req->volume)
        peer_reply(peer, req, nbd_allow_tell(peer->state, req));
    else
        peer_reply(peer, req, req->op == XOP_PING ? 0 : -EOPNOTSUPP);
}

static void reply(struct peer *peer, struct xreq *req)
{
    struct nbd *nbd = peer->state;
    const struct nbd_note *note = nbd_note_of(req);
    struct nbd_connection *conn = NULL;

    if (note->connection < nbd->top && note->errand != NBD_CLOSE_REFUSED)
        conn = nbd->connections[note->connection];
    if (!conn || conn->serial != note->serial || conn->away == 0) {
        if (nbd->away)
            nbd->away--;
        xreq_put(peer->port, req);
        return;
    }
    conn->away--;
    if (note->errand == NBD_OPEN)
        nbd_opened(conn, req);
    else if (note->errand == NBD_DESCRIBE)
        nbd_described(conn, req);
    else if (note->errand == NBD_LIST)
        nbd_listed(conn, req);
    else if (note->errand == NBD_LOOK_UP)
        nbd_looked_up(conn, req);
    else if (note->errand != NBD_PIECE)
        xreq_put(peer->port, req);
    else if (conn->phase == NBD_GONE)
        nbd_put(conn, req);
    else
        nbd_piece_back(conn, req);
    if (conn->phase == NBD_GONE)
        nbd_set_add(&nbd->dirty, conn->index);
}

/* Sends what has gathered, and frees connections that are over. */
static void send_all(struct nbd *nbd)
{
    for (uint32_t w = 0; w * 64 < nbd->top; w++) {
        uint64_t todo = nbd->dirty.word[w];

        for (nbd->dirty.word[w] = 0; todo; todo &= todo - 1) {
            struct nbd_connection *conn = nbd->connections[w * 64 + (uint32_t)__builtin_ctzll(todo)];
            if (conn && conn->phase == NBD_GONE)
                nbd_retire(conn);
            else if (conn)
                nbd_send(conn);
        }
    }
}

/* True if something gathered while others were sent. */
static bool has_more(const struct nbd *nbd)
{
    for (uint32_t w = 0; w * 64 < nbd->top; w++)
        for (uint64_t todo = nbd->dirty.word[w]; todo; todo &= todo - 1) {
            const struct nbd_connection *conn = nbd->connections[w * 64 + (uint32_t)__builtin_ctzll(todo)];
            if (conn && conn->phase != NBD_GONE)
                return true;
        }
    return false;
}

/* Each connection ends when what its client has sent is done. */
static void end_connections(struct nbd *nbd)
{
    nbd->draining = true;
    for (uint32_t i = 0; i < nbd->top; i++) {
        struct nbd_connection *conn = nbd->connections[i];

        if (!conn || conn->phase == NBD_GONE)
            continue;
        conn->stop |= NBD_STOP_END;
        if (conn->phase == NBD_SERVE)
            nbd_settle(conn);
        else
            nbd_drop(conn);
    }
}

/* Does as the header's `closing` says (segment/layout.h). */
static void look_for_closing(struct nbd *nbd)
{
    bool closing = load_relaxed(&nbd->peer->seg->header->closing) != 0;

    if (closing == nbd->closing || nbd->listener_count == 0)
        return;
    if (closing) {
        nbd_listen_pause(nbd);
        end_connections(nbd);
    } else if (nbd_listen_watch(nbd) != 0) {
        return;                     /* no memory: tried again in the next turn */
    }
    nbd->closing = nbd->draining = closing;
}

static bool flush(struct peer *peer)
{
    struct nbd *nbd = peer->state;
    uint64_t now_ns = loop_now(peer->loop);
    bool fed;

    look_for_closing(nbd);
    if (nbd->refused_until_ns && !nbd->closing && now_ns >= nbd->refused_until_ns)
        nbd->refused_until_ns = nbd_listen_watch(nbd) == 0 ? 0 : now_ns + NBD_TICK_NS;
    nbd_tick(nbd, now_ns);
    send_all(nbd);
    fed = nbd_go_on(nbd);
    fed |= nbd_serve_queue(nbd);
    return has_more(nbd) || fed;
}

static uint64_t deadline(struct peer *peer)
{
    const struct nbd *nbd = peer->state;

    return nbd->queue_count ? loop_now(peer->loop) + NBD_RETRY_NS : UINT64_MAX;
}

static uint64_t nap(struct peer *peer)
{
    struct nbd *nbd = peer->state;
    uint64_t ns = nbd->nap_ns;

    nbd->nap_ns = 0;
    return ns;
}

static void drain(struct peer *peer)
{
    struct nbd *nbd = peer->state;

    nbd_listen_close(nbd);
    end_connections(nbd);
}

static bool idle(struct peer *peer)
{
    const struct nbd *nbd = peer->state;

    return nbd->connection_count == 0 && nbd->away == 0;
}

const struct peer_ops nbd_ops = {
    .type = "nbd",
    .state_size = sizeof(struct nbd),
    .options = options,
    .start = start,
    .request = request,
    .reply = reply,
    .flush = flush,
    .deadline = deadline,
    .nap = nap,
    .drain = drain,
    .idle = idle,
    .stop = stop,
};
