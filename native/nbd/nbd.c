/* SPDX-License-Identifier: Apache-2.0
 *
 * nbd/nbd.c - the NBD server as a peer. See nbd/parts.h for how it works, peers/nbd.py for its manual.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "nbd/parts.h"
#include "segment/barrier.h"

#define CONNECTIONS_DEFAULT 256
#define HANDSHAKE_S_DEFAULT 10
#define HANDSHAKE_S_MAX 3600
#define SOCKET_MODE 0660

/* --- start and stop ----------------------------------------------------------- */

/* A descriptor that listens already, from the supervisor: option NAME_fd. False: there is none. */
static bool inherited(struct peer *peer, struct nbd *nbd, const char *name)
{
    uint64_t fd;

    if (peer_option_u64(peer, name, UINT64_MAX, &fd) != 0 || fd > INT32_MAX)
        return false;
    return nbd_listen_inherited(nbd, (int)fd) == 0;
}

static int read_options(struct peer *peer, struct nbd *nbd)
{
    uint64_t connections, handshake_s, mode, uid, gid;

    if (peer_option_flag(peer, "structured_replies", true, &nbd->structured_replies) != 0
        || peer_option_u64(peer, "connections", CONNECTIONS_DEFAULT, &connections) != 0
        || peer_option_u64(peer, "handshake_s", HANDSHAKE_S_DEFAULT, &handshake_s) != 0)
        return -EINVAL;
    if (connections < 1 || connections > NBD_CONNECTIONS_MAX)
        return peer_fail(peer, -EINVAL, "option connections: 1 to %d", NBD_CONNECTIONS_MAX);
    if (handshake_s < 1 || handshake_s > HANDSHAKE_S_MAX)
        return peer_fail(peer, -EINVAL, "option handshake_s: 1 to %d", HANDSHAKE_S_MAX);
    if (peer_option_u64(peer, "socket_mode", SOCKET_MODE, &mode) != 0
        || peer_option_u64(peer, "socket_owner", NBD_NOBODY, &uid) != 0
        || peer_option_u64(peer, "socket_group", NBD_NOBODY, &gid) != 0)
        return -EINVAL;
    nbd->socket_mode = (uint32_t)mode & 0777;
    nbd->socket_uid = (uint32_t)uid;
    nbd->socket_gid = (uint32_t)gid;
    nbd->connections_max = (uint32_t)connections;
    nbd->handshake_ns = handshake_s * 1000000000ull;
    return nbd_allow_read(nbd, peer_option(peer, "allow", NULL));
}

static int listen_at(struct peer *peer, struct nbd *nbd)
{
    char otherwise[XSEG_PATH_MAX + 16];
    const char *tcp = peer_option(peer, "listen", "");
    int rc;

    snprintf(otherwise, sizeof(otherwise), "%s/nbd.sock", peer->seg->run);
    rc = inherited(peer, nbd, "socket_fd") ? 0 : nbd_listen_unix(nbd, peer_option(peer, "socket", otherwise));
    if (rc == 0 && tcp[0] && !inherited(peer, nbd, "listen_fd"))
        rc = nbd_listen_tcp(nbd, tcp);
    return rc ? rc : nbd_listen_watch(nbd);
}

static int start(struct peer *peer)
{
    struct nbd *nbd;
    int rc;

    if (peer->target_count != 2)
        return peer_fail(peer, -EINVAL, "an nbd peer has two targets: vlmc and mapper");
    nbd = calloc(1, sizeof(*nbd));
    if (!nbd)
        return -ENOMEM;
    nbd->peer = peer;
    peer->state = nbd;
    rc = read_options(peer, nbd);
    if (rc == 0)
        rc = listen_at(peer, nbd);
    if (rc) {
        nbd_listen_close(nbd);
        free(nbd);
        peer->state = NULL;
    }
    return rc;
}

static void stop(struct peer *peer)
{
    struct nbd *nbd = peer->state;

    nbd_listen_close(nbd);
    for (uint32_t i = 0; i < nbd->connections_max; i++) {
        if (!nbd->connections[i])
            continue;
        nbd_drop(nbd->connections[i]);
        free(nbd->connections[i]);
    }
    free(nbd);
    peer->state = NULL;
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

    if (note->connection < nbd->connections_max && note->errand != NBD_CLOSE_REFUSED)
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
    else if (conn->phase == NBD_GONE || note->errand != NBD_PIECE)
        xreq_put(peer->port, req);
    else
        nbd_piece_back(conn, req);
    if (conn->phase == NBD_GONE)
        nbd_set_add(&nbd->dirty, conn->index);
}

/* Sends what has gathered, and frees connections that are over. */
static void send_all(struct nbd *nbd)
{
    for (uint32_t w = 0; w < NBD_CONNECTIONS_MAX / 64; w++) {
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
    for (uint32_t w = 0; w < NBD_CONNECTIONS_MAX / 64; w++)
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
    for (uint32_t i = 0; i < nbd->connections_max; i++) {
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
