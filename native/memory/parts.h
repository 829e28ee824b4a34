/* SPDX-License-Identifier: Apache-2.0
 *
 * memory/parts.h - between memory/memory.c, which serves requests, and memory/table.c, which keeps objects.
 *
 * An object's bytes lie in chunks that are allocated when they are first written. The table is
 * ordered by the hashes of the names: its buckets are their top bits, so LIST walks it with a
 * hash for a cursor, whatever was added or removed meanwhile.
 */
#ifndef ARCHIPELAGO_MEMORY_H
#define ARCHIPELAGO_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#include "segment/layout.h"

#define MEMORY_CHUNK 65536
#define MEMORY_OBJECT_MAX (4ull << 30)      /* bytes of one object */
#define MEMORY_BITS_MIN 8
#define MEMORY_BITS_MAX 24                  /* of the table's size */
#define MEMORY_OWNER_MAX 1024

struct memory_object {
    struct memory_object *next;             /* of its bucket, by ascending hash */
    struct xobj name;
    uint64_t hash;
    uint64_t size;                          /* bytes up to the last that was ever written */
    uint64_t chunks;                        /* how many it has */
    uint64_t slots;                         /* room in chunk[] */
    uint8_t **chunk;                        /* NULL: zeros */
    uint64_t claimed_ns;                    /* of a CONTENT: since 1970 */
    uint64_t token, number;                 /* a lock's; token 0: free */
    uint32_t owner_size;
    uint8_t *owner;
};

struct memory_table {
    struct memory_object **buckets;
    uint32_t bits;
    uint64_t count;
    uint64_t chunks, chunks_max;
};

int memory_table_start(struct memory_table *table, uint64_t bytes_max);
void memory_table_stop(struct memory_table *table);
struct memory_object *memory_table_find(const struct memory_table *table, const struct xobj *name);
/* The object, made if need be. NULL: no memory. */
struct memory_object *memory_table_make(struct memory_table *table, const struct xobj *name);
void memory_table_remove(struct memory_table *table, struct memory_object *object);
/* The first object of a kind whose hash is `from` or more; NULL: none. */
struct memory_object *memory_table_next(const struct memory_table *table, uint32_t kind, uint64_t from,
                                        const struct memory_object *after);

void memory_read(const struct memory_object *object, void *data, uint64_t offset, uint64_t size);
/* All or nothing. ENOSPC: the bound is reached. ENOMEM. EFBIG. */
int memory_write(struct memory_table *table, struct memory_object *object, const void *data,
                 uint64_t offset, uint64_t size);
/* Allocates what is missing of a range. */
int memory_allocate(struct memory_table *table, struct memory_object *object, uint64_t offset,
                    uint64_t size);
/* Makes a range zeros; with `keep` it stays allocated. */
void memory_zero(struct memory_table *table, struct memory_object *object, uint64_t offset,
                 uint64_t size, bool keep);

#endif
