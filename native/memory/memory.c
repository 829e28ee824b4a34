/* SPDX-License-Identifier: Apache-2.0
 *
 * memory/memory.c - the peer type "memory": a blocker that keeps its objects in memory and forgets
 * them when it ends. Its manual is peers/memory.py.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "loop/peer.h"
#include "memory/parts.h"
#include "objects/blocker.h"
#include "objects/object.h"
#include "segment/clock.h"

struct memory {
    uint64_t size;                  /* option */
    struct memory_table table;
};

static const struct peer_option options[] = {
    PEER_OPTION("size", struct memory, size),
    { 0 }
};

static struct memory_table *table_of(struct peer *peer)
{
    return &((struct memory *)peer->state)->table;
}

/* --- parts of objects ------------------------------------------------------------------ */

static int serve_read(struct peer *peer, struct xreq *req)
{
    struct memory_object *object = memory_table_find(table_of(peer), &req->object);

    if (!object)
        return -ENOENT;
    memory_read(object, xreq_data(peer->seg, req), req->offset, req->size);
    req->done = req->size;
    return 0;
}

/* Bytes that are written, or only allocated when there is no data. */
static int serve_write(struct peer *peer, struct xreq *req)
{
    struct memory_table *table = table_of(peer);
    struct memory_object *object = memory_table_make(table, &req->object);
    bool hole = req->op == XOP_WRITE_ZEROES && !(req->flags & XREQ_NO_HOLE);
    int rc = 0;

    if (!object)
        return -ENOMEM;
    if (req->op == XOP_WRITE)
        rc = memory_write(table, object, xreq_data(peer->seg, req), req->offset, req->size);
    else if (!hole)
        rc = memory_allocate(table, object, req->offset, req->size);
    if (rc == 0 && req->op == XOP_WRITE_ZEROES)
        memory_zero(table, object, req->offset, req->size, !hole);
    req->done = rc ? 0 : req->size;
    return rc;
}

static int serve_discard(struct peer *peer, struct xreq *req)
{
    struct memory_object *object = memory_table_find(table_of(peer), &req->object);

    if (object)
        memory_zero(table_of(peer), object, req->offset, req->size, false);
    req->done = req->size;
    return 0;
}

static int serve_io(struct peer *peer, struct xreq *req)
{
    bool has_data = req->op == XOP_READ || req->op == XOP_WRITE;

    if (req->object.kind == XOBJ_LOCK || (has_data && !xreq_data_ok(peer->seg, req, req->size)))
        return -EINVAL;
    if (req->offset > MEMORY_OBJECT_MAX || req->size > MEMORY_OBJECT_MAX - req->offset)
        return -EFBIG;
    if (req->op == XOP_READ)
        return serve_read(peer, req);
    return req->op == XOP_DISCARD ? serve_discard(peer, req) : serve_write(peer, req);
}

/* --- whole objects ------------------------------------------------------------------------ */

/* Whether an object begins with the 8 bytes that a request expects, if it expects any. */
static bool is_expected(struct memory_object *object, uint64_t expected)
{
    uint64_t first = 0;

    if (expected)
        memory_read(object, &first, 0, sizeof(first));
    return !expected || (object->size >= sizeof(first) && first == expected);
}

static int serve_delete(struct peer *peer, struct xreq *req)
{
    struct memory_object *object = memory_table_find(table_of(peer), &req->object);

    if (!object)
        return -ENOENT;
    if (req->object.kind == XOBJ_CONTENT && req->arg && object->claimed_ns >= req->arg)
        return -EBUSY;
    if (req->object.kind != XOBJ_CONTENT && !is_expected(object, req->arg))
        return -ESTALE;
    memory_table_remove(table_of(peer), object);
    return 0;
}

static int serve_info(struct peer *peer, struct xreq *req)
{
    struct memory_object *object = memory_table_find(table_of(peer), &req->object);

    if (!object)
        return -ENOENT;
    req->done = object->size;
    req->arg = object->chunks * MEMORY_CHUNK;
    if (object->chunks)
        req->flags &= (uint16_t)~XREQ_ZEROS;
    return 0;
}

/* Copies what is not zeros. */
static int copy_bytes(struct memory_table *table, const struct memory_object *from,
                      struct memory_object *to, uint64_t size)
{
    int rc = 0;

    for (uint64_t i = 0, at = 0; rc == 0 && i < from->slots && at < size; i++, at += MEMORY_CHUNK) {
        uint64_t n = size - at < MEMORY_CHUNK ? size - at : MEMORY_CHUNK;
        if (from->chunk[i] && !content_is_zero(from->chunk[i], n))
            rc = memory_write(table, to, from->chunk[i], at, n);
    }
    return rc;
}

