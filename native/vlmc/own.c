/* SPDX-License-Identifier: Apache-2.0
 *
 * vlmc/own.c - making a block the volume's own: new layers, filling up chunks, merging
 * stacks that are at their bound; and the table of busy blocks.
 *
 * A stack of XMAP_LAYERS layers takes no more. Before the volume puts its own on top, what
 * the partial layers hold is copied into the new object, MERGE_CHUNKS at a time, and the new
 * stack is that object over the old bottom. This costs at most one block's partial data, once
 * in XMAP_LAYERS - 1 snapshots, and keeps every read within the bound.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vlmc/parts.h"

/* --- busy blocks ----------------------------------------------------------------- */

int busy_start(struct vlmc *v)
{
    v->busy = calloc(BUSY_MAX, sizeof(*v->busy));
    if (!v->busy)
        return -ENOMEM;
    for (uint32_t i = 0; i < BUSY_MAX; i++)
        v->busy[i].next = i + 1 < BUSY_MAX ? i + 2 : 0;
    v->busy_free = 1;
    return 0;
}

static uint32_t *bucket_of(struct vlmc *v, uint32_t slot, uint64_t block)
{
    return &v->busy_bucket[(block * 31 + slot) * 0x9e3779b97f4a7c15u >> 40 & (BUSY_BUCKETS - 1)];
}

static struct busy *busy_find(struct vlmc *v, uint32_t slot, uint64_t block)
{
    for (uint32_t at = *bucket_of(v, slot, block); at; at = v->busy[at - 1].next)
        if (v->busy[at - 1].slot == slot && v->busy[at - 1].block == block)
            return &v->busy[at - 1];
    return NULL;
}

static struct busy *busy_add(struct vlmc *v, uint32_t slot, uint64_t block,
                             const struct xframe *frame)
{
    uint32_t at = v->busy_free, *bucket = bucket_of(v, slot, block);

    if (!at)
        return NULL;
    v->busy_free = v->busy[at - 1].next;
    v->busy[at - 1] = (struct busy){ .next = *bucket, .slot = slot, .block = block };
    *bucket = at;
    cache_pin(v, frame);
    return &v->busy[at - 1];
}

static void busy_remove(struct vlmc *v, struct busy *busy)
{
    uint32_t *link = bucket_of(v, busy->slot, busy->block);
    uint32_t number = (uint32_t)(busy - v->busy) + 1;

    for (uint32_t n = 0; *link != number; n++) {
        assert(*link && n < BUSY_MAX);
        link = &v->busy[*link - 1].next;
    }
    cache_unpin(v, cache_pinned(v, busy->slot, busy->block));
    *link = busy->next;
    busy->next = v->busy_free;
    v->busy_free = number;
}

/* The block's record, made if need be; or the request waits for its holders. */
static struct busy *busy_get(struct vlmc *v, struct xreq *req, struct xframe *frame,
                             uint64_t block, bool alone)
{
    struct busy *busy = busy_find(v, req->volume - 1, block);

    if (busy && (busy->exclusive || (alone && busy->shared))) {
        queue_push(v->peer, &busy->waiting, req);
        return NULL;
    }
    if (!busy)
        busy = busy_add(v, req->volume - 1, block, frame);
    if (!busy)
        starve(v, req);
    return busy;
}

bool busy_share(struct vlmc *v, struct xreq *req, struct xframe *frame, uint64_t block)
{
    struct busy *busy = busy_get(v, req, frame, block, false);

    if (busy)
        busy->shared++;
    return busy != NULL;
}

bool busy_take(struct vlmc *v, struct xreq *req, struct xframe *frame, uint64_t block)
{
    struct busy *busy = busy_get(v, req, frame, block, true);

    if (busy)
        busy->exclusive = true;
    return busy != NULL;
}

void busy_release(struct vlmc *v, uint32_t slot, uint64_t block)
{
    struct busy *busy = busy_find(v, slot, block);
    struct queue waiting;

    assert(busy && (busy->exclusive || busy->shared));
    if (busy->exclusive)
        busy->exclusive = false;
    else
        busy->shared--;
    if (busy->shared)
        return;
    waiting = busy->waiting;
    busy_remove(v, busy);
    run_queue(v, &waiting);
}

