/* SPDX-License-Identifier: Apache-2.0
 *
 * null.c - the peer type "null": a blocker whose objects all exist and are zeros. Its manual is
 * peers/null.py.
 */
#include <errno.h>
#include <string.h>

#include "loop/peer.h"
#include "objects/blocker.h"

static int serve(struct peer *peer, struct xreq *req)
{
    bool has_data = req->op == XOP_READ || req->op == XOP_WRITE;

    if (has_data && !xreq_data_ok(peer->seg, req, req->size))
        return -EINVAL;
    switch (req->op) {
    case XOP_READ:
        memset(xreq_data(peer->seg, req), 0, req->size);
        req->done = req->size;
        return 0;
    case XOP_WRITE:
    case XOP_WRITE_ZEROES:
    case XOP_DISCARD:
        req->done = req->size;
        return 0;
    case XOP_PING:
    case XOP_SYNC:
    case XOP_DELETE:
        return 0;
    case XOP_INFO:
    case XOP_LIST:
        req->done = req->arg = 0;
        return 0;
    default:
        return -EOPNOTSUPP;
    }
}

static void request(struct peer *peer, struct xreq *req) { peer_reply(peer, req, serve(peer, req)); }

/* It sends nothing on, so nothing comes back but what an earlier life of the port sent. */
static void reply(struct peer *peer, struct xreq *child) { xreq_put(peer->port, child); }

const struct peer_ops null_ops = {
    .type = "null",
    .request = request,
    .reply = reply,
};