static int serve_copy(struct peer *peer, struct xreq *req)
{
    struct memory_table *table = table_of(peer);
    struct memory_object *from, *to;
    struct xobj source;
    int rc;

    if (req->object.kind == XOBJ_LOCK || !xreq_data_ok(peer->seg, req, sizeof(source)))
        return -EINVAL;
    if (req->size > MEMORY_OBJECT_MAX)
        return -EFBIG;
    memcpy(&source, xreq_data(peer->seg, req), sizeof(source));
    if (!object_name_ok(&source))
        return -EINVAL;
    from = memory_table_find(table, &source);
    if (!from)
        return -ENOENT;
    to = memory_table_make(table, &req->object);
    if (!to)
        return -ENOMEM;
    if (to == from)
        memory_zero(table, to, req->size, MEMORY_OBJECT_MAX - req->size, false);
    else
        memory_zero(table, to, 0, MEMORY_OBJECT_MAX, false);
    rc = to == from ? 0 : copy_bytes(table, from, to, req->size);
    to->size = req->size;
    req->done = rc ? 0 : req->size;
    return rc;
}

static int feed_content(struct content *content, const struct memory_object *object, uint64_t size)
{
    static const uint8_t zeros[MEMORY_CHUNK];
    int rc = 0;

    for (uint64_t i = 0, at = 0; rc == 0 && i < object->slots && at < size; i++, at += MEMORY_CHUNK)
        rc = content_feed(content, object->chunk[i] ? object->chunk[i] : zeros,
                          size - at < MEMORY_CHUNK ? size - at : MEMORY_CHUNK);
    return rc;
}

/* True if the content is there already, and is claimed now. */
static bool claim(struct memory_table *table, const struct xobj *name)
{
    struct memory_object *object = memory_table_find(table, name);

    if (object)
        object->claimed_ns = clock_wall_ns();
    return object != NULL;
}

/* Keeps a content that was just made, if that went well. */
static int keep_content(struct memory_table *table, struct memory_object *content, uint64_t length, int rc)
{
    content->size = length;
    content->claimed_ns = clock_wall_ns();
    if (rc)
        memory_table_remove(table, content);
    return rc;
}

static int store_content(struct memory_table *table, const struct memory_object *from,
                         const uint8_t *digest, uint64_t length)
{
    struct xobj name = { .kind = XOBJ_CONTENT };
    struct memory_object *to;

    memcpy(name.digest, digest, sizeof(name.digest));
    if (length == 0 || claim(table, &name))
        return 0;
    to = memory_table_make(table, &name);
    return to ? keep_content(table, to, length, copy_bytes(table, from, to, length)) : -ENOMEM;
}

static int serve_hash(struct peer *peer, struct xreq *req)
{
    struct memory_object *object = memory_table_find(table_of(peer), &req->object);
    struct content content;
    uint8_t digest[32];
    int rc, ended;

    if (!xreq_data_ok(peer->seg, req, sizeof(digest)))
        return -EINVAL;
    if (!object)
        return -ENOENT;
    rc = content_begin(&content);
    if (rc == 0)
        rc = feed_content(&content, object, req->size);
    ended = content_end(&content, rc ? NULL : digest);
    if (rc == 0)
        rc = ended ? ended : store_content(table_of(peer), object, digest, content.length);
    if (rc)
        return rc;
    memcpy(xreq_data(peer->seg, req), digest, sizeof(digest));
    req->done = sizeof(digest);
    return 0;
}

static int serve_put(struct peer *peer, struct xreq *req)
{
    struct memory_table *table = table_of(peer);
    struct memory_object *to;
    uint8_t digest[32];
    uint64_t length;
    int rc;

    if (req->object.kind != XOBJ_CONTENT || !xreq_data_ok(peer->seg, req, req->size))
        return -EINVAL;
    rc = content_digest(xreq_data(peer->seg, req), req->size, &length, digest);
    if (rc == 0 && memcmp(digest, req->object.digest, sizeof(digest)))
        rc = -EBADMSG;
    if (rc)
        return rc;
    req->done = req->size;
    if (length == 0 || claim(table, &req->object))
        return 0;
    to = memory_table_make(table, &req->object);
    if (!to)
        return -ENOMEM;
    return keep_content(table, to, length, memory_write(table, to, xreq_data(peer->seg, req), 0, length));
}

static int serve_claim(struct peer *peer, struct xreq *req)
{
    if (req->object.kind != XOBJ_CONTENT)
        return -EINVAL;
    return claim(table_of(peer), &req->object) ? 0 : -ENOENT;
}

/* The cursor is a hash: that of the first object that found no room. */
static int serve_list(struct peer *peer, struct xreq *req)
{
    struct memory_object *object = NULL;
    struct xobj *out = xreq_data(peer->seg, req);
    uint64_t limit = xreq_list_limit(req);

    if (req->object.kind == XOBJ_NONE || req->object.kind >= XOBJ_KINDS
        || !xreq_data_ok(peer->seg, req, 4096))
        return -EINVAL;
    req->done = 0;
    while ((object = memory_table_next(table_of(peer), req->object.kind, req->arg, object))) {
        if (req->done == limit) {
            req->arg = object->hash;
            return 0;
        }
        out[req->done++] = object->name;
    }
    req->arg = 0;
    return 0;
}

