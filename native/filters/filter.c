/* SPDX-License-Identifier: Apache-2.0
 *
 * filters/filter.c - what all filters share. See filters/filter.h.
 */
#include <errno.h>
#include <string.h>

#include "filters/filter.h"

static const char *const op_names[XOP_COUNT] = {
    "ping", "read", "write", "write_zeroes", "discard", "flush", "block_status", "cache",
    "vol_snapshot", "vol_close", "vol_freeze", "vol_thaw", "open", "close", "names", "control",
    "map_load", "map_commit", "sync", "info", "list", "copy", "delete", "replace", "acquire",
    "release", "hash", "put", "claim", "diff", "own",
};

static const char *const kind_names[XOBJ_KINDS] = {
    "none", "data", "content", "header", "name", "page", "journal", "lock",
};

const char *filter_op_name(uint32_t op) { return op_names[op]; }

/* The number of a name of `length` bytes, or -1. */
static int find(const char *const *names, int count, const char *name, size_t length)
{
    for (int i = 0; i < count; i++)
        if (strlen(names[i]) == length && memcmp(names[i], name, length) == 0)
            return i;
    return -1;
}

static int read_ops(struct peer *peer, struct filter *filter)
{
    const char *text = filter->op_names;

    if (strcmp(text, "all") == 0) {
        filter->ops = UINT32_MAX;
        return 0;
    }
    while (*text) {
        size_t length = strcspn(text, ",");
        int op = find(op_names, XOP_COUNT, text, length);
        if (op < 0)
            return peer_fail(peer, -EINVAL, "option ops: there is no operation %.*s",
                             (int)(length < 80 ? length : 80), text);
        filter->ops |= 1u << op;
        text += length + (text[length] == ',');
    }
    return 0;
}

int filter_start(struct peer *peer)
{
    struct filter *filter = peer->state;
    const char *kind = filter->kind_name;
    int number = find(kind_names, XOBJ_KINDS, kind, strlen(kind));

    if (strcmp(kind, "any") == 0)
        filter->kinds = UINT32_MAX;
    else if (number >= 0)
        filter->kinds = 1u << number;
    else
        return peer_fail(peer, -EINVAL, "option kind: there is no kind %.80s", kind);
    if (peer->target_count != 1)
        return peer_fail(peer, -EINVAL, "option target is missing: the role it passes requests to");
    return read_ops(peer, filter);
}

bool filter_matches(const struct filter *filter, const struct xreq *req)
{
    return req->op < XOP_COUNT && req->object.kind < XOBJ_KINDS && filter->ops >> req->op & 1
        && filter->kinds >> req->object.kind & 1;
}

static bool pass(struct peer *peer, struct xreq *req)
{
    struct xreq *child = xreq_child(peer->port, req);

    if (!child)
        return false;
    child->op = req->op;
    child->flags = req->flags;
    child->volume = req->volume;
    child->generation = req->generation;
    child->object = req->object;
    child->offset = req->offset;
    child->size = req->size;
    child->arg = req->arg;
    child->data = req->data;
    child->data_size = req->data_size;
    peer_send(peer, child, 0);
    return true;
}

void filter_pass(struct peer *peer, struct xreq *req)
{
    if (peer_has_parked(peer) || !pass(peer, req))
        peer_park(peer, req);
}

void filter_again(struct peer *peer, struct xreq *req)
{
    if (!pass(peer, req))
        peer_park(peer, req);
}

void filter_reply(struct peer *peer, struct xreq *child)
{
    struct xreq *req = xreq_parent(peer->port, child);
    int error = child->error;

    req->flags = child->flags;
    req->done = child->done;
    req->arg = child->arg;
    xreq_put(peer->port, child);
    peer_reply(peer, req, error);
}