/* --- bits -------------------------------------------------------------------------- */

int set_chunks(struct vlmc *v, uint32_t slot, uint64_t block, uint64_t first, uint64_t count)
{
    const struct volume *volume = &v->volumes[slot];
    struct xframe *frame = cache_pinned(v, slot, block);
    const struct xentry entry = entry_read(frame, block);
    struct xstack *stack = stack_of(v, frame, &entry);
    uint8_t *top;

    if (is_own(v, slot, &entry) && !entry.stack)
        return 0;                   /* another write has filled the bitmap meanwhile */
    if (!is_own(v, slot, &entry) || !stack)
        return -EIO;
    top = stack_bits(volume, stack, 0);
    entry_dirty(v, slot, frame, block);
    for (uint64_t c = first; c < first + count; c++)
        top[c / 8] |= (uint8_t)(1u << (c % 8));
    if (bits_all_set(top, 0, block_size(volume) / XMAP_CHUNK)) {
        entry_publish(entry_of(frame, block), entry.volume, entry.epoch, 0);
        stack_give(v, frame, entry.stack);
    }
    return 0;
}

/* --- a new layer ------------------------------------------------------------------- */

/* Fills in a stack record with our own object on top of `below`. */
static void stack_on(const struct vlmc *v, uint32_t slot, uint64_t block, struct xstack *stack,
                     const struct xobj *below, uint32_t layers, const uint8_t *bitmaps)
{
    const struct volume *volume = &v->volumes[slot];
    uint32_t bitmap_size = map_bitmap_size(volume->block_shift);

    memset(stack, 0, xstack_size(stack_class(volume)));
    stack->layers = layers + 1;
    stack->bitmap_size = bitmap_size;
    stack->layer[0] = own_object(volume, v->seg->volumes[slot].epoch, block);
    memcpy(&stack->layer[1], below, layers * sizeof(*below));
    if (layers > 1)
        memcpy(stack_bits(volume, stack, 1), bitmaps, (uint64_t)(layers - 1) * bitmap_size);
}

/* `old`: the stack it has until now, of fewer than XMAP_LAYERS layers, or NULL. */
static void put_layer_on(struct vlmc *v, struct xreq *req, struct xframe *frame, uint64_t block,
                         uint32_t number, struct xstack *old, uint32_t layers)
{
    struct xvolume *vol = xvolume_of(v, req);
    const struct volume *volume = volume_of(v, req);
    const struct xentry entry = entry_read(frame, block);
    struct xstack *stack = stack_at(v, stack_class(volume), number);

    if (old) {
        stack_on(v, req->volume - 1, block, stack, old->layer, layers, stack_bits(volume, old, 0));
    } else {
        struct xobj only = { .kind = XOBJ_DATA, .epoch = entry.epoch,
                             .volume = entry.volume, .index = block };
        stack_on(v, req->volume - 1, block, stack, &only, 1, NULL);
    }
    entry_dirty(v, req->volume - 1, frame, block);
    entry_publish(entry_of(frame, block), volume->id, stack->layer[0].epoch, number);
    stack_give(v, frame, entry.stack);
    counter_add(&vol->first_writes, 1);
}

/* --- merging a stack ---------------------------------------------------------------- */

/* A merge's child carries: sender[1] block, sender[2] next chunk to look at, client the
 * number of the new stack. While it reads, offset and size say which chunks. */

static bool merge_next(struct vlmc *v, struct xreq *child, struct xstack *old)
{
    const struct volume *volume = volume_of(v, xreq_parent(v->peer->port, child));
    uint64_t chunks = block_size(volume) / XMAP_CHUNK;
    uint64_t first = child->sender[2], end;
    uint32_t layer, last = layers_of(old) - 1;

    while (first < chunks && layer_of(volume, old, first) == last)
        first++;
    if (first == chunks)
        return false;
    layer = layer_of(volume, old, first);
    for (end = first + 1; end < chunks && end - first < MERGE_CHUNKS; end++)
        if (layer_of(volume, old, end) != layer)
            break;
    child->op = XOP_READ;
    child->object = old->layer[layer];
    child->offset = first * XMAP_CHUNK;
    child->size = (end - first) * XMAP_CHUNK;
    child->sender[0] = CHILD_MERGE_READ;
    child->sender[2] = end;
    return true;
}

