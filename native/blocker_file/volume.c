/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_file/volume.c - volumes, and which of their objects the next SYNC is about.
 */
#include <stdlib.h>

#include "blocker_file/parts.h"
#include "segment/barrier.h"

static uint64_t id_of(const struct xobj *name)
{
    return name->kind == XOBJ_CONTENT || name->kind == XOBJ_NAME ? 0 : name->volume;
}

static struct bf_volume *new_volume(struct bf *bf, uint64_t id)
{
    struct bf_volume *volume = bf->volume_count < BF_VOLUMES ? calloc(1, sizeof(*volume)) : NULL;

    if (!volume)
        return NULL;
    bf->volume_count++;
    volume->id = id;
    volume->failures_seen = bf->unknown ? 0 : load_acquire(&bf->failures);
    return volume;
}

struct bf_volume *bf_volume_by_id(struct bf *bf, uint64_t id)
{
    struct bf_volume **link = &bf->volumes[id * 0x9e3779b97f4a7c15u >> 52];

    if (id == 0)
        return &bf->rest;
    for (; *link; link = &(*link)->next)
        if ((*link)->id == id)
            return *link;
    *link = new_volume(bf, id);
    return *link ? *link : &bf->rest;
}
_Static_assert(BF_VOLUME_BUCKETS == 1 << (64 - 52), "bf_volume_by_id() takes the top 12 bits");

struct bf_volume *bf_volume_of(struct bf *bf, const struct xobj *name)
{
    return bf_volume_by_id(bf, id_of(name));
}

void bf_undirty(struct bf_object *object)
{
    struct bf_volume *volume = object->volume;

    if (!object->dirty)
        return;
    if (object->dirty_prev)
        object->dirty_prev->dirty_next = object->dirty_next;
    else
        volume->dirty = object->dirty_next;
    if (object->dirty_next)
        object->dirty_next->dirty_prev = object->dirty_prev;
    volume->dirty_count--;
    object->dirty = false;
}

void bf_dirty(struct bf *bf, struct bf_object *object)
{
    struct bf_volume *volume;

    if (object->dirty || !bf->sync)
        return;
    volume = object->volume = bf_volume_of(bf, &object->name);
    object->dirty = true;
    object->dirty_prev = NULL;
    object->dirty_next = volume->dirty;
    if (volume->dirty)
        volume->dirty->dirty_prev = object;
    volume->dirty = object;
    volume->dirty_count++;
}

void bf_dirty_closed(struct bf_object *object)
{
    if (!object->dirty)
        return;
    object->volume->lost = true;
    bf_undirty(object);
}
