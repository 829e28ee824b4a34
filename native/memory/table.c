/* SPDX-License-Identifier: Apache-2.0
 *
 * memory/table.c - objects in memory: the table of them, and their bytes.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "memory/parts.h"

/* --- the table ------------------------------------------------------------------------ */

static uint64_t hash_of(const struct xobj *name) { return XXH3_64bits(name, sizeof(*name)); }

static uint64_t bucket_of(const struct memory_table *table, uint64_t hash)
{
    return hash >> (64 - table->bits);
}

/* Where an object with that hash is, or belongs. */
static struct memory_object **place(const struct memory_table *table, const struct xobj *name, uint64_t hash)
{
    struct memory_object **link = &table->buckets[bucket_of(table, hash)];

    while (*link && (*link)->hash < hash)
        link = &(*link)->next;
    while (*link && (*link)->hash == hash && memcmp(&(*link)->name, name, sizeof(*name)) != 0)
        link = &(*link)->next;
    return link;
}

struct memory_object *memory_table_find(const struct memory_table *table, const struct xobj *name)
{
    uint64_t hash = hash_of(name);
    struct memory_object *object = *place(table, name, hash);

    return object && object->hash == hash ? object : NULL;
}

/* Twice as many buckets: each is split in two, and keeps its order. */
static void grow(struct memory_table *table)
{
    struct memory_table old = *table;
    struct memory_object **buckets = calloc(2ull << table->bits, sizeof(*buckets));

    if (!buckets)
        return;                     /* longer chains, but all there */
    table->buckets = buckets;
    table->bits++;
    for (uint64_t i = 0; i < 1ull << old.bits; i++) {
        struct memory_object **tail[2] = { &buckets[2 * i], &buckets[2 * i + 1] };
        for (struct memory_object *o = old.buckets[i]; o; o = o->next) {
            uint64_t half = bucket_of(table, o->hash) & 1;
            *tail[half] = o;
            tail[half] = &o->next;
        }
        *tail[0] = *tail[1] = NULL;
    }
    free(old.buckets);
}

struct memory_object *memory_table_make(struct memory_table *table, const struct xobj *name)
{
    uint64_t hash = hash_of(name);
    struct memory_object **link = place(table, name, hash), *object = *link;

    if (object && object->hash == hash)
        return object;
    object = calloc(1, sizeof(*object));
    if (!object)
        return NULL;
    object->name = *name;
    object->hash = hash;
    object->next = *link;
    *link = object;
    if (++table->count > 1ull << table->bits && table->bits < MEMORY_BITS_MAX)
        grow(table);
    return object;
}

static void free_object(struct memory_table *table, struct memory_object *object)
{
    for (uint64_t i = 0; i < object->slots; i++)
        free(object->chunk[i]);
    table->chunks -= object->chunks;
    free(object->chunk);
    free(object->owner);
    free(object);
}

void memory_table_remove(struct memory_table *table, struct memory_object *object)
{
    struct memory_object **link = place(table, &object->name, object->hash);

    assert(*link == object);
    *link = object->next;
    table->count--;
    free_object(table, object);
}

struct memory_object *memory_table_next(const struct memory_table *table, uint32_t kind, uint64_t from,
                                        const struct memory_object *after)
{
    const struct memory_object *object = after ? after->next : NULL;
    uint64_t bucket = bucket_of(table, after ? after->hash : from);

    if (!after)
        object = table->buckets[bucket];
    for (;;) {
        for (; object; object = object->next)
            if (object->name.kind == kind && object->hash >= from)
                return (struct memory_object *)object;
        if (++bucket == 1ull << table->bits)
            return NULL;
        object = table->buckets[bucket];
    }
}

int memory_table_start(struct memory_table *table, uint64_t bytes_max)
{
    table->bits = MEMORY_BITS_MIN;
    table->chunks_max = bytes_max ? bytes_max / MEMORY_CHUNK : UINT64_MAX;
    table->buckets = calloc(1ull << table->bits, sizeof(*table->buckets));
    return table->buckets ? 0 : -ENOMEM;
}

void memory_table_stop(struct memory_table *table)
{
    for (uint64_t i = 0; i < 1ull << table->bits; i++)
        while (table->buckets[i]) {
            struct memory_object *object = table->buckets[i];
            table->buckets[i] = object->next;
            free_object(table, object);
        }
    free(table->buckets);
}

