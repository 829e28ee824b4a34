/* SPDX-License-Identifier: Apache-2.0
 *
 * vlmc/busy.c - the table of busy blocks. See "Busy blocks" in vlmc/parts.h.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "vlmc/parts.h"

int vlmc_busy_start(struct vlmc *v)
{
    v->busy = calloc(VLMC_BUSY_MAX, sizeof(*v->busy));
    if (!v->busy)
        return -ENOMEM;
    for (uint32_t i = 0; i < VLMC_BUSY_MAX; i++)
        v->busy[i].next = i + 1 < VLMC_BUSY_MAX ? i + 2 : 0;
    v->busy_free = 1;
    return 0;
}

static uint32_t *bucket_of(struct vlmc *v, uint32_t slot, uint64_t block)
{
    return &v->busy_bucket[(block * 31 + slot) * 0x9e3779b97f4a7c15u >> 40 & (VLMC_BUSY_BUCKETS - 1)];
}

static struct vlmc_busy *busy_find(struct vlmc *v, uint32_t slot, uint64_t block)
{
    for (uint32_t at = *bucket_of(v, slot, block); at; at = v->busy[at - 1].next)
        if (v->busy[at - 1].slot == slot && v->busy[at - 1].block == block)
            return &v->busy[at - 1];
    return NULL;
}

static struct vlmc_busy *busy_add(struct vlmc *v, uint32_t slot, uint64_t block,
                                  const struct xframe *frame)
{
    uint32_t at = v->busy_free, *bucket = bucket_of(v, slot, block);

    if (!at)
        return NULL;
    v->busy_free = v->busy[at - 1].next;
    v->busy[at - 1] = (struct vlmc_busy){ .next = *bucket, .slot = slot, .block = block };
    *bucket = at;
    vlmc_frame_pin(v, frame);
    return &v->busy[at - 1];
}

static void busy_remove(struct vlmc *v, struct vlmc_busy *busy)
{
    uint32_t *link = bucket_of(v, busy->slot, busy->block);
    uint32_t number = (uint32_t)(busy - v->busy) + 1;

    for (uint32_t n = 0; *link != number; n++) {
        assert(*link && n < VLMC_BUSY_MAX);
        link = &v->busy[*link - 1].next;
    }
    vlmc_frame_unpin(v, vlmc_frame_pinned(v, busy->slot, busy->block));
    *link = busy->next;
    busy->next = v->busy_free;
    v->busy_free = number;
}

/* The block's record, made if need be; or the request waits for its holders. */
static struct vlmc_busy *busy_get(struct vlmc *v, const struct vlmc_piece *piece, bool alone)
{
    struct xreq *req = piece->req;
    struct vlmc_busy *busy = busy_find(v, req->volume - 1, piece->block);

    if (busy && (busy->exclusive || (alone && busy->shared))) {
        queue_push(v->peer, &busy->waiting, req);
        return NULL;
    }
    if (!busy)
        busy = busy_add(v, req->volume - 1, piece->block, piece->frame);
    if (!busy)
        peer_park(v->peer, req);
    return busy;
}

bool vlmc_busy_wait(struct vlmc *v, const struct vlmc_piece *piece)
{
    struct vlmc_busy *busy = busy_find(v, piece->req->volume - 1, piece->block);

    if (busy)
        queue_push(v->peer, &busy->waiting, piece->req);
    return busy != NULL;
}

bool vlmc_busy_share(struct vlmc *v, const struct vlmc_piece *piece)
{
    struct vlmc_busy *busy = busy_get(v, piece, false);

    if (busy)
        busy->shared++;
    return busy != NULL;
}

bool vlmc_busy_take(struct vlmc *v, const struct vlmc_piece *piece)
{
    struct vlmc_busy *busy = busy_get(v, piece, true);

    if (busy)
        busy->exclusive = true;
    return busy != NULL;
}

bool vlmc_busy_try(struct vlmc *v, uint32_t slot, uint64_t block, const struct xframe *frame)
{
    struct vlmc_busy *busy = busy_find(v, slot, block) ? NULL : busy_add(v, slot, block, frame);

    if (busy)
        busy->exclusive = true;
    return busy != NULL;
}

void vlmc_busy_release(struct vlmc *v, uint32_t slot, uint64_t block)
{
    struct vlmc_busy *busy = busy_find(v, slot, block);
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
    vlmc_wake(v, &waiting);
}