static int serve_replace(struct peer *peer, struct xreq *req)
{
    struct memory_table *table = table_of(peer);
    struct memory_object *object = memory_table_find(table, &req->object);
    int rc;

    if (req->object.kind == XOBJ_LOCK || req->size > BLOCKER_REPLACE_MAX
        || !xreq_data_ok(peer->seg, req, req->size))
        return -EINVAL;
    if (object && (req->flags & XREQ_CREATE))
        return -EEXIST;
    if (!object && !(req->flags & XREQ_CREATE))
        return -ENOENT;
    if (object && !is_expected(object, req->arg))
        return -ESTALE;
    object = object ? object : memory_table_make(table, &req->object);
    if (!object)
        return -ENOMEM;
    rc = memory_write(table, object, xreq_data(peer->seg, req), 0, req->size);
    if (rc == 0) {
        memory_zero(table, object, req->size, MEMORY_OBJECT_MAX - req->size, false);
        object->size = req->size;
    } else if (req->flags & XREQ_CREATE) {
        memory_table_remove(table, object);
    }
    return rc;
}

/* --- locks ---------------------------------------------------------------------------------- */

static int tell_owner(struct peer *peer, struct xreq *req, const struct memory_object *lock)
{
    req->done = 0;
    if (lock->owner_size && xreq_data_ok(peer->seg, req, 1)) {
        req->done = lock->owner_size < req->data_size ? lock->owner_size : req->data_size;
        memcpy(xreq_data(peer->seg, req), lock->owner, req->done);
    }
    return -EBUSY;
}

static int serve_acquire(struct peer *peer, struct xreq *req)
{
    struct memory_object *lock;
    uint8_t *owner;

    if (req->object.kind != XOBJ_LOCK || !req->arg || req->size > MEMORY_OWNER_MAX
        || !xreq_data_ok(peer->seg, req, req->size))
        return -EINVAL;
    lock = memory_table_make(table_of(peer), &req->object);
    if (!lock)
        return -ENOMEM;
    if (lock->token && lock->token != req->arg)
        return tell_owner(peer, req, lock);
    req->done = lock->number;
    if (lock->token)
        return 0;
    owner = realloc(lock->owner, req->size + 1);
    if (!owner)
        return -ENOMEM;
    memcpy(owner, xreq_data(peer->seg, req), req->size);
    lock->owner = owner;
    lock->owner_size = (uint32_t)req->size;
    lock->token = req->arg;
    req->done = ++lock->number;
    return 0;
}

static int serve_release(struct peer *peer, struct xreq *req)
{
    struct memory_object *lock = memory_table_find(table_of(peer), &req->object);

    if (req->object.kind != XOBJ_LOCK)
        return -EINVAL;
    if (!lock || !lock->token)
        return -ENOENT;
    if (lock->token != req->arg && !(req->flags & XREQ_FORCE))
        return -EPERM;
    lock->token = 0;
    return 0;
}

/* --- the peer -------------------------------------------------------------------------------- */

static int serve(struct peer *peer, struct xreq *req)
{
    if (req->volume)
        return -EINVAL;
    if (req->op == XOP_PING || req->op == XOP_SYNC)
        return 0;
    if (req->op == XOP_LIST)
        return serve_list(peer, req);
    if (!object_name_ok(&req->object))
        return -EINVAL;
    switch (req->op) {
    case XOP_READ:
    case XOP_WRITE:
    case XOP_WRITE_ZEROES:
    case XOP_DISCARD: return serve_io(peer, req);
    case XOP_INFO: return serve_info(peer, req);
    case XOP_COPY: return serve_copy(peer, req);
    case XOP_DELETE: return serve_delete(peer, req);
    case XOP_REPLACE: return serve_replace(peer, req);
    case XOP_ACQUIRE: return serve_acquire(peer, req);
    case XOP_RELEASE: return serve_release(peer, req);
    case XOP_HASH: return serve_hash(peer, req);
    case XOP_PUT: return serve_put(peer, req);
    case XOP_CLAIM: return serve_claim(peer, req);
    default: return -EOPNOTSUPP;
    }
}

static void request(struct peer *peer, struct xreq *req) { peer_reply(peer, req, serve(peer, req)); }

/* It sends nothing on, so nothing comes back but what an earlier life of the port sent. */
static void reply(struct peer *peer, struct xreq *child) { xreq_put(peer->port, child); }

static int start(struct peer *peer)
{
    return memory_table_start(table_of(peer), ((struct memory *)peer->state)->size);
}

static void stop(struct peer *peer) { memory_table_stop(table_of(peer)); }

const struct peer_ops memory_ops = {
    .type = "memory",
    .state_size = sizeof(struct memory),
    .options = options,
    .start = start,
    .request = request,
    .reply = reply,
    .stop = stop,
};
