/* SPDX-License-Identifier: Apache-2.0
 *
 * map/layout.h - the structs of map/map.h that Python sees too. Parsed by cffi like segment/layout.h.
 */
#ifndef ARCHIPELAGO_MAPLAYOUT_H
#define ARCHIPELAGO_MAPLAYOUT_H

#include "segment/layout.h"

enum maplimit {
    RECORD_MAGIC = 0x52435241,      /* "ARCR" */
    RECORD_VERSION = 2,             /* what is read at most; what is written says by what it holds */
    RECORD_HEADER = 64,             /* bytes before the payload */
    RECORD_ALIGN = 512,             /* journal records are padded to it */
    JOURNAL_LOOKS = 4,              /* see journal_lost() */
    RECORD_JOURNAL = 1, RECORD_LEAF = 2, RECORD_INNER = 3,
    RECORD_MARK = 1,                /* flag: ends a snapshot */
    MAP_LEVEL_MAX = 5,              /* of a page: XMAP_LEAF^6 blocks of the smallest size are 64 ZiB */
    MAP_LEAF_SHIFT = 10,            /* XMAP_LEAF = 1 << it */
    RECORD_ENTRY_MAX = 3624,        /* bytes of one encoded entry at most */
    RECORD_OLD_LAYERS = 4,          /* of an entry of form 0 at most */
    MAP_EPOCH_STRIDE = 256          /* opening raises the epoch by so much after a life that was cut short;
                                     * what vlmc adds before a record that carries it is durable, is less */
};

struct record_info {
    uint32_t kind, epoch, flags, count, length, level, block_shift, version;
    uint64_t volume, seq, first, checksum;
    char reason[64];                /* after a failed record_check() */
};

/* A record being written. */
struct record {
    uint8_t *buf;
    uint64_t capacity;
    uint64_t used;                  /* bytes, with the header */
    struct record_info info;
};

struct page_ref { uint64_t volume; uint32_t epoch; uint32_t zero; uint64_t index; };

/* One decoded entry. */
struct map_item {
    uint64_t block;
    uint32_t layers;
    uint32_t bitmap_size;
    uint32_t form;                  /* of its bitmaps: 0 or 1 */
    uint32_t bitmap_count;
    struct xobj layer[XMAP_LAYERS];
    const uint8_t *bitmaps;
    const uint8_t *encoded;
    uint64_t encoded_size;
};

struct journal_scan {
    uint64_t end;                   /* bytes up to here are intact records */
    uint64_t records;
    uint64_t first_seq;
    uint64_t last_seq;
    uint32_t epoch_max;
    uint32_t writable_since;        /* largest epoch + 1 of a marked record; 0: no mark seen */
    uint32_t block_shift;           /* of all its records */
    char reason[64];                /* empty: it ended at `length` */
};

/* A journal, and the index of its entries by leaf, which may be NULL (map/leaves.h). */
struct journal_leaves;
struct journal_span { const void *data; uint64_t length; const struct journal_leaves *leaves; };

/* Bytes of a volume. */
struct map_range { uint64_t offset, length; };

/* A comparison of two leaves: map/diff.h. */
struct map_diff {
    const void *before, *after;     /* checked leaf records, or NULL: all zeros */
    uint64_t at, end;               /* bytes of the volume that are still to be compared; `at` begins a chunk */
    uint32_t block_shift;
    uint64_t count, room;           /* ranges that are found, and that have room */
    struct map_range *ranges;
};

#endif