/* --- bytes ------------------------------------------------------------------------------- */

static uint8_t *chunk_at(const struct memory_object *object, uint64_t offset)
{
    uint64_t i = offset / MEMORY_CHUNK;

    return i < object->slots ? object->chunk[i] : NULL;
}

/* Bytes from offset to the end of its chunk, `size` at most. */
static uint64_t step(uint64_t offset, uint64_t size)
{
    uint64_t n = MEMORY_CHUNK - offset % MEMORY_CHUNK;

    return n < size ? n : size;
}

void memory_read(const struct memory_object *object, void *data, uint64_t offset, uint64_t size)
{
    for (uint64_t n; size; size -= n, offset += n, data = (uint8_t *)data + n) {
        const uint8_t *chunk = chunk_at(object, offset);
        n = step(offset, size);
        if (chunk)
            memcpy(data, chunk + offset % MEMORY_CHUNK, n);
        else
            memset(data, 0, n);
    }
}

static int make_slots(struct memory_object *object, uint64_t end)
{
    uint64_t slots = (end + MEMORY_CHUNK - 1) / MEMORY_CHUNK;
    uint8_t **chunk;

    if (slots <= object->slots)
        return 0;
    chunk = realloc(object->chunk, slots * sizeof(*chunk));
    if (!chunk)
        return -ENOMEM;
    memset(chunk + object->slots, 0, (slots - object->slots) * sizeof(*chunk));
    object->chunk = chunk;
    object->slots = slots;
    return 0;
}

static uint64_t missing(const struct memory_object *object, uint64_t offset, uint64_t end)
{
    uint64_t count = 0;

    for (uint64_t i = offset / MEMORY_CHUNK; i * MEMORY_CHUNK < end; i++)
        count += !object->chunk[i];
    return count;
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wanalyzer-malloc-leak"     /* gcc 12 loses what lies at an index it does not know */
int memory_allocate(struct memory_table *table, struct memory_object *object, uint64_t offset,
                    uint64_t size)
{
    uint64_t end = offset + size;

    if (size == 0)
        return 0;
    if (end > MEMORY_OBJECT_MAX)
        return -EFBIG;
    if (make_slots(object, end))
        return -ENOMEM;
    if (missing(object, offset, end) > table->chunks_max - table->chunks)
        return -ENOSPC;
    for (uint64_t i = offset / MEMORY_CHUNK; i * MEMORY_CHUNK < end; i++) {
        if (object->chunk[i])
            continue;
        object->chunk[i] = calloc(1, MEMORY_CHUNK);
        if (!object->chunk[i])
            return -ENOMEM;
        object->chunks++;
        table->chunks++;
    }
    if (object->size < end)
        object->size = end;
    return 0;
}
#pragma GCC diagnostic pop

int memory_write(struct memory_table *table, struct memory_object *object, const void *data,
                 uint64_t offset, uint64_t size)
{
    int rc = memory_allocate(table, object, offset, size);

    for (uint64_t n; rc == 0 && size; size -= n, offset += n, data = (const uint8_t *)data + n) {
        n = step(offset, size);
        memcpy(chunk_at(object, offset) + offset % MEMORY_CHUNK, data, n);
    }
    return rc;
}

static void drop_chunk(struct memory_table *table, struct memory_object *object, uint64_t i)
{
    free(object->chunk[i]);
    object->chunk[i] = NULL;
    object->chunks--;
    table->chunks--;
}

void memory_zero(struct memory_table *table, struct memory_object *object, uint64_t offset,
                 uint64_t size, bool keep)
{
    uint64_t end = object->slots * MEMORY_CHUNK;

    if (size > end || offset > end - size)
        size = offset < end ? end - offset : 0;
    for (uint64_t n; size; size -= n, offset += n) {
        uint8_t *chunk = chunk_at(object, offset);
        n = step(offset, size);
        if (!chunk)
            continue;
        if (!keep && n == MEMORY_CHUNK)
            drop_chunk(table, object, offset / MEMORY_CHUNK);
        else
            memset(chunk + offset % MEMORY_CHUNK, 0, n);
    }
}