/* Puts the new stack in the old one's place; without the record when it covers all the block. */
static void put_merged(struct vlmc *v, uint32_t slot, uint64_t block, uint32_t number)
{
    struct xvolume *vol = &v->seg->volumes[slot];
    const struct volume *volume = &v->volumes[slot];
    struct xframe *frame = cache_pinned(v, slot, block);
    struct xstack *stack = stack_at(v, stack_class(volume), number);
    bool full = bits_all_set(stack_bits(volume, stack, 0), 0, block_size(volume) / XMAP_CHUNK);
    uint32_t old = entry_read(frame, block).stack;

    entry_dirty(v, slot, frame, block);
    entry_publish(entry_of(frame, block), volume->id, stack->layer[0].epoch, full ? 0 : number);
    stack_give(v, frame, old);
    if (full)
        stack_give(v, frame, number);
    counter_add(&vol->merges, 1);
    counter_add(&vol->first_writes, 1);
}

static void merge_end(struct vlmc *v, struct xreq *child, int error)
{
    struct xreq *req = xreq_parent(v->peer->port, child);
    uint32_t slot = req->volume - 1, number = child->client;
    uint64_t block = child->sender[1];

    if (error) {
        stack_give(v, cache_pinned(v, slot, block), number);
        epoch_leave(v, slot);
    } else {
        put_merged(v, slot, block, number);
    }
    io_child_done(v, child, error);
    busy_release(v, slot, block);   /* the request waits there */
}

static void merge_go_on(struct vlmc *v, struct xreq *child)
{
    struct xreq *req = xreq_parent(v->peer->port, child);
    uint64_t block = child->sender[1];
    struct xframe *frame = cache_pinned(v, req->volume - 1, block);
    const struct xentry entry = entry_read(frame, block);
    struct xstack *old = stack_of(v, frame, &entry);

    if (!old)
        merge_end(v, child, -EIO);
    else if (merge_next(v, child, old))
        peer_send(v->peer, child, VLMC_BLOCKER);
    else
        merge_end(v, child, 0);
}

void merge_done(struct vlmc *v, struct xreq *child)
{
    struct xreq *req = xreq_parent(v->peer->port, child);
    const struct volume *volume = volume_of(v, req);
    struct xstack *stack = stack_at(v, stack_class(volume), child->client);

    if (child->error) {
        merge_end(v, child, child->error == -ENOENT ? -EIO : child->error);
    } else if (child->sender[0] == CHILD_MERGE_READ) {
        child->op = XOP_WRITE;
        child->object = stack->layer[0];
        child->sender[0] = CHILD_MERGE_WRITE;
        peer_send(v->peer, child, VLMC_BLOCKER);
    } else {
        data_written(xvolume_of(v, req));
        for (uint64_t c = child->offset / XMAP_CHUNK; c < child->sender[2]; c++)
            stack_bits(volume, stack, 0)[c / 8] |= (uint8_t)(1u << (c % 8));
        merge_go_on(v, child);
    }
}

static struct xreq *merge_child(struct vlmc *v, struct xreq *req, uint64_t block, uint32_t number)
{
    struct xreq *child = xreq_child(v->peer->port, req);

    if (!child)
        return NULL;
    if (xbuf_get(v->peer->port, child, MERGE_CHUNKS * XMAP_CHUNK)) {
        xreq_put(v->peer->port, child);
        return NULL;
    }
    child->sender[1] = block;
    child->client = number;
    return child;
}

/* Begins to merge. True: nothing was to be copied, it is done. Else the request waits: on the
 * busy block, which it has taken, or for memory. */
static bool merge_start(struct vlmc *v, struct xreq *req, struct xframe *frame, uint64_t block,
                        uint32_t number, struct xstack *old)
{
    struct xreq *child = merge_child(v, req, block, number);

    if (!child || !busy_take(v, req, frame, block)) {
        stack_give(v, frame, number);
        if (child)
            xreq_put(v->peer->port, child);
        else
            starve(v, req);
        return false;
    }
    frame_dirty(v, req->volume - 1, frame);
    stack_on(v, req->volume - 1, block, stack_at(v, stack_class(volume_of(v, req)), number),
             &old->layer[XMAP_LAYERS - 1], 1, NULL);
    if (!merge_next(v, child, old)) {
        xreq_put(v->peer->port, child);
        put_merged(v, req->volume - 1, block, number);
        busy_release(v, req->volume - 1, block);
        return true;
    }
    queue_push(v->peer, &busy_find(v, req->volume - 1, block)->waiting, req);
    io_of(req)->outstanding++;
    peer_send(v->peer, child, VLMC_BLOCKER);
    return false;
}

bool own_block(struct vlmc *v, struct xreq *req, struct xframe *frame, uint64_t block)
{
    struct busy *busy = busy_find(v, req->volume - 1, block);
    const struct xentry entry = entry_read(frame, block);
    struct xstack *old = stack_of(v, frame, &entry);
    uint32_t layers = old ? layers_of(old) : 0, number;

    if (busy) {                     /* another request merges its stack */
        queue_push(v->peer, &busy->waiting, req);
        return false;
    }
    cache_pin(v, frame);            /* taking a stack may evict clean frames */
    number = stack_take(v, frame);
    cache_unpin(v, frame);
    if (!number) {
        starve(v, req);
        return false;
    }
    if (layers == XMAP_LAYERS)
        return merge_start(v, req, frame, block, number, old);
    put_layer_on(v, req, frame, block, number, old, layers);
    return true;
}

/* --- filling up a chunk ---------------------------------------------------------------- */

uint64_t fill_chunk(struct vlmc *v, struct xreq *req, struct xframe *frame, uint64_t block,
                    uint64_t in, uint64_t length)
{
    const struct xentry entry = entry_read(frame, block);
    struct xstack *stack = stack_of(v, frame, &entry);
    uint64_t chunk = in / XMAP_CHUNK;
    struct xreq *child;

    if (!stack)
        return io_damaged(v, req);
    if (!busy_take(v, req, frame, block))
        return STEP_WAIT;
    child = object_child(v, req, CHILD_FILL_READ, block, &stack->layer[layer_of(volume_of(v, req), stack, chunk)],
                         chunk * XMAP_CHUNK, XMAP_CHUNK);
    if (child && xbuf_get(v->peer->port, child, XMAP_CHUNK)) {
        xreq_put(v->peer->port, child);
        starve(v, req);
        child = NULL;
    }
    if (!child) {
        busy_release(v, req->volume - 1, block);
        return STEP_WAIT;
    }
    child->op = XOP_READ;
    child->flags = 0;
    child->sender[2] = in % XMAP_CHUNK | length << 32;
    child->client = (uint32_t)io_of(req)->cursor;
    send_child(v, child);
    return length;
}

/* Lays the request's bytes over the chunk that was read, and sends it out. */
static void fill_write(struct vlmc *v, struct xreq *child)
{
    struct xreq *req = xreq_parent(v->peer->port, child);
    struct xframe *frame = cache_pinned(v, req->volume - 1, child->sender[1]);
    const struct xentry entry = entry_read(frame, child->sender[1]);
    uint8_t *at = (uint8_t *)xreq_data(v->seg, child) + (uint32_t)child->sender[2];
    uint64_t length = child->sender[2] >> 32;

    if (req->op == XOP_WRITE)
        memcpy(at, (uint8_t *)xreq_data(v->seg, req) + child->client, length);
    else
        memset(at, 0, length);
    child->op = XOP_WRITE;
    child->object = own_object(volume_of(v, req), entry.epoch, child->sender[1]);
    child->sender[0] = CHILD_FILL_WRITE;
    peer_send(v->peer, child, VLMC_BLOCKER);
}

void fill_done(struct vlmc *v, struct xreq *child)
{
    struct xreq *req = xreq_parent(v->peer->port, child);
    uint32_t slot = req->volume - 1;
    uint64_t block = child->sender[1];
    int error = child->error;

    if (child->sender[0] == CHILD_FILL_READ) {
        if (error == 0) {
            fill_write(v, child);
            return;
        }
        error = error == -ENOENT ? -EIO : error;
    }
    if (error == 0) {
        data_written(xvolume_of(v, req));
        error = set_chunks(v, slot, block, child->offset / XMAP_CHUNK, 1);
    }
    busy_release(v, slot, block);   /* first: the volume may be closed once the request is done */
    io_child_done(v, child, error);
}
